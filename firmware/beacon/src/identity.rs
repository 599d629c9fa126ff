//! Questions about the node itself: who it is, which chain it follows, how far it is.

use chain::{Epoch, ForkName, ForkSchedule, ForkVersion, ScheduledFork, SlotTiming};

use crate::chain_info::{ChainInfo, ChainMismatch};
use crate::error::{Cause, RequestError};
use crate::health::Health;
use crate::http::Limits;
use crate::nodes::{BeaconNodes, Node};
use crate::wire::{Data, ForkWire, GenesisWire, PeerCountWire, SpecWire, SyncingWire, VersionWire};

const SMALL: usize = 64 * 1024;
const SPEC_BYTES: usize = 1024 * 1024;
/// A node this many slots behind (or two epochs, if that is longer) is not asked for duties. Skipped slots count as
/// distance too, and a chain that misses blocks needs votes most: hence not less. A node that is really behind says so
/// itself, all but those without peers.
const MAX_SYNC_DISTANCE: u64 = 64;
/// How often a node is asked for the number of its peers (obol.md 12.4).
const COUNT_PEERS_EVERY: std::time::Duration = std::time::Duration::from_secs(60);
const FORK_SCHEDULE_ENTRIES: usize = 64;
const VERSION_CHARS: usize = 100;

impl BeaconNodes {
    pub(crate) fn read_limits(&self, max_bytes: usize) -> Limits {
        Limits { limit_ms: self.shared.timeouts.read_ms, max_bytes }
    }

    pub(crate) async fn fetch_genesis(&self, node: &Node) -> Result<GenesisWire, RequestError> {
        let limits = self.read_limits(SMALL);
        let path = "/eth/v1/beacon/genesis";
        let (genesis, date) =
            node.endpoint.get::<Data<GenesisWire>>("asking for the genesis", path, limits).await?;
        node.note_date(date);
        Ok(genesis.data)
    }

    pub(crate) async fn fetch_version(&self, node: &Node) -> Result<String, RequestError> {
        let limits = self.read_limits(SMALL);
        let path = "/eth/v1/node/version";
        let (version, _) =
            node.endpoint.get::<Data<VersionWire>>("asking for its version", path, limits).await?;
        Ok(version.data.version.chars().filter(|c| !c.is_control()).take(VERSION_CHARS).collect())
    }

    pub(crate) async fn fetch_sync_state(&self, node: &Node) -> Result<Health, RequestError> {
        let limits = self.read_limits(SMALL);
        let path = "/eth/v1/node/syncing";
        let (answer, date) =
            node.endpoint.get::<Data<SyncingWire>>("asking whether it is synced", path, limits).await?;
        node.note_date(date);
        let slots_per_epoch = self.chain().map_or(0, |chain| chain.timing.slots_per_epoch);
        Ok(judge_sync(&answer.data, slots_per_epoch))
    }

    /// Looks now and then how many peers the node has. A node that does not tell is not held to have none.
    pub(crate) async fn count_peers(&self, node: &Node) {
        let known = node.state().peers;
        if known.is_some_and(|(at, _)| at.elapsed() < COUNT_PEERS_EVERY) {
            return;
        }
        let limits = self.read_limits(SMALL);
        let path = "/eth/v1/node/peer_count";
        let answer = node.endpoint.get::<Data<PeerCountWire>>("asking for its peers", path, limits).await;
        let connected = answer.ok().map(|(answer, _)| answer.data.connected.0);
        node.state().peers = Some((std::time::Instant::now(), connected));
    }

    pub(crate) async fn fetch_chain_info(
        &self,
        node: &Node,
        genesis: &GenesisWire,
    ) -> Result<ChainInfo, RequestError> {
        let doing = "asking for the chain's parameters";
        let (spec, _) = node
            .endpoint
            .get::<Data<SpecWire>>(doing, "/eth/v1/config/spec", self.read_limits(SPEC_BYTES))
            .await?;
        let (forks, _) = node
            .endpoint
            .get::<Data<Vec<ForkWire>>>(doing, "/eth/v1/config/fork_schedule", self.read_limits(SPEC_BYTES))
            .await?;
        chain_info(genesis, &spec.data, &forks.data)
            .map_err(|why| node.endpoint.fail(doing, Cause::Unfitting(why)))
    }
}

pub(crate) fn judge_sync(answer: &SyncingWire, slots_per_epoch: u64) -> Health {
    let distance = answer.sync_distance.0;
    let admitted = answer.is_syncing;
    let syncing = |why| Health::Syncing { distance, why, admitted };
    // `is_syncing` alone is not enough: Prysm without peers says false at any distance.
    if admitted || distance > slots_per_epoch.saturating_mul(2).max(MAX_SYNC_DISTANCE) {
        return syncing("it is still syncing");
    }
    if answer.is_optimistic {
        return syncing("its execution client has not verified the head yet");
    }
    if answer.el_offline {
        return syncing("its execution client does not answer");
    }
    Health::Ready
}

impl ChainInfo {
    pub(crate) fn check_genesis(&self, genesis: &GenesisWire) -> Result<(), ChainMismatch> {
        if genesis.genesis_validators_root != self.genesis_validators_root {
            return Err(ChainMismatch::GenesisRoot {
                found: genesis.genesis_validators_root,
                expected: self.genesis_validators_root,
            });
        }
        if genesis.genesis_time.0 != self.genesis_time_s {
            return Err(ChainMismatch::GenesisTime {
                found: genesis.genesis_time.0,
                expected: self.genesis_time_s,
            });
        }
        Ok(())
    }
}

/// Puts the three answers together; an error says which of their fields is missing or absurd.
pub(crate) fn chain_info(
    genesis: &GenesisWire,
    spec: &SpecWire,
    forks: &[ForkWire],
) -> Result<ChainInfo, String> {
    let text = |key: &str| spec.0.get(key).map(String::as_str);
    let number = |key: &str| match text(key) {
        None => Ok(None),
        Some(value) => value.parse::<u64>().map(Some).map_err(|_| format!("{key} is not a number")),
    };
    // A bps value absent from an older node keeps the value it has had since genesis.
    let first_number = |keys: &[&str], default: u64| -> Result<u64, String> {
        for key in keys {
            if let Some(value) = number(key)? {
                return Ok(value);
            }
        }
        Ok(default)
    };
    let slot_ms = match (number("SLOT_DURATION_MS")?, number("SECONDS_PER_SLOT")?) {
        (_, Some(seconds)) if seconds > 600 => return Err("SECONDS_PER_SLOT is absurd".to_owned()),
        (Some(ms), Some(seconds)) if ms != seconds * 1_000 => {
            return Err("SLOT_DURATION_MS and SECONDS_PER_SLOT disagree".to_owned());
        }
        (Some(ms), _) => ms,
        (None, Some(seconds)) => seconds * 1_000,
        (None, None) => return Err("neither SLOT_DURATION_MS nor SECONDS_PER_SLOT is there".to_owned()),
    };
    let slots_per_epoch = number("SLOTS_PER_EPOCH")?.ok_or("SLOTS_PER_EPOCH is missing")?;
    let genesis_ms = genesis.genesis_time.0.checked_mul(1_000).ok_or("the genesis time is absurd")?;
    let standard =
        SlotTiming::new(genesis_ms, slot_ms, slots_per_epoch).map_err(|error| error.to_string())?;
    let timing = SlotTiming {
        attestation_due_bps: first_number(&["ATTESTATION_DUE_BPS"], standard.attestation_due_bps)?,
        // The second spelling is Prysm's.
        aggregate_due_bps: first_number(
            &["AGGREGATE_DUE_BPS", "AGGREGRATE_DUE_BPS"],
            standard.aggregate_due_bps,
        )?,
        sync_message_due_bps: first_number(&["SYNC_MESSAGE_DUE_BPS"], standard.sync_message_due_bps)?,
        contribution_due_bps: first_number(&["CONTRIBUTION_DUE_BPS"], standard.contribution_due_bps)?,
        proposer_reorg_cutoff_bps: first_number(
            &["PROPOSER_REORG_CUTOFF_BPS"],
            standard.proposer_reorg_cutoff_bps,
        )?,
        ..standard
    };
    timing.check().map_err(|error| error.to_string())?;

    let mut scheduled = vec![ScheduledFork {
        name: ForkName::Phase0,
        version: genesis.genesis_fork_version,
        epoch: Epoch(0),
    }];
    for name in ForkName::ALL.into_iter().skip(1) {
        let key = name.as_str().to_ascii_uppercase();
        let version = text(&format!("{key}_FORK_VERSION"));
        let epoch = number(&format!("{key}_FORK_EPOCH"))?;
        if let (Some(version), Some(epoch)) = (version, epoch) {
            let version: ForkVersion =
                version.parse().map_err(|error| format!("{key}_FORK_VERSION: {error}"))?;
            scheduled.push(ScheduledFork { name, version, epoch: Epoch(epoch) });
        }
    }
    let schedule = ForkSchedule::new(scheduled).map_err(|error| error.to_string())?;
    if forks.len() > FORK_SCHEDULE_ENTRIES {
        return Err("the fork schedule is absurdly long".to_owned());
    }
    let fork_versions: Vec<ForkVersion> = forks.iter().map(|fork| fork.current_version).collect();
    if let Some(missing) = schedule.forks().iter().find(|fork| !fork_versions.contains(&fork.version)) {
        return Err(format!("its spec has the fork {} that its fork schedule does not have", missing.name));
    }
    Ok(ChainInfo {
        network: text("CONFIG_NAME")
            .unwrap_or("unknown")
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect(),
        genesis_time_s: genesis.genesis_time.0,
        genesis_validators_root: genesis.genesis_validators_root,
        genesis_fork_version: genesis.genesis_fork_version,
        timing,
        schedule,
        fork_versions,
    })
}

#[cfg(test)]
mod tests {
    use chain::Root;

    use super::*;
    use crate::wire::Number;

    fn genesis() -> GenesisWire {
        GenesisWire {
            genesis_time: Number(1_000),
            genesis_validators_root: Root([7; 32]),
            genesis_fork_version: ForkVersion([0x20, 0, 0, 0x89]),
        }
    }

    fn spec(changes: &[(&str, Option<&str>)]) -> SpecWire {
        let mut values = std::collections::BTreeMap::new();
        for (key, value) in [
            ("CONFIG_NAME", "devnet"),
            ("SECONDS_PER_SLOT", "2"),
            ("SLOT_DURATION_MS", "2000"),
            ("SLOTS_PER_EPOCH", "8"),
            ("ATTESTATION_DUE_BPS", "3333"),
            ("AGGREGRATE_DUE_BPS", "6000"),
            ("ALTAIR_FORK_VERSION", "0x20000090"),
            ("ALTAIR_FORK_EPOCH", "0"),
            ("ELECTRA_FORK_VERSION", "0x20000094"),
            ("ELECTRA_FORK_EPOCH", "0"),
            ("FULU_FORK_VERSION", "0x20000095"),
            ("FULU_FORK_EPOCH", "18446744073709551615"),
        ] {
            values.insert(key.to_owned(), value.to_owned());
        }
        for (key, value) in changes {
            match value {
                Some(value) => values.insert((*key).to_owned(), (*value).to_owned()),
                None => values.remove(*key),
            };
        }
        SpecWire(values)
    }

    fn forks() -> Vec<ForkWire> {
        [0x89, 0x90, 0x94].map(|last| ForkWire { current_version: ForkVersion([0x20, 0, 0, last]) }).into()
    }

    #[test]
    fn a_chain_is_read_from_prysms_spec() {
        let info = chain_info(&genesis(), &spec(&[]), &forks()).unwrap();
        assert_eq!(info.network, "devnet");
        assert_eq!(
            (info.timing.genesis_ms, info.timing.slot_ms, info.timing.slots_per_epoch),
            (1_000_000, 2_000, 8)
        );
        assert_eq!(info.timing.aggregate_due_bps, 6_000);
        assert_eq!(info.schedule.fork_name_at(Epoch(0)), ForkName::Electra);
        assert_eq!(info.schedule.fork_at(Epoch(3)).current_version, ForkVersion([0x20, 0, 0, 0x94]));
    }

    #[test]
    fn absurd_specs_are_refused() {
        for changes in [
            [("SLOT_DURATION_MS", Some("12000"))],
            [("SECONDS_PER_SLOT", Some("99999999999999999"))],
            [("SLOTS_PER_EPOCH", None)],
            [("SLOTS_PER_EPOCH", Some("0"))],
            [("SLOTS_PER_EPOCH", Some("eight"))],
            [("ATTESTATION_DUE_BPS", Some("10001"))],
            [("ALTAIR_FORK_VERSION", Some("0x2000"))],
            [("DENEB_FORK_EPOCH", Some("x"))],
            [("FULU_FORK_EPOCH", Some("9"))],
        ] {
            assert!(chain_info(&genesis(), &spec(&changes), &forks()).is_err(), "{changes:?}");
        }
        let only_ms = [("SECONDS_PER_SLOT", None)];
        assert!(chain_info(&genesis(), &spec(&only_ms), &forks()).is_ok());
        let only_seconds = [("SLOT_DURATION_MS", None)];
        assert!(chain_info(&genesis(), &spec(&only_seconds), &forks()).is_ok());
    }

    #[test]
    fn a_node_is_ready_only_when_nothing_is_lacking() {
        let answer = |is_syncing, sync_distance, is_optimistic, el_offline| SyncingWire {
            is_syncing,
            sync_distance: Number(sync_distance),
            is_optimistic,
            el_offline,
        };
        for (given, ready) in [
            (answer(false, 0, false, false), true),
            (answer(false, 64, false, false), true),
            (answer(false, 65, false, false), false),
            (answer(true, 0, false, false), false),
            (answer(false, 0, true, false), false),
            (answer(false, 0, false, true), false),
        ] {
            assert_eq!(judge_sync(&given, 8) == Health::Ready, ready);
        }
    }
}
