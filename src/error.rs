//! The one error type of the library: each variant says what happened, where, and what to do instead.

use std::path::{Path, PathBuf};

/// Result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. `at` is a place in the model, such as `unet.down_blocks.1.attentions.0`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation was given inputs that its precondition forbids.
    #[error("{op} at `{at}`: {what}")]
    Op {
        /// Name of the operation.
        op: &'static str,
        /// Place in the model.
        at: String,
        /// The precondition that failed, with the values seen.
        what: String,
    },
    /// A graph or a plan breaks an invariant of the engine.
    #[error("graph: {0}")]
    Graph(String),
    /// A configuration value is missing, contradictory or not supported.
    #[error("configuration {file}: {what}")]
    Config {
        /// The file or the flag that holds the value.
        file: String,
        /// What is wrong and what is accepted.
        what: String,
    },
    /// Tensors of a checkpoint do not fit the model. The text lists all of them.
    #[error("{0}")]
    Weights(Box<crate::weights::WeightsReport>),
    /// A file could not be read or written.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What failed and, where known, what to do.
        what: String,
        /// The cause, if the system named one.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The caller passed a bad tensor, size or option.
    #[error("{what}")]
    Input {
        /// What is wrong and what is accepted.
        what: String,
    },
    /// The photograph gave no usable face.
    #[error(transparent)]
    Face(#[from] crate::pipeline::FaceError),
    /// The prompt cannot be used.
    #[error("prompt: {0}")]
    Prompt(String),
    /// A device is missing or failed.
    #[error("device {device}: {what}")]
    Device {
        /// `cpu` or `cuda:N`.
        device: String,
        /// What failed and what to do instead.
        what: String,
    },
    /// The CUDA driver refused a call, or a kernel failed.
    #[error("device {device}: cannot {doing}: {status}; {advice}")]
    Cuda {
        /// `cuda:N`.
        device: String,
        /// What the engine was about to do; for kernels the operation and its place in the model.
        doing: String,
        /// The driver's answer.
        status: crate::device::cuda::CudaStatus,
        /// What to do instead.
        advice: &'static str,
    },
    /// A device has too little memory left.
    #[error(
        "device {device}: out of memory: {what} needs {}, {} MiB of {} MiB are free; use a smaller picture or batch, or --dtype bf16",
        asked.map_or("memory of the driver's own".to_owned(), |bytes| format!("{} MiB", bytes.div_ceil(1 << 20))), free >> 20, total >> 20
    )]
    OutOfMemory {
        /// `cuda:N`.
        device: String,
        /// What the memory is for.
        what: String,
        /// Bytes asked for; none where the driver needs them for itself and does not say how many.
        asked: Option<u64>,
        /// Bytes free when it was refused.
        free: u64,
        /// Bytes of the device.
        total: u64,
    },
    /// A value became NaN or infinite.
    #[error("`{at}` holds {count} values that are not finite; {advice}")]
    NonFinite {
        /// Place in the model, or name of the tensor.
        at: String,
        /// How many.
        count: usize,
        /// What to do instead.
        advice: &'static str,
    },
    /// The caller's progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// An [`Error::Input`] from any text.
    pub fn input(what: impl Into<String>) -> Self {
        Self::Input { what: what.into() }
    }

    /// An [`Error::File`] without a system cause.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), what: what.into(), source: None }
    }

    /// An [`Error::File`] from a system error; `doing` completes "cannot …".
    pub fn io(path: impl AsRef<Path>, doing: &str, source: std::io::Error) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), what: format!("cannot {doing}: {source}"), source: Some(source) }
    }

    /// An [`Error::Config`].
    pub fn config(file: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Config { file: file.into(), what: what.into() }
    }

    /// Adds the place in the model to an operation's error that does not have one yet.
    pub(crate) fn at(self, place: &str) -> Self {
        match self {
            Self::Op { op, at, what } if at.is_empty() => Self::Op { op, at: place.to_owned(), what },
            other => other,
        }
    }
}
