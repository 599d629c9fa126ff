//! What is known to have been signed with one key.

use crate::check::{AttestationPermit, BlockPermit, Refusal, check_attestation, check_block};
use crate::interchange::ValidatorRecord;
use chain::{Epoch, PublicKeyBytes, Root, Slot};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// An attestation that was signed. Without its signing root nobody can prove a later request to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SignedAttestation {
    /// Its source checkpoint's epoch.
    pub source_epoch: Epoch,
    /// Its target checkpoint's epoch.
    pub target_epoch: Epoch,
    /// What was signed, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_root: Option<Root>,
}

/// A block that was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SignedBlock {
    /// Its slot.
    pub slot: Slot,
    /// What was signed, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_root: Option<Root>,
}

/// Low watermarks: what lies below is no longer known in detail and therefore refused. They only ever rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Floors {
    /// Blocks at or below are refused.
    pub block: Option<Slot>,
    /// Attestations with a source below are refused; the source itself may repeat.
    pub source: Option<Epoch>,
    /// Attestations with a target at or below are refused.
    pub target: Option<Epoch>,
}

/// How much detail a history keeps. Both are safe; they differ in which harmless requests they refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Every entry, until [`History::prune`]. Identical requests may be signed again.
    Complete,
    /// Only the floors, at the highest values ever seen (EIP-3076 "minimal"). Nothing may be signed twice.
    Watermark,
}

/// The signing history of one key: floors, and entries above and around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    key: PublicKeyBytes,
    retention: Retention,
    floors: Floors,
    /// More than one entry per slot only when imported: then somebody already broke the rule.
    blocks: BTreeSet<SignedBlock>,
    /// By target epoch.
    attestations: BTreeMap<Epoch, BTreeSet<SignedAttestation>>,
    /// Whether the entries at and below the floors are believed so far that what they name may be signed once more.
    repeats: Repeats,
}

/// Whether the floors bind the repeat of a recorded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// They do not: it adds nothing that was not signed already.
    Allowed,
    /// They do: the record may be a forged one.
    BoundByFloors,
}

/// Why a permit was not recorded. Nothing may be signed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The permit was given for another key.
    #[error("the permit belongs to key {0}, not to this history")]
    OtherKey(PublicKeyBytes),
    /// Something else was recorded since the check.
    #[error("the permit is out of date: the history changed after the check")]
    Stale(#[source] Refusal),
}

impl History {
    /// A key that has never signed. Use it only when that is known: a new key, or the owner's explicit word.
    pub fn never_signed(key: PublicKeyBytes, retention: Retention) -> Self {
        Self {
            key,
            retention,
            floors: Floors::default(),
            blocks: BTreeSet::new(),
            attestations: BTreeMap::new(),
            repeats: Repeats::Allowed,
        }
    }

    /// The history as a ledger stored it.
    pub fn restore(
        key: PublicKeyBytes,
        retention: Retention,
        floors: Floors,
        blocks: impl IntoIterator<Item = SignedBlock>,
        attestations: impl IntoIterator<Item = SignedAttestation>,
    ) -> Self {
        let mut history = Self { floors, ..Self::never_signed(key, retention) };
        history.add(blocks, attestations);
        history
    }

    /// Whose history this is.
    pub fn key(&self) -> PublicKeyBytes {
        self.key
    }

    /// The low watermarks.
    pub fn floors(&self) -> Floors {
        self.floors
    }

    /// From now on the floors bind the repeat of a recorded message, too. For a ledger that others may have written to: whoever
    /// exchanges a recorded signing root would otherwise have the signer repeat what it never signed. Entries go on to refuse
    /// whatever they refused.
    pub fn distrust_repeats(&mut self) {
        self.repeats = Repeats::BoundByFloors;
    }

    /// Whether a repeat is asked the floors.
    pub(crate) fn binds_repeats(&self) -> bool {
        self.repeats == Repeats::BoundByFloors
    }

    /// All known blocks, oldest first.
    pub fn blocks(&self) -> impl Iterator<Item = SignedBlock> {
        self.blocks.iter().copied()
    }

    /// All known attestations, by target.
    pub fn attestations(&self) -> impl Iterator<Item = SignedAttestation> {
        self.attestations.values().flatten().copied()
    }

    /// The blocks known for one slot.
    pub(crate) fn blocks_at(&self, slot: Slot) -> impl Iterator<Item = &SignedBlock> {
        self.blocks
            .range(SignedBlock { slot, signing_root: None }..)
            .take_while(move |block| block.slot == slot)
    }

    /// The attestations known for one target.
    pub(crate) fn attestations_at(&self, target: Epoch) -> impl Iterator<Item = &SignedAttestation> {
        self.attestations.get(&target).into_iter().flatten()
    }

    /// The attestations with a higher target.
    pub(crate) fn attestations_after(&self, target: Epoch) -> impl Iterator<Item = &SignedAttestation> {
        self.attestations.range((Bound::Excluded(target), Bound::Unbounded)).flat_map(|(_, all)| all)
    }

    /// The attestations with a lower target.
    pub(crate) fn attestations_before(&self, target: Epoch) -> impl Iterator<Item = &SignedAttestation> {
        self.attestations.range(..target).flat_map(|(_, all)| all)
    }

    /// Takes note of an attestation that is durable in the ledger.
    pub fn record_attestation(
        &mut self,
        permit: AttestationPermit,
    ) -> Result<SignedAttestation, RecordError> {
        if permit.key() != self.key {
            return Err(RecordError::OtherKey(permit.key()));
        }
        let _still_valid = check_attestation(self, permit.vote()).map_err(RecordError::Stale)?;
        let entry = permit.entry();
        self.add([], [entry]);
        Ok(entry)
    }

    /// Takes note of a block that is durable in the ledger.
    pub fn record_block(&mut self, permit: BlockPermit) -> Result<SignedBlock, RecordError> {
        if permit.key() != self.key {
            return Err(RecordError::OtherKey(permit.key()));
        }
        let _still_valid = check_block(self, permit.proposal()).map_err(RecordError::Stale)?;
        let entry = permit.entry();
        self.add([entry], []);
        Ok(entry)
    }

    /// Takes over a file from elsewhere so that nothing is allowed afterwards that was refused before: this is how the box
    /// imports (decision 0281).
    ///
    /// - A file may be a minimal one, whose single entry stands for many that are not listed (EIP-3076). Taken as a complete
    ///   list it would leave open what lies between our own entries and its entry: every floor rises to the highest value
    ///   known from either side.
    /// - What a file names with its signing root may be signed once more by the letter of EIP-3076. Here only what this ledger
    ///   has recorded itself may: the roots of others are not kept, so nothing proves a request to be the same.
    pub fn adopt(
        &mut self,
        blocks: impl IntoIterator<Item = SignedBlock>,
        attestations: impl IntoIterator<Item = SignedAttestation>,
    ) {
        let (blocks, attestations): (Vec<_>, Vec<_>) =
            (blocks.into_iter().collect(), attestations.into_iter().collect());
        if blocks.is_empty() && attestations.is_empty() {
            return;
        }
        let blocks: Vec<_> = blocks
            .into_iter()
            .filter(|entry| !self.blocks.contains(entry))
            .map(|entry| SignedBlock { signing_root: None, ..entry })
            .collect();
        let attestations: Vec<_> = attestations
            .into_iter()
            .filter(|entry| !self.attestations_at(entry.target_epoch).any(|known| known == entry))
            .map(|entry| SignedAttestation { signing_root: None, ..entry })
            .collect();
        self.add(blocks, attestations);
        self.raise(self.last_known());
    }

    /// Everything known as floors: the highest of the entries and of the floors.
    pub fn last_known(&self) -> Floors {
        Floors {
            block: self.floors.block.max(self.blocks.last().map(|block| block.slot)),
            source: self.floors.source.max(self.attestations().map(|entry| entry.source_epoch).max()),
            target: self.floors.target.max(self.attestations.last_key_value().map(|(target, _)| *target)),
        }
    }

    /// Takes over what an interchange file tells about this key, by the letter of EIP-3076: what it names with its root may be
    /// signed again. Never loosens otherwise: floors stay or rise, entries are added. The box uses [`Self::adopt`].
    /// All entries of one file must come in one call, since the lowest of them become the floors of a new history.
    pub fn learn(
        &mut self,
        blocks: impl IntoIterator<Item = SignedBlock>,
        attestations: impl IntoIterator<Item = SignedAttestation>,
    ) {
        self.add(blocks, attestations);
    }

    /// Forgets entries more than `slots` and `epochs` behind the newest, and raises the floors over them: whatever could
    /// conflict with a forgotten entry is refused from then on. The newest entries always stay.
    pub fn prune(&mut self, slots: u64, epochs: u64) {
        let newest_slot = self.blocks.last().map(|block| block.slot);
        if let Some(keep_from) = newest_slot.map(|slot| slot.saturating_sub(slots)) {
            let kept = self.blocks.split_off(&SignedBlock { slot: keep_from, signing_root: None });
            let forgotten = std::mem::replace(&mut self.blocks, kept);
            self.raise(Floors { block: forgotten.last().map(|block| block.slot), ..Floors::default() });
        }
        let newest_target = self.attestations.last_key_value().map(|(target, _)| *target);
        if let Some(keep_from) = newest_target.map(|target| target.saturating_sub(epochs)) {
            let kept = self.attestations.split_off(&keep_from);
            let forgotten = std::mem::replace(&mut self.attestations, kept);
            self.raise(Floors {
                block: None,
                source: forgotten.values().flatten().map(|entry| entry.source_epoch).max(),
                target: forgotten.last_key_value().map(|(target, _)| *target),
            });
        }
    }

    /// Everything known that a reader must know, for a complete interchange file: whatever this history refuses, each reader
    /// refuses that takes the entries by the letter of EIP-3076, or only the highest of them.
    ///
    /// By the letter the lowest entry says where knowledge begins. So what lies below a floor may not stand in a file: the floor
    /// stands there instead, as an entry without a signing root. A floor lies above entries after a power cut, an import or a
    /// pruning, when votes may be forgotten, and those are what the reader would then sign against.
    pub(crate) fn record(&self) -> ValidatorRecord {
        let signed_attestations =
            self.attestations_from_floors().unwrap_or_else(|| self.minimal_record().signed_attestations);
        ValidatorRecord { pubkey: self.key, signed_blocks: self.blocks_from_floor(), signed_attestations }
    }

    fn blocks_from_floor(&self) -> Vec<SignedBlock> {
        let Some(floor) = self.floors.block else { return self.blocks().collect() };
        let at_floor: Vec<_> = self.blocks_at(floor).filter(|_| !self.binds_repeats()).copied().collect();
        let stands_for_it = if at_floor.is_empty() {
            vec![SignedBlock { slot: floor, signing_root: None }]
        } else {
            at_floor
        };
        stands_for_it.into_iter().chain(self.blocks().filter(|entry| entry.slot > floor)).collect()
    }

    /// None when no list of entries says what the floors say: a vote was signed above the target's floor and below the source's.
    fn attestations_from_floors(&self) -> Option<Vec<SignedAttestation>> {
        let Floors { source, target, .. } = self.floors;
        if source.or(target).is_none() {
            return Some(self.attestations().collect());
        }
        let target = target.max(source).unwrap_or_default();
        // A vote that is left out goes on to refuse what would surround it: whatever has a lower source.
        let left_out = self.attestations_before(target).map(|entry| entry.source_epoch).max();
        let mut source = source.max(left_out).unwrap_or_default();
        let mut kept: Vec<_> = self.attestations_at(target).copied().collect();
        // An entry at the floor says with its root what may be signed once more. Not where it may be a forged one.
        if kept.is_empty() || self.binds_repeats() || kept.iter().any(|entry| entry.source_epoch < source) {
            source = kept.iter().map(|entry| entry.source_epoch).fold(source, Epoch::max);
            kept = vec![Self::floor_entry(Some(source), Some(target))];
        }
        kept.extend(self.attestations_after(target));
        let is_above = |entry: &SignedAttestation| entry.source_epoch >= source;
        (source <= target && kept.iter().all(is_above)).then_some(kept)
    }

    /// One entry per kind at the highest values, for a minimal interchange file.
    pub(crate) fn minimal_record(&self) -> ValidatorRecord {
        let Floors { block: highest_slot, source: highest_source, target: highest_target } =
            self.last_known();
        let attestation =
            highest_source.or(highest_target).map(|_| Self::floor_entry(highest_source, highest_target));
        ValidatorRecord {
            pubkey: self.key,
            signed_blocks: highest_slot
                .map(|slot| SignedBlock { slot, signing_root: None })
                .into_iter()
                .collect(),
            signed_attestations: attestation.into_iter().collect(),
        }
    }

    fn floor_entry(source: Option<Epoch>, target: Option<Epoch>) -> SignedAttestation {
        let source_epoch = source.unwrap_or_default();
        // No vote has its target before its source, and some readers take no file that names one.
        let target_epoch = target.max(source).unwrap_or_default();
        SignedAttestation { source_epoch, target_epoch, signing_root: None }
    }

    /// Adds entries and sets the floors they imply.
    fn add(
        &mut self,
        blocks: impl IntoIterator<Item = SignedBlock>,
        attestations: impl IntoIterator<Item = SignedAttestation>,
    ) {
        let blocks: BTreeSet<_> = blocks.into_iter().collect();
        let attestations: BTreeSet<_> = attestations.into_iter().collect();
        let sources = attestations.iter().map(|entry| entry.source_epoch);
        let targets = attestations.iter().map(|entry| entry.target_epoch);
        match self.retention {
            Retention::Watermark => self.raise(Floors {
                block: blocks.last().map(|block| block.slot),
                source: sources.max(),
                target: targets.max(),
            }),
            Retention::Complete => {
                // The first entries ever seen tell where knowledge begins (EIP-3076 conditions 2, 5 and 6). Later and
                // older entries do not lower it again.
                self.raise(Floors {
                    block: self.floors.block.or(blocks.first().map(|block| block.slot)),
                    source: self.floors.source.or(sources.min()),
                    target: self.floors.target.or(targets.min()),
                });
                self.blocks.extend(blocks);
                for entry in attestations {
                    self.attestations.entry(entry.target_epoch).or_default().insert(entry);
                }
            }
        }
    }

    /// Refuses more from now on: floors stay or rise.
    pub fn raise(&mut self, floors: Floors) {
        self.floors.block = self.floors.block.max(floors.block);
        self.floors.source = self.floors.source.max(floors.source);
        self.floors.target = self.floors.target.max(floors.target);
    }
}
