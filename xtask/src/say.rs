//! What a person sees while something long runs: a line when a step begins, signs of life, a line when it ends.
//!
//! All of it goes to standard error, so that standard output stays free for results.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn coloured() -> bool {
    std::io::stderr().is_terminal()
}

/// Time since this program had first something to say.
pub(crate) fn elapsed() -> Duration {
    start().elapsed()
}

thread_local! {
    static LANE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// What this thread says from now on is said with the name of its lane, because another one speaks meanwhile.
pub(crate) fn lane(name: &'static str) {
    LANE.set(Some(name));
}

fn line(colour: &str, mark: &str, text: &str) {
    let seconds = start().elapsed().as_secs_f32();
    let in_lane = LANE.get().map(|lane| format!("[{lane}] {text}"));
    let text = in_lane.as_deref().unwrap_or(text);
    if coloured() {
        eprintln!("\x1b[2m{seconds:7.1} s\x1b[0m \x1b[{colour}m{mark}\x1b[0m {text}");
    } else {
        eprintln!("{seconds:7.1} s {mark} {text}");
    }
}

/// A step begins.
pub(crate) fn begin(text: &str) {
    line("1;34", "▸", text);
}

/// A detail or a sign of life of the step that runs.
pub(crate) fn detail(text: &str) {
    line("2", "·", text);
}

/// A step went well.
pub(crate) fn good(text: &str) {
    line("32", "✓", text);
}

/// Something that the reader should know.
pub(crate) fn note(text: &str) {
    line("33", "!", text);
}

/// How often [`skipped`] was called.
static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// Something that cannot be looked at on this machine: said, and counted for the line with which `./hearth test` ends.
pub(crate) fn skipped(text: &str) {
    SKIPPED.fetch_add(1, Ordering::Relaxed);
    note(&format!("SKIPPED: {text}"));
}

/// How much was skipped so far.
pub(crate) fn skips() -> u64 {
    SKIPPED.load(Ordering::Relaxed)
}

/// A step, or all of it, failed.
pub(crate) fn failed(text: &str) {
    line("1;31", "✗", text);
}

/// Seconds with one decimal, for a duration in a sentence.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f32())
}
