//! Memory: copies, limits, and what a program may not do with it.

use crate::harness::{fails, last_fault, start};
use cudarc::driver::sys::{self, CUresult as Status};
use cudarc::driver::{CudaContext, DevicePtr, result};

emulated! {
    fn bytes_come_back() {
        let (context, stream) = start();
        let numbers: Vec<f32> = (0..1000).map(|n| n as f32).collect();
        let there = stream.clone_htod(&numbers).unwrap();
        let mut twice = stream.alloc_zeros::<f32>(2000).unwrap();
        stream.memcpy_dtod(&there, &mut twice.slice_mut(500..1500)).unwrap();
        let back = stream.clone_dtoh(&twice).unwrap();
        assert_eq!(back[500..1500], numbers);
        assert!(back[..500].iter().chain(&back[1500..]).all(|x| *x == 0.0));
        context.synchronize().unwrap();
    }
}

emulated! {
    /// With cudarc's event tracking on, and without stream-ordered allocation.
    fn bytes_come_back_without_pools() with ["CUEMU_MEMORY_POOLS" = "0"] {
        let context = CudaContext::new(0).unwrap();
        assert!(!context.has_async_alloc());
        let (one, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let there = one.clone_htod(&[1u32, 2, 3]).unwrap();
        let copy = other.clone_dtod(&there).unwrap();
        drop(there);
        assert_eq!(one.clone_dtoh(&copy).unwrap(), [1, 2, 3]);
    }
}

emulated! {
    fn memory_ends() with ["CUEMU_MEMORY" = "1048576"] {
        let (context, stream) = start();
        assert_eq!(context.total_mem().unwrap(), 1 << 20);
        fails(Status::CUDA_ERROR_OUT_OF_MEMORY, stream.alloc_zeros::<u8>(2 << 20));
        let (free, total) = context.mem_get_info().unwrap();
        assert_eq!((free, total), (1 << 20, 1 << 20));
        // The release of each waits in the stream when the next is asked for: it has to be run first.
        for _ in 0..10 {
            let most = stream.alloc_zeros::<u8>(700 << 10).unwrap();
            assert!(context.mem_get_info().unwrap().0 <= 324 << 10);
            drop(most);
        }
        stream.synchronize().unwrap();
        assert_eq!(context.mem_get_info().unwrap().0, 1 << 20);
    }
}

emulated! {
    fn unwritten_memory_cannot_be_read() {
        let (context, stream) = start();
        // SAFETY: that it is not initialised is the point.
        let nothing = unsafe { stream.alloc::<u32>(4) }.unwrap();
        fails(Status::CUDA_ERROR_LAUNCH_FAILED, stream.clone_dtoh(&nothing));
        assert!(last_fault().contains("Unwritten"), "{}", last_fault());
        fails(Status::CUDA_ERROR_LAUNCH_FAILED, context.synchronize());
    }
}

emulated! {
    fn freed_memory_is_gone() with ["CUEMU_MEMORY_POOLS" = "0"] {
        let (_context, stream) = start();
        let there = stream.clone_htod(&[1u32; 64]).unwrap();
        let address = there.device_ptr(&stream).0;
        drop(there);
        // SAFETY: the driver must refuse these addresses.
        unsafe {
            fails(Status::CUDA_ERROR_INVALID_VALUE, result::free_sync(address));
            fails(Status::CUDA_ERROR_INVALID_VALUE, result::memcpy_dtoh_sync(&mut [0u32; 64], address));
            fails(Status::CUDA_ERROR_INVALID_VALUE, result::memset_d8_sync(address, 0, 256));
        }
    }
}

emulated! {
    fn copies_stay_in_bounds() {
        let (_context, stream) = start();
        let there = stream.clone_htod(&[1u32; 64]).unwrap();
        let address = there.device_ptr(&stream).0;
        // SAFETY: the driver must refuse these ranges.
        unsafe {
            fails(Status::CUDA_ERROR_INVALID_VALUE, result::memcpy_dtoh_sync(&mut [0u32; 65], address));
            fails(Status::CUDA_ERROR_INVALID_VALUE, result::memcpy_htod_sync(address + 4, &[0u32; 64]));
        }
        assert_eq!(stream.clone_dtoh(&there).unwrap(), [1; 64]);
    }
}

emulated! {
    /// A download into pinned memory is not there before a synchronisation, whatever was there before.
    fn pinned_memory_needs_a_wait() {
        let (context, stream) = start();
        let there = stream.clone_htod(&[1.0f32; 256]).unwrap();
        // SAFETY: written below, before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<f32>(256) }.unwrap();
        pinned.as_mut_slice().unwrap().fill(1.0);
        let host = pinned.as_ptr().unwrap();
        // SAFETY: the pointer is that of the allocation.
        let target = unsafe { std::slice::from_raw_parts_mut(host.cast_mut(), 256) };
        unsafe { result::memcpy_dtoh_async(target, there.device_ptr(&stream).0, stream.cu_stream()) }.unwrap();
        assert!(target.iter().all(|x| x.is_nan()));
        stream.synchronize().unwrap();
        assert!(target.iter().all(|x| *x == 1.0));
    }
}

emulated! {
    fn a_pinned_source_may_not_change_before_its_copy() {
        let (context, stream) = start();
        let mut there = stream.alloc_zeros::<u32>(256).unwrap();
        // SAFETY: written below, before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(256) }.unwrap();
        pinned.as_mut_slice().unwrap().fill(7);
        let host = pinned.as_mut_ptr().unwrap();
        stream.memcpy_htod(&pinned, &mut there).unwrap();
        // SAFETY: the memory is allocated; that it is in use is the point.
        unsafe { host.write(8) };
        fails(Status::CUDA_ERROR_LAUNCH_FAILED, stream.synchronize());
        assert!(last_fault().contains("pinned memory"), "{}", last_fault());
    }
}

emulated! {
    /// Memory that the program allocated and registered is pinned, until it is not.
    fn registered_memory_is_pinned() {
        let (_context, stream) = start();
        let there = stream.clone_htod(&[1.0f32; 64]).unwrap();
        let mut host = vec![0.0f32; 64];
        let (address, bytes) = (host.as_mut_ptr().cast(), 256);
        // SAFETY: the vector outlives its registration.
        unsafe {
            sys::cuMemHostRegister_v2(address, bytes, 0).result().unwrap();
            fails(Status::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, sys::cuMemHostRegister_v2(address, bytes, 0).result());
            result::memcpy_dtoh_async(&mut host, there.device_ptr(&stream).0, stream.cu_stream()).unwrap();
            assert!(host[0].is_nan());
            stream.synchronize().unwrap();
            assert_eq!(host, [1.0; 64]);
            sys::cuMemHostUnregister(address).result().unwrap();
            host.fill(0.0);
            result::memcpy_dtoh_async(&mut host, there.device_ptr(&stream).0, stream.cu_stream()).unwrap();
            assert_eq!(host, [1.0; 64]);
            fails(Status::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, sys::cuMemHostUnregister(address).result());
        }
    }
}

emulated! {
    /// An address says what it is.
    fn addresses_are_known() {
        let (context, stream) = start();
        let there = stream.clone_htod(&[1u8; 100]).unwrap();
        // What follows is ordered by the legacy stream, which does not wait for this one.
        stream.synchronize().unwrap();
        let address = there.device_ptr(&stream).0;
        let (mut start, mut size, mut kind) = (0u64, 0usize, 0u32);
        let memory_type = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
        let mut back = [0u8; 50];
        // SAFETY: valid pointers.
        unsafe {
            sys::cuMemGetAddressRange_v2(&mut start, &mut size, address + 70).result().unwrap();
            sys::cuPointerGetAttribute((&raw mut kind).cast(), memory_type, address + 70).result().unwrap();
            fails(Status::CUDA_ERROR_INVALID_VALUE, sys::cuPointerGetAttribute((&raw mut kind).cast(), memory_type, address + 100).result());
            sys::cuMemcpy(back.as_mut_ptr() as u64, address + 50, 50).result().unwrap();
        }
        assert_eq!((start, size, kind, back), (address, 100, 2, [1; 50]));
        context.synchronize().unwrap();
    }
}

emulated! {
    fn pinned_memory_may_not_go_before_its_copy() {
        let (_context, stream) = start();
        let there = stream.clone_htod(&[1u32; 64]).unwrap();
        // SAFETY: the range is that of the allocation.
        unsafe {
            let host = result::malloc_host(256, 0).unwrap();
            let target = std::slice::from_raw_parts_mut(host.cast::<u32>(), 64);
            result::memcpy_dtoh_async(target, there.device_ptr(&stream).0, stream.cu_stream()).unwrap();
            fails(Status::CUDA_ERROR_LAUNCH_FAILED, result::free_host(host));
        }
        assert!(last_fault().contains("was freed"), "{}", last_fault());
    }
}
