//! The chain's own objects in both of their forms, from whoever sends them, and samples of them.

use std::fmt::Debug;

use chain::*;
use obol::attestation::{AnyAggregate, AnyAttestation, VersionedAggregate, VersionedAttestation};
use obol::duty::DutyType;
use obol::proposal::{VersionedProposal, VersionedSignedProposal};
use obol::signed::{Signed, SignedRandao, VersionedRegistration};
use obol::unsigned::{AttesterData, Unsigned};
use obol::versioned::FULU;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ssz::{Decode, Encode};
use ssz_types::{BitList, BitVector};
use tree_hash::TreeHash;

use crate::{Target, Verdict, choose, chosen};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "containers_ssz",
        about: "25 consensus containers in SSZ: one encoding only, and the same object in JSON",
        max_bytes: 4096,
        run: |input| containers(input, Form::Ssz),
        seeds: || container_seeds(Form::Ssz),
    },
    Target {
        name: "containers_json",
        about: "25 consensus containers in JSON: the same object in SSZ, written and read the same",
        max_bytes: 8192,
        run: |input| containers(input, Form::Json),
        seeds: || container_seeds(Form::Json),
    },
    Target {
        name: "blocks",
        about: "blocks with blobs or blinded, signed or not, in SSZ and JSON: written and read the same",
        max_bytes: 16_384,
        run: blocks,
        seeds: block_seeds,
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Ssz,
    Json,
}

trait Container: Decode + Encode + TreeHash + Serialize + DeserializeOwned + PartialEq + Debug {}
impl<T: Decode + Encode + TreeHash + Serialize + DeserializeOwned + PartialEq + Debug> Container for T {}

fn read<T: Container>(form: Form, bytes: &[u8]) -> Verdict {
    let object: T = match form {
        Form::Ssz => match T::from_ssz_bytes(bytes) {
            Ok(object) => object,
            Err(_) => return Verdict::Refused,
        },
        Form::Json => match serde_json::from_slice(bytes) {
            Ok(object) => object,
            Err(_) => return Verdict::Refused,
        },
    };
    let ssz = object.as_ssz_bytes();
    if form == Form::Ssz {
        assert_eq!(ssz, bytes, "one object has two encodings");
    }
    assert_eq!(ssz.len(), object.ssz_bytes_len());
    let _root = object.tree_hash_root();
    assert_eq!(T::from_ssz_bytes(&ssz).as_ref(), Ok(&object));
    let json = serde_json::to_vec(&object).expect("every container has a JSON form");
    assert_eq!(serde_json::from_slice::<T>(&json).expect("our own JSON is readable"), object);
    Verdict::Taken
}

/// How a container is read.
type Reader = fn(Form, &[u8]) -> Verdict;
/// How a container is read, and a sample of it.
type Row = (Reader, Box<dyn Sample>);

/// The containers.
fn table() -> Vec<Row> {
    fn row<T: Container + 'static>(sample: T) -> Row {
        (read::<T>, Box::new(sample))
    }
    let aggregate = AggregateAndProof {
        aggregator_index: ValidatorIndex(7),
        aggregate: attestation(),
        selection_proof: SIGNATURE,
    };
    let exit = SignedVoluntaryExit { message: exit(), signature: SIGNATURE };
    let UnsignedBlock::Full(full) = block(false) else { unreachable!("it is full") };
    let UnsignedBlock::Blinded(blinded) = block(true) else { unreachable!("it is blinded") };
    vec![
        row(vote()),
        row(attestation()),
        row(phase0_attestation()),
        row(SingleAttestation { data: vote(), signature: SIGNATURE, ..SingleAttestation::default() }),
        row(aggregate.clone()),
        row(SignedAggregateAndProof { message: aggregate, signature: SIGNATURE }),
        row(IndexedAttestation::<Mainnet> {
            attesting_indices: vec![ValidatorIndex(1), ValidatorIndex(2)].try_into().expect("two fit"),
            data: vote(),
            signature: SIGNATURE,
        }),
        row(sync_message()),
        row(contribution()),
        row(signed_contribution()),
        row(SyncAggregate::<Mainnet> {
            sync_committee_bits: BitVector::new(),
            sync_committee_signature: SIGNATURE,
        }),
        row(exit),
        row(registration()),
        row(DepositData {
            pubkey: KEY,
            withdrawal_credentials: Bytes32([1; 32]),
            amount: Gwei(32_000_000_000),
            signature: SIGNATURE,
        }),
        row(full.block.body.execution_payload.clone()),
        row(blinded.body.execution_payload_header.clone()),
        row(ExecutionRequests::default()),
        row(full.block),
        row(*blinded),
        row(BeaconBlockHeader::default()),
        row(gloas_attestation()),
        row(gloas::IndexedAttestation {
            attesting_indices: progressive::ProgressiveList(vec![ValidatorIndex(1), ValidatorIndex(9)]),
            data: vote(),
            signature: SIGNATURE,
        }),
        row(gloas::AggregateAndProof::<Mainnet> {
            aggregator_index: ValidatorIndex(3),
            aggregate: gloas_attestation(),
            selection_proof: SIGNATURE,
        }),
        row(gloas::PayloadAttestationMessage {
            validator_index: ValidatorIndex(3),
            data: Default::default(),
            signature: SIGNATURE,
        }),
        row(gloas::ExecutionRequests::default()),
    ]
}

trait Sample {
    fn form(&self, form: Form) -> Vec<u8>;
}

impl<T: Container> Sample for T {
    fn form(&self, form: Form) -> Vec<u8> {
        match form {
            Form::Ssz => self.as_ssz_bytes(),
            Form::Json => serde_json::to_vec(self).expect("every container has a JSON form"),
        }
    }
}

fn containers(input: &[u8], form: Form) -> Verdict {
    use std::sync::LazyLock;
    static READERS: LazyLock<Vec<Reader>> =
        LazyLock::new(|| table().into_iter().map(|(read, _)| read).collect());
    let Some((choice, bytes)) = input.split_first() else { return Verdict::Refused };
    READERS[usize::from(*choice) % READERS.len()](form, bytes)
}

fn container_seeds(form: Form) -> Vec<Vec<u8>> {
    (0..).zip(table()).map(|(choice, (_, sample))| chosen(choice, sample.form(form))).collect()
}

fn blocks(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 8) else { return Verdict::Refused };
    let (blinded, json) = (choice & 1 == 1, choice & 2 == 2);
    if choice & 4 == 4 {
        let Some(block) = read_block::<SignedBeaconBlock, SignedBlindedBeaconBlock>(blinded, json, bytes)
        else {
            return Verdict::Refused;
        };
        let _seen = (block.message_root(), block.slot(), block.proposer_index(), block.signature());
    } else {
        let Some(block) = read_block::<BeaconBlock, BlindedBeaconBlock>(blinded, json, bytes) else {
            return Verdict::Refused;
        };
        let root = block.message_root();
        let (slot, proposer) = (block.slot(), block.proposer_index());
        let signed = block.signed(SIGNATURE);
        assert_eq!((signed.message_root(), signed.slot(), signed.proposer_index()), (root, slot, proposer));
    }
    Verdict::Taken
}

fn read_block<F, B>(blinded: bool, json: bool, bytes: &[u8]) -> Option<AnyBlock<F, B>>
where
    F: Decode + Encode + DeserializeOwned + Serialize + InContents + PartialEq + Debug,
    B: Decode + Encode + DeserializeOwned + Serialize + PartialEq + Debug,
{
    let from_json = |bytes: &[u8]| {
        AnyBlock::<F, B>::deserialize_as(blinded, &mut serde_json::Deserializer::from_slice(bytes)).ok()
    };
    let block = if json { from_json(bytes)? } else { AnyBlock::<F, B>::from_ssz(blinded, bytes).ok()? };
    let ssz = block.to_ssz();
    if !json {
        assert_eq!(ssz, bytes, "one block has two encodings");
    }
    assert_eq!(AnyBlock::<F, B>::from_ssz(blinded, &ssz).as_ref(), Ok(&block));
    let text = serde_json::to_vec(&block).expect("every block has a JSON form");
    assert_eq!(from_json(&text).as_ref(), Some(&block));
    Some(block)
}

fn block_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for blinded in [false, true] {
        let (unsigned, signed) = (block(blinded), block(blinded).signed(SIGNATURE));
        let json = |block: Result<Vec<u8>, serde_json::Error>| block.expect("every block has a JSON form");
        let choice = u8::from(blinded);
        seeds.push(chosen(choice, unsigned.to_ssz()));
        seeds.push(chosen(choice | 2, json(serde_json::to_vec(&unsigned))));
        seeds.push(chosen(choice | 4, signed.to_ssz()));
        seeds.push(chosen(choice | 6, json(serde_json::to_vec(&signed))));
    }
    seeds
}

pub(crate) const SIGNATURE: SignatureBytes = SignatureBytes([0xb5; 96]);
pub(crate) const KEY: PublicKeyBytes = PublicKeyBytes([7; 48]);
pub(crate) const SLOT: Slot = Slot(100);

pub(crate) fn vote() -> AttestationData {
    let checkpoint = |epoch: u64| Checkpoint { epoch: Epoch(epoch), root: Root([9; 32]) };
    AttestationData {
        slot: SLOT,
        index: CommitteeIndex(0),
        beacon_block_root: Root([1; 32]),
        source: checkpoint(11),
        target: checkpoint(12),
    }
}

pub(crate) fn attester_duty() -> AttesterDuty {
    AttesterDuty {
        pubkey: KEY,
        validator_index: ValidatorIndex(11),
        committee_index: CommitteeIndex(3),
        committee_length: 64,
        committees_at_slot: 4,
        validator_committee_index: 5,
        slot: SLOT,
    }
}

pub(crate) fn attestation() -> Attestation {
    let mut aggregation_bits = BitList::with_capacity(40).expect("40 validators fit in a slot");
    aggregation_bits.set(7, true).expect("bit 7 of 40 exists");
    let mut committee_bits = BitVector::new();
    committee_bits.set(3, true).expect("bit 3 of 64 exists");
    Attestation { aggregation_bits, data: vote(), signature: SIGNATURE, committee_bits }
}

pub(crate) fn gloas_attestation() -> gloas::Attestation {
    gloas::Attestation {
        aggregation_bits: progressive::ProgressiveBits::new([true, false, true]),
        data: vote(),
        signature: SIGNATURE,
        committee_bits: BitVector::new(),
    }
}

pub(crate) fn phase0_attestation() -> Phase0Attestation {
    let aggregation_bits = BitList::with_capacity(9).expect("nine bits fit");
    Phase0Attestation { aggregation_bits, data: vote(), signature: SIGNATURE }
}

pub(crate) fn exit() -> VoluntaryExit {
    VoluntaryExit { epoch: Epoch(12), validator_index: ValidatorIndex(7) }
}

pub(crate) fn sync_message() -> SyncCommitteeMessage {
    SyncCommitteeMessage {
        slot: SLOT,
        beacon_block_root: Root([4; 32]),
        validator_index: ValidatorIndex(7),
        signature: SIGNATURE,
    }
}

pub(crate) fn contribution() -> SyncCommitteeContribution {
    let mut aggregation_bits = BitVector::new();
    aggregation_bits.set(5, true).expect("bit 5 of 128 exists");
    SyncCommitteeContribution {
        slot: SLOT,
        beacon_block_root: Root([4; 32]),
        subcommittee_index: 2,
        aggregation_bits,
        signature: SIGNATURE,
    }
}

pub(crate) fn signed_contribution() -> SignedContributionAndProof {
    let message = ContributionAndProof {
        aggregator_index: ValidatorIndex(7),
        contribution: contribution(),
        selection_proof: SIGNATURE,
    };
    SignedContributionAndProof { message, signature: SIGNATURE }
}

pub(crate) fn registration() -> ValidatorRegistration {
    ValidatorRegistration {
        fee_recipient: ExecutionAddress([0xfe; 20]),
        gas_limit: 36_000_000,
        timestamp: 1_700_000_000,
        pubkey: KEY,
    }
}

/// A block of nothing, without blobs.
pub(crate) fn block(blinded: bool) -> UnsignedBlock {
    let eth1_data = Eth1Data { deposit_root: Root([1; 32]), deposit_count: 0, block_hash: Bytes32([2; 32]) };
    let sync_aggregate =
        SyncAggregate { sync_committee_bits: BitVector::new(), sync_committee_signature: SIGNATURE };
    let (hash, fee_recipient) = (Bytes32([3; 32]), ExecutionAddress([0xfe; 20]));
    let (slot, proposer_index) = (SLOT, ValidatorIndex(11));
    let (parent_root, state_root) = (Root([5; 32]), Root([6; 32]));
    macro_rules! body {
        ($body:ident, $payload_field:ident, $payload:expr) => {
            $body {
                randao_reveal: SIGNATURE,
                eth1_data,
                graffiti: Bytes32([7; 32]),
                proposer_slashings: Default::default(),
                attester_slashings: Default::default(),
                attestations: vec![attestation()].try_into().expect("one fits"),
                deposits: Default::default(),
                voluntary_exits: Default::default(),
                sync_aggregate,
                $payload_field: $payload,
                bls_to_execution_changes: Default::default(),
                blob_kzg_commitments: Default::default(),
                execution_requests: ExecutionRequests::default(),
            }
        };
    }
    macro_rules! payload {
        ($payload:ident { $($own:ident: $value:expr),+ }) => {
            $payload {
                parent_hash: hash,
                fee_recipient,
                state_root: hash,
                receipts_root: hash,
                logs_bloom: LogsBloom([0; 256]),
                prev_randao: hash,
                block_number: 1,
                gas_limit: 36_000_000,
                gas_used: 0,
                timestamp: 1,
                extra_data: Default::default(),
                base_fee_per_gas: Uint256::from(7),
                block_hash: hash,
                blob_gas_used: 0,
                excess_blob_gas: 0,
                $($own: $value),+
            }
        };
    }
    if blinded {
        let header = payload!(ExecutionPayloadHeader {
            transactions_root: Root([8; 32]),
            withdrawals_root: Root([9; 32])
        });
        let body = body!(BlindedBeaconBlockBody, execution_payload_header, header);
        let block = BlindedBeaconBlock { slot, proposer_index, parent_root, state_root, body };
        return AnyBlock::Blinded(Box::new(block));
    }
    let payload =
        payload!(ExecutionPayload { transactions: Default::default(), withdrawals: Default::default() });
    let body = body!(BeaconBlockBody, execution_payload, payload);
    let block = BeaconBlock { slot, proposer_index, parent_root, state_root, body };
    AnyBlock::Full(Box::new(BlockContents { block, kzg_proofs: Vec::new(), blobs: Vec::new() }))
}

/// One of everything that members sign partially.
pub(crate) fn signed_objects() -> Vec<(DutyType, Signed)> {
    let (validator_index, slot) = (ValidatorIndex(7), SLOT);
    let aggregate = AggregateAndProof {
        aggregator_index: validator_index,
        aggregate: attestation(),
        selection_proof: SIGNATURE,
    };
    let signed_block =
        |blinded| VersionedSignedProposal { version: FULU, block: block(blinded).signed(SIGNATURE) };
    let versioned = |version, validator_index, attestation| {
        Signed::Attestation(VersionedAttestation { version, validator_index, attestation })
    };
    vec![
        (DutyType::Proposer, Signed::Proposal(signed_block(false))),
        (DutyType::Proposer, Signed::Proposal(signed_block(true))),
        (DutyType::Attester, versioned(FULU, Some(validator_index), AnyAttestation::Electra(attestation()))),
        (DutyType::Attester, versioned(4, None, AnyAttestation::Phase0(phase0_attestation()))),
        (DutyType::Signature, Signed::Raw(vec![5; 96])),
        (DutyType::Exit, Signed::Exit(SignedVoluntaryExit { message: exit(), signature: SIGNATURE })),
        (
            DutyType::BuilderRegistration,
            Signed::Registration(VersionedRegistration {
                version: 0,
                registration: SignedValidatorRegistration { message: registration(), signature: SIGNATURE },
            }),
        ),
        (DutyType::Randao, Signed::Randao(SignedRandao { epoch: Epoch(12), signature: SIGNATURE })),
        (
            DutyType::PrepareAggregator,
            Signed::CommitteeSelection(BeaconCommitteeSelection {
                validator_index,
                slot,
                selection_proof: SIGNATURE,
            }),
        ),
        (
            DutyType::Aggregator,
            Signed::Aggregate(VersionedAggregate {
                version: FULU,
                aggregate_and_proof: AnyAggregate::Electra(SignedAggregateAndProof {
                    message: aggregate,
                    signature: SIGNATURE,
                }),
            }),
        ),
        (DutyType::SyncMessage, Signed::SyncMessage(sync_message())),
        (
            DutyType::PrepareSyncContribution,
            Signed::SyncSelection(SyncCommitteeSelection {
                validator_index,
                slot,
                subcommittee_index: 3,
                selection_proof: SIGNATURE,
            }),
        ),
        (DutyType::SyncContribution, Signed::Contribution(signed_contribution())),
    ]
}

/// One of everything that members agree on.
pub(crate) fn unsigned_objects() -> Vec<(DutyType, Unsigned)> {
    let proposal = |blinded| VersionedProposal { version: FULU, block: block(blinded) };
    vec![
        (
            DutyType::Attester,
            Unsigned::Attester(AttesterData { attestation_data: vote(), attestation_duty: attester_duty() }),
        ),
        (DutyType::Proposer, Unsigned::Proposal(proposal(false))),
        (DutyType::Proposer, Unsigned::Proposal(proposal(true))),
        (
            DutyType::Aggregator,
            Unsigned::Aggregate(VersionedAttestation {
                version: FULU,
                validator_index: None,
                attestation: AnyAttestation::Electra(attestation()),
            }),
        ),
        (DutyType::SyncContribution, Unsigned::Contributions(vec![contribution()])),
        (DutyType::SyncContribution, Unsigned::Contributions(vec![contribution(); 2])),
    ]
}
