//! What goes to the beacon node: the group's signature in the form that the beacon API takes.

use chain::{
    AttesterDuty, SignatureBytes, SignedAggregateAndProof, SignedContributionAndProof, SignedVoluntaryExit,
    SingleAttestation, SyncCommitteeMessage, ValidatorIndex,
};
use duty::{Aggregate, Duty, Unreadable};
use obol::attestation::{AnyAggregate, AnyAttestation, VersionedAttestation};
use obol::proposal::VersionedSignedProposal;
use obol::signed::Signed;

use super::{proposer, read_signed};

/// A result of a duty, ready to be published.
#[derive(Debug, Clone)]
pub enum Published {
    /// A block.
    Block(Box<VersionedSignedProposal>),
    /// An attestation.
    Attestation(SingleAttestation),
    /// An exit.
    Exit(SignedVoluntaryExit),
    /// An aggregate.
    Aggregate(Box<SignedAggregateAndProof>),
    /// A vote of a sync-committee member.
    SyncMessage(SyncCommitteeMessage),
    /// A sync contribution.
    Contribution(Box<SignedContributionAndProof>),
}

/// What this box itself knows of the validator's place. Members' forms of a message may differ in what nobody signs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// Its attester duty.
    pub attester: Option<&'a AttesterDuty>,
    /// Its index.
    pub index: Option<ValidatorIndex>,
    /// The agreed value, which has a block's blobs and proofs.
    pub agreed: Option<&'a [u8]>,
}

/// Makes the form that is published.
pub fn published(duty: Duty, result: &Aggregate, place: Place<'_>) -> Result<Published, Unreadable> {
    let signature = result.signature;
    let nothing = || Unreadable(format!("nothing is published for {duty}"));
    Ok(match read_signed(duty, &result.data)?.with_signature(signature) {
        Signed::Proposal(signed) => {
            // The signature covers the block and neither its proofs nor its blobs: those of the agreed value are used.
            let agreed = place.agreed.and_then(proposer::agreed_block);
            let agreed = agreed.filter(|agreed| agreed.message_root() == result.message_root);
            let block = agreed.map_or(signed, |agreed| proposer::sign(agreed, signature));
            Published::Block(Box::new(block))
        }
        Signed::Attestation(versioned) => {
            Published::Attestation(single_attestation(&versioned, signature, place.attester)?)
        }
        Signed::Exit(exit) => Published::Exit(exit),
        Signed::Aggregate(versioned) => match versioned.aggregate_and_proof {
            AnyAggregate::Electra(signed) => Published::Aggregate(Box::new(signed)),
            AnyAggregate::Phase0(_) => {
                return Err(Unreadable("an aggregate from before electra".to_owned()));
            }
        },
        Signed::SyncMessage(mut message) => {
            // Nobody signs the slot either: it is the duty's.
            message.slot = duty.slot;
            message.validator_index = place.index.unwrap_or(message.validator_index);
            Published::SyncMessage(message)
        }
        Signed::Contribution(signed) => Published::Contribution(Box::new(signed)),
        Signed::Raw(_)
        | Signed::Registration(_)
        | Signed::Randao(_)
        | Signed::CommitteeSelection(_)
        | Signed::SyncSelection(_) => return Err(nothing()),
    })
}

/// Our own duty is preferred over what others say about the validator's place, which nobody signs.
fn single_attestation(
    versioned: &VersionedAttestation,
    signature: SignatureBytes,
    own: Option<&AttesterDuty>,
) -> Result<SingleAttestation, Unreadable> {
    let unreadable = |what: &str| Unreadable(what.to_owned());
    let AnyAttestation::Electra(attestation) = &versioned.attestation else {
        return Err(unreadable("an attestation from before electra"));
    };
    let (committee_index, attester_index) = match own {
        Some(duty) => (duty.committee_index, duty.validator_index),
        None => {
            let bit = attestation.committee_bits.iter().position(|bit| bit);
            let committee =
                bit.and_then(|bit| u64::try_from(bit).ok()).ok_or_else(|| unreadable("no committee"))?;
            let index: ValidatorIndex =
                versioned.validator_index.ok_or_else(|| unreadable("no validator index"))?;
            (chain::CommitteeIndex(committee), index)
        }
    };
    Ok(SingleAttestation { committee_index, attester_index, data: attestation.data, signature })
}
