//! What was made for pictures of a size, kept for the next picture of that size while there is room.

use crate::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Values by height and width, those used last, up to a number of bytes in all. Threads share them.
pub(super) struct Recent<V> {
    most: usize,
    /// The one used last at the end.
    kept: Mutex<Vec<Entry<V>>>,
}

struct Entry<V> {
    size: [usize; 2],
    bytes: usize,
    value: Arc<V>,
}

impl<V> Recent<V> {
    /// Keeps values of `most` bytes together.
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// The value for `size`, made by `make` with its bytes unless it is there. One that is too large by itself is not kept.
    pub(super) fn get(&self, size: [usize; 2], make: impl FnOnce() -> Result<(V, usize)>) -> Result<Arc<V>> {
        if let Some(known) = self.find(size) {
            return Ok(known);
        }
        // nobody waits for this: two threads may make the same
        let (value, bytes) = make()?;
        let value = Arc::new(value);
        if bytes <= self.most {
            self.keep(Entry { size, bytes, value: value.clone() });
        }
        Ok(value)
    }

    fn find(&self, size: [usize; 2]) -> Option<Arc<V>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().position(|entry| entry.size == size)?;
        kept[found..].rotate_left(1);
        kept.last().map(|entry| entry.value.clone())
    }

    fn keep(&self, new: Entry<V>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|entry| entry.size != new.size);
        kept.push(new);
        let mut room = self.most;
        // from the one used last back, for as long as they fit
        let first = kept.iter().rposition(|entry| match room.checked_sub(entry.bytes) {
            Some(rest) => {
                room = rest;
                false
            }
            None => true,
        });
        kept.drain(..first.map_or(0, |too_many| too_many + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn what_was_used_last_is_kept_while_there_is_room() {
        let recent = Recent::new(10);
        let made = std::cell::Cell::new(0);
        let get = |side: usize, bytes: usize| {
            let make = || {
                made.set(made.get() + 1);
                Ok((side, bytes))
            };
            assert_eq!(*recent.get([side, 1], make).unwrap(), side);
            made.get()
        };
        assert_eq!([get(1, 4), get(2, 4), get(1, 4), get(2, 4)], [1, 2, 2, 2]);
        get(1, 4); // used after 2
        assert_eq!([get(3, 4), get(1, 4), get(2, 4)], [3, 3, 4], "2 had to go, 1 not");
        assert_eq!([get(4, 11), get(2, 4), get(4, 11)], [5, 5, 6], "what is too large takes nobody's place");
        assert!(recent.get([9, 9], || Err(Error::input("cannot"))).is_err());
        assert_eq!(get(2, 4), 6);
    }
}
