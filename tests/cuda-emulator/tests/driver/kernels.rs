//! Modules and launches.

use crate::harness::{Axpy, fails, kernels, last_fault, start};
use crate::tools;
use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute, CUresult as Status};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

fn shape(blocks: u32, threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared }
}

/// Runs `axpy` of a module on 1000 numbers.
fn run_axpy(stream: &Arc<CudaStream>, module: &Arc<cudarc::driver::CudaModule>) {
    let n = 1000;
    let x = stream.clone_htod(&(0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
    let mut y = stream.clone_htod(&vec![1.0f32; n]).unwrap();
    let params = Axpy { y: y.device_ptr_mut(stream).0, x: x.device_ptr(stream).0, a: 2.0, n: n as i32 };
    let axpy = module.load_function("axpy").unwrap();
    // SAFETY: the parameters are those of the kernel.
    unsafe { stream.launch_builder(&axpy).arg(&params).launch(shape(8, 128, 0)) }.unwrap();
    let expected: Vec<f32> = (0..n).map(|i| 1.0 + 2.0 * i as f32).collect();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), expected);
}

emulated! {
    fn a_kernel_runs() {
        let (context, stream) = start();
        assert_eq!(context.compute_capability().unwrap(), (8, 0));
        assert!(context.name().unwrap().contains("A100"));
        run_axpy(&stream, &kernels(&context));
    }
}

emulated! {
    /// The same from source, by the NVRTC that the engine's tests install.
    fn a_kernel_compiled_now_runs() with ["LD_LIBRARY_PATH" = tools::nvrtc().parent().unwrap().display().to_string()] {
        let (context, stream) = start();
        let options = cudarc::nvrtc::CompileOptions {
            options: vec!["-default-device".to_owned()],
            arch: Some("compute_80"),
            ..Default::default()
        };
        let ptx = cudarc::nvrtc::compile_ptx_with_opts(include_str!("../data/driver.cu"), options).unwrap();
        run_axpy(&stream, &context.load_module(ptx).unwrap());
    }
}

emulated! {
    fn dynamic_shared_memory_and_its_limits() {
        let (context, stream) = start();
        let block_sum = kernels(&context).load_function("block_sum").unwrap();
        let x = stream.clone_htod(&(0..512).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
        let mut sums = stream.alloc_zeros::<f32>(2).unwrap();
        // SAFETY: the arguments are those of the kernel.
        let mut launch = |shared| unsafe { stream.launch_builder(&block_sum).arg(&mut sums).arg(&x).launch(shape(2, 256, shared)) };
        launch(1024).unwrap();
        // Without opting in 48 KiB, with it 163 KiB on an A100.
        fails(Status::CUDA_ERROR_INVALID_VALUE, launch(100 << 10));
        let opt_in = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        fails(Status::CUDA_ERROR_INVALID_VALUE, block_sum.set_attribute(opt_in, 164 << 10));
        block_sum.set_attribute(opt_in, 163 << 10).unwrap();
        launch(100 << 10).unwrap();
        assert_eq!(stream.clone_dtoh(&sums).unwrap(), [32640.0, 98176.0]);
    }
}

emulated! {
    fn launches_are_checked() {
        let (context, stream) = start();
        let module = kernels(&context);
        let scale = module.load_function("scale").unwrap();
        let mut y = stream.alloc_zeros::<f32>(128).unwrap();
        // SAFETY: the arguments are those of the kernel.
        let mut launch = |shape| unsafe { stream.launch_builder(&scale).arg(&mut y).arg(&128i32).launch(shape) };
        // `__launch_bounds__(128)`.
        fails(Status::CUDA_ERROR_INVALID_VALUE, launch(shape(1, 129, 0)));
        assert!(last_fault().contains("scale") && last_fault().contains("128"), "{}", last_fault());
        fails(Status::CUDA_ERROR_INVALID_VALUE, launch(shape(0, 128, 0)));
        launch(shape(1, 128, 0)).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(scale.get_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK).unwrap(), 128);
        fails(Status::CUDA_ERROR_NOT_FOUND, module.load_function("missing"));
    }
}

emulated! {
    fn variables_of_a_module() {
        let (context, stream) = start();
        let module = kernels(&context);
        let mut factor = module.get_global("factor", &stream).unwrap();
        assert_eq!(factor.len(), 4);
        stream.memcpy_htod(&5.0f32.to_le_bytes(), &mut factor).unwrap();
        let mut y = stream.clone_htod(&[3.0f32; 128]).unwrap();
        let scale = module.load_function("scale").unwrap();
        // SAFETY: the arguments are those of the kernel.
        unsafe { stream.launch_builder(&scale).arg(&mut y).arg(&128i32).launch(shape(1, 128, 0)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [15.0; 128]);
    }
}

emulated! {
    fn what_is_not_ptx_is_refused() {
        let (context, _stream) = start();
        let cubin = Ptx::from_binary(b"\x7fELF\x02\x01\x01\0\0".to_vec());
        fails(Status::CUDA_ERROR_NO_BINARY_FOR_GPU, context.load_module(cubin));
        assert!(last_fault().contains("machine code"), "{}", last_fault());
        fails(Status::CUDA_ERROR_INVALID_PTX, context.load_module(Ptx::from_src("hello")));
        let newer = include_str!("../data/driver.ptx").replace("sm_80", "sm_90");
        fails(Status::CUDA_ERROR_INVALID_PTX, context.load_module(Ptx::from_src(newer)));
        assert!(last_fault().contains("sm_90"), "{}", last_fault());
    }
}

emulated! {
    /// `cuModuleLoadDataEx` writes the words of the parser into the log that it is given, shortened to its size.
    fn the_log_of_the_compiler() {
        let (_context, _stream) = start();
        let ptx = c".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry e() { nosuch.u32 %r1; }";
        let mut log = [1u8; 48];
        let options = &mut [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let values = &mut [log.as_mut_ptr().cast::<std::ffi::c_void>(), std::ptr::without_provenance_mut(log.len())];
        let mut module = std::ptr::null_mut();
        // SAFETY: valid pointers, and the log has the size that is given.
        let status = unsafe { sys::cuModuleLoadDataEx(&mut module, ptx.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
        fails(Status::CUDA_ERROR_INVALID_PTX, status.result());
        let text = std::ffi::CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap();
        assert!(!text.is_empty() && last_fault().starts_with(text) && last_fault().contains("nosuch"), "{text} / {}", last_fault());
    }
}

emulated! {
    fn occupancy_follows_the_device() {
        let (context, _stream) = start();
        let module = kernels(&context);
        let (scale, block_sum) = (module.load_function("scale").unwrap(), module.load_function("block_sum").unwrap());
        // 2048 threads, 164 KiB with 1 KiB of the system's for each block.
        assert_eq!(scale.occupancy_max_active_blocks_per_multiprocessor(128, 0, None).unwrap(), 16);
        assert_eq!(scale.occupancy_max_active_blocks_per_multiprocessor(256, 0, None).unwrap(), 0);
        assert_eq!(block_sum.occupancy_max_active_blocks_per_multiprocessor(128, 80 << 10, None).unwrap(), 2);
        assert_eq!(block_sum.occupancy_available_dynamic_smem_per_block(2, 128).unwrap(), 81 << 10);
    }
}

emulated! {
    fn an_old_driver_refuses_new_ptx() with ["CUEMU_DRIVER_VERSION" = "11040"] {
        let (context, _stream) = start();
        let ptx = Ptx::from_src(include_str!("../data/driver.ptx"));
        fails(Status::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, context.load_module(ptx));
        assert!(last_fault().contains("8.8") && last_fault().contains("7.4"), "{}", last_fault());
    }
}

emulated! {
    fn a_module_may_not_go_before_its_kernel() {
        let (context, stream) = start();
        let mut y = stream.alloc_zeros::<f32>(128).unwrap();
        // SAFETY: that the module goes too early is the point.
        unsafe {
            let source = std::ffi::CString::new(include_str!("../data/driver.ptx")).unwrap();
            let module = result::module::load_data(source.as_ptr().cast()).unwrap();
            let scale = result::module::get_function(module, c"scale".to_owned()).unwrap();
            let (mut address, mut n) = (y.device_ptr_mut(&stream).0, 128i32);
            let params = &mut [(&raw mut address).cast(), (&raw mut n).cast()];
            result::launch_kernel(scale, (1, 1, 1), (128, 1, 1), 0, stream.cu_stream(), params).unwrap();
            result::module::unload(module).unwrap();
        }
        fails(Status::CUDA_ERROR_ILLEGAL_ADDRESS, stream.synchronize());
        assert!(last_fault().contains("unloaded"), "{}", last_fault());
    }
}

emulated! {
    fn counters_are_written() with ["CUEMU_COUNTERS" = crate::kernels::counters_file()] {
        let (context, stream) = start();
        run_axpy(&stream, &kernels(&context));
        run_axpy(&stream, &kernels(&context));
        context.synchronize().unwrap();
        let text = std::fs::read_to_string(std::env::var("CUEMU_COUNTERS").unwrap()).unwrap();
        std::fs::remove_file(std::env::var("CUEMU_COUNTERS").unwrap()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let row: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((row["kernel"].as_str(), row["launches"].as_u64(), row["grid"][0].as_u64()), (Some("axpy"), Some(2), Some(8)));
        assert_eq!(row["counters"]["blocks"].as_u64(), Some(16));
    }
}

/// A file of this process; the child gets it by name.
fn counters_file() -> String {
    std::env::temp_dir().join(format!("cuemu-counters-{}.json", std::process::id())).to_string_lossy().into_owned()
}
