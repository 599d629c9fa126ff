//! Measures which slot time this machine can hold while it has other work.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use chain::Slot;

use super::inclusion::Reader;
use super::{Config, Devnet, DevnetError, SLOT_SECONDS_FLOOR, Tools, cache_dir};

/// Slot times worth trying, shortest first. Above 6 s nobody wants to wait for a test.
const CANDIDATES: [u64; 4] = [SLOT_SECONDS_FLOOR, 3, 4, 6];
/// Long enough to see an epoch boundary, where the work is heaviest.
const MEASURED_SLOTS: u64 = 17;
/// A slot time is held when at most one slot and at most one vote in twenty is lost.
const TOLERATED_MISSES: usize = 1;
const NEEDED_VOTES_PERCENT: u64 = 95;
const GENESIS_DELAY: Duration = Duration::from_secs(12);

/// Threads that burn processor time until dropped: a stand-in for an emulated machine.
#[derive(Debug)]
pub struct BusyLoops {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BusyLoops {
    /// Starts `count` of them, at the same priority as everything else.
    pub fn start(count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |stop: Arc<AtomicBool>| {
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        };
        let threads = (0..count).map(|_| std::thread::spawn(spin(Arc::clone(&stop)))).collect();
        Self { stop, threads }
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A loop that only reads a flag cannot panic.
            let _ = thread.join();
        }
    }
}

/// How a chain did under load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    /// Length of a slot.
    pub slot_seconds: u64,
    /// Busy loops beside the chain.
    pub busy_loops: usize,
    /// Slots looked at, from slot 1.
    pub slots: u64,
    /// Those without a block.
    pub missed: Vec<Slot>,
    /// Votes that the fillers owed.
    pub votes_due: u64,
    /// Votes that are on the chain.
    pub votes_included: u64,
    /// Of these, votes in the very next slot.
    pub votes_at_once: u64,
}

impl Measurement {
    /// Whether this slot time is good enough for tests.
    pub fn holds(&self) -> bool {
        self.missed.len() <= TOLERATED_MISSES
            && self.votes_included * 100 >= self.votes_due * NEEDED_VOTES_PERCENT
    }
}

impl std::fmt::Display for Measurement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { slot_seconds, busy_loops, slots, missed, votes_due, votes_included, votes_at_once } = self;
        write!(
            f,
            "{slot_seconds} s slots beside {busy_loops} busy loops: {} of {slots} slots missed, {votes_included} of \
             {votes_due} votes on the chain, {votes_at_once} of them in the next slot",
            missed.len()
        )
    }
}

/// Runs a chain of fillers in `dir` for `slots` slots beside `busy_loops` busy loops.
///
/// # Errors
/// When the chain does not start or a program ends. Missed slots are a result and no error.
pub fn measure(
    dir: &Path,
    config: Config,
    tools: Tools,
    slots: u64,
    busy_loops: usize,
) -> Result<Measurement, DevnetError> {
    let slot_seconds = config.slot_seconds;
    let slots_per_epoch = config.slots_per_epoch;
    let mut chain = Devnet::prepare(dir, config, tools, &[])?;
    chain.start(GENESIS_DELAY)?;
    let load = BusyLoops::start(busy_loops);
    // The last votes get three more slots to arrive in a block, and the health view looks two slots back.
    while chain.clock_slot()?.0 < slots + 4 {
        chain.check_alive()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(load);
    let mut missed = chain.health()?.missed;
    missed.retain(|slot| slot.0 <= slots);
    let mut reader = Reader::new(chain.api(), slots_per_epoch);
    let included = reader.included_of_all(Slot(1)..Slot(slots + 1))?;
    let mut votes_due = 0;
    for slot in 1..=slots {
        votes_due += count(reader.attesters(Slot(slot))?.len());
    }
    Ok(Measurement {
        slot_seconds,
        busy_loops,
        slots,
        missed,
        votes_due,
        votes_included: count(included.len()),
        votes_at_once: count(included.iter().filter(|inclusion| inclusion.distance() == 1).count()),
    })
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The shortest slot time that this machine holds while all its cores are busy, measured once and then remembered in the
/// cache for this number of cores.
///
/// Trying takes about a minute for each candidate. When none holds, the longest is returned: the chain then limps, and
/// its health view says so.
///
/// # Errors
/// When a chain does not start at all.
pub fn choose_slot_seconds(
    dir: &Path,
    tools: &Tools,
    progress: &mut dyn FnMut(&str),
) -> Result<u64, DevnetError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let folder = cache_dir()?;
    let memory = folder.join(format!("slot-seconds-{cores}-cores"));
    let remembered = fs::read_to_string(&memory).ok().and_then(|text| text.trim().parse().ok());
    if let Some(seconds) = remembered.filter(|seconds| CANDIDATES.contains(seconds)) {
        progress(&format!("{seconds} s slots, as measured earlier on {cores} cores ({})", memory.display()));
        return Ok(seconds);
    }
    let mut chosen = SLOT_SECONDS_FLOOR;
    for slot_seconds in CANDIDATES {
        progress(&format!("measuring whether {cores} busy cores leave enough for {slot_seconds} s slots"));
        let config = Config { slot_seconds, ..Config::electra() };
        let measurement = measure(dir, config, tools.clone(), MEASURED_SLOTS, cores)?;
        progress(&measurement.to_string());
        chosen = slot_seconds;
        if measurement.holds() {
            break;
        }
    }
    let remember = || {
        fs::create_dir_all(&folder)?;
        fs::write(&memory, format!("{chosen}\n"))
    };
    remember().map_err(|source| DevnetError::File { path: memory.clone(), source })?;
    Ok(chosen)
}
