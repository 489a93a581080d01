//! What the driver answers, in words, and what it means for the device.

use crate::Error;
use cudarc::driver::sys::CUresult;
use std::fmt;

/// A refusal of the CUDA driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaStatus(CUresult);

/// What a [`CudaStatus`] means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CudaFailure {
    /// There is no driver, or it is too old or does not fit the system.
    Driver,
    /// There is no such device, or it is not to be had.
    NoDevice,
    /// Too little memory is left on the device.
    OutOfMemory,
    /// The driver does not take the compiled kernel.
    Kernel,
    /// A kernel did what it must not do; the context is lost with all its memory.
    KernelFault,
    /// The device is gone; the context is lost with all its memory.
    DeviceLost,
    /// The engine used the driver wrongly.
    Misuse,
}

impl CudaStatus {
    /// None for success.
    pub(super) fn of(result: CUresult) -> Option<Self> {
        (result != CUresult::CUDA_SUCCESS).then_some(Self(result))
    }

    /// The driver's number.
    pub fn code(self) -> u32 {
        self.0 as u32
    }

    /// What it means.
    pub fn failure(self) -> CudaFailure {
        use CUresult::*;
        match self.0 {
            CUDA_ERROR_OUT_OF_MEMORY => CudaFailure::OutOfMemory,
            CUDA_ERROR_STUB_LIBRARY
            | CUDA_ERROR_SYSTEM_NOT_READY
            | CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
            | CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE
            | CUDA_ERROR_OPERATING_SYSTEM
            | CUDA_ERROR_NOT_SUPPORTED => CudaFailure::Driver,
            CUDA_ERROR_NO_DEVICE
            | CUDA_ERROR_INVALID_DEVICE
            | CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_DEVICE_NOT_LICENSED
            | CUDA_ERROR_NOT_PERMITTED
            | CUDA_ERROR_MPS_CONNECTION_FAILED
            | CUDA_ERROR_MPS_RPC_FAILURE
            | CUDA_ERROR_MPS_SERVER_NOT_READY
            | CUDA_ERROR_MPS_MAX_CLIENTS_REACHED
            | CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED => CudaFailure::NoDevice,
            CUDA_ERROR_INVALID_IMAGE
            | CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUDA_ERROR_INVALID_PTX
            | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | CUDA_ERROR_JIT_COMPILATION_DISABLED
            | CUDA_ERROR_INVALID_SOURCE
            | CUDA_ERROR_NOT_FOUND
            | CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => CudaFailure::Kernel,
            CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED => CudaFailure::KernelFault,
            CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_EXTERNAL_DEVICE
            | CUDA_ERROR_DEINITIALIZED
            | CUDA_ERROR_UNKNOWN => CudaFailure::DeviceLost,
            _ => CudaFailure::Misuse,
        }
    }

    /// True when every later call on the context fails too.
    pub fn is_sticky(self) -> bool {
        matches!(self.failure(), CudaFailure::KernelFault | CudaFailure::DeviceLost)
    }

    /// The driver's refusal to run what was compiled for this kind of device.
    pub(super) fn is_no_binary(self) -> bool {
        self.0 == CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    }

    fn advice(self) -> &'static str {
        match self.failure() {
            CudaFailure::Driver => "install an NVIDIA driver of version 525 or newer, or use --device cpu",
            CudaFailure::NoDevice => "see which devices `nvidia-smi` lists, or use --device cpu",
            CudaFailure::OutOfMemory => "use a smaller picture or batch, or --dtype bf16",
            CudaFailure::Kernel => "the driver may be older than NVRTC: bring both to one version",
            CudaFailure::KernelFault => {
                "a kernel failed, which is a defect of the engine: please report it; open the device again to go on"
            }
            CudaFailure::DeviceLost => "the device is gone: see the system's log, then open it again",
            CudaFailure::Misuse => "this is a defect of the engine: please report it",
        }
    }

    /// The error of a call; `doing` completes "cannot …".
    pub(super) fn error(self, device: &str, doing: &str) -> Error {
        Error::Cuda { device: device.to_owned(), doing: doing.to_owned(), status: self, advice: self.advice() }
    }
}

/// `CUDA_ERROR_ILLEGAL_ADDRESS (700)`.
impl fmt::Display for CudaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.0, self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_named_and_told_apart() {
        let status = |result| CudaStatus::of(result).unwrap();
        assert_eq!(CudaStatus::of(CUresult::CUDA_SUCCESS), None);
        let fault = status(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!((fault.to_string().as_str(), fault.failure()), ("CUDA_ERROR_ILLEGAL_ADDRESS (700)", CudaFailure::KernelFault));
        assert!(fault.is_sticky() && status(CUresult::CUDA_ERROR_ECC_UNCORRECTABLE).is_sticky());
        assert!(!status(CUresult::CUDA_ERROR_OUT_OF_MEMORY).is_sticky());
        assert_eq!(status(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED).failure(), CudaFailure::Misuse);
        let text = status(CUresult::CUDA_ERROR_NO_DEVICE).error("cuda:1", "open the device").to_string();
        assert_eq!(
            text,
            "device cuda:1: cannot open the device: CUDA_ERROR_NO_DEVICE (100); see which devices `nvidia-smi` lists, or use --device cpu"
        );
    }
}
