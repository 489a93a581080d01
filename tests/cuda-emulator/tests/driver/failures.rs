//! Faults of kernels, and failures that a test plans through the environment.

use crate::harness::{fails, kernels, last_fault, start};
use cudarc::driver::sys::{self, CUgraphInstantiate_flags as Flags, CUresult as Status, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};

const ONE_THREAD: LaunchConfig = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };

emulated! {
    /// A fault poisons the context, with a full account; a new context of the same process is sound.
    fn a_kernel_fault_is_sticky() {
        {
            let (context, stream) = start();
            let poke = kernels(&context).load_function("poke").unwrap();
            let mut y = stream.alloc_zeros::<f32>(4).unwrap();
            // SAFETY: that the index is out of bounds is the point.
            unsafe { stream.launch_builder(&poke).arg(&mut y).arg(&4i64).launch(ONE_THREAD) }.unwrap();
            fails(Status::CUDA_ERROR_ILLEGAL_ADDRESS, stream.synchronize());
            let fault = last_fault();
            for part in ["OutOfBounds", "kernel poke", "block (0,0,0)", "thread (0,0,0)", "PTX line"] {
                assert!(fault.contains(part), "{fault}");
            }
            fails(Status::CUDA_ERROR_ILLEGAL_ADDRESS, stream.synchronize());
            fails(Status::CUDA_ERROR_ILLEGAL_ADDRESS, stream.alloc_zeros::<f32>(4));
            fails(Status::CUDA_ERROR_ILLEGAL_ADDRESS, context.mem_get_info());
        }
        let (_context, stream) = start();
        assert_eq!(stream.clone_dtoh(&stream.clone_htod(&[1u8, 2]).unwrap()).unwrap(), [1, 2]);
    }
}

emulated! {
    /// A reset ends the primary context under all of its users; each still releases it, and whoever comes next gets a sound one.
    fn a_reset_ends_the_context_of_all_users() {
        let (first, second) = (CudaContext::new(0).unwrap(), CudaContext::new(0).unwrap());
        assert_eq!(first.cu_ctx(), second.cu_ctx());
        // SAFETY: the device exists.
        unsafe { sys::cuDevicePrimaryCtxReset_v2(first.cu_device()) }.result().unwrap();
        fails(Status::CUDA_ERROR_CONTEXT_IS_DESTROYED, first.mem_get_info());
        let third = CudaContext::new(0).unwrap();
        drop(first);
        third.synchronize().unwrap();
        drop(second);
        third.synchronize().unwrap();
    }
}

emulated! {
    fn misaligned_stores_have_their_own_status() with ["CUDA_LAUNCH_BLOCKING" = "1"] {
        let (context, stream) = start();
        let poke = kernels(&context).load_function("poke").unwrap();
        let y = stream.alloc_zeros::<u8>(64).unwrap();
        let off = y.slice(1..);
        // SAFETY: that the address is misaligned is the point.
        let launched = unsafe { stream.launch_builder(&poke).arg(&off).arg(&0i64).launch(ONE_THREAD) };
        fails(Status::CUDA_ERROR_MISALIGNED_ADDRESS, launched);
    } then |stderr| { assert!(stderr.contains("Misaligned"), "{stderr}"); }
}

emulated! {
    fn no_driver() with ["CUEMU_FAIL" = "cuInit=CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"] {
        fails(Status::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, CudaContext::new(0));
    }
}

emulated! {
    fn no_device() with ["CUEMU_DEVICE" = "none"] {
        fails(Status::CUDA_ERROR_NO_DEVICE, CudaContext::new(0));
        // SAFETY: asks for the context of this thread.
        fails(Status::CUDA_ERROR_NOT_INITIALIZED, unsafe { sys::cuCtxSynchronize() }.result());
    }
}

emulated! {
    fn several_devices() with ["CUEMU_DEVICE" = "a100,h100"] {
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        let (first, second) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
        assert_eq!((first.compute_capability().unwrap(), second.compute_capability().unwrap()), ((8, 0), (9, 0)));
        assert_ne!(first.uuid().unwrap().bytes, second.uuid().unwrap().bytes);
        // Streams of their own: cudarc makes this copy in the default stream of whichever context is current at that moment.
        let (here, there) = (first.new_stream().unwrap(), second.new_stream().unwrap());
        let source = here.clone_htod(&[1u8, 2, 3]).unwrap();
        let copy = there.clone_dtod(&source).unwrap();
        assert_eq!(there.clone_dtoh(&copy).unwrap(), [1, 2, 3]);
        fails(Status::CUDA_ERROR_INVALID_DEVICE, CudaContext::new(2));
    }
}

emulated! {
    fn a_wrong_setting_is_told() with ["CUEMU_DEVICE" = "k80"] {
        fails(Status::CUDA_ERROR_INVALID_VALUE, CudaContext::new(0));
    } then |stderr| { assert!(stderr.contains("CUEMU_DEVICE") && stderr.contains("k80"), "{stderr}"); }
}

emulated! {
    fn the_second_allocation_fails_once() with ["CUEMU_FAIL" = "alloc:2=CUDA_ERROR_OUT_OF_MEMORY"] {
        let (_context, stream) = start();
        stream.alloc_zeros::<u8>(16).unwrap();
        fails(Status::CUDA_ERROR_OUT_OF_MEMORY, stream.alloc_zeros::<u8>(16));
        stream.alloc_zeros::<u8>(16).unwrap();
        stream.synchronize().unwrap();
    }
}

emulated! {
    /// The device is lost while a graph runs: nothing works any more, in any context, but the process lives.
    fn the_device_is_lost_in_a_graph() with ["CUEMU_FAIL" = "kernel:3=CUDA_ERROR_ECC_UNCORRECTABLE"] {
        let lost = Status::CUDA_ERROR_ECC_UNCORRECTABLE;
        let (context, stream) = start();
        let scale = kernels(&context).load_function("scale").unwrap();
        let mut y = stream.clone_htod(&[1.0f32; 128]).unwrap();
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        for _ in 0..2 {
            // SAFETY: the arguments are those of the kernel.
            unsafe { stream.launch_builder(&scale).arg(&mut y).arg(&128i32).launch(ONE_THREAD) }.unwrap();
        }
        let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        graph.launch().unwrap();
        fails(lost, stream.synchronize());
        fails(lost, stream.clone_dtoh(&y));
        fails(lost, context.mem_get_info());
        drop((graph, y, scale, stream, context));
        fails(lost, CudaContext::new(0));
    }
}

emulated! {
    /// A call that exists in CUDA but not here: a status, and its name once on the error stream.
    fn what_is_not_emulated_says_so() {
        let (_context, _stream) = start();
        for _ in 0..2 {
            let mut size = 0;
            // SAFETY: valid pointers.
            let status = unsafe { sys::cuCtxGetSharedMemConfig((&raw mut size).cast()) };
            fails(Status::CUDA_ERROR_NOT_SUPPORTED, status.result());
        }
    } then |stderr| { assert_eq!(stderr.matches("cuCtxGetSharedMemConfig is not emulated").count(), 1, "{stderr}"); }
}

/// Of the calls that cudarc's `result` makes, those that the README names as not emulated.
const REFUSED: [&str; 8] = [
    "cuImportExternalMemory",
    "cuExternalMemoryGetMappedBuffer",
    "cuDestroyExternalMemory",
    "cuMemAllocManaged",
    "cuMemAdvise_v2",
    "cuMemPrefetchAsync_v2",
    "cuStreamAttachMemAsync",
    "cuLaunchCooperativeKernel",
];

emulated! {
    fn what_cudarc_calls_and_is_not_emulated_is_in_the_readme() {
        let (_context, _stream) = start();
        let readme = include_str!("../../README.md");
        for name in REFUSED {
            type Call = unsafe extern "C" fn() -> Status;
            // SAFETY: exported, and it reads no arguments.
            let status = unsafe { sys::culib().get::<Call>(name.as_bytes()).unwrap()() };
            fails(Status::CUDA_ERROR_NOT_SUPPORTED, status.result());
            assert!(last_fault().contains(name) && readme.contains(&format!("`{name}`")), "{name}");
        }
    }
}
