//! What is signed: a whole message, read from the request and hashed here. A root is never taken from the caller.

use std::collections::BTreeMap;

use chain::{
    AggregateAndProof, AttestationData, BeaconBlockHeader, ContributionAndProof, DepositMessage, DomainType,
    Epoch, ForkInfo, ForkVersion, Mainnet, Minimal, Phase0AggregateAndProof, Preset, Root, Slot,
    SyncAggregatorSelectionData, ValidatorRegistration, VoluntaryExit, decimal,
    deposit::{deposit_signing_root, registration_signing_root},
    domain,
};
use ipc::{
    SignRequest,
    signer::{ChainClock, ChainPreset},
};
use serde::{Deserialize, de::DeserializeOwned};
use tree_hash::TreeHash;

use crate::{fork, refusal::Refusal, rules::Rules};

/// A message that passed all checks that need no ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The API's word for its type.
    pub kind: Kind,
    /// What the share signs.
    pub signing_root: Root,
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// What the ledger must know.
    pub vote: Vote,
    /// What the owner's rules must allow.
    pub asks: Asks,
}

/// What a message does beyond a duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Nothing.
    Duty,
    /// The validator leaves the chain for good.
    Exit,
    /// Builders are told who is paid.
    Registration(ValidatorRegistration),
    /// Money comes in, and where it goes out is settled.
    Deposit {
        /// What is signed.
        message: DepositMessage,
        /// Names the chain.
        genesis_fork_version: ForkVersion,
    },
}

/// How a message can be punished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    /// By another attestation.
    Attestation {
        /// Justified checkpoint's epoch.
        source: Epoch,
        /// Voted checkpoint's epoch.
        target: Epoch,
    },
    /// By another block.
    Block {
        /// Its slot.
        slot: Slot,
    },
    /// Not at all.
    None,
}

/// The types that are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// `ATTESTATION`
    Attestation,
    /// `BLOCK_V2`
    Block,
    /// `RANDAO_REVEAL`
    RandaoReveal,
    /// `AGGREGATION_SLOT`
    AggregationSlot,
    /// `AGGREGATE_AND_PROOF`
    AggregateAndProof,
    /// `AGGREGATE_AND_PROOF_V2`
    AggregateAndProofV2,
    /// `SYNC_COMMITTEE_MESSAGE`
    SyncCommitteeMessage,
    /// `SYNC_COMMITTEE_SELECTION_PROOF`
    SyncCommitteeSelectionProof,
    /// `SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF`
    SyncCommitteeContributionAndProof,
    /// `VOLUNTARY_EXIT`
    VoluntaryExit,
    /// `VALIDATOR_REGISTRATION`
    ValidatorRegistration,
    /// `DEPOSIT`
    Deposit,
}

impl Kind {
    /// All types, with their names in the API.
    pub(crate) const ALL: [(Self, &'static str); 12] = [
        (Self::Attestation, "ATTESTATION"),
        (Self::Block, "BLOCK_V2"),
        (Self::RandaoReveal, "RANDAO_REVEAL"),
        (Self::AggregationSlot, "AGGREGATION_SLOT"),
        (Self::AggregateAndProof, "AGGREGATE_AND_PROOF"),
        (Self::AggregateAndProofV2, "AGGREGATE_AND_PROOF_V2"),
        (Self::SyncCommitteeMessage, "SYNC_COMMITTEE_MESSAGE"),
        (Self::SyncCommitteeSelectionProof, "SYNC_COMMITTEE_SELECTION_PROOF"),
        (Self::SyncCommitteeContributionAndProof, "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF"),
        (Self::VoluntaryExit, "VOLUNTARY_EXIT"),
        (Self::ValidatorRegistration, "VALIDATOR_REGISTRATION"),
        (Self::Deposit, "DEPOSIT"),
    ];

    /// The name in the API.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// Names of types that exist elsewhere and are refused here must not look like typing errors, so every other name
    /// is "not supported yet". What was sent instead of a name is not repeated: it may be a secret in the wrong place.
    fn parse(name: &str) -> Result<Self, Refusal> {
        const ELSEWHERE: [&str; 2] = ["BLOCK", "BLS_TO_EXECUTION_CHANGE"];
        let named = Self::ALL.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind);
        named.ok_or_else(|| {
            let elsewhere = ELSEWHERE.into_iter().find(|known| *known == name);
            Refusal::NotSupported(elsewhere.unwrap_or("unknown to this box"))
        })
    }

    /// The name that a request gives, for the log.
    pub(crate) fn name_of(request: &SignRequest) -> &'static str {
        Self::parse(&request.kind).map_or("unknown", Self::name)
    }
}

/// Reads a request for a share of the given chain.
pub(crate) fn read(
    request: &SignRequest,
    genesis_validators_root: Root,
    clock: &ChainClock,
    rules: Option<&Rules>,
) -> Result<Message, Refusal> {
    let kind = Kind::parse(&request.kind)?;
    let fork_info = match (kind, request.fork_info) {
        (_, Some(fork_info)) => fork_info,
        // These outlive forks; their domain has the genesis fork version alone.
        (Kind::ValidatorRegistration | Kind::Deposit, None) => {
            ForkInfo { genesis_validators_root, ..ForkInfo::default() }
        }
        (_, None) => return Err(Refusal::Malformed("`fork_info` is missing".to_owned())),
    };
    if fork_info.genesis_validators_root != genesis_validators_root {
        return Err(Refusal::WrongChain);
    }
    let message = Reader { kind, fork_info, clock, rules, body: &request.body }.message()?;
    if message.asks == Asks::Duty {
        fork::check(&genesis_validators_root, &fork_info.fork, message.epoch)?;
    }
    match request.signing_root {
        Some(expected) if expected != message.signing_root => Err(Refusal::RootMismatch),
        Some(_) | None => Ok(message),
    }
}

struct Reader<'a> {
    kind: Kind,
    fork_info: ForkInfo,
    clock: &'a ChainClock,
    rules: Option<&'a Rules>,
    body: &'a BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct AtSlot {
    slot: Slot,
}

#[derive(Deserialize)]
struct AtEpoch {
    epoch: Epoch,
}

#[derive(Deserialize)]
struct SyncMessage {
    beacon_block_root: Root,
    slot: Slot,
}

#[derive(Deserialize)]
struct BlockV2 {
    block_header: BeaconBlockHeader,
}

#[derive(Deserialize)]
struct AggregateV2 {
    data: serde_json::Value,
}

#[derive(Deserialize)]
struct SelectionData {
    slot: Slot,
    #[serde(with = "decimal")]
    subcommittee_index: u64,
}

#[derive(Deserialize)]
struct Deposit {
    #[serde(flatten)]
    message: DepositMessage,
    genesis_fork_version: ForkVersion,
}

impl Reader<'_> {
    fn message(&self) -> Result<Message, Refusal> {
        match self.kind {
            Kind::Attestation => self.attestation(),
            Kind::Block => self.block(),
            Kind::RandaoReveal => {
                let AtEpoch { epoch } = self.field("randao_reveal")?;
                Ok(self.harmless(domain::RANDAO, epoch, &epoch))
            }
            Kind::AggregationSlot => {
                let AtSlot { slot } = self.field("aggregation_slot")?;
                Ok(self.harmless(domain::SELECTION_PROOF, self.epoch_of(slot), &slot))
            }
            Kind::AggregateAndProof => {
                let aggregate: Phase0AggregateAndProof = self.field("aggregate_and_proof")?;
                let epoch = self.epoch_of(aggregate.aggregate.data.slot);
                Ok(self.harmless(domain::AGGREGATE_AND_PROOF, epoch, &aggregate))
            }
            Kind::AggregateAndProofV2 if self.is_minimal() => self.aggregate_v2::<Minimal>(),
            Kind::AggregateAndProofV2 => self.aggregate_v2::<Mainnet>(),
            Kind::SyncCommitteeMessage => {
                let message: SyncMessage = self.field("sync_committee_message")?;
                Ok(self.harmless(
                    domain::SYNC_COMMITTEE,
                    self.epoch_of(message.slot),
                    &message.beacon_block_root,
                ))
            }
            Kind::SyncCommitteeSelectionProof => {
                let SelectionData { slot, subcommittee_index } =
                    self.field("sync_aggregator_selection_data")?;
                let data = SyncAggregatorSelectionData { slot, subcommittee_index };
                Ok(self.harmless(domain::SYNC_COMMITTEE_SELECTION_PROOF, self.epoch_of(slot), &data))
            }
            Kind::SyncCommitteeContributionAndProof if self.is_minimal() => self.contribution::<Minimal>(),
            Kind::SyncCommitteeContributionAndProof => self.contribution::<Mainnet>(),
            Kind::VoluntaryExit => self.exit(),
            Kind::ValidatorRegistration => self.registration(),
            Kind::Deposit => self.deposit(),
        }
    }

    /// Whatever fork the request names, capella's version signs (EIP-7044). On a chain where nobody told us that version,
    /// the request's own fork stands: a wrong one makes a signature that no beacon node takes.
    fn exit(&self) -> Result<Message, Refusal> {
        let exit: VoluntaryExit = self.field("voluntary_exit")?;
        let capella = self.rules.and_then(|rules| rules.capella_fork_version);
        let version = capella.unwrap_or_else(|| self.fork_info.fork.version_at(exit.epoch));
        let domain =
            domain::compute_domain(domain::VOLUNTARY_EXIT, version, self.fork_info.genesis_validators_root);
        let signing_root = chain::signing_root(&exit, domain);
        Ok(Message { kind: self.kind, signing_root, epoch: exit.epoch, vote: Vote::None, asks: Asks::Exit })
    }

    fn registration(&self) -> Result<Message, Refusal> {
        let registration: ValidatorRegistration = self.field("validator_registration")?;
        let rules = self.rules.ok_or(Refusal::NoRules)?;
        Ok(Message {
            kind: self.kind,
            signing_root: registration_signing_root(&registration, rules.genesis_fork_version),
            epoch: Epoch(0),
            vote: Vote::None,
            asks: Asks::Registration(registration),
        })
    }

    fn deposit(&self) -> Result<Message, Refusal> {
        let Deposit { message, genesis_fork_version } = self.field("deposit")?;
        Ok(Message {
            kind: self.kind,
            signing_root: deposit_signing_root(&message, genesis_fork_version),
            epoch: Epoch(0),
            vote: Vote::None,
            asks: Asks::Deposit { message, genesis_fork_version },
        })
    }

    fn attestation(&self) -> Result<Message, Refusal> {
        let data: AttestationData = self.field("attestation")?;
        let (source, target) = (data.source.epoch, data.target.epoch);
        if source > target {
            return Err(Refusal::Malformed("the source checkpoint is later than the target".to_owned()));
        }
        // A valid vote's target is its slot's epoch; anything else helps nobody and could poison the ledger.
        if self.epoch_of(data.slot) != target {
            return Err(Refusal::Malformed("the target checkpoint is not of the slot's epoch".to_owned()));
        }
        let vote = Vote::Attestation { source, target };
        Ok(Message { vote, ..self.harmless(domain::BEACON_ATTESTER, target, &data) })
    }

    fn block(&self) -> Result<Message, Refusal> {
        let BlockV2 { block_header } = self.field("beacon_block")?;
        let epoch = self.epoch_of(block_header.slot);
        let vote = Vote::Block { slot: block_header.slot };
        Ok(Message { vote, ..self.harmless(domain::BEACON_PROPOSER, epoch, &block_header) })
    }

    fn aggregate_v2<P: Preset>(&self) -> Result<Message, Refusal> {
        let AggregateV2 { data } = self.field("aggregate_and_proof")?;
        let aggregate: AggregateAndProof<P> = parse("aggregate_and_proof", &data)?;
        let epoch = self.epoch_of(aggregate.aggregate.data.slot);
        Ok(self.harmless(domain::AGGREGATE_AND_PROOF, epoch, &aggregate))
    }

    fn contribution<P: Preset>(&self) -> Result<Message, Refusal> {
        let contribution: ContributionAndProof<P> = self.field("contribution_and_proof")?;
        let epoch = self.epoch_of(contribution.contribution.slot);
        Ok(self.harmless(domain::CONTRIBUTION_AND_PROOF, epoch, &contribution))
    }

    fn harmless(&self, domain_type: DomainType, epoch: Epoch, object: &impl TreeHash) -> Message {
        let domain = domain::domain_at(domain_type, epoch, &self.fork_info);
        let signing_root = chain::signing_root(object, domain);
        Message { kind: self.kind, signing_root, epoch, vote: Vote::None, asks: Asks::Duty }
    }

    fn field<T: DeserializeOwned>(&self, name: &str) -> Result<T, Refusal> {
        let value = self.body.get(name).ok_or_else(|| Refusal::Malformed(format!("`{name}` is missing")))?;
        parse(name, value)
    }

    fn epoch_of(&self, slot: Slot) -> Epoch {
        slot.epoch(self.clock.slots_per_epoch)
    }

    /// Containers with bit fields are hashed to another root under the minimal preset.
    fn is_minimal(&self) -> bool {
        self.clock.preset == ChainPreset::Minimal
    }
}

fn parse<T: DeserializeOwned>(name: &str, value: &serde_json::Value) -> Result<T, Refusal> {
    // The parser's own words would quote what it found.
    T::deserialize(value)
        .map_err(|_| Refusal::Malformed(format!("`{name}` is not what the API has under this name")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Path, PathBuf};

    /// The recorded requests are of a chain with the minimal preset.
    const MINIMAL: ChainClock =
        ChainClock { genesis_time: 0, slot_ms: 2000, slots_per_epoch: 8, preset: ChainPreset::Minimal };

    /// What the owner of the recorded chain would have set.
    const RECORDED: Rules = Rules {
        genesis_fork_version: ForkVersion([0, 0, 0, 1]),
        capella_fork_version: Some(ForkVersion([3, 0, 0, 1])),
        fee_recipient: chain::ExecutionAddress([0; 20]),
        gas_limit: 0,
        withdrawal_credentials: None,
    };

    fn vectors() -> Option<PathBuf> {
        let folder = std::env::var_os("HEARTH_VECTORS").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
            PathBuf::from,
        );
        let folder = folder.join("web3signer");
        if !folder.is_dir() {
            println!("SKIPPED: no vectors at {}", folder.display());
            return None;
        }
        Some(folder)
    }

    fn recorded() -> Vec<serde_json::Value> {
        let Some(folder) = vectors() else { return Vec::new() };
        let mut cases = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "json") {
                let set: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                let requests =
                    set["cases"].as_array().unwrap().iter().map(|case| case["request"]["body"].clone());
                cases.extend(requests.filter(serde_json::Value::is_object));
            }
        }
        cases
    }

    #[test]
    fn roots_of_a_real_client_s_requests_are_recomputed() {
        let mut seen = BTreeMap::new();
        for body in recorded() {
            let kind = body["type"].as_str().unwrap().to_owned();
            let request: SignRequest = serde_json::from_value(body.clone()).unwrap();
            let root = request.fork_info.map(|info| info.genesis_validators_root).unwrap_or_default();
            let outcome = read(&request, root, &MINIMAL, Some(&RECORDED));
            let message = outcome.unwrap_or_else(|refusal| panic!("{refusal}: {body}"));
            assert_eq!(Some(message.signing_root), request.signing_root, "{body}");
            assert_eq!(message.vote != Vote::None, matches!(kind.as_str(), "ATTESTATION" | "BLOCK_V2"));
            let beyond = matches!(kind.as_str(), "VOLUNTARY_EXIT" | "VALIDATOR_REGISTRATION");
            assert_eq!(message.asks != Asks::Duty, beyond, "{kind}");
            *seen.entry(kind).or_insert(0) += 1;
        }
        if vectors().is_some() {
            for (_, name) in Kind::ALL.into_iter().filter(|(kind, _)| *kind != Kind::Deposit) {
                assert!(seen.contains_key(name), "no recorded request of type {name}");
            }
        }
    }

    #[test]
    fn a_changed_message_is_not_the_one_whose_root_was_given() {
        for body in recorded().into_iter().filter(|body| body["type"] == "ATTESTATION") {
            let mut request: SignRequest = serde_json::from_value(body).unwrap();
            let root = request.fork_info.unwrap().genesis_validators_root;
            request.body.get_mut("attestation").unwrap()["index"] = "7".into();
            assert_eq!(read(&request, root, &MINIMAL, Some(&RECORDED)), Err(Refusal::RootMismatch));
            request.signing_root = None;
            assert!(read(&request, root, &MINIMAL, Some(&RECORDED)).is_ok());
            assert_eq!(read(&request, Root([9; 32]), &MINIMAL, None), Err(Refusal::WrongChain));
        }
    }

    fn attestation(slot: u64, source: u64, target: u64) -> SignRequest {
        let data = serde_json::json!({
            "slot": slot.to_string(), "index": "0", "beacon_block_root": Root::default(),
            "source": {"epoch": source.to_string(), "root": Root::default()},
            "target": {"epoch": target.to_string(), "root": Root::default()},
        });
        SignRequest::new("ATTESTATION", Some(ForkInfo::default()), "attestation", &data).unwrap()
    }

    #[test]
    fn attestations_that_no_chain_has_are_refused() {
        for (slot, source, target, good) in
            [(16, 1, 2, true), (16, 2, 2, true), (16, 3, 2, false), (15, 1, 2, false), (24, 1, 2, false)]
        {
            let outcome = read(&attestation(slot, source, target), Root::default(), &MINIMAL, None);
            assert_eq!(outcome.is_ok(), good, "slot {slot}, {source} to {target}");
        }
    }

    #[test]
    fn the_preset_is_stated_and_not_guessed_from_the_slots_of_an_epoch() {
        let with_bits = ["AGGREGATE_AND_PROOF_V2", "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF"];
        for body in recorded() {
            let mut request: SignRequest = serde_json::from_value(body.clone()).unwrap();
            if !with_bits.contains(&request.kind.as_str()) {
                continue;
            }
            let root = request.fork_info.unwrap().genesis_validators_root;
            assert_eq!(
                read(&request, root, &MINIMAL, Some(&RECORDED)).unwrap().signing_root,
                request.signing_root.unwrap()
            );
            // Bit fields of another preset have another length or another root.
            let mainnet = ChainClock { preset: ChainPreset::Mainnet, ..MINIMAL };
            assert!(read(&request, root, &mainnet, None).is_err(), "mainnet with 8 slots: {body}");
            request.signing_root = None;
            assert!(read(&request, root, &ChainClock { slots_per_epoch: 32, ..MINIMAL }, None).is_ok());
        }
    }

    proptest! {
        #[test]
        fn mutated_requests_never_panic(seed in 0..10_000_usize, at in 0..3000_usize, byte: u8) {
            let cases = recorded();
            if cases.is_empty() {
                return Ok(());
            }
            let mut text = serde_json::to_vec(&cases[seed % cases.len()]).unwrap();
            let at = at % text.len();
            text[at] = byte;
            if let Ok(request) = serde_json::from_slice::<SignRequest>(&text) {
                let root = request.fork_info.map(|info| info.genesis_validators_root).unwrap_or_default();
                let _ = read(&request, root, &MINIMAL, Some(&RECORDED));
            }
        }
    }
}
