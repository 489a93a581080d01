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
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if !out.is_null() && size > 0 {
        let kept = last.len().min(size - 1);
        // SAFETY: the caller gives `size` writable bytes, and `kept + 1` is not more.
        unsafe {
            std::ptr::copy_nonoverlapping(last.as_ptr(), out.cast(), kept);
            out.add(kept).write(0);
        }
    }
    last.len() + 1
}
