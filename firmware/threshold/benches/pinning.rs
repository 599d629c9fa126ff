//! `./hearth bench pinning`: how late a duty gets its result while the machine is busy, with and without processors of its own.
//!
//! The measured work is what the node does for one validator of a cluster of four: it verifies three partial signatures,
//! combines them and verifies the result, in a process of its own that sleeps until a duty is due. Other processes, two for
//! each processor, burn time all the while. The four ways of sharing the machine take turns in one run:
//!
//! - `quiet`: nobody else runs;
//! - `shared`: everybody runs everywhere, as equals;
//! - `weighted`: everybody runs everywhere, and the load yields ten to one: what `dv.slice` does on small machines, here by
//!   niceness 10, whose weight the kernel has at a tenth;
//! - `pinned`: the last processor is the duties' alone, by affinity;
//! - `isolated`: the same by a partition of the kernel's (`cpuset.cpus.partition`), as `cores` makes it for `dv.slice` from four cores on.
//!   It needs root and process groups of version 2 with processors, and is left out, with the reason, where the kernel does not agree.
//!
//! What affinity cannot show is that interrupts and the kernel's own threads stay away too.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that stops when something is wrong"
)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use threshold::{Job, SecretKey, combine_plainly, split};

/// One result every so often.
const EVERY: Duration = Duration::from_millis(25);
/// Duties of one turn, and turns of each way.
const DUTIES: u32 = 80;
const TURNS: usize = 4;
/// Burning processes for each processor.
const LOAD: usize = 2;
/// From so many processors on a box gives one away (firmware/cores, decision 0310).
const LEAST: usize = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("--burn") {
        burn();
    } else if has("--duties") {
        duties();
    } else {
        measure(has("--json"));
    }
}

/// Uses up a processor until whoever started it is gone.
fn burn() {
    std::thread::spawn(|| {
        let mut number = 1_u64;
        loop {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    });
    let _ = std::io::stdin().read(&mut [0]);
}

/// Does duties when they are due, and prints how many microseconds after that each had its result.
fn duties() {
    let mut rng = rand::rng();
    let secret = SecretKey::random(&mut rng);
    let group = secret.public_key();
    let shares = split(secret, 3, 4, &mut rng).unwrap().shares;
    let public: BTreeMap<_, _> =
        shares.iter().map(|share| (share.index(), share.public_share().key)).collect();
    let message = [7; 32];
    let partials: Vec<_> =
        shares.iter().take(3).map(|share| (share.index(), share.key().sign(&message).to_bytes())).collect();
    let job = Job {
        group_key: &group,
        public_shares: &public,
        threshold: 3,
        message: &message,
        partials: &partials,
    };
    let begun = Instant::now();
    for number in 1..=DUTIES {
        let due = begun + EVERY * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        combine_plainly(&job).unwrap();
        println!("{}", due.elapsed().as_micros());
    }
}

/// A way of sharing the machine.
struct Way {
    name: &'static str,
    load: usize,
    load_on: String,
    niceness: &'static str,
    duties_on: String,
    /// The duties' processor is cut off from all others.
    partition: bool,
    delays: Vec<u64>,
}

/// A process group whose processor is its own, until it is dropped.
struct Partition(PathBuf);

impl Partition {
    fn make(processor: &str) -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let there = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if !there.split_whitespace().any(|name| name == "cpuset") {
            return Err("this system has no process groups of version 2 with processors".to_owned());
        }
        let wrong = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| format!("{what}: {error}")
        };
        std::fs::write(root.join("cgroup.subtree_control"), "+cpuset")
            .map_err(wrong("asking for processors"))?;
        let group = Self(root.join("hearth-bench"));
        std::fs::create_dir(&group.0).map_err(wrong("making a process group"))?;
        std::fs::write(group.0.join("cpuset.cpus"), processor).map_err(wrong("giving it a processor"))?;
        let partition = group.0.join("cpuset.cpus.partition");
        std::fs::write(&partition, "isolated").map_err(wrong("cutting the processor off"))?;
        let state = std::fs::read_to_string(&partition).map_err(wrong("asking the kernel"))?;
        if state.trim() != "isolated" {
            return Err(format!("the kernel says `{}`", state.trim()));
        }
        Ok(group)
    }

    fn take(&self, child: &Child) {
        std::fs::write(self.0.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        // Empty by now; a group that stays is seen at the next run.
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn measure(json: bool) {
    let processors = std::thread::available_parallelism().unwrap().get();
    assert!(processors > 1, "a machine with one processor has none to give away");
    let (all, last) = (format!("0-{}", processors - 1), (processors - 1).to_string());
    let others = format!("0-{}", processors - 2);
    let way = |name, load, load_on: &String, niceness, duties_on: &String| Way {
        name,
        load,
        load_on: load_on.clone(),
        niceness,
        duties_on: duties_on.clone(),
        partition: false,
        delays: Vec::new(),
    };
    let load = LOAD * processors;
    let mut ways = vec![
        way("quiet", 0, &all, "0", &all),
        way("shared", load, &all, "0", &all),
        way("weighted", load, &all, "10", &all),
        way("pinned", load, &others, "0", &last),
    ];
    let refused = Partition::make(&last).err();
    match &refused {
        None => ways.push(Way { partition: true, ..way("isolated", load, &others, "0", &String::new()) }),
        Some(why) => eprintln!("bench pinning: SKIPPED: no partition of the kernel's here: {why}"),
    }
    for turn in 0..TURNS {
        for way in &mut ways {
            eprintln!("bench pinning: turn {} of {TURNS}, {}", turn + 1, way.name);
            let burning: Vec<Child> =
                (0..way.load).map(|_| start(&way.load_on, way.niceness, "--burn")).collect();
            let partition = way.partition.then(|| Partition::make(&last).unwrap());
            let duties = start(&way.duties_on, "0", "--duties");
            if let Some(partition) = &partition {
                partition.take(&duties);
            }
            let output = duties.wait_with_output().unwrap();
            for mut child in burning {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            assert!(output.status.success(), "the duties were not done");
            let text = String::from_utf8(output.stdout).unwrap();
            way.delays.extend(text.lines().map(|line| line.parse::<u64>().unwrap()));
        }
    }
    for way in &mut ways {
        way.delays.sort_unstable();
    }
    if json {
        let rows: Vec<String> = ways
            .iter()
            .map(|way| {
                format!(
                    "\"{}\":{{\"p50_us\":{},\"p99_us\":{},\"max_us\":{}}}",
                    way.name,
                    at(&way.delays, 50),
                    at(&way.delays, 99),
                    at(&way.delays, 100)
                )
            })
            .collect();
        let best = ways.last().unwrap();
        let ratios: Vec<String> = ["shared", "weighted"]
            .iter()
            .map(|name| {
                let way = ways.iter().find(|way| way.name == *name).unwrap();
                let [p50, p99, max] = [50, 99, 100].map(|percent| ratio(way, best, percent));
                format!(
                    "\"{name}_over_{}\":{{\"p50\":{p50:.2},\"p99\":{p99:.2},\"max\":{max:.2}}}",
                    best.name
                )
            })
            .collect();
        let box_does = if processors < LEAST { "weighted" } else { "isolated" };
        println!(
            "{{\"pinning\":{{\"processors\":{processors},\"load\":{load},\"a_box_of_this_size\":\"{box_does}\",\"partition\":{},{},{}}}}}",
            refused.is_none(),
            rows.join(","),
            ratios.join(",")
        );
        return;
    }
    println!("{processors} processors, {load} processes of load; microseconds from due to done");
    println!("{:<10} {:>9} {:>9} {:>9}", "", "median", "99 %", "worst");
    for way in &ways {
        let [p50, p99, max] = [50, 99, 100].map(|percent| at(&way.delays, percent));
        println!("{:<10} {p50:>9} {p99:>9} {max:>9}", way.name);
    }
    let best = ways.last().unwrap();
    for way in &ways[1..3] {
        let [p50, p99, max] = [50, 99, 100].map(|percent| ratio(way, best, percent));
        println!("{} / {}: median {p50:.1}, 99 % {p99:.1}, worst {max:.1}", way.name, best.name);
    }
    if processors < LEAST {
        println!(
            "With {processors} processors a box gives none away (`weighted`): its clients would have too few. `{}` shows what one with {LEAST} \
             gains for its duties, not what the others lose.",
            best.name
        );
    }
}

/// How many times as late a way is as another.
fn ratio(way: &Way, best: &Way, percent: usize) -> f64 {
    let [way, best] = [way, best].map(|way| u32::try_from(at(&way.delays, percent)).unwrap());
    f64::from(way) / f64::from(best.max(1))
}

/// This program again, on these processors; wherever it may when none are named.
fn start(processors: &str, niceness: &str, word: &str) -> Child {
    let mut command = Command::new(if processors.is_empty() { "nice" } else { "taskset" });
    if !processors.is_empty() {
        command.args(["--cpu-list", processors, "nice"]);
    }
    command
        .args(["-n", niceness])
        .arg(std::env::current_exe().unwrap())
        .arg(word)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("taskset is in the package util-linux")
}

/// The delay that so many percent do not exceed.
fn at(sorted: &[u64], percent: usize) -> u64 {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(0)
}
