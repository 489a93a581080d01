//! Splitting an output between threads. The split depends on shapes only, so that results do not depend on the number of threads.

use super::Cpu;

/// Elements that are worth a task of their own.
pub(crate) const GRAIN: usize = 16_384;

/// As many rows of `width` elements as are worth a task; at least one.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

impl Cpu {
    /// Cuts `data` into `parts` equal parts, and each into blocks of `block` elements (the last of a part may be shorter).
    /// Calls `task` with every block, the number of its part and its first element within the part, on all threads.
    pub(crate) fn parallel_blocks<T: Send>(
        &self,
        data: &mut [T],
        parts: usize,
        block: usize,
        task: impl Fn(&mut [T], usize, usize) + Sync + Send,
    ) {
        let part = data.len() / parts.max(1);
        let blocks = part.div_ceil(block.max(1));
        let data = SharedMut::new(data);
        self.parallel(parts * blocks, |i| {
            let (p, start) = (i / blocks, i % blocks * block);
            // SAFETY: the blocks of different tasks do not overlap, and each task runs once.
            let slice = unsafe { data.slice(p * part + start, block.min(part - start)) };
            task(slice, p, start);
        });
    }
}

/// An output that several tasks write to, each its own places.
pub(crate) struct SharedMut<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: nothing is reached but through `slice`, whose caller keeps the parts of threads apart.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    pub(crate) fn new(data: &mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len() }
    }

    /// Elements `from .. from + len`.
    ///
    /// # Safety
    /// The slice this was made of is still borrowed, and no two slices that are alive overlap.
    #[allow(clippy::mut_from_ref)] // keeping the parts apart is the caller's promise
    pub(crate) unsafe fn slice(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from + len <= self.len);
        // SAFETY: inside the original slice; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_given_out_once() {
        let cpu = Cpu::new(Some(3)).unwrap();
        for (len, parts, block) in [(0, 1, 4), (1, 1, 4), (24, 3, 3), (24, 3, 5), (100, 1, 7), (8, 4, 100)] {
            let mut data = vec![0; len];
            cpu.parallel_blocks(&mut data, parts, block, |slice, part, start| {
                for (i, v) in slice.iter_mut().enumerate() {
                    *v += part * 1000 + start + i + 1;
                }
            });
            let part = len / parts;
            assert!(data.iter().enumerate().all(|(i, &v)| v == i / part * 1000 + i % part + 1), "{data:?}");
        }
    }
}
