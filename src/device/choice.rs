//! Which device `auto` is.

use super::cpu::Cpu;
use super::cuda::{self, Cuda};
use super::{Device, DeviceOptions};
use crate::{Error, Result};
use std::sync::Arc;

/// What [`Device::choose`] came to.
#[derive(Debug)]
pub struct Choice {
    /// The device, open.
    pub device: Device,
    /// Why a driver or a device that is there was passed over. Empty where there is none.
    pub passed_over: Vec<Error>,
}

impl Device {
    /// The first NVIDIA device for which there is everything that it takes, driver and NVRTC; else the processor. An emulated device is
    /// never chosen: it must be asked for by name.
    pub fn choose(options: &DeviceOptions) -> Result<Choice> {
        let (mut found, mut passed_over) = (None, Vec::new());
        if cuda::has_driver() {
            let open = |ordinal| Cuda::open(ordinal, &options.cuda, options.threads).and_then(|cuda| cuda.ready().map(|()| cuda));
            (found, passed_over) = first_real(cuda::count(), open, Cuda::is_emulated);
        }
        let device = match found {
            Some(cuda) => Self::Cuda(Arc::new(cuda)),
            None => Self::Cpu(Arc::new(Cpu::new(options.threads)?)),
        };
        Ok(Choice { device, passed_over })
    }
}

/// The first of `count` devices that opens and is not emulated, and what is wrong with those before it, or with the driver.
fn first_real<T>(count: Result<u32>, open: impl Fn(u32) -> Result<T>, is_emulated: impl Fn(&T) -> bool) -> (Option<T>, Vec<Error>) {
    let count = match count {
        Ok(count) => count,
        Err(error) => return (None, vec![error]),
    };
    let mut passed_over = Vec::new();
    for ordinal in 0..count {
        match open(ordinal) {
            Ok(device) if is_emulated(&device) => passed_over.push(emulated(ordinal)),
            Ok(device) => return (Some(device), passed_over),
            Err(error) => passed_over.push(error),
        }
    }
    (None, passed_over)
}

fn emulated(ordinal: u32) -> Error {
    let device = format!("cuda:{ordinal}");
    let what = format!("is emulated, and emulated devices are taken by name only: --device {device}");
    Error::Device { device, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`first_real`] makes of devices that are real, emulated or broken.
    fn chosen(devices: &[&'static str]) -> (Option<&'static str>, Vec<String>) {
        let broken = |ordinal: u32| Error::Device { device: format!("cuda:{ordinal}"), what: "is too old".into() };
        let open = |ordinal: u32| match devices[ordinal as usize] {
            "broken" => Err(broken(ordinal)),
            name => Ok(name),
        };
        let (found, passed_over) = first_real(Ok(devices.len() as u32), open, |name| *name == "emulated");
        (found, passed_over.iter().map(Error::to_string).collect())
    }

    #[test]
    fn the_first_real_device_that_opens_is_chosen() {
        assert_eq!(chosen(&["real", "broken"]), (Some("real"), vec![]));
        assert_eq!(chosen(&["broken", "real one", "real"]), (Some("real one"), vec!["device cuda:0: is too old".to_owned()]));
        let (found, passed_over) = chosen(&["emulated", "broken"]);
        assert_eq!((found, passed_over.len()), (None, 2));
        assert!(passed_over[0].contains("device cuda:0: is emulated") && passed_over[0].contains("--device cuda:0"), "{passed_over:?}");
        assert_eq!(chosen(&["emulated", "real"]).0, Some("real"));
        assert_eq!(chosen(&[]), (None, vec![]));
    }

    #[test]
    fn a_driver_that_does_not_start_is_told() {
        let error = Error::Device { device: "cuda".into(), what: "the driver is too old".into() };
        let (found, passed_over) = first_real(Err(error), |_| -> Result<()> { panic!("nothing to open") }, |()| false);
        assert!(found.is_none() && passed_over[0].to_string().contains("too old"));
    }
}
