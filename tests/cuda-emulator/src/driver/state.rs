//! Everything that the emulated driver knows.

use super::calls::Calls;
use super::capture::Capture;
use super::config::{Config, Schedule};
use super::context::Context;
use super::event::Event;
use super::function::FunctionRecord;
use super::graph::{Exec, Graph};
use super::module::Loaded;
use super::pinned::Pinned;
use super::pool::Pool;
use super::report;
use super::status::{Answer, Status};
use super::stream::Stream;
use super::table::{Handle, Table};
use super::tally::Tally;
use crate::{DeviceModel, Memory};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// The state of the process.
pub(super) struct Driver {
    pub(super) config: Config,
    /// Why the configuration could not be read; `cuInit` then fails.
    pub(super) misconfigured: Option<String>,
    pub(super) initialised: bool,
    /// Set when a device was lost for good.
    pub(super) lost: Option<Status>,
    pub(super) devices: Vec<Device>,
    pub(super) contexts: Table<Context>,
    /// Contexts that were.
    pub(super) ended: BTreeSet<Handle>,
    pub(super) streams: Table<Stream>,
    pub(super) events: Table<Event>,
    pub(super) modules: Table<Arc<Loaded>>,
    pub(super) functions: Table<FunctionRecord>,
    pub(super) captures: Table<Capture>,
    pub(super) graphs: Table<Graph>,
    pub(super) execs: Table<Exec>,
    pub(super) pools: Table<Pool>,
    /// Pinned host memory by address.
    pub(super) pinned: BTreeMap<usize, Pinned>,
    /// Number of the last piece of work that was enqueued anywhere.
    pub(super) ticket: u64,
    /// Bytes of pageable memory that uploads still hold copies of.
    pub(super) staged: usize,
    pub(super) tally: Tally,
    pub(super) calls: Calls,
}

/// One device: memory and who owns what in it.
pub(super) struct Device {
    pub(super) model: DeviceModel,
    pub(super) memory: Memory,
    pub(super) primary: Option<Handle>,
    pub(super) primary_users: u32,
    pub(super) default_pool: Handle,
    pub(super) current_pool: Handle,
    /// Allocations by address.
    pub(super) owned: BTreeMap<u64, Owned>,
}

/// Who made an allocation.
pub(super) struct Owned {
    pub(super) context: Handle,
    pub(super) bytes: u64,
    /// The pool, for stream-ordered memory.
    pub(super) pool: Option<Handle>,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| Mutex::new(Driver::new(Config::read(|name| std::env::var(name).ok()))));

/// The one lock of the emulator.
pub(super) fn lock() -> MutexGuard<'static, Driver> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// The stack of contexts of this thread.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// Works on the context stack of this thread.
pub(super) fn with_stack<R>(work: impl FnOnce(&mut Vec<Handle>) -> R) -> R {
    CURRENT.with(|stack| work(&mut stack.borrow_mut()))
}

impl Driver {
    fn new(config: Result<Config, String>) -> Self {
        let (config, misconfigured) = match config {
            Ok(config) => (config, None),
            Err(why) => (Config::none(), Some(why)),
        };
        let mut pools = Table::new(Status::INVALID_VALUE);
        let mut device = |(ordinal, model): (usize, &DeviceModel)| {
            let pool = pools.insert(Pool::new(ordinal));
            let memory = Memory::new(model.memory_bytes);
            let owned = BTreeMap::new();
            Device { model: model.clone(), memory, primary: None, primary_users: 0, default_pool: pool, current_pool: pool, owned }
        };
        Self {
            devices: config.devices.iter().enumerate().map(&mut device).collect(),
            tally: Tally::new(config.counters.clone()),
            calls: Calls::new(config.calls.as_deref()),
            config,
            misconfigured,
            initialised: false,
            lost: None,
            contexts: Table::new(Status::INVALID_CONTEXT),
            ended: BTreeSet::new(),
            streams: Table::new(Status::INVALID_HANDLE),
            events: Table::new(Status::INVALID_HANDLE),
            modules: Table::new(Status::INVALID_HANDLE),
            functions: Table::new(Status::INVALID_HANDLE),
            captures: Table::new(Status::ILLEGAL_STATE),
            graphs: Table::new(Status::INVALID_VALUE),
            execs: Table::new(Status::INVALID_VALUE),
            pools,
            pinned: BTreeMap::new(),
            ticket: 0,
            staged: 0,
        }
    }

    /// The device of that ordinal.
    pub(super) fn device(&mut self, ordinal: i32) -> Answer<&mut Device> {
        usize::try_from(ordinal).ok().and_then(|n| self.devices.get_mut(n)).ok_or(Status::INVALID_DEVICE)
    }

    /// The device of a context.
    pub(super) fn device_of(&mut self, context: Handle) -> Answer<&mut Device> {
        let ordinal = self.contexts.get(context)?.device;
        self.devices.get_mut(ordinal).ok_or(Status::INVALID_DEVICE)
    }

    /// The context that is current to this thread, whatever state it is in.
    pub(super) fn current_context(&self) -> Option<Handle> {
        with_stack(|stack| stack.last().copied())
    }

    /// The context that is current to this thread, if it exists and is sound.
    pub(super) fn context(&self) -> Answer<Handle> {
        let context = self.current_context().ok_or(Status::INVALID_CONTEXT)?;
        self.sound(context)?;
        Ok(context)
    }

    /// Fails with the status that a context is poisoned with.
    pub(super) fn sound(&self, context: Handle) -> Answer {
        if let Some(status) = self.lost {
            return Err(status);
        }
        self.exists(context)?.poison.map_or(Ok(()), Err)
    }

    /// The context of that handle, told apart from one that has ended.
    pub(super) fn exists(&self, context: Handle) -> Answer<&Context> {
        let missing = |status| if self.ended.contains(&context) { Status::CONTEXT_IS_DESTROYED } else { status };
        self.contexts.get(context).map_err(missing)
    }

    /// Makes every later call on that context fail, and drops the work that waits in it.
    pub(super) fn poison(&mut self, context: Handle, status: Status) {
        if let Ok(found) = self.contexts.get_mut(context) {
            found.poison.get_or_insert(status);
        }
        let streams: Vec<Handle> = self.streams_of(context);
        for stream in streams {
            self.drop_work(stream);
        }
    }

    /// The streams of a context, in the order in which they were made.
    pub(super) fn streams_of(&self, context: Handle) -> Vec<Handle> {
        self.streams.iter().filter(|(_, stream)| stream.context == context).map(|(handle, _)| handle).collect()
    }

    /// A refusal with a reason that the status cannot carry.
    pub(super) fn refuse<T>(&self, status: Status, why: &str) -> Answer<T> {
        report::fault(why);
        Err(status)
    }

    /// Whether work runs as soon as it is enqueued.
    pub(super) fn runs_early(&self) -> bool {
        self.config.schedule == Schedule::Early
    }
}
