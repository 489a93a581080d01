//! Handles: numbers that name objects and are never used twice, so that a stale one is found.

use super::status::{Answer, Status};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the C API calls a pointer to an opaque structure.
pub(super) type Handle = usize;

/// 0, 1 and 2 are streams by definition; nothing is ever stored at a handle.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

/// Objects of one kind, in the order in which they were made.
pub(super) struct Table<T> {
    objects: BTreeMap<Handle, T>,
    missing: Status,
}

impl<T> Table<T> {
    /// An empty table; `missing` is the status for a handle that is not in it.
    pub(super) fn new(missing: Status) -> Self {
        Self { objects: BTreeMap::new(), missing }
    }

    pub(super) fn insert(&mut self, object: T) -> Handle {
        let handle = NEXT.fetch_add(0x10, Ordering::Relaxed);
        self.objects.insert(handle, object);
        handle
    }

    pub(super) fn get(&self, handle: Handle) -> Answer<&T> {
        self.objects.get(&handle).ok_or(self.missing)
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Answer<&mut T> {
        self.objects.get_mut(&handle).ok_or(self.missing)
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Answer<T> {
        self.objects.remove(&handle).ok_or(self.missing)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.objects.retain(|_, object| keep(object));
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (Handle, &T)> {
        self.objects.iter().map(|(handle, object)| (*handle, object))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.objects.values_mut()
    }
}
