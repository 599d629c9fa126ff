//! Whose attestations are on the chain, read back from its blocks.
//!
//! Since Electra one attestation of a block covers several committees of a slot: `committee_bits` says which, and
//! `aggregation_bits` is the members of just those committees, one committee after the other (EIP-7549). Who sits in a
//! committee is asked of the beacon node.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use chain::{Epoch, Root, Slot, ValidatorIndex};
use serde_json::Value;

use super::api::{ApiError, BeaconApi};

/// `MAX_COMMITTEES_PER_SLOT`, the length of `committee_bits`.
const MAX_COMMITTEES: usize = 64;
/// Slots whose committees are remembered. A block needs those of two epochs; who counts at the end of a long run needs all
/// of it, because a node does not tell the committees of long ago.
const REMEMBERED_SLOTS: usize = 8192;

/// One vote of one validator in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inclusion {
    /// Who voted.
    pub validator: ValidatorIndex,
    /// The slot of the duty.
    pub attestation_slot: Slot,
    /// The block that has the vote; the earliest one.
    pub block_slot: Slot,
    /// Root of that block.
    pub block_root: Root,
    /// The head it voted for.
    pub head_root: Root,
    /// Target epoch.
    pub target: Epoch,
}

impl Inclusion {
    /// 1 when the vote was in the very next slot.
    pub fn distance(&self) -> u64 {
        self.block_slot.0.saturating_sub(self.attestation_slot.0)
    }
}

/// Reads blocks and remembers committees.
#[derive(Debug)]
pub struct Reader {
    api: BeaconApi,
    slots_per_epoch: u64,
    /// Members of each committee of a slot, in order of the committee index.
    committees: BTreeMap<Slot, Vec<Vec<ValidatorIndex>>>,
}

impl Reader {
    /// A reader of the chain behind `api`.
    pub fn new(api: &BeaconApi, slots_per_epoch: u64) -> Self {
        Self { api: api.clone(), slots_per_epoch, committees: BTreeMap::new() }
    }

    /// All votes in the canonical block of a slot; a slot without block has none. May name a vote twice.
    ///
    /// # Errors
    /// When the node does not answer, or its answers contradict each other.
    pub fn block(&mut self, slot: Slot) -> Result<Vec<Inclusion>, ApiError> {
        // Asked by root, so that the block and its name belong together even when the chain reorganises.
        let Some(root) = self.api.block_root(slot)? else { return Ok(Vec::new()) };
        let Some(block) = self.api.find(&format!("/eth/v2/beacon/blocks/{root}"))? else {
            return Ok(Vec::new());
        };
        let block_root = root.parse().map_err(|_| self.api.malformed("block root"))?;
        let attestations =
            self.api.list(&block, "/data/message/body/attestations", "list of attestations")?;
        let mut found = Vec::new();
        for attestation in attestations {
            let vote = Vote::parse(attestation).ok_or_else(|| self.api.malformed("Electra attestation"))?;
            let committees = self.committees(vote.slot)?;
            let members =
                vote.members(committees).ok_or_else(|| self.api.malformed("committees for a vote"))?;
            found.extend(members.into_iter().map(|validator| Inclusion {
                validator,
                attestation_slot: vote.slot,
                block_slot: slot,
                block_root,
                head_root: vote.head_root,
                target: vote.target,
            }));
        }
        Ok(found)
    }

    /// The votes of a validator for duties in `slots`, one for each slot, the earliest block first.
    ///
    /// Looks at blocks until the end of the epoch after the last slot, or until the head when that comes first.
    ///
    /// # Errors
    /// See [`Self::block`].
    pub fn included(
        &mut self,
        validator: ValidatorIndex,
        slots: Range<Slot>,
    ) -> Result<Vec<Inclusion>, ApiError> {
        let all = self.included_of_all(slots)?;
        Ok(all.into_iter().filter(|inclusion| inclusion.validator == validator).collect())
    }

    /// Like [`Self::included`] for every validator, ordered by slot and validator.
    ///
    /// # Errors
    /// See [`Self::block`].
    pub fn included_of_all(&mut self, slots: Range<Slot>) -> Result<Vec<Inclusion>, ApiError> {
        let Some(last) = slots.end.0.checked_sub(1).filter(|last| *last >= slots.start.0) else {
            return Ok(Vec::new());
        };
        let too_late = (last / self.slots_per_epoch + 2) * self.slots_per_epoch;
        let end = too_late.min(self.api.head()?.0 + 1);
        let mut first: BTreeMap<(Slot, ValidatorIndex), Inclusion> = BTreeMap::new();
        for slot in slots.start.0 + 1..end {
            for inclusion in self.block(Slot(slot))? {
                if slots.contains(&inclusion.attestation_slot) {
                    // Raw counts would be too high: the next block may repeat what it thinks was missed.
                    first.entry((inclusion.attestation_slot, inclusion.validator)).or_insert(inclusion);
                }
            }
        }
        Ok(first.into_values().collect())
    }

    /// Whether the block that has this vote is still part of the chain.
    ///
    /// # Errors
    /// See [`Self::block`].
    pub fn is_canonical(&self, inclusion: &Inclusion) -> Result<bool, ApiError> {
        let root = self.api.block_root(inclusion.block_slot)?;
        Ok(root.is_some_and(|root| root.parse() == Ok(inclusion.block_root)))
    }

    /// Who has to attest in a slot: every member of its committees.
    ///
    /// # Errors
    /// See [`Self::block`].
    pub fn attesters(&mut self, slot: Slot) -> Result<BTreeSet<ValidatorIndex>, ApiError> {
        Ok(self.committees(slot)?.iter().flatten().copied().collect())
    }

    /// The members of each committee of a slot, in order of the committee index. Remembered.
    ///
    /// # Errors
    /// See [`Self::block`].
    pub fn committees(&mut self, slot: Slot) -> Result<&[Vec<ValidatorIndex>], ApiError> {
        if !self.committees.contains_key(&slot) {
            let epoch = slot.0 / self.slots_per_epoch;
            let path = format!("/eth/v1/beacon/states/head/committees?epoch={epoch}&slot={}", slot.0);
            let answer = self.api.get(&path)?;
            let entries = self.api.list(&answer, "/data", "list of committees")?;
            let committees =
                parse_committees(entries).ok_or_else(|| self.api.malformed("list of committees"))?;
            if self.committees.len() >= REMEMBERED_SLOTS {
                self.committees.pop_first();
            }
            self.committees.insert(slot, committees);
        }
        Ok(self.committees.get(&slot).map_or(&[], Vec::as_slice))
    }
}

/// Yields each vote once, as the blocks come.
#[derive(Debug)]
pub struct Follower {
    reader: Reader,
    next: Slot,
    /// Votes already told, so that a later block's repetition is silent.
    told: BTreeSet<(Slot, ValidatorIndex)>,
}

impl Follower {
    /// Follows from the block of slot `first` on.
    pub fn new(reader: Reader, first: Slot) -> Self {
        Self { reader, next: first, told: BTreeSet::new() }
    }

    /// The votes in all blocks since the last call, oldest block first. Returns at once when there is no new block.
    ///
    /// A block that a reorganisation replaces after it was read stays told; see [`Reader::is_canonical`].
    ///
    /// # Errors
    /// When the node does not answer. The next call then continues where this one stopped, and loses nothing.
    pub fn poll(&mut self) -> Result<Vec<Inclusion>, ApiError> {
        let head = self.reader.api.head()?;
        let mut new = Vec::new();
        while self.next <= head {
            // A node that fails in the middle must not swallow what was read before: hand that out first.
            let votes = match self.reader.block(self.next) {
                Ok(votes) => votes,
                Err(_) if !new.is_empty() => break,
                Err(error) => return Err(error),
            };
            new.extend(
                votes.into_iter().filter(|vote| self.told.insert((vote.attestation_slot, vote.validator))),
            );
            self.next = Slot(self.next.0 + 1);
        }
        // No block may include what is older than the epoch before it.
        let oldest = Slot(self.next.0.saturating_sub(2 * self.reader.slots_per_epoch + 1));
        self.told = self.told.split_off(&(oldest, ValidatorIndex(0)));
        Ok(new)
    }

    /// The reader underneath.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }
}

/// What an attestation of a block says.
struct Vote {
    slot: Slot,
    head_root: Root,
    target: Epoch,
    /// Indices of the committees it covers, ascending.
    committees: Vec<usize>,
    /// One bit for each member of those committees.
    members: Vec<bool>,
}

impl Vote {
    fn parse(attestation: &Value) -> Option<Self> {
        let text = |pointer: &str| attestation.pointer(pointer)?.as_str();
        let committee_bits = bytes(text("/committee_bits")?)?;
        if committee_bits.len() * 8 != MAX_COMMITTEES {
            return None;
        }
        let set = bits(&committee_bits).into_iter().enumerate().filter(|(_, set)| *set);
        Some(Self {
            slot: text("/data/slot")?.parse().ok()?,
            head_root: text("/data/beacon_block_root")?.parse().ok()?,
            target: text("/data/target/epoch")?.parse().ok()?,
            committees: set.map(|(index, _)| index).collect(),
            members: bit_list(&bytes(text("/aggregation_bits")?)?)?,
        })
    }

    /// Who voted, or nothing when the committees do not have as many members as there are bits.
    fn members(&self, committees: &[Vec<ValidatorIndex>]) -> Option<Vec<ValidatorIndex>> {
        let mut seats = Vec::new();
        for index in &self.committees {
            seats.extend(committees.get(*index)?);
        }
        let fits = seats.len() == self.members.len();
        fits.then(|| {
            seats.into_iter().zip(&self.members).filter(|(_, voted)| **voted).map(|(who, _)| who).collect()
        })
    }
}

/// The members of each committee in order of the committee index, which must count from 0 without a gap.
fn parse_committees(entries: &[Value]) -> Option<Vec<Vec<ValidatorIndex>>> {
    let mut by_index = BTreeMap::new();
    for entry in entries {
        let index: usize = entry["index"].as_str()?.parse().ok()?;
        let members = entry["validators"].as_array()?.iter();
        let members: Option<Vec<_>> = members.map(|member| member.as_str()?.parse().ok()).collect();
        by_index.insert(index, members?);
    }
    let complete = by_index.len() <= MAX_COMMITTEES && by_index.keys().copied().eq(0..by_index.len());
    complete.then(|| by_index.into_values().collect())
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    hex::decode(text.strip_prefix("0x")?).ok()
}

/// The bits of an SSZ bit vector, lowest first.
fn bits(bytes: &[u8]) -> Vec<bool> {
    bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)).collect()
}

/// The bits of an SSZ bit list, whose highest set bit is not a member but marks the end.
fn bit_list(bytes: &[u8]) -> Option<Vec<bool>> {
    if *bytes.last()? == 0 {
        return None;
    }
    let mut list = bits(bytes);
    while list.pop() == Some(false) {}
    Some(list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bit_list_ends_at_its_highest_bit() {
        let cases: [(&[u8], Option<&[bool]>); 5] = [
            (&[], None),
            (&[0b1], Some(&[])),
            (&[0b110], Some(&[false, true])),
            (&[0xff, 0x01], Some(&[true; 8])),
            (&[0xff, 0x00], None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(bit_list(bytes).as_deref(), expected, "{bytes:?}");
        }
    }

    fn attestation(committee_bits: &str, aggregation_bits: &str) -> Value {
        let root = format!("0x{}", "11".repeat(32));
        json!({
            "aggregation_bits": aggregation_bits,
            "committee_bits": committee_bits,
            "data": {
                "slot": "9", "index": "0", "beacon_block_root": root,
                "source": {"epoch": "0", "root": root}, "target": {"epoch": "1", "root": root},
            },
        })
    }

    fn indices(list: &[u64]) -> Vec<ValidatorIndex> {
        list.iter().copied().map(ValidatorIndex).collect()
    }

    #[test]
    fn votes_of_several_committees_follow_each_other() {
        let committees = [indices(&[10, 11, 12]), indices(&[20, 21]), indices(&[30, 31])];
        // Committees 0 and 2; bits 1, 3 and 4 of five members.
        let vote = Vote::parse(&attestation("0x0500000000000000", "0x3a")).unwrap();
        assert_eq!(vote.members(&committees), Some(indices(&[11, 30, 31])));
        assert_eq!((vote.slot, vote.target), (Slot(9), Epoch(1)));
    }

    #[test]
    fn bits_that_do_not_fit_the_committees_are_refused() {
        let committees = [indices(&[10, 11, 12])];
        for (committee_bits, aggregation_bits) in
            [("0x0100000000000000", "0x3a"), ("0x0200000000000000", "0x0f")]
        {
            let vote = Vote::parse(&attestation(committee_bits, aggregation_bits)).unwrap();
            assert_eq!(vote.members(&committees), None);
        }
        for (committee_bits, aggregation_bits) in
            [("0x01", "0x0f"), ("0x0100000000000000", "0x"), ("01", "0x0f")]
        {
            assert!(Vote::parse(&attestation(committee_bits, aggregation_bits)).is_none());
        }
    }

    #[test]
    fn committees_are_ordered_by_index_and_complete() {
        let entry =
            |index: &str, members: &[&str]| json!({"index": index, "slot": "9", "validators": members});
        let parsed = parse_committees(&[entry("1", &["20"]), entry("0", &["10", "11"])]);
        assert_eq!(parsed, Some(vec![indices(&[10, 11]), indices(&[20])]));
        assert_eq!(parse_committees(&[entry("1", &["20"])]), None);
        assert_eq!(parse_committees(&[entry("0", &["x"])]), None);
    }
}
