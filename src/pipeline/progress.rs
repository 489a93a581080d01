//! What a caller hears while pictures are made, and how it stops them.

use std::time::{Duration, Instant};

/// Parts of the work. After the prompts each batch of pictures is denoised, then decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Prompts to hidden states.
    Text,
    /// Noise to latents; counted in steps over all batches.
    Denoise,
    /// Latents to pictures; counted in pictures over all batches.
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
    /// Stop now: the call ends with [`crate::Error::Cancelled`].
    Stop,
}

/// Counts one stage, which may be left and taken up again.
pub(super) struct Counter {
    stage: Stage,
    done: usize,
    total: usize,
    spent: Duration,
    since: Instant,
}

impl Counter {
    pub(super) fn new(stage: Stage, total: usize) -> Self {
        Self { stage, done: 0, total, spent: Duration::ZERO, since: Instant::now() }
    }

    /// Takes the stage up where `done` of it is done.
    pub(super) fn resume(&mut self, done: usize) {
        (self.done, self.since) = (done, Instant::now());
    }

    /// Leaves the stage for another.
    pub(super) fn pause(&mut self) {
        self.spent += self.since.elapsed();
    }

    pub(super) fn progress(&self) -> Progress {
        let elapsed = (self.spent + self.since.elapsed()).as_secs_f64();
        let per_second = if self.done == 0 { 0.0 } else { self.done as f64 / elapsed.max(1e-9) };
        let left = if self.done == 0 { 0.0 } else { (self.total - self.done.min(self.total)) as f64 / per_second };
        Progress { stage: self.stage, done: self.done, total: self.total, per_second, left: Duration::from_secs_f64(left) }
    }

    pub(super) fn done(&self) -> usize {
        self.done
    }

    pub(super) fn advance(&mut self, by: usize) {
        self.done += by;
    }
}
