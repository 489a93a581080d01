//! `CUEMU_FAIL`: calls that fail because a test wants to see what a program then does.

use super::report;
use super::state::Driver;
use super::status::{Answer, Status};

/// One planned failure, `<call>[:<nth>]=<status>`.
///
/// The call is an exported name (with or without its version suffix), or `alloc` for any allocation of device memory, `launch` for any
/// launch of a kernel or a graph, `kernel` for a kernel about to run (also inside of a graph). Without `nth` every such call fails, with it
/// only the nth of the process, counted from 1. The status is a name or a number of the API.
#[derive(Debug)]
pub(super) struct Plan {
    call: String,
    nth: Option<u64>,
    status: Status,
    seen: u64,
}

impl Plan {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("CUEMU_FAIL has `{text}`, not <call>[:<nth>]=<status>");
        let (call, status) = text.trim().split_once('=').ok_or_else(wrong)?;
        let (call, nth) = match call.split_once(':') {
            Some((call, nth)) => (call, Some(nth.parse().map_err(|_| wrong())?)),
            None => (call, None),
        };
        Ok(Self { call: call.to_owned(), nth, status: Status::parse(status).ok_or_else(wrong)?, seen: 0 })
    }

    fn names(&self, call: &str) -> bool {
        let plain = call.trim_end_matches("_v2").trim_end_matches("_v3");
        let group = match plain {
            "cuMemAlloc" | "cuMemAllocAsync" | "cuMemAllocFromPoolAsync" => "alloc",
            "cuLaunchKernel" | "cuLaunchKernelEx" | "cuGraphLaunch" => "launch",
            _ => plain,
        };
        [call, plain, group].contains(&self.call.as_str())
    }

    /// Counts the call; the status if it is to fail now.
    fn due(&mut self, call: &str) -> Option<Status> {
        if !self.names(call) {
            return None;
        }
        self.seen += 1;
        self.nth.is_none_or(|nth| nth == self.seen).then_some(self.status)
    }
}

impl Driver {
    /// Fails if `CUEMU_FAIL` says so. A status that hardware never recovers from poisons the current context, or the device for good.
    pub(super) fn fail_if_planned(&mut self, call: &str) -> Answer {
        // Every plan counts every call, also one that another plan lets fail.
        let due: Vec<Status> = self.config.plans.iter_mut().filter_map(|plan| plan.due(call)).collect();
        let Some(&status) = due.first() else { return Ok(()) };
        report::fault(&format!("{call} fails with {} as CUEMU_FAIL asks", status.0));
        if status.loses_device() {
            self.lost = Some(status);
        }
        if status.is_sticky()
            && let Some(context) = self.current_context()
        {
            self.poison(context, status);
        }
        Err(status)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_of_a_group_fails_once() {
        let mut plan = Plan::parse("alloc:2=CUDA_ERROR_OUT_OF_MEMORY").unwrap();
        let calls = ["cuMemAlloc_v2", "cuLaunchKernel", "cuMemAllocAsync", "cuMemAlloc_v2"];
        assert_eq!(calls.map(|call| plan.due(call)), [None, None, Some(Status::OUT_OF_MEMORY), None]);
        let mut always = Plan::parse("cuInit=100").unwrap();
        assert_eq!([always.due("cuInit"), always.due("cuInit")], [Some(Status::NO_DEVICE); 2]);
        assert!(Plan::parse("cuInit:x=1").is_err() && Plan::parse("cuInit=NOTHING").is_err());
    }
}
