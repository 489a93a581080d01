//! Sizes of memory, and the most that the process has held, as Linux tells it; elsewhere unknown.

/// Starts to count anew. Where the system does not let us, the peak stays that of the whole process.
pub(super) fn reset_peak() {
    // refused only where /proc is not writable: the figure is then an upper bound
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Peak of the resident set since then, mapped files included, in MiB.
pub(super) fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// Bytes in MiB.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
