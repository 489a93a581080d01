//! What a caller hears while pictures are made, and how it stops them.

use std::time::{Duration, Instant};

/// Parts of the work, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Prompts to hidden states.
    Text,
    /// Noise to latents; counted in steps over all batches.
    Denoise,
    /// Latents to pictures; counted in pictures.
    Decode,
}

/// How far the work is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How much of the stage is done.
    pub done: usize,
    /// How much there is to do in it.
    pub total: usize,
    /// Steps or pictures each second, measured in this stage so far; 0 before anything is done.
    pub per_second: f64,
    /// Time that the rest of the stage will take at that rate.
    pub left: Duration,
}

/// The caller's answer to each [`Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Stop now: the call ends with [`crate::Error::Cancelled`] and leaves nothing behind.
    Stop,
}

/// Counts one stage.
pub(super) struct Counter {
    stage: Stage,
    done: usize,
    total: usize,
    start: Instant,
}

impl Counter {
    pub(super) fn new(stage: Stage, total: usize) -> Self {
        Self { stage, done: 0, total, start: Instant::now() }
    }

    pub(super) fn progress(&self) -> Progress {
        let elapsed = self.start.elapsed().as_secs_f64();
        let per_second = if self.done == 0 { 0.0 } else { self.done as f64 / elapsed.max(1e-9) };
        let left = if self.done == 0 { 0.0 } else { (self.total - self.done.min(self.total)) as f64 / per_second };
        Progress { stage: self.stage, done: self.done, total: self.total, per_second, left: Duration::from_secs_f64(left) }
    }

    pub(super) fn advance(&mut self, by: usize) {
        self.done += by;
    }
}
