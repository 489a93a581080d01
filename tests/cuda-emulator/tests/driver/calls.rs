//! Which calls wait, or may, and what becomes of graphs, as `cuemuCalls` and `CUEMU_CALLS` tell it.

use crate::harness::{emulator_text, kernels, start};
use cudarc::driver::sys::{CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode};
use cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg, result};
use serde_json::{Value, json};

/// The calls since there were `seen` of them.
fn calls_since(seen: usize) -> Vec<Value> {
    emulator_text(b"cuemuCalls\0").lines().skip(seen).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The calls that `work` makes.
fn calls_of(work: impl FnOnce()) -> Vec<Value> {
    let seen = calls_since(0).len();
    work();
    calls_since(seen)
}

emulated! {
    fn waits_are_told() {
        let (context, stream) = start();
        let there = stream.clone_htod(&[1u32; 64]).unwrap();
        let address = there.device_ptr(&stream).0;
        // SAFETY: written by the copies below before anyone reads it.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(64) }.unwrap();
        pinned.as_mut_slice().unwrap().fill(7);
        let event = stream.record_event(None).unwrap();
        let mut host = [0u32; 64];
        let raw = |work: &mut dyn FnMut() -> Result<(), result::DriverError>| calls_of(|| work().unwrap());
        // SAFETY: the addresses are those of the allocations.
        unsafe {
            let copied = json!({"call": "cuMemcpyDtoHAsync", "wait": "always", "bytes": 256});
            assert_eq!(raw(&mut || result::memcpy_dtoh_async(&mut host, address, stream.cu_stream())), [copied]);
            let staged = json!({"call": "cuMemcpyHtoDAsync", "wait": "may", "bytes": 256});
            assert_eq!(raw(&mut || result::memcpy_htod_async(address, &host, stream.cu_stream())), [staged]);
            let copied = json!({"call": "cuMemcpyDtoH", "wait": "always", "bytes": 256});
            assert_eq!(raw(&mut || result::memcpy_dtoh_sync(&mut host, address)), [copied]);
            let copied = json!({"call": "cuMemcpyHtoD", "wait": "always", "bytes": 256});
            assert_eq!(raw(&mut || result::memcpy_htod_sync(address, &host)), [copied]);
            // Pinned memory and events on the device's side make nobody wait.
            let target = std::slice::from_raw_parts_mut(pinned.as_mut_ptr().unwrap(), 64);
            assert!(raw(&mut || result::memcpy_htod_async(address, target, stream.cu_stream())).is_empty());
            assert!(raw(&mut || result::memcpy_dtoh_async(target, address, stream.cu_stream())).is_empty());
        }
        assert!(calls_of(|| stream.wait(&event).unwrap()).is_empty());
        let waits = |call: &str, wait: &str| [json!({"call": call, "wait": wait})];
        assert_eq!(calls_of(|| assert!(event.try_is_complete().unwrap())), waits("cuEventQuery", "asks"));
        assert_eq!(calls_of(|| event.synchronize().unwrap()), waits("cuEventSynchronize", "always"));
        assert_eq!(calls_of(|| stream.synchronize().unwrap()), waits("cuStreamSynchronize", "always"));
        assert_eq!(calls_of(|| context.synchronize().unwrap()), waits("cuCtxSynchronize", "always"));
        // SAFETY: just allocated.
        let freed = calls_of(|| unsafe { result::free_sync(result::malloc_sync(16).unwrap()) }.unwrap());
        assert_eq!(freed, [json!({"call": "cuMemAlloc", "wait": "may"}), json!({"call": "cuMemFree", "wait": "always"})]);
    }
}

emulated! {
    /// A loop of replays: one graph is made, and between its launches there is nothing else.
    fn graphs_are_told() with ["CUEMU_CALLS" = crate::calls::file()] {
        let (context, stream) = start();
        let scale = kernels(&context).load_function("scale").unwrap();
        let mut y = stream.clone_htod(&[1.0f32; 128]).unwrap();
        let shape = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        let calls = calls_of(|| {
            stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
            // SAFETY: the arguments are those of the kernel.
            unsafe { stream.launch_builder(&scale).arg(&mut y).arg(&128i32).launch(shape) }.unwrap();
            let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
            (0..3).for_each(|_| graph.launch().unwrap());
            stream.synchronize().unwrap();
        });
        let names: Vec<&str> = calls.iter().map(|call| call["call"].as_str().unwrap()).collect();
        assert_eq!(names, ["cuGraphInstantiate", "cuGraphLaunch", "cuGraphLaunch", "cuGraphLaunch", "cuStreamSynchronize"]);
        assert!(calls[0]["graph"].is_u64() && calls[1..4].iter().all(|launch| launch["graph"] == calls[0]["graph"]), "{calls:?}");
        let file = std::env::var("CUEMU_CALLS").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), emulator_text(b"cuemuCalls\0"));
        std::fs::remove_file(file).unwrap();
    }
}

/// A file of this process; the child gets it by name.
fn file() -> String {
    std::env::temp_dir().join(format!("cuemu-calls-{}.jsonl", std::process::id())).to_string_lossy().into_owned()
}
