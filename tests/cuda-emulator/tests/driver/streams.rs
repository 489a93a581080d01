//! Streams, events, host functions: what is ordered and what is not.

use crate::harness::{fails, last_fault, start};
use cudarc::driver::sys::{self, CUevent_flags, CUresult as Status};
use cudarc::driver::{DevicePtr, DevicePtrMut, DriverError, LaunchConfig, PushKernelArg, result};
use std::ffi::c_void;
use std::sync::Mutex;

emulated! {
    /// Work of another stream has not happened until something waits for it.
    fn a_forgotten_wait_is_found() {
        let (context, one) = start();
        let other = context.new_stream().unwrap();
        // SAFETY: written by the stream `one` before anyone may read it.
        let mut there = unsafe { one.alloc::<u32>(16) }.unwrap();
        one.memset_zeros(&mut there).unwrap();
        fails(Status::CUDA_ERROR_LAUNCH_FAILED, other.clone_dtoh(&there));
        assert!(last_fault().contains("Unwritten"), "{}", last_fault());
    }
}

emulated! {
    fn a_wait_orders_streams() {
        let (context, one) = start();
        let other = context.new_stream().unwrap();
        // SAFETY: written by the stream `one` before anyone reads it.
        let mut there = unsafe { one.alloc::<u32>(16) }.unwrap();
        one.memset_zeros(&mut there).unwrap();
        other.join(&one).unwrap();
        assert_eq!(other.clone_dtoh(&there).unwrap(), [0; 16]);
    }
}

emulated! {
    /// What is released in one stream may not be used by another that was not waited for.
    fn use_after_a_release_is_found() {
        let (context, one) = start();
        let other = context.new_stream().unwrap();
        let source = one.clone_htod(&[3u32; 16]).unwrap();
        let mut target = one.alloc_zeros::<u32>(16).unwrap();
        one.synchronize().unwrap();
        other.memcpy_dtod(&source, &mut target).unwrap();
        drop(source);
        one.synchronize().unwrap();
        fails(Status::CUDA_ERROR_ILLEGAL_ADDRESS, other.synchronize());
        assert!(last_fault().contains("UseAfterFree"), "{}", last_fault());
    }
}

emulated! {
    /// The legacy stream and blocking streams wait for one another; non-blocking ones do not.
    fn the_legacy_stream_waits() {
        let (context, _) = start();
        let legacy = context.default_stream();
        let mut there = legacy.alloc_zeros::<u8>(8).unwrap();
        let address = there.device_ptr_mut(&legacy).0;
        let mut back = [0u8; 8];
        // SAFETY: the addresses are those of the allocation.
        unsafe {
            let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
            result::memset_d8_async(address, 5, 8, blocking).unwrap();
            result::memcpy_dtoh_sync(&mut back, address).unwrap();
            assert_eq!(back, [5; 8]);
            let free = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
            result::memset_d8_async(address, 6, 8, free).unwrap();
            result::memcpy_dtoh_sync(&mut back, address).unwrap();
            assert_eq!(back, [5; 8]);
            context.synchronize().unwrap();
            result::memcpy_dtoh_sync(&mut back, address).unwrap();
            assert_eq!(back, [6; 8]);
            result::stream::destroy(blocking).unwrap();
            result::stream::destroy(free).unwrap();
            fails(Status::CUDA_ERROR_INVALID_HANDLE, result::stream::synchronize(free));
        }
    }
}

emulated! {
    /// Whoever only ever asks gets an answer in the end.
    fn events_complete() {
        let (context, stream) = start();
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let begin = stream.record_event(timed).unwrap();
        let mut there = stream.alloc_zeros::<u8>(1 << 20).unwrap();
        stream.memset_zeros(&mut there).unwrap();
        let end = stream.record_event(timed).unwrap();
        assert!(!end.try_is_complete().unwrap());
        let asked = (0..10).take_while(|_| !end.try_is_complete().unwrap()).count();
        assert!((1..10).contains(&asked), "{asked}");
        assert!(begin.elapsed_ms(&end).unwrap() > 0.0);
        let (never, untimed) = (context.new_event(timed).unwrap(), stream.record_event(None).unwrap());
        assert!(never.try_is_complete().unwrap());
        never.synchronize().unwrap();
        fails(Status::CUDA_ERROR_INVALID_HANDLE, never.elapsed_ms(&end));
        fails(Status::CUDA_ERROR_INVALID_HANDLE, begin.elapsed_ms(&untimed));
    }
}

static SEEN: Mutex<Vec<(u8, i32)>> = Mutex::new(Vec::new());

/// Notes the byte that it is given, and what the driver says to a call from here.
unsafe extern "C" fn look(data: *mut c_void) {
    // SAFETY: the test passes a byte that outlives the stream's work.
    let byte = unsafe { data.cast::<u8>().read() };
    let refused = result::mem_get_info().err().map_or(0, |DriverError(status)| status as i32);
    SEEN.lock().unwrap().push((byte, refused));
}

emulated! {
    fn host_functions_run_in_order_and_may_not_call_back() {
        let (context, stream) = start();
        let there = stream.clone_htod(&[9u8]).unwrap();
        // SAFETY: the pinned byte lives until the stream is done.
        unsafe {
            let host = context.alloc_pinned::<u8>(1).unwrap();
            let byte = host.as_ptr().unwrap().cast_mut();
            result::memcpy_dtoh_async(std::slice::from_raw_parts_mut(byte, 1), there.device_ptr(&stream).0, stream.cu_stream()).unwrap();
            result::stream::launch_host_function(stream.cu_stream(), look, byte.cast()).unwrap();
            assert!(SEEN.lock().unwrap().is_empty());
            stream.synchronize().unwrap();
        }
        assert_eq!(*SEEN.lock().unwrap(), [(9, sys::CUresult::CUDA_ERROR_NOT_PERMITTED as i32)]);
    }
}

emulated! {
    /// Threads share a context, each with a stream; the results are those of one thread.
    fn threads_share_a_context() {
        let (context, _stream) = start();
        let scale = crate::harness::kernels(&context).load_function("scale").unwrap();
        let shape = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        std::thread::scope(|scope| {
            for start in 0..4 {
                let (context, scale) = (&context, &scale);
                scope.spawn(move || {
                    let stream = context.new_stream().unwrap();
                    let mut y = stream.clone_htod(&[start as f32; 128]).unwrap();
                    for _ in 0..10 {
                        // SAFETY: the arguments are those of the kernel.
                        unsafe { stream.launch_builder(scale).arg(&mut y).arg(&128i32).launch(shape) }.unwrap();
                    }
                    assert_eq!(stream.clone_dtoh(&y).unwrap(), [start as f32 * 1024.0; 128]);
                });
            }
        });
    }
}

emulated! {
    fn early_order_runs_at_once() with ["CUEMU_SCHEDULE" = "early"] {
        let (_context, stream) = start();
        let event = stream.record_event(None).unwrap();
        assert!(event.try_is_complete().unwrap());
    }
}
