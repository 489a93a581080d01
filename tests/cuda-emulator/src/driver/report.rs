//! What the emulator says: lines on the error stream, and the last fault for whoever asks.

use std::ffi::c_char;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

static LAST: Mutex<String> = Mutex::new(String::new());

/// Writes one line to the error stream.
pub(super) fn line(text: &str) {
    // Nobody can be told that the error stream is closed.
    let _ = writeln!(std::io::stderr(), "cuda-emulator: {text}");
}

/// Writes the line and keeps it as the last fault.
pub(super) fn fault(text: &str) {
    line(text);
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = text.to_owned();
}

/// Copies the text of the last fault (of any context) to `out`, at most `size` bytes with the closing zero, and returns the bytes that the
/// whole text needs. Not part of the driver API.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
unsafe extern "C" fn cuemuLastFault(out: *mut c_char, size: usize) -> usize {
    // SAFETY: the caller gives `size` writable bytes.
    unsafe { hand_out(&LAST.lock().unwrap_or_else(PoisonError::into_inner), out, size) }
}

/// Copies as much of `text` as `size` bytes hold with the closing zero, and returns the bytes that all of it needs.
///
/// # Safety
/// `out` is null or has `size` writable bytes.
pub(super) unsafe fn hand_out(text: &str, out: *mut c_char, size: usize) -> usize {
    if !out.is_null() && size > 0 {
        let kept = text.len().min(size - 1);
        // SAFETY: `kept + 1` bytes are not more than `size`.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast(), kept);
            out.add(kept).write(0);
        }
    }
    text.len() + 1
}
