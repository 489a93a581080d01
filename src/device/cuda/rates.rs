//! What a device's memory and bus can do, measured.

use super::Cuda;
use super::event::Event;
use crate::Result;
use std::time::Instant;

impl Cuda {
    /// Bytes read and written in a second by copies of `bytes` bytes within the device's memory, by its own clock: the best of `tries`.
    pub fn copy_rate(&self, bytes: usize, tries: usize) -> Result<f64> {
        let [from, to] = [self.allocate(bytes, "a copy's source")?, self.allocate(bytes, "a copy's target")?];
        from.fill(1)?;
        let [start, end] = [Event::new(&self.context)?, Event::new(&self.context)?];
        let mut best = 0.0f64;
        for _ in 0..tries.max(1) {
            start.record()?;
            to.copy(&from, bytes, "memory")?;
            end.record()?;
            self.synchronize()?;
            best = best.max(2.0 * bytes as f64 / start.until(&end)?.as_secs_f64());
        }
        Ok(best)
    }

    /// Bytes brought to the device in a second as weights are, through page-locked memory and with the allocation: the best of `tries`.
    pub fn upload_rate(&self, bytes: usize, tries: usize) -> Result<f64> {
        let from = vec![1u8; bytes];
        let mut best = 0.0f64;
        for _ in 0..tries.max(1) {
            let start = Instant::now();
            drop(self.upload(&from, "a measurement")?);
            best = best.max(bytes as f64 / start.elapsed().as_secs_f64());
        }
        Ok(best)
    }
}
