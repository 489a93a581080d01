//! The version of a compiler that is not here: for programs that must refuse an old NVRTC.

use std::ffi::c_int;

/// What NVRTC answers where a value is missing or wrong.
const INVALID_INPUT: c_int = 3;

/// `nvrtcVersion` of a library that was named as NVRTC: what `CUEMU_NVRTC_VERSION` says, such as `11.8`. The emulator compiles nothing.
///
/// # Safety
/// The pointers are null or may be written to.
#[allow(non_snake_case)]
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    let said = std::env::var("CUEMU_NVRTC_VERSION").unwrap_or_default();
    let parsed = said.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let Some((first, second)) = parsed.filter(|_| !major.is_null() && !minor.is_null()) else { return INVALID_INPUT };
    // SAFETY: the caller's pointers, by the contract of the C API.
    unsafe { (*major, *minor) = (first, second) };
    0
}
