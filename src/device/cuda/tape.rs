//! Launches with all their addresses filled in: run one by one, or captured once into a CUDA graph and replayed.

use super::context::{Context, Turn};
use super::event::Event;
use super::kernels::Function;
use crate::Result;
use cudarc::driver::sys::{self, CUgraphExec};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A launch that is ready to go.
pub(super) struct ReadyLaunch {
    pub(super) function: Function,
    /// For errors: operation, kernel and place in the model.
    pub(super) label: String,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
    pub(super) params: Vec<u8>,
}

/// The launches of a whole graph. The memory that they use must live as long as the tape.
pub(crate) struct Tape {
    context: Arc<Context>,
    launches: Vec<ReadyLaunch>,
    captured: Option<Captured>,
}

impl Tape {
    pub(super) fn new(context: Arc<Context>, launches: Vec<ReadyLaunch>) -> Self {
        Self { context, launches, captured: None }
    }

    /// Asks for all launches at once, without waiting for them. The first call captures them into a CUDA graph.
    pub(crate) fn replay(&mut self) -> Result<()> {
        if self.launches.is_empty() {
            return Ok(()); // the driver takes no empty capture
        }
        let mut turn = self.context.turn()?;
        let captured = match &mut self.captured {
            Some(captured) => captured,
            none => none.insert(Captured::new(&self.context, &mut turn, &self.launches)?),
        };
        let stream = turn.stream();
        // SAFETY: the graph was instantiated for this context; the memory of its launches lives as long as the tape.
        turn.call("replay the launches", || unsafe { sys::cuGraphLaunch(captured.exec, stream) })
    }

    /// The device's time for `runs` runs in a row: replays, or the same launches one by one.
    pub(crate) fn time(&mut self, runs: usize, replayed: bool) -> Result<Duration> {
        let [start, end] = [Event::new(&self.context)?, Event::new(&self.context)?];
        if replayed {
            self.replay()?; // captured, and under way before the clock starts
        }
        start.record()?;
        for _ in 0..runs {
            if replayed { self.replay()? } else { self.ask(0..self.launches.len())? }
        }
        end.record()?;
        self.context.turn()?.synchronize("run all launches")?;
        start.until(&end)
    }

    /// The device's time for each of some groups of launches, which follow each other. Nothing is waited for but the last of them.
    pub(crate) fn time_each(&self, groups: &[Range<usize>]) -> Result<Vec<Duration>> {
        let events = (0..=groups.len()).map(|_| Event::new(&self.context)).collect::<Result<Vec<_>>>()?;
        events[0].record()?;
        for (group, event) in groups.iter().zip(&events[1..]) {
            self.ask(group.clone())?;
            event.record()?;
        }
        self.context.turn()?.synchronize("run all launches")?;
        events.windows(2).map(|pair| pair[0].until(&pair[1])).collect()
    }

    /// Asks for some of the launches, one by one, and waits.
    pub(crate) fn step(&self, launches: Range<usize>) -> Result<()> {
        let label = self.launches[launches.clone()].last().map_or("nothing", |l| &l.label);
        self.ask(launches)?;
        self.context.turn()?.synchronize(&format!("run {label}"))
    }

    fn ask(&self, launches: Range<usize>) -> Result<()> {
        let mut turn = self.context.turn()?;
        self.launches[launches].iter().try_for_each(|launch| launch.ask(&mut turn))
    }
}

impl ReadyLaunch {
    fn ask(&self, turn: &mut Turn<'_>) -> Result<()> {
        let stream = turn.stream();
        let ([gx, gy, gz], [bx, by, bz]) = (self.grid, self.block);
        let mut params = [self.params.as_ptr().cast_mut().cast()];
        // SAFETY: the one parameter is a struct as large as the kernel declares, which both sides assert; the addresses in it are those
        // of memory that the tape's owner holds and whose bounds were checked when they were filled in.
        turn.call(&format!("launch {}", self.label), || unsafe {
            let (handle, extra) = (self.function.handle, std::ptr::null_mut());
            sys::cuLaunchKernel(handle, gx, gy, gz, bx, by, bz, self.shared, stream, params.as_mut_ptr(), extra)
        })
    }
}

/// A CUDA graph that is ready to be launched.
struct Captured {
    context: Arc<Context>,
    exec: CUgraphExec,
}

// SAFETY: the driver's handles may be used from any thread that has the context's turn.
unsafe impl Send for Captured {}
// SAFETY: as above.
unsafe impl Sync for Captured {}

impl Captured {
    fn new(context: &Arc<Context>, turn: &mut Turn<'_>, launches: &[ReadyLaunch]) -> Result<Self> {
        let stream = turn.stream();
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive and belongs to this turn.
        turn.call("begin a capture", || unsafe { sys::cuStreamBeginCapture_v2(stream, mode) })?;
        let asked = launches.iter().try_for_each(|launch| launch.ask(turn));
        let mut graph = std::ptr::null_mut();
        // A capture that was begun must be ended, whatever went wrong in between; the first error is the one to tell.
        // SAFETY: as above; the pointer is to a local.
        let ended = turn.call("end a capture", || unsafe { sys::cuStreamEndCapture(stream, &raw mut graph) });
        asked.and(ended)?;
        let mut exec = std::ptr::null_mut();
        // SAFETY: the graph was captured above; it may go once it is instantiated.
        let made = turn.call("instantiate the launches", || unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) });
        // SAFETY: as above.
        turn.call("free a graph", || unsafe { sys::cuGraphDestroy(graph) })?;
        made.map(|()| Self { context: context.clone(), exec })
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: instantiated in `new`, destroyed once; the driver waits for replays that are under way.
        self.context.release(|| unsafe { sys::cuGraphExecDestroy(self.exec) });
    }
}
