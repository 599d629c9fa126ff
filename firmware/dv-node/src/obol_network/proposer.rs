//! Blocks: agreed on whole, full or blinded, and checked to be exactly the one this duty asks for.

use chain::{BeaconBlockHeader, ExecutionAddress, ProposerDuty, PublicKeyBytes, SignatureBytes};
use duty::{Duty, DutyKind, Known, Task, TaskId, Unreadable, Value};
use obol::DutyType;
use obol::proposal::{Block, VersionedProposal, VersionedSignedProposal};
use obol::signed::Signed;
use obol::unsigned::{Unsigned, read_set, write_set};

use super::{ObolNetwork, definition, task};

impl ObolNetwork {
    /// The block must be of this slot and fork, by the validator that proposes there as this box's own beacon node says,
    /// with the group's own randao reveal as far as it is known here. What is in it is the leader's choice, as it is a
    /// beacon node's without a cluster; no rule of slashing depends on that.
    pub(super) fn read_proposer(
        &self,
        duty: Duty,
        value: &[u8],
        known: &Known<'_>,
    ) -> Result<Vec<Task>, Unreadable> {
        let set = read_set(DutyType::Proposer, value).map_err(|error| Unreadable(error.to_string()))?;
        let mut entries = set.into_iter();
        let (Some((validator, Unsigned::Proposal(proposal))), None) = (entries.next(), entries.next()) else {
            return Err(Unreadable("not exactly one block".to_owned()));
        };
        let own: ProposerDuty = definition(known, &validator)?;
        let wrong = |what: String| Err(Unreadable(format!("the block of {validator} is {what}")));
        let facts = facts_of(&proposal);
        if facts.header.slot != duty.slot || own.slot != duty.slot {
            return wrong(format!("for slot {}, not {}", facts.header.slot, duty.slot));
        }
        if facts.header.proposer_index != own.validator_index {
            return wrong(format!(
                "of proposer {}, not {}",
                facts.header.proposer_index, own.validator_index
            ));
        }
        let fork = self.fork_number(self.timing.epoch_of(duty.slot))?;
        if proposal.version != fork {
            return wrong(format!("of fork number {}, not {fork}", proposal.version));
        }
        let reveal = known.given.get(&(DutyKind::Randao, TaskId::from(validator)));
        if reveal.is_some_and(|reveal| reveal.signature != facts.randao_reveal) {
            return wrong("made with another randao reveal than the group's".to_owned());
        }
        let unsigned = sign(proposal, SignatureBytes::ZERO);
        Ok(vec![task(TaskId::from(validator), &Signed::Proposal(unsigned))?])
    }
}

/// What we propose.
pub fn proposer_value(validator: &PublicKeyBytes, proposal: VersionedProposal) -> Value {
    let unsigned = Unsigned::Proposal(proposal);
    super::value_of(&write_set([(validator, &unsigned)]))
}

/// The block that was agreed on, of whichever validator.
pub fn agreed_block(value: &[u8]) -> Option<VersionedProposal> {
    let set = read_set(DutyType::Proposer, value).ok()?;
    set.into_values().find_map(|unsigned| match unsigned {
        Unsigned::Proposal(proposal) => Some(proposal),
        Unsigned::Attester(_) | Unsigned::Aggregate(_) | Unsigned::Contributions(_) => None,
    })
}

/// What has to be known of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockFacts {
    /// What is signed.
    pub header: BeaconBlockHeader,
    /// The randao reveal in it.
    pub randao_reveal: SignatureBytes,
    /// Who is paid; a blinded block pays whom the builder was told.
    pub fee_recipient: Option<ExecutionAddress>,
}

/// The facts of an unsigned block.
pub fn facts_of(proposal: &VersionedProposal) -> BlockFacts {
    match &proposal.block {
        Block::Full(contents) => BlockFacts {
            header: contents.block.header(),
            randao_reveal: contents.block.body.randao_reveal,
            fee_recipient: Some(contents.block.body.execution_payload.fee_recipient),
        },
        Block::Blinded(block) => BlockFacts {
            header: block.header(),
            randao_reveal: block.body.randao_reveal,
            fee_recipient: None,
        },
    }
}

/// The header of a block, which is what the signer gets.
pub(super) fn header_of(proposal: &VersionedSignedProposal) -> BeaconBlockHeader {
    match &proposal.block {
        Block::Full(contents) => contents.block.message.header(),
        Block::Blinded(block) => block.message.header(),
    }
}

/// The block with its signature.
pub(super) fn sign(proposal: VersionedProposal, signature: SignatureBytes) -> VersionedSignedProposal {
    VersionedSignedProposal { version: proposal.version, block: proposal.block.signed(signature) }
}
