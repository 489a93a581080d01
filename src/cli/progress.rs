//! Progress on standard error: a bar on a terminal, a line now and then elsewhere. Ctrl-C stops after the current step.

use dreamid_engine::pipeline::{Control, Progress, Stage};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(5);

/// Shows the progress of one request.
pub(super) struct Display {
    bar: Option<ProgressBar>,
    stage: Option<Stage>,
    last: Instant,
    stop: Arc<AtomicBool>,
}

impl Display {
    /// A display on standard error. From here on Ctrl-C asks to stop; a second one ends the program.
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
        if let (Some(bar), Ok(style)) = (&bar, ProgressStyle::with_template("{prefix:8} [{bar:30}] {pos}/{len}{msg}")) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, stage: None, last: Instant::now(), stop: stop_flag() }
    }

    /// Shows how far it is, and hands on a wish to stop.
    pub(super) fn show(&mut self, progress: Progress) -> Control {
        let changed = self.stage != Some(progress.stage);
        self.stage = Some(progress.stage);
        match &self.bar {
            Some(bar) => draw(bar, progress, changed),
            None if changed || progress.done == progress.total || self.last.elapsed() > QUIET => {
                self.last = Instant::now();
                eprintln!("{} {}/{}{}", name(progress.stage), progress.done, progress.total, rate(progress));
            }
            None => {}
        }
        if self.stop.load(Ordering::Relaxed) { Control::Stop } else { Control::Continue }
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, progress: Progress, changed: bool) {
    if changed {
        bar.set_prefix(name(progress.stage));
        bar.set_length(progress.total as u64);
    }
    bar.set_position(progress.done as u64);
    bar.set_message(rate(progress));
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Text => "prompt",
        Stage::Denoise => "steps",
        Stage::Decode => "pictures",
    }
}

fn rate(progress: Progress) -> String {
    if progress.done == 0 {
        return String::new();
    }
    format!(", {:.2} it/s, {} s left", progress.per_second, progress.left.as_secs_f64().ceil())
}

/// Raised by the first Ctrl-C. A handler can be set once in a process.
pub(super) fn stop_flag() -> Arc<AtomicBool> {
    static FLAG: std::sync::OnceLock<Arc<AtomicBool>> = std::sync::OnceLock::new();
    static SET: Once = Once::new();
    let flag = FLAG.get_or_init(Arc::default).clone();
    SET.call_once(|| {
        let raised = flag.clone();
        let set = ctrlc::set_handler(move || {
            if raised.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("stopping after this step; once more to stop at once");
        });
        if let Err(e) = set {
            log::warn!("Ctrl-C will end the program at once: {e}");
        }
    });
    flag
}
