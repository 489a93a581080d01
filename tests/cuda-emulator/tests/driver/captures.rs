//! Capture and replay: what becomes a graph, what a graph does, and what capture forbids.

use crate::harness::{fails, kernels, last_fault, start};
use cudarc::driver::sys::{
    self, CUgraphInstantiate_flags as Flags, CUresult as Status, CUstreamCaptureMode as Mode, CUstreamCaptureStatus,
};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, result};
use std::sync::Arc;

const ONE_BLOCK: LaunchConfig = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };

/// Begins a capture on a stream of its own, runs `illegal` in it and expects the capture to be lost.
#[track_caller]
fn breaks(stream: &Arc<CudaStream>, with: Status, illegal: impl FnOnce() -> Result<(), result::DriverError>) {
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    fails(with, illegal());
    assert_eq!(stream.capture_status().unwrap(), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    fails(Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, stream.end_capture(Flags(0)));
    assert_eq!(stream.capture_status().unwrap(), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
    stream.synchronize().unwrap();
}

emulated! {
    fn a_graph_is_replayed() {
        let (context, stream) = start();
        let scale = kernels(&context).load_function("scale").unwrap();
        let mut y = stream.clone_htod(&[1.0f32; 128]).unwrap();
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        // SAFETY: the arguments are those of the kernel.
        unsafe { stream.launch_builder(&scale).arg(&mut y).arg(&128i32).launch(ONE_BLOCK) }.unwrap();
        let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [1.0; 128], "captured work must not run");
        graph.upload().unwrap();
        for _ in 0..3 {
            graph.launch().unwrap();
        }
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [8.0; 128]);
    }
}

emulated! {
    /// Pinned memory is read and written at each replay, not at capture.
    fn captured_copies_move_what_is_there_at_replay() {
        let (context, stream) = start();
        let mut there = stream.alloc_zeros::<u32>(64).unwrap();
        // SAFETY: written below, before it is read.
        let (mut from, mut to) = unsafe { (context.alloc_pinned::<u32>(64).unwrap(), context.alloc_pinned::<u32>(64).unwrap()) };
        let (source, target) = (from.as_mut_ptr().unwrap(), to.as_mut_ptr().unwrap());
        stream.synchronize().unwrap();
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        // SAFETY: the pinned memory lives until the end of this function, and is used between synchronisations only.
        let (source, target) = unsafe {
            let (source, target) = (std::slice::from_raw_parts_mut(source, 64), std::slice::from_raw_parts_mut(target, 64));
            result::memset_d8_async(there.device_ptr_mut(&stream).0, 0, 256, stream.cu_stream()).unwrap();
            result::memcpy_htod_async(there.device_ptr_mut(&stream).0, &source[..32], stream.cu_stream()).unwrap();
            result::memcpy_dtoh_async(target, there.device_ptr(&stream).0, stream.cu_stream()).unwrap();
            (source, target)
        };
        let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
        for value in [7, 8] {
            source.fill(value);
            graph.launch().unwrap();
            stream.synchronize().unwrap();
            assert_eq!((target[0], target[31], target[32]), (value, value, 0));
        }
        drop(from);
        fails(Status::CUDA_ERROR_INVALID_VALUE, graph.launch());
        assert!(last_fault().contains("pinned at capture"), "{}", last_fault());
    }
}

emulated! {
    /// Streams fork from and join a capture by events; a missing join inside of the graph shows at replay.
    fn forks_join() {
        let (context, stream) = start();
        let other = context.new_stream().unwrap();
        // SAFETY: written by the graph before it is read.
        let (mut a, mut b) = unsafe { (stream.alloc::<u8>(256).unwrap(), stream.alloc::<u8>(256).unwrap()) };
        let capture = |a: &mut cudarc::driver::CudaSlice<u8>, b: &mut cudarc::driver::CudaSlice<u8>, wait: bool| {
            stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
            let begun = stream.record_event(None).unwrap();
            other.wait(&begun).unwrap();
            stream.memset_zeros(a).unwrap();
            if wait {
                other.join(&stream).unwrap();
            }
            other.memcpy_dtod(a, b).unwrap();
            stream.join(&other).unwrap();
            stream.end_capture(Flags(0)).unwrap().unwrap()
        };
        let sound = capture(&mut a, &mut b, true);
        sound.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&b).unwrap(), [0; 256]);
        // SAFETY: as above.
        let (mut a, mut b) = unsafe { (stream.alloc::<u8>(256).unwrap(), stream.alloc::<u8>(256).unwrap()) };
        let unsound = capture(&mut a, &mut b, false);
        unsound.launch().unwrap();
        fails(Status::CUDA_ERROR_LAUNCH_FAILED, stream.clone_dtoh(&b));
        assert!(last_fault().contains("Unwritten"), "{}", last_fault());
    }
}

emulated! {
    fn an_unjoined_stream_is_found() {
        let (context, stream) = start();
        let other = context.new_stream().unwrap();
        let mut there = stream.alloc_zeros::<u8>(16).unwrap();
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        other.join(&stream).unwrap();
        other.memset_zeros(&mut there).unwrap();
        fails(Status::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, other.end_capture(Flags(0)));
        fails(Status::CUDA_ERROR_STREAM_CAPTURE_UNJOINED, stream.end_capture(Flags(0)));
    }
}

emulated! {
    fn what_capture_forbids() {
        let (context, stream) = start();
        let unsupported = Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        let mut there = stream.alloc_zeros::<u8>(16).unwrap();
        let address = there.device_ptr_mut(&stream).0;
        let (outside, untouched) = (stream.record_event(None).unwrap(), context.new_stream().unwrap());
        breaks(&stream, unsupported, || stream.synchronize());
        breaks(&stream, unsupported, || context.synchronize());
        breaks(&stream, unsupported, || stream.alloc_zeros::<u8>(16).map(drop));
        breaks(&stream, unsupported, || stream.clone_dtoh(&there).map(drop));
        breaks(&stream, Status::CUDA_ERROR_STREAM_CAPTURE_ISOLATION, || stream.wait(&outside));
        // SAFETY: the driver must refuse all of these.
        unsafe {
            breaks(&stream, unsupported, || result::malloc_sync(16).map(drop));
            breaks(&stream, unsupported, || result::malloc_host(16, 0).map(drop));
            breaks(&stream, unsupported, || result::memcpy_dtoh_sync(&mut [0u8; 16], address));
            breaks(&stream, unsupported, || result::memset_d8_sync(address, 0, 16));
        }
        breaks(&stream, Status::CUDA_ERROR_CAPTURED_EVENT, || stream.record_event(None)?.synchronize());
        assert!(last_fault().contains("capture"), "{}", last_fault());
        // The legacy stream itself cannot capture, and others are free to work.
        fails(unsupported, context.default_stream().begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL));
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
        untouched.synchronize().unwrap();
        drop(untouched.alloc_zeros::<u8>(16).unwrap());
        stream.end_capture(Flags(0)).unwrap().unwrap().launch().unwrap();
        stream.synchronize().unwrap();
    }
}

emulated! {
    fn a_blocking_stream_forbids_the_legacy_stream() {
        let (context, _stream) = start();
        let mut there = context.default_stream().alloc_zeros::<u8>(16).unwrap();
        // SAFETY: plain calls on a stream of this test.
        unsafe {
            let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
            result::stream::begin_capture(blocking, Mode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
            fails(Status::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, context.default_stream().memset_zeros(&mut there));
            fails(Status::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, result::stream::end_capture(blocking));
        }
    }
}

emulated! {
    /// Another thread is bound by a global capture, free beside a thread-local one, and cannot end either.
    fn captures_and_threads() {
        let (context, stream) = start();
        let elsewhere = |work: &(dyn Fn() -> Result<(), result::DriverError> + Sync)| std::thread::scope(|s| s.spawn(work).join().unwrap());
        let allocate = || {
            context.bind_to_thread()?;
            // SAFETY: freed below.
            let address = unsafe { result::malloc_sync(16) }?;
            // SAFETY: just allocated.
            unsafe { result::free_sync(address) }
        };
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        elsewhere(&allocate).unwrap();
        let raw = stream.cu_stream() as usize;
        let end = || {
            context.bind_to_thread()?;
            // SAFETY: the stream lives.
            unsafe { result::stream::end_capture(raw as sys::CUstream) }.map(drop)
        };
        fails(Status::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, elsewhere(&end));
        stream.end_capture(Flags(0)).unwrap().unwrap();
        breaks(&stream, Status::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, || elsewhere(&allocate));
    }
}

emulated! {
    fn flags_of_instantiation() {
        let (_context, stream) = start();
        let invalid = Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        fails(Status::CUDA_ERROR_INVALID_VALUE, stream.end_capture(invalid));
    }
}

emulated! {
    /// New parameters for a node of an executable graph, and a whole new graph of the same shape.
    fn executable_graphs_are_updated() {
        let (context, stream) = start();
        let module = kernels(&context);
        let scale = module.load_function("scale").unwrap();
        let (mut a, mut b) = (stream.clone_htod(&[1.0f32; 128]).unwrap(), stream.clone_htod(&[1.0f32; 128]).unwrap());
        let capture = |y: &mut cudarc::driver::CudaSlice<f32>| {
            stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
            // SAFETY: the arguments are those of the kernel.
            unsafe { stream.launch_builder(&scale).arg(y).arg(&128i32).launch(ONE_BLOCK) }.unwrap();
            stream.end_capture(Flags(0)).unwrap().unwrap()
        };
        let (first, second) = (capture(&mut a), capture(&mut b));
        // SAFETY: handles of this test, and parameters of the kernel.
        unsafe {
            let (mut node, mut count) = (std::ptr::null_mut(), 1);
            sys::cuGraphGetNodes(first.cu_graph(), &mut node, &mut count).result().unwrap();
            assert_eq!(count, 1);
            let mut kind = std::mem::MaybeUninit::uninit();
            sys::cuGraphNodeGetType(node, kind.as_mut_ptr()).result().unwrap();
            assert_eq!(kind.assume_init(), sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL);
            let mut params = std::mem::MaybeUninit::uninit();
            sys::cuGraphKernelNodeGetParams_v2(node, params.as_mut_ptr()).result().unwrap();
            let mut params: sys::CUDA_KERNEL_NODE_PARAMS = params.assume_init();
            assert_eq!((params.gridDimX, params.blockDimX, params.sharedMemBytes), (1, 128, 0));
            let (mut address, mut n) = (a.device_ptr_mut(&stream).0, 64i32);
            let mut arguments: [*mut std::ffi::c_void; 2] = [(&raw mut address).cast(), (&raw mut n).cast()];
            params.kernelParams = arguments.as_mut_ptr();
            sys::cuGraphExecKernelNodeSetParams_v2(first.cu_graph_exec(), node, &params).result().unwrap();
            first.launch().unwrap();
            let half = stream.clone_dtoh(&a).unwrap();
            assert_eq!((half[63], half[64]), (2.0, 1.0));
            let mut info = std::mem::MaybeUninit::uninit();
            sys::cuGraphExecUpdate_v2(first.cu_graph_exec(), second.cu_graph(), info.as_mut_ptr()).result().unwrap();
        }
        first.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&b).unwrap(), [2.0; 128]);
    }
}
