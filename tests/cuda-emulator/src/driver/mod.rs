//! The CUDA driver API, as far as programs that launch kernels use it.
//!
//! Every exported function has the name and the C signature of the driver's. A call enters through [`call`], takes the one lock of the
//! emulator and works on [`state::Driver`]. Nothing runs when it is enqueued: a stream is a list of [`work::Work`], and [`schedule`] runs
//! as little of it as a synchronisation demands, as late as it may. So a program that forgets to wait finds its data not there.

mod attributes;
mod calls;
mod capture;
mod config;
mod context;
mod copy;
mod device;
mod event;
mod failure;
mod function;
mod graph;
mod graph_nodes;
mod launch;
mod memory;
mod module;
mod nvrtc;
mod occupancy;
mod pinned;
mod pool;
mod proc_address;
mod report;
mod schedule;
mod state;
mod status;
mod stream;
mod stubs;
mod table;
mod tally;
mod work;

use state::Driver;
use status::{Answer, Status};
use std::panic::AssertUnwindSafe;

/// Runs one API call: applies the planned failures, refuses what comes before `cuInit`, and turns a panic of the emulator into a status.
fn call(name: &'static str, body: impl FnOnce(&mut Driver) -> Answer) -> Status {
    guarded(name, |driver| if driver.initialised { body(driver) } else { Err(Status::NOT_INITIALIZED) })
}

/// Like [`call`], for what may be called before `cuInit`.
fn guarded(name: &'static str, body: impl FnOnce(&mut Driver) -> Answer) -> Status {
    if work::in_host_function() {
        report::line(&format!("{name}: a host function may not call the driver"));
        return Status::NOT_PERMITTED;
    }
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let driver = &mut *state::lock();
        driver.fail_if_planned(name)?;
        body(driver)
    }));
    match done {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => {
            report::fault(&format!("{name}: the emulator itself failed; this is a defect of it"));
            Status::UNKNOWN
        }
    }
}

/// Stores `value` where a caller asked for it.
///
/// # Safety
/// `to` is null or valid for a write of a `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: not null, and valid by the contract of the C API.
    unsafe { to.write(value) };
    Ok(())
}

/// Stores `value` if the caller asked for it.
///
/// # Safety
/// As for [`put`].
unsafe fn put_if_wanted<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not null, and valid by the contract of the C API.
        unsafe { to.write(value) };
    }
}

/// Reads a C string.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn string(text: *const std::ffi::c_char) -> Answer<String> {
    if text.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: not null, and a C string by the contract of the C API.
    Ok(unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Defines exported functions and the list of them that `cuGetProcAddress` searches. `[early]` marks those that work before `cuInit`.
macro_rules! exports {
    (@entry early) => { $crate::driver::guarded };
    (@entry) => { $crate::driver::call };
    ($($(#[$doc:meta])* $([$early:ident])? fn $name:ident($($arg:ident: $ty:ty),* $(,)?) |$driver:ident| $body:block)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, clippy::too_many_arguments)]
            unsafe extern "C" fn $name($($arg: $ty),*) -> $crate::driver::status::Status {
                $crate::driver::exports!(@entry $($early)?)(stringify!($name), |$driver| $body)
            }
        )*
        /// Names and addresses of what this file exports.
        pub(super) fn exports() -> Vec<(&'static str, usize)> {
            vec![$((stringify!($name), $name as *const () as usize)),*]
        }
    };
}
use exports;
