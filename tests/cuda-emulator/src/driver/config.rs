//! The environment variables of the emulator. Only it reads them, once.

use super::failure::Plan;
use crate::DeviceModel;

/// How soon enqueued work runs. Both are orders that hardware may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Not before a synchronisation needs it: finds missing waits.
    Late,
    /// Before the call returns: faults come from the call that caused them.
    Early,
}

/// All that can be configured.
#[derive(Debug)]
pub(super) struct Config {
    /// `CUEMU_DEVICE`: `a100` (default), `h100`, several with commas, or `none`. Memory follows `CUEMU_MEMORY` where given, in bytes.
    pub(super) devices: Vec<DeviceModel>,
    /// `CUEMU_DRIVER_VERSION`: what `cuDriverGetVersion` says, 12090 by default; PTX that is newer is refused.
    pub(super) driver_version: i32,
    /// `CUEMU_FAIL`.
    pub(super) plans: Vec<Plan>,
    /// `CUEMU_COUNTERS`: the file for counters; `%p` in it stands for the process.
    pub(super) counters: Option<String>,
    /// `CUEMU_CALLS`: the file for calls that wait and calls on graphs; `%p` in it stands for the process.
    pub(super) calls: Option<String>,
    /// `CUEMU_THREADS`: threads that run a kernel; all of the machine by default.
    pub(super) threads: usize,
    /// `CUEMU_SCHEDULE`: `late` (default) or `early`; `CUDA_LAUNCH_BLOCKING=1` means `early` as well.
    pub(super) schedule: Schedule,
    /// `CUEMU_MEMORY_POOLS`: `0` for a device without `cuMemAllocAsync`.
    pub(super) memory_pools: bool,
}

impl Config {
    /// What holds when nothing can be read: no device.
    pub(super) fn none() -> Self {
        Self {
            devices: Vec::new(),
            driver_version: 0,
            plans: Vec::new(),
            counters: None,
            calls: None,
            threads: 1,
            schedule: Schedule::Late,
            memory_pools: false,
        }
    }

    /// Reads the variables through `get`; an error names the variable.
    pub(super) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let blocking = get("CUDA_LAUNCH_BLOCKING").is_some_and(|v| v == "1");
        let schedule = match get("CUEMU_SCHEDULE").as_deref() {
            Some("early") => Schedule::Early,
            None if blocking => Schedule::Early,
            None | Some("late") => Schedule::Late,
            Some(other) => return Err(format!("CUEMU_SCHEDULE is `{other}`, not `late` or `early`")),
        };
        let file = |variable| get(variable).map(|file| file.replace("%p", &std::process::id().to_string()));
        let memory = get("CUEMU_MEMORY").map(|v| number("CUEMU_MEMORY", &v)).transpose()?;
        let fail = get("CUEMU_FAIL").unwrap_or_default();
        let machine = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let threads = get("CUEMU_THREADS").map_or(Ok(machine), |v| number("CUEMU_THREADS", &v))?;
        let version = get("CUEMU_DRIVER_VERSION").map_or(Ok(12090), |v| number("CUEMU_DRIVER_VERSION", &v))?;
        Ok(Self {
            devices: devices(get("CUEMU_DEVICE").as_deref().unwrap_or("a100"), memory)?,
            driver_version: version as i32,
            plans: fail.split(',').filter(|p| !p.trim().is_empty()).map(Plan::parse).collect::<Result<_, _>>()?,
            counters: file("CUEMU_COUNTERS"),
            calls: file("CUEMU_CALLS"),
            threads: threads.max(1) as usize,
            schedule,
            memory_pools: get("CUEMU_MEMORY_POOLS").is_none_or(|v| v != "0"),
        })
    }
}

fn devices(names: &str, memory: Option<u64>) -> Result<Vec<DeviceModel>, String> {
    if names == "none" {
        return Ok(Vec::new());
    }
    let model = |name: &str| match name.trim() {
        "a100" => Ok(DeviceModel::a100()),
        "h100" => Ok(DeviceModel::h100()),
        other => Err(format!("CUEMU_DEVICE names `{other}`; known are `a100`, `h100` and `none`")),
    };
    let with_memory = |device: DeviceModel| DeviceModel { memory_bytes: memory.unwrap_or(device.memory_bytes), ..device };
    names.split(',').map(|name| model(name).map(with_memory)).collect()
}

fn number(variable: &str, text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("{variable} is `{text}`, not a number"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, String> {
        Config::read(|name| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned()))
    }

    #[test]
    fn defaults_and_given_values() {
        let config = read(&[]).unwrap();
        assert_eq!((config.devices.len(), config.devices[0].arch, config.driver_version), (1, 80, 12090));
        assert_eq!(config.schedule, Schedule::Late);
        let config = read(&[("CUEMU_DEVICE", "h100,a100"), ("CUEMU_MEMORY", "4096"), ("CUDA_LAUNCH_BLOCKING", "1")]).unwrap();
        assert_eq!((config.devices[0].arch, config.devices[1].arch, config.devices[1].memory_bytes), (90, 80, 4096));
        assert_eq!(config.schedule, Schedule::Early);
        assert!(read(&[("CUEMU_DEVICE", "none")]).unwrap().devices.is_empty());
    }

    #[test]
    fn bad_values_are_named() {
        for (name, value) in [("CUEMU_DEVICE", "k80"), ("CUEMU_MEMORY", "lots"), ("CUEMU_FAIL", "cuInit"), ("CUEMU_SCHEDULE", "soon")] {
            assert!(read(&[(name, value)]).unwrap_err().contains(name), "{name}={value}");
        }
    }
}
