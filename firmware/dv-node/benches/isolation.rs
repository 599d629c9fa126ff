//! `./hearth bench isolation`: what a flood in one cluster of a box costs another one: duties met and their delay, without the
//! flood, with it and after it, in one run.
//!
//! One `dv-node` process is in two clusters of four. In the second one a member is away, so that none of its duties is done
//! without the box. In the first one a member floods the box. Everything is on loopback: the flooding member itself, all other
//! members and the signers of the tests take their part of the same processors, so that the figures are upper bounds.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that stops when something is wrong"
)]

#[path = "../../beacon/tests/fake/mod.rs"]
mod fake;
#[path = "../tests/house/mod.rs"]
mod house;

use std::collections::BTreeMap;

use house::House;
use house::flood::Flood;
use ipc::NodeStatus;
use serde_json::{Value, json};

/// Validators of each cluster, slots of each phase.
const VALIDATORS: usize = 16;
const SLOTS: u64 = 16;
const SLOT_MS: u64 = 2_000;
/// Until what came before is over.
const BETWEEN: u64 = 2;

fn main() {
    let as_json = std::env::args().any(|argument| argument == "--json");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let result = runtime.block_on(measure());
    if as_json {
        println!("{}", json!({ "isolation": result }));
    } else {
        println!("{}", serde_json::to_string_pretty(&result).unwrap());
    }
}

async fn measure() -> Value {
    let mut first = House::build_with_slots(4, VALIDATORS, SLOT_MS).await;
    let mut second = first.beside(4, VALIDATORS);
    first.start().await;
    let client = first.members[0].client();
    let _status: NodeStatus = client.post(ipc::node::CLUSTERS_PATH, &second.setup(0)).await.unwrap();
    for index in 1..4 {
        second.members[index].start().await;
        let setup = second.setup(index);
        let _status: NodeStatus =
            second.members[index].client().put(ipc::node::CLUSTER_PATH, &setup).await.unwrap();
    }
    first.attested_again().await;
    second.attested_again().await;
    first.members[3].kill();
    second.members[3].kill();
    first.attested_again().await;
    second.attested_again().await;

    let pid = first.members[0].pid().unwrap();
    let quiet = phase(&second, pid).await;
    let flood = Flood::start(&first).await;
    let refused_before = refused(&first).await;
    let flooded = phase(&second, pid).await;
    let (queued, refused) = (flood.queued(), refused(&first).await - refused_before);
    drop(flood);
    let after = phase(&second, pid).await;
    json!({
        "quiet": quiet.json(), "flood": flooded.json(), "after": after.json(),
        "flood_messages_queued": queued, "flood_messages_refused": refused,
        "flood_over_quiet_p50": ratio(flooded.p50, quiet.p50),
        "flood_over_quiet_p90": ratio(flooded.p90, quiet.p90),
        "after_over_quiet_p50": ratio(after.p50, quiet.p50),
    })
}

/// The second cluster in so many slots.
struct Phase {
    duties: usize,
    missed: usize,
    /// From the slot phase to the first submission.
    p50: f64,
    p90: f64,
    /// CPU of the box in all its clusters, for each slot.
    cpu_ms_per_slot: f64,
}

async fn phase(second: &House, pid: u32) -> Phase {
    let from = second.beacon.inner.lock().unwrap().chain.slot_now() + BETWEEN;
    second.until(from).await;
    let cpu = cpu_of(pid);
    second.until(from + SLOTS).await;
    let cpu = cpu_of(pid) - cpu;
    second.until(from + SLOTS + 1).await;
    let slots = from..from + SLOTS;
    let missed = second.missed(slots.clone()).len();
    let mut delays = delays(second, slots);
    delays.sort_by(f64::total_cmp);
    let at = |hundredths: usize| delays[(delays.len() - 1) * hundredths / 100];
    Phase {
        duties: VALIDATORS / 4 * usize::try_from(SLOTS).unwrap(),
        missed,
        p50: at(50),
        p90: at(90),
        cpu_ms_per_slot: cpu * 1e3 / f64::from(u32::try_from(SLOTS).unwrap()),
    }
}

/// For each slot, from its phase to the first attestation of the cluster.
fn delays(second: &House, slots: std::ops::Range<u64>) -> Vec<f64> {
    let own = second.created.group_public_keys();
    let inner = second.beacon.inner.lock().unwrap();
    let chain = &inner.chain;
    let mut first: BTreeMap<u64, f64> = BTreeMap::new();
    // Only the arrival of attestations is timed.
    let attestations = inner.submitted.iter().filter(|(path, _)| path.contains("pool/attestations"));
    for ((_, body), at) in attestations.zip(&inner.submitted_at_ms) {
        let attestations: Vec<chain::SingleAttestation> = serde_json::from_value(body.clone()).unwrap();
        for attestation in attestations {
            let index = usize::try_from(attestation.attester_index.0).unwrap();
            let slot = attestation.data.slot.0;
            if !slots.contains(&slot) || !own.contains(&chain.validators[index]) {
                continue;
            }
            let due = chain.genesis_time_s * 1000 + slot * chain.slot_ms + chain.slot_ms * 3333 / 10_000;
            let late = f64::from(u32::try_from(at.saturating_sub(due)).unwrap());
            let known = first.entry(slot).or_insert(late);
            *known = known.min(late);
        }
    }
    first.into_values().collect()
}

/// Messages of members that the first cluster did not listen to.
async fn refused(house: &House) -> f64 {
    let text = house.members[0].client().get_text("/metrics").await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with("hearth_dv_messages_refused_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn cpu_of(pid: u32) -> f64 {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    let clock = nix::time::clock_getcpuclockid(pid).unwrap();
    std::time::Duration::from(nix::time::clock_gettime(clock).unwrap()).as_secs_f64()
}

impl Phase {
    fn json(&self) -> Value {
        json!({
            "duties": self.duties, "missed": self.missed, "first_published_ms_p50": self.p50,
            "first_published_ms_p90": self.p90, "box_cpu_ms_per_slot": self.cpu_ms_per_slot.round(),
        })
    }
}

fn ratio(one: f64, other: f64) -> f64 {
    (one / other * 100.0).round() / 100.0
}
