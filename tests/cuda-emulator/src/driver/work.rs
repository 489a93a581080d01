//! What a stream holds: pieces of work, and how each is done.

use super::function::Function;
use super::pinned::digest;
use super::report;
use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use crate::{Fault, Launch};
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// A function of the host, as `cuLaunchHostFunc` takes it.
pub(super) type HostFunction = unsafe extern "C" fn(*mut c_void);

/// One piece of work. Cloning is cheap: a captured graph is replayed by cloning its work.
#[derive(Clone)]
pub(super) enum Work {
    Kernel(Kernel),
    /// From a copy of pageable memory, made when it was enqueued, as the driver's staging does.
    UploadStaged {
        from: Arc<[u8]>,
        to: u64,
    },
    /// From pinned memory; `digest` is that of its content when it was enqueued, where it is known that nothing else may write there.
    UploadPinned {
        from: usize,
        to: u64,
        bytes: usize,
        digest: Option<u64>,
    },
    Download {
        from: u64,
        to: usize,
        bytes: usize,
    },
    Copy {
        from: u64,
        to: u64,
        bytes: u64,
    },
    /// Between devices.
    Peer {
        from: u64,
        from_device: usize,
        to: u64,
        to_device: usize,
        bytes: usize,
    },
    Fill {
        to: u64,
        pattern: [u8; 4],
        width: usize,
        count: u64,
    },
    Host {
        function: HostFunction,
        data: usize,
    },
    Free {
        address: u64,
    },
    /// Nothing: a node that only orders others.
    Empty,
    /// An event becomes complete.
    Record {
        event: Handle,
    },
    /// All that other stream holds up to that ticket comes first.
    Wait {
        stream: Handle,
        ticket: u64,
    },
    Graph(Arc<[Work]>),
}

/// A kernel with everything it needs to run.
#[derive(Clone)]
pub(super) struct Kernel {
    pub(super) function: Arc<Function>,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
    pub(super) params: Arc<[u8]>,
}

thread_local! {
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside of a host function that a stream called.
pub(super) fn in_host_function() -> bool {
    IN_HOST_FUNCTION.get()
}

/// Why a piece of work failed.
enum Failure {
    Fault(Box<Fault>),
    Other(Status, String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl Driver {
    /// Does one piece of work. A failure poisons the context and is told in full.
    pub(super) fn perform(&mut self, context: Handle, work: &Work) -> Answer {
        let done = match work {
            Work::Wait { stream, ticket } => return self.run_until(*stream, *ticket),
            Work::Graph(steps) => return steps.iter().try_for_each(|step| self.perform(context, step)),
            Work::Kernel(kernel) => {
                self.fail_if_planned("kernel").inspect_err(|status| self.poison(context, *status))?;
                self.run_kernel(context, kernel)
            }
            Work::Empty => Ok(()),
            Work::Record { event } => {
                self.complete(*event, Instant::now());
                Ok(())
            }
            Work::Host { function, data } => {
                IN_HOST_FUNCTION.set(true);
                // SAFETY: the program enqueued this function with this argument for exactly this call.
                unsafe { function(*data as *mut c_void) };
                IN_HOST_FUNCTION.set(false);
                Ok(())
            }
            Work::Free { address } => self.release(*address),
            _ => self.move_bytes(context, work),
        };
        done.map_err(|failure| {
            let (status, text) = match failure {
                Failure::Fault(fault) => (Status::from(fault.kind), fault.to_string()),
                Failure::Other(status, text) => (status, text),
            };
            report::fault(&text);
            self.poison(context, status);
            status
        })
    }

    fn run_kernel(&mut self, context: Handle, kernel: &Kernel) -> Result<(), Failure> {
        let threads = self.config.threads;
        let device = self.device_of(context).map_err(gone)?;
        let name = &kernel.function.entry.name;
        let module = kernel.function.module.code.read().unwrap_or_else(PoisonError::into_inner);
        let Some(module) = module.as_ref() else {
            return Err(Failure::Other(Status::ILLEGAL_ADDRESS, format!("kernel {name} was to run after its module was unloaded")));
        };
        let launch =
            Launch { module, entry: name, grid: kernel.grid, block: kernel.block, dynamic_shared: kernel.shared, params: &kernel.params };
        let counters = crate::run(&device.model, &device.memory, &launch, threads)?;
        self.tally.add(kernel, &counters);
        Ok(())
    }

    fn release(&mut self, address: u64) -> Result<(), Failure> {
        let Some(home) = self.home(address) else {
            let text = format!("memory at {address:#x} was to be freed, but is not allocated any more");
            return Err(Failure::Other(Status::INVALID_VALUE, text));
        };
        let device = &mut self.devices[home];
        device.memory.free(address)?;
        if let Some(owned) = device.owned.remove(&address)
            && let Some(pool) = owned.pool
            && let Ok(pool) = self.pools.get_mut(pool)
        {
            pool.used = pool.used.saturating_sub(owned.bytes);
        }
        Ok(())
    }

    fn move_bytes(&mut self, context: Handle, work: &Work) -> Result<(), Failure> {
        let device = self.device_of(context).map_err(gone)?;
        match work {
            Work::UploadStaged { from, to } => {
                device.memory.write(*to, from)?;
                self.staged -= from.len();
            }
            Work::UploadPinned { from, to, bytes, digest: expected } => {
                // SAFETY: the range was pinned when this was enqueued; freeing pinned memory that pending work uses is refused.
                let source = unsafe { std::slice::from_raw_parts(*from as *const u8, *bytes) };
                if expected.is_some_and(|expected| expected != digest(source)) {
                    let text =
                        format!("{bytes} bytes of pinned memory at {from:#x} were changed between a copy from there and its execution");
                    return Err(Failure::Other(Status::LAUNCH_FAILED, text));
                }
                device.memory.write(*to, source)?;
            }
            Work::Download { from, to, bytes } => {
                // SAFETY: pageable targets are only used before the call that gives them returns, pinned ones as above.
                device.memory.read(*from, unsafe { std::slice::from_raw_parts_mut(*to as *mut u8, *bytes) })?;
            }
            Work::Copy { from, to, bytes } => device.memory.copy(*to, *from, *bytes)?,
            Work::Fill { to, pattern, width, count } => device.memory.fill(*to, &pattern[..*width], *count)?,
            Work::Peer { from, from_device, to, to_device, bytes } => {
                let mut between = vec![0; *bytes];
                self.devices[*from_device].memory.read(*from, &mut between)?;
                self.devices[*to_device].memory.write(*to, &between)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A context that ended takes its work with it, so this is never seen unless the emulator is wrong.
fn gone(status: Status) -> Failure {
    Failure::Other(status, "work outlived its context".to_owned())
}
