//! What the chain asks of some validators, and what of it was done.
//!
//! Asked is what the chain's own rules say: committees, proposer duties, seats, and for aggregators the selection proof,
//! which is computed here from the whole keys (they are worth nothing on a local chain). Done is what the canonical blocks
//! show; where a block shows no author, what the beacon node accepted ([`super::witness`]). Of each member counts what was
//! done and what it handed in itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use chain::{Epoch, Fork, ForkInfo, Root, Slot, SyncAggregatorSelectionData, ValidatorIndex, domain};
use serde_json::Value;
use sha2::{Digest, Sha256};
use threshold::SecretKey;

use super::api::{ApiError, BeaconApi};
use super::builder;
use super::inclusion::Reader;
use super::witness::{Accepted, Handed};

/// `TARGET_AGGREGATORS_PER_COMMITTEE`.
const AGGREGATORS_PER_COMMITTEE: u64 = 16;
/// `TARGET_AGGREGATORS_PER_SYNC_SUBCOMMITTEE`.
const AGGREGATORS_PER_SUBCOMMITTEE: u64 = 16;
/// Seats of the sync committee, and of one of its four subcommittees.
const SEATS: u64 = 512;
const SEATS_OF_SUBCOMMITTEE: u64 = 128;
/// A cluster that works does this many percent of what the chain's other validators do in the same slots.
const LEAST_PERCENT: u64 = 80;
/// …or misses no more than this many of it: in an epoch with a dozen votes, three are an accident.
const MAY_MISS: u64 = 3;
/// The last slots in which the others' votes are not counted: nobody waits for theirs to come into a block.
const OTHERS_ON_THE_WAY: u64 = 2;

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Canonical blocks and states.
    Chain,
    /// Answers of the beacon node to what members handed in: the chain shows no author.
    BeaconNodeAccepted,
    /// What a builder holds, each signed by the validator's own key: the chain knows nothing of it.
    Builder,
}

/// How often something was asked and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// Asked by the chain.
    pub tried: u64,
    /// Done.
    pub succeeded: u64,
    /// Who says so.
    pub source: Source,
}

impl Count {
    fn add(&mut self, duties: impl Iterator<Item = bool>) {
        for done in duties {
            self.tried += 1;
            self.succeeded += u64::from(done);
        }
    }
}

/// What was not done, for whoever looks for the reason.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// Kind of duty.
    pub kind: &'static str,
    /// Its slot; 0 for what belongs to none.
    pub slot: u64,
    /// Whose.
    pub validator: u64,
}

/// All counts of one run.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Counts {
    /// By kind of duty.
    pub duties: BTreeMap<&'static str, Count>,
    /// By member and kind: as often tried as by the whole cluster; succeeded is what was done, and what the beacon node
    /// accepted from this member.
    pub members: BTreeMap<u8, BTreeMap<&'static str, Count>>,
    /// The same of the chain's other validators, which Prysm's own client runs: what this machine allowed in these slots. Only
    /// kinds that blocks show: votes (without the last two slots, for which nobody waits) and sync-committee messages.
    pub others: BTreeMap<&'static str, Count>,
    /// Duties asked and not done.
    pub failures: Vec<Failure>,
    /// Slots of the window without a block, whoever should have proposed.
    pub empty_slots: Vec<u64>,
    /// Votes that were in the very next block that could have them, of the attester duties done.
    pub attester_votes_at_once: u64,
    /// Sync-committee messages that no block could show, because the next slot has none. Not counted as tried.
    pub sync_messages_unseen: u64,
}

/// What the beacon node accepted from each member.
pub type ByMember = BTreeMap<u8, BTreeSet<Accepted>>;

/// Gathers what the chain asks while it runs, for old epochs cannot be asked about.
pub struct Register {
    api: BeaconApi,
    reader: Reader,
    slots_per_epoch: u64,
    window: Range<Slot>,
    keys: BTreeMap<ValidatorIndex, SecretKey>,
    fork_info: ForkInfo,
    builder: bool,
    proposers: BTreeMap<Slot, ValidatorIndex>,
    /// By epoch: the holder of every seat.
    seats: BTreeMap<Epoch, Vec<ValidatorIndex>>,
    next_epoch: Epoch,
}

impl Register {
    /// A register of the slots in `window`, which must begin and end with an epoch, for the validators with these keys.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn new(
        api: &BeaconApi,
        slots_per_epoch: u64,
        window: Range<Slot>,
        keys: BTreeMap<ValidatorIndex, SecretKey>,
    ) -> Result<Self, ApiError> {
        let fork = api.get("/eth/v1/beacon/states/head/fork")?;
        let fork: Fork = serde_json::from_value(fork["data"].clone()).map_err(|_| api.malformed("fork"))?;
        let root = api.genesis_validators_root()?;
        let root: Root = root.parse().map_err(|_| api.malformed("genesis validators root"))?;
        Ok(Self {
            api: api.clone(),
            reader: Reader::new(api, slots_per_epoch),
            slots_per_epoch,
            next_epoch: Epoch(window.start.0 / slots_per_epoch),
            window,
            keys,
            fork_info: ForkInfo { fork, genesis_validators_root: root },
            builder: false,
            proposers: BTreeMap::new(),
            seats: BTreeMap::new(),
        })
    }

    /// The same for a cluster that takes a builder's offers: blocks that the builder built are counted apart.
    #[must_use]
    pub fn with_builder(mut self, builder: bool) -> Self {
        self.builder = builder;
        self
    }

    /// The slots that count.
    pub fn window(&self) -> Range<Slot> {
        self.window.clone()
    }

    /// Whether the chain has asked for a proposal until now; where the cluster takes a builder's offers, for one with an offer.
    /// Nothing but chance says when, so whoever must see one waits.
    pub fn asked_to_propose(&self) -> bool {
        self.proposers.keys().any(|slot| !self.builder || builder::offers_in(*slot))
    }

    /// Lets this many more slots count, whole epochs; before the first of them ends.
    pub fn extend(&mut self, slots: u64) {
        self.window.end = Slot(self.window.end.0 + slots);
    }

    /// To be called at least once an epoch: notes what the epochs up to this slot's ask.
    ///
    /// # Errors
    /// When the node does not answer; the next call tries again.
    pub fn look(&mut self, now: Slot) -> Result<(), ApiError> {
        while self.next_epoch.0 * self.slots_per_epoch <= now.0
            && self.next_epoch.0 * self.slots_per_epoch < self.window.end.0
        {
            let epoch = self.next_epoch;
            for (slot, validator) in self.api.proposers(epoch)? {
                if self.keys.contains_key(&validator) && self.window.contains(&slot) {
                    self.proposers.insert(slot, validator);
                }
            }
            let first = epoch.0 * self.slots_per_epoch;
            for slot in first..first + self.slots_per_epoch {
                self.reader.committees(Slot(slot))?;
            }
            let path = format!("/eth/v1/beacon/states/head/sync_committees?epoch={}", epoch.0);
            let answer = self.api.get(&path)?;
            let seats = self.api.list(&answer, "/data/validators", "sync committee")?;
            let seats: Option<Vec<ValidatorIndex>> =
                seats.iter().map(|seat| seat.as_str()?.parse().ok()).collect();
            let seats = seats.ok_or_else(|| self.api.malformed("sync committee"))?;
            self.seats.insert(epoch, seats);
            self.next_epoch = Epoch(epoch.0 + 1);
        }
        Ok(())
    }

    /// Whether every vote of the window that can still come is there, so that counting need not wait.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn all_votes_in(&mut self) -> Result<bool, ApiError> {
        let asked = self.attesters()?;
        let found = self.reader.included_of_all(self.window())?;
        let found: BTreeSet<_> =
            found.into_iter().map(|vote| (vote.attestation_slot, vote.validator)).collect();
        Ok(asked.keys().all(|duty| found.contains(duty)))
    }

    /// Counts the whole window.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn count(&mut self, by: &ByMember) -> Result<Counts, ApiError> {
        let accepted = |what: &Accepted| by.values().any(|accepted| accepted.contains(what));
        let mut counts = Counts::default();
        let attesters = self.attesters()?;
        let votes = self.reader.included_of_all(self.window())?;
        let votes: BTreeMap<_, _> = votes
            .into_iter()
            .map(|vote| ((vote.attestation_slot, vote.validator), vote.distance()))
            .collect();
        let voted =
            attesters.keys().map(|duty| (handed(*duty, Handed::Attestation), votes.contains_key(duty)));
        counts.note("attester", Source::Chain, by, voted);
        let others = self.other_attesters()?;
        counts.note_others("attester", others.iter().map(|duty| votes.contains_key(duty)));

        let blocks = self.blocks()?;
        let empty = |slot: &u64| !blocks.contains_key(&Slot(*slot));
        counts.empty_slots = (self.window.start.0..self.window.end.0).filter(empty).collect();
        let at_once = attesters.keys().filter(|(slot, validator)| {
            let next = blocks.range(Slot(slot.0 + 1)..).next();
            let distance = votes.get(&(*slot, *validator));
            distance.zip(next).is_some_and(|(distance, (next, _))| slot.0 + distance <= next.0)
        });
        counts.attester_votes_at_once = u64::try_from(at_once.count()).unwrap_or(u64::MAX);
        let proposals = self.proposers.iter().map(|(slot, validator)| {
            let done = blocks.get(slot).is_some_and(|block| block.proposer == *validator);
            (handed((*slot, *validator), Handed::Block), done)
        });
        let proposals: Vec<_> = proposals.collect();
        counts.note("proposer", Source::Chain, by, proposals.iter().copied());
        let offered = proposals.iter().filter(|(block, _)| self.builder && builder::offers_in(block.slot));
        let blinded = offered.map(|(handed, done)| {
            let built =
                blocks.get(&handed.slot).is_some_and(|block| block.extra_data == builder::MARK.as_bytes());
            (*handed, *done && built)
        });
        counts.note(BLINDED, Source::Chain, by, blinded);
        // The chain shows a reveal only inside a block, so this is a lower bound.
        counts.note("randao", Source::Chain, by, proposals.iter().copied());

        let aggregators = attesters
            .iter()
            .filter(|((slot, validator), committee)| self.is_aggregator(*slot, *validator, **committee));
        let aggregators = aggregators.map(|(duty, _)| {
            let wanted = handed(*duty, Handed::Aggregate);
            (wanted, accepted(&wanted))
        });
        counts.note("aggregator", Source::BeaconNodeAccepted, by, aggregators);

        let mut messages = Vec::new();
        let mut contributions = Vec::new();
        let mut other_messages = Vec::new();
        for slot in (self.window.start.0..self.window.end.0).map(Slot) {
            if let Some(block) = blocks.get(&Slot(slot.0 + 1)) {
                let others = self.seats_at(slot, |holder| !self.keys.contains_key(holder));
                other_messages
                    .extend(others.values().map(|seats| seats.iter().all(|seat| block.sync_bit(*seat))));
            }
            for (validator, seats) in self.seats_at(slot, |holder| self.keys.contains_key(holder)) {
                match blocks.get(&Slot(slot.0 + 1)) {
                    // Signed for the head at this slot, which is what the next block builds on.
                    Some(block) => {
                        let all = seats.iter().all(|seat| block.sync_bit(*seat));
                        messages.push((handed((slot, validator), Handed::SyncMessage), all));
                    }
                    None => counts.sync_messages_unseen += 1,
                }
                let subcommittees: BTreeSet<u64> =
                    seats.iter().map(|seat| seat / SEATS_OF_SUBCOMMITTEE).collect();
                for subcommittee in subcommittees {
                    if self.is_contributor(slot, validator, subcommittee) {
                        let wanted = handed((slot, validator), Handed::Contribution { subcommittee });
                        contributions.push((wanted, accepted(&wanted)));
                    }
                }
            }
        }
        counts.note("sync_message", Source::Chain, by, messages);
        counts.note_others("sync_message", other_messages);
        counts.note("sync_contribution", Source::BeaconNodeAccepted, by, contributions);
        // Known later, where they are asked for at all; a report names every kind.
        counts.note(REGISTRATION, Source::Builder, by, []);
        counts.note(EXIT, Source::Chain, by, []);
        Ok(counts)
    }

    /// Attester duties of the window, with the length of the committee.
    fn attesters(&mut self) -> Result<BTreeMap<(Slot, ValidatorIndex), u64>, ApiError> {
        let mut duties = BTreeMap::new();
        for slot in (self.window.start.0..self.window.end.0).map(Slot) {
            for committee in self.reader.committees(slot)? {
                let length = u64::try_from(committee.len()).unwrap_or(u64::MAX);
                let ours = committee.iter().filter(|member| self.keys.contains_key(member));
                duties.extend(ours.map(|member| ((slot, *member), length)));
            }
        }
        Ok(duties)
    }

    /// Attester duties of the window that others have, but for its last slots.
    fn other_attesters(&mut self) -> Result<Vec<(Slot, ValidatorIndex)>, ApiError> {
        let mut duties = Vec::new();
        for slot in (self.window.start.0..self.window.end.0.saturating_sub(OTHERS_ON_THE_WAY)).map(Slot) {
            let members = self.reader.committees(slot)?.iter().flatten();
            let others = members.filter(|member| !self.keys.contains_key(member));
            duties.extend(others.map(|member| (slot, *member)));
        }
        Ok(duties)
    }

    /// The canonical blocks of the window and of the slot after it.
    fn blocks(&self) -> Result<BTreeMap<Slot, Block>, ApiError> {
        let mut blocks = BTreeMap::new();
        for slot in (self.window.start.0..=self.window.end.0).map(Slot) {
            if let Some(block) = self.api.find(&format!("/eth/v2/beacon/blocks/{}", slot.0))? {
                let block = Block::read(&block).ok_or_else(|| self.api.malformed("block"))?;
                blocks.insert(slot, block);
            }
        }
        Ok(blocks)
    }

    /// Seats of some validators at a slot.
    fn seats_at(
        &self,
        slot: Slot,
        wanted: impl Fn(&ValidatorIndex) -> bool,
    ) -> BTreeMap<ValidatorIndex, Vec<u64>> {
        // The message of a period's last slot goes into the first block of the next, but is signed by the old committee;
        // periods here are longer than any run.
        let seats = self.seats.get(&Epoch(slot.0 / self.slots_per_epoch));
        let mut found: BTreeMap<ValidatorIndex, Vec<u64>> = BTreeMap::new();
        for (seat, holder) in (0_u64..).zip(seats.into_iter().flatten()) {
            if wanted(holder) {
                found.entry(*holder).or_default().push(seat);
            }
        }
        found
    }

    /// `is_aggregator` of the consensus specifications.
    fn is_aggregator(&self, slot: Slot, validator: ValidatorIndex, committee: u64) -> bool {
        let modulo = (committee / AGGREGATORS_PER_COMMITTEE).max(1);
        modulo == 1 || self.selected(validator, slot, &slot, domain::SELECTION_PROOF, modulo)
    }

    /// `is_sync_committee_aggregator` of the consensus specifications.
    fn is_contributor(&self, slot: Slot, validator: ValidatorIndex, subcommittee_index: u64) -> bool {
        let modulo = (SEATS_OF_SUBCOMMITTEE / AGGREGATORS_PER_SUBCOMMITTEE).max(1);
        let data = SyncAggregatorSelectionData { slot, subcommittee_index };
        self.selected(validator, slot, &data, domain::SYNC_COMMITTEE_SELECTION_PROOF, modulo)
    }

    fn selected(
        &self,
        validator: ValidatorIndex,
        slot: Slot,
        data: &impl tree_hash::TreeHash,
        domain_type: chain::DomainType,
        modulo: u64,
    ) -> bool {
        let Some(key) = self.keys.get(&validator) else { return false };
        let epoch = Epoch(slot.0 / self.slots_per_epoch);
        let domain = domain::domain_at(domain_type, epoch, &self.fork_info);
        let proof = key.sign(&domain::signing_root(data, domain).0).to_bytes();
        let hash: [u8; 32] = Sha256::digest(proof.0).into();
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        u64::from_le_bytes(first).is_multiple_of(modulo)
    }
}

impl Counts {
    /// Notes duties of one kind: each by what has to be handed in for it, and whether it was done.
    pub fn note(
        &mut self,
        kind: &'static str,
        source: Source,
        by: &ByMember,
        duties: impl IntoIterator<Item = (Accepted, bool)>,
    ) {
        let duties: Vec<_> = duties.into_iter().collect();
        let none = Count { tried: 0, succeeded: 0, source };
        let count = self.duties.entry(kind).or_insert(none);
        count.add(duties.iter().map(|(_, done)| *done));
        for (member, accepted) in by {
            let count = self.members.entry(*member).or_default().entry(kind).or_insert(none);
            count.add(duties.iter().map(|(handed, done)| *done && accepted.contains(handed)));
        }
        let missed = duties.iter().filter(|(_, done)| !done);
        self.failures.extend(missed.map(|(handed, _)| Failure {
            kind,
            slot: handed.slot.0,
            validator: handed.validator.0,
        }));
    }

    fn note_others(&mut self, kind: &'static str, done: impl IntoIterator<Item = bool>) {
        let none = Count { tried: 0, succeeded: 0, source: Source::Chain };
        self.others.entry(kind).or_insert(none).add(done.into_iter());
    }

    /// Kinds of which much less was done than this machine allowed. What it allowed is what the chain's other validators did:
    /// a block that comes late, or a machine that stands still, costs both alike. No block shows who aggregated, so
    /// aggregates are held to the others' votes.
    pub fn too_little(&self) -> Vec<String> {
        let little = |(kind, like): (&'static str, &str)| {
            let count = self.duties.get(kind)?;
            let whole = Count { tried: 1, succeeded: 1, source: Source::Chain };
            let others = self.others.get(like).filter(|others| others.tried > 0).copied().unwrap_or(whole);
            // Both sides times `others.tried`, to stay with whole numbers.
            let (done, like_others) = (count.succeeded * others.tried, count.tried * others.succeeded);
            let few = done * 100 < like_others * LEAST_PERCENT;
            let many_missed = done + MAY_MISS * others.tried < like_others;
            (few && many_missed).then(|| {
                format!(
                    "{kind}: {} of {}, where the chain's other validators did {} of {} ({like})",
                    count.succeeded, count.tried, others.succeeded, others.tried
                )
            })
        };
        let kinds = [("attester", "attester"), ("aggregator", "attester"), ("sync_message", "sync_message")];
        kinds.into_iter().filter_map(little).collect()
    }

    /// Kinds that the chain asked for and that never succeeded.
    pub fn without_success(&self) -> Vec<&'static str> {
        let none = self.duties.iter().filter(|(_, count)| count.tried > 0 && count.succeeded == 0);
        none.map(|(kind, _)| *kind).collect()
    }

    /// Kinds that the chain never asked for in the window.
    pub fn never_asked(&self) -> Vec<&'static str> {
        self.duties.iter().filter(|(_, count)| count.tried == 0).map(|(kind, _)| *kind).collect()
    }
}

/// Proposals of blocks that were blinded when they were signed: the chain shows them by the builder's mark.
pub const BLINDED: &str = "proposer_blinded";
/// Registrations with builders.
pub const REGISTRATION: &str = "builder_registration";
/// Validators that were let leave.
pub const EXIT: &str = "voluntary_exit";

fn handed((slot, validator): (Slot, ValidatorIndex), what: Handed) -> Accepted {
    Accepted { slot, validator, what }
}

/// What counts of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    proposer: ValidatorIndex,
    sync_bits: Vec<u8>,
    extra_data: Vec<u8>,
}

impl Block {
    fn read(answer: &Value) -> Option<Self> {
        let text = |pointer: &str| answer.pointer(pointer)?.as_str();
        let bits = text("/data/message/body/sync_aggregate/sync_committee_bits")?;
        let sync_bits = hex::decode(bits.strip_prefix("0x")?).ok()?;
        let complete = u64::try_from(sync_bits.len() * 8).ok()? == SEATS;
        let proposer = text("/data/message/proposer_index")?.parse().ok()?;
        let extra = text("/data/message/body/execution_payload/extra_data")?;
        let extra_data = hex::decode(extra.strip_prefix("0x")?).ok()?;
        complete.then_some(Self { proposer, sync_bits, extra_data })
    }

    fn sync_bit(&self, seat: u64) -> bool {
        let byte = usize::try_from(seat / 8).ok().and_then(|byte| self.sync_bits.get(byte));
        byte.is_some_and(|byte| byte >> (seat % 8) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_block_tells_its_proposer_and_who_signed_for_the_sync_committee() {
        let block = |bits: &str| {
            json!({"data": {"message": {"proposer_index": "7", "body": {
                "sync_aggregate": {"sync_committee_bits": bits}, "execution_payload": {"extra_data": "0x6869"},
            }}}})
        };
        let bits = format!("0x01{}80", "00".repeat(62));
        let read = Block::read(&block(&bits)).unwrap();
        assert_eq!((read.proposer, read.extra_data.as_slice()), (ValidatorIndex(7), b"hi".as_slice()));
        let set: Vec<u64> = (0..600).filter(|seat| read.sync_bit(*seat)).collect();
        assert_eq!(set, [0, 511]);
        assert!(Block::read(&block("0x01")).is_none() && Block::read(&json!({})).is_none());
    }

    #[test]
    fn a_kind_that_nobody_asked_for_is_no_failure_and_no_success() {
        let mut counts = Counts::default();
        let vote = |slot| handed((Slot(slot), ValidatorIndex(1)), Handed::Attestation);
        let nobody = ByMember::new();
        counts.note("attester", Source::Chain, &nobody, [(vote(1), true), (vote(2), false)]);
        counts.note("proposer", Source::Chain, &nobody, [(vote(1), false)]);
        counts.note("aggregator", Source::BeaconNodeAccepted, &nobody, []);
        assert_eq!(counts.without_success(), ["proposer"]);
        assert_eq!(counts.never_asked(), ["aggregator"]);
        assert_eq!(counts.failures.len(), 2);
        assert_eq!((counts.duties["attester"].tried, counts.duties["attester"].succeeded), (2, 1));
    }

    #[test]
    fn a_member_has_done_what_is_on_the_chain_and_came_from_it() {
        let vote = |slot| handed((Slot(slot), ValidatorIndex(1)), Handed::Attestation);
        let block = handed((Slot(1), ValidatorIndex(1)), Handed::Block);
        let by = ByMember::from([
            (1, BTreeSet::from([vote(1), vote(2), vote(3), block])),
            (2, BTreeSet::from([vote(2)])),
            (3, BTreeSet::from([block])), // A block is no vote.
            (4, BTreeSet::new()),
        ]);
        let mut counts = Counts::default();
        // The third never came onto the chain, though the node took it.
        let votes = [(vote(1), true), (vote(2), true), (vote(3), false)];
        counts.note("attester", Source::Chain, &by, votes);
        counts.note("proposer", Source::Chain, &by, [(block, true)]);
        counts.note("voluntary_exit", Source::Chain, &by, []);
        let of = |member: u8, kind: &str| {
            let count = counts.members[&member][kind];
            (count.tried, count.succeeded)
        };
        assert_eq!(
            (1..=4).map(|member| of(member, "attester")).collect::<Vec<_>>(),
            [(3, 2), (3, 1), (3, 0), (3, 0)]
        );
        assert_eq!((1..=4).map(|member| of(member, "proposer").1).collect::<Vec<_>>(), [1, 0, 1, 0]);
        // Every kind is there, also where nothing was asked.
        assert!((1..=4).all(|member| of(member, "voluntary_exit") == (0, 0)));
        assert_eq!(counts.duties["attester"].succeeded, 2);
    }
    #[test]
    fn a_cluster_is_held_to_what_the_chain_s_other_validators_did() {
        let little = |ours: (u64, u64), others: (u64, u64), kind: &'static str| {
            let count = |(succeeded, tried)| Count { tried, succeeded, source: Source::Chain };
            let mut counts = Counts::default();
            counts.duties.insert(kind, count(ours));
            counts.others.insert("attester", count(others));
            counts.others.insert("sync_message", count(others));
            !counts.too_little().is_empty()
        };
        for (ours, others, expected) in [
            ((24, 24), (64, 64), false),
            ((20, 24), (64, 64), false),
            ((19, 24), (64, 64), true),
            ((1, 24), (64, 64), true),
            // One epoch of Fulu has few votes: 75 of 100 are three missed, which is an accident; four are not.
            ((9, 12), (32, 32), false),
            ((8, 12), (32, 32), true),
            // Half of all votes are in no block, whoever they are of.
            ((12, 24), (32, 64), false),
            ((8, 24), (32, 64), true),
            // Nothing to compare with: nearly all must be there.
            ((20, 24), (0, 0), false),
            ((12, 24), (0, 0), true),
            // No block has anybody's.
            ((0, 24), (0, 64), false),
            ((0, 0), (64, 64), false),
        ] {
            for kind in ["attester", "aggregator", "sync_message"] {
                assert_eq!(little(ours, others, kind), expected, "{kind}: {ours:?} beside {others:?}");
            }
        }
        assert!(!little((1, 5), (64, 64), "proposer"), "few and by chance");
    }
}
