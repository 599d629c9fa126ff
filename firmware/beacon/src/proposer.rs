//! Proposals: when, of what, and to whom they go.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use chain::{
    Bytes32, Epoch, ForkName, ProposerDuty, ProposerPreparation, Root, SignatureBytes, SignedBlock,
    SignedValidatorRegistration, Slot, UnsignedBlock,
};

use crate::ask::{BYTES_PER_VALIDATOR, SMALL, encode, unless};
use crate::error::{BeaconError, Cause, RequestError};
use crate::http::{Answer, Limits};
use crate::nodes::{BeaconNodes, Node};
use crate::submit::{Content, Recipients, Submission, Submitted};
use crate::wire::{DutiesWire, ProducedWire};

/// The largest block with its blobs that is accepted: what members exchange has the same bound (obol.md 4.2).
const MAX_BLOCK: usize = 32 * 1024 * 1024;
/// Making a block takes a node longer than other answers: it may ask builders, who have a second.
const PRODUCE_MS: u64 = 4_000;

/// The proposer duties of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposerDuties {
    /// They hold as long as the head's chain has this root. Before fulu the one of the next epoch moves with every block.
    pub dependent_root: Root,
    /// One entry for each slot, of whichever validator.
    pub duties: Vec<ProposerDuty>,
}

/// Which block is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRequest {
    /// For this slot.
    pub slot: Slot,
    /// The group's reveal. Prysm does not check it.
    pub randao_reveal: SignatureBytes,
    /// Some free text in the block; the node's own when absent.
    pub graffiti: Option<Bytes32>,
    /// Percentage that a builder's offer is weighed with: 0 takes the node's own block, `u64::MAX` the builder's.
    pub builder_boost_factor: Option<u64>,
}

/// A block to agree on and to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducedBlock {
    /// Whose rules it follows.
    pub fork: ForkName,
    /// The block, full or blinded.
    pub block: UnsignedBlock,
    /// What its transactions pay the fee recipient, in wei, as the node says; zero when it does not say.
    pub execution_payload_value: chain::Uint256,
    /// What the consensus layer pays the proposer, in wei, as the node says; zero when it does not say.
    pub consensus_block_value: chain::Uint256,
}

/// Whether builders were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// A node passes the registrations on.
    Accepted,
    /// No node has a builder: nothing to tell, and nothing wrong.
    NoBuilder,
}

impl BeaconNodes {
    /// Who proposes in an epoch, which may be the current or the next one.
    pub async fn proposer_duties(&self, epoch: Epoch) -> Result<ProposerDuties, BeaconError> {
        let doing = "asking for proposer duties";
        let slots_per_epoch = self.chain().map_or(0, |chain| chain.timing.slots_per_epoch);
        let entries = usize::try_from(slots_per_epoch).unwrap_or(usize::MAX).min(1_024);
        let limits = self.read_limits(SMALL + entries * BYTES_PER_VALIDATOR);
        let path = format!("/eth/v1/validator/duties/proposer/{}", epoch.0);
        let path = &path;
        self.read(doing, |node| async move {
            let (answer, _) = node.endpoint.get::<DutiesWire<ProposerDuty>>(doing, path, limits).await?;
            unless(!answer.execution_optimistic, node, doing, "duties of a head that is not verified yet")?;
            let fits = |duty: &ProposerDuty| slots_per_epoch > 0 && duty.slot.0 / slots_per_epoch == epoch.0;
            unless(answer.data.iter().all(fits), node, doing, "a duty of another epoch")?;
            let distinct: BTreeSet<_> = answer.data.iter().map(|duty| duty.slot).collect();
            unless(distinct.len() == answer.data.len(), node, doing, "two proposers for one slot")?;
            Ok(ProposerDuties { dependent_root: answer.dependent_root, duties: answer.data })
        })
        .await
    }

    /// A block for a slot, in SSZ if the node can. The slot is checked; whose block it is the caller knows.
    pub async fn produce_block(&self, request: &BlockRequest) -> Result<ProducedBlock, BeaconError> {
        let doing = "asking for a block";
        let limit_ms = self.shared.timeouts.read_ms.max(PRODUCE_MS);
        let limits = Limits { limit_ms, max_bytes: MAX_BLOCK };
        let mut path =
            format!("/eth/v3/validator/blocks/{}?randao_reveal={}", request.slot, request.randao_reveal);
        if let Some(graffiti) = request.graffiti {
            path.push_str(&format!("&graffiti={graffiti}"));
        }
        if let Some(factor) = request.builder_boost_factor {
            path.push_str(&format!("&builder_boost_factor={factor}"));
        }
        let path = &path;
        self.read(doing, |node| async move {
            let answer = node.endpoint.get_ssz(doing, path, limits).await?;
            let produced = read_block(node, doing, &answer)?;
            unless(produced.block.slot() == request.slot, node, doing, "a block of another slot")?;
            Ok(produced)
        })
        .await
    }

    /// Publishes a block, full or blinded, through every endpoint on our chain. How thoroughly a node checks it before it
    /// passes it on is left to the node.
    pub async fn publish_block(&self, fork: ForkName, block: Arc<SignedBlock>) -> Result<(), BeaconError> {
        let (doing, path) = if block.is_blinded() {
            ("publishing a blinded block", "/eth/v2/beacon/blinded_blocks")
        } else {
            ("publishing a block", "/eth/v2/beacon/blocks")
        };
        let ssz = block.to_ssz().into();
        let content = Content::Ssz(ssz, Arc::new(move || encode(&*block)));
        let to = Recipients::InTurn;
        self.submit(Submission { doing, path, fork: Some(fork), content, items: 1, to }).await?;
        Ok(())
    }

    /// Tells every endpoint whom to pay when one of our validators proposes; valid for two epochs after this one. Fallbacks are
    /// told too: a block of theirs must pay the same address.
    pub async fn prepare_proposers(
        &self,
        preparations: &[ProposerPreparation],
    ) -> Result<Submitted, BeaconError> {
        let path = "/eth/v1/validator/prepare_beacon_proposer";
        let (content, to) = (Content::Json(encode(&preparations).into()), Recipients::Everybody);
        let items = preparations.len();
        self.submit(Submission { doing: "preparing proposers", path, fork: None, content, items, to }).await
    }

    /// Tells builders, through the endpoints that have one, whom to pay.
    pub async fn register_validators(
        &self,
        registrations: &[SignedValidatorRegistration],
    ) -> Result<Registered, BeaconError> {
        let path = "/eth/v1/validator/register_validator";
        match self.submit_list("registering with builders", path, None, registrations).await {
            Ok(_) => Ok(Registered::Accepted),
            Err(BeaconError::AllFailed { last, .. }) if has_no_builder(&last.cause) => {
                Ok(Registered::NoBuilder)
            }
            Err(error) => Err(error),
        }
    }
}

/// The words of Prysm (400) and Lodestar (500) for it.
fn has_no_builder(cause: &Cause) -> bool {
    let Cause::Refused { message, .. } = cause else { return false };
    let message = message.to_ascii_lowercase();
    message.contains("builder") && (message.contains("not configured") || message.contains("not enabled"))
}

/// The facts about a block are in headers, and in a JSON answer beside it too.
fn read_block(node: &Node, doing: &'static str, answer: &Answer) -> Result<ProducedBlock, RequestError> {
    let unreadable = |what: &str| node.endpoint.fail(doing, Cause::Unreadable(what.to_owned()));
    if !answer.is_ssz() {
        let wire: ProducedWire = node.endpoint.parse(doing, &answer.body)?;
        let block = UnsignedBlock::deserialize_as(wire.execution_payload_blinded, &*wire.data);
        return Ok(ProducedBlock {
            fork: supported(node, doing, &wire.version)?,
            block: block.map_err(|error| unreadable(&error.to_string()))?,
            execution_payload_value: wire.execution_payload_value,
            consensus_block_value: wire.consensus_block_value,
        });
    }
    let version = answer.header("eth-consensus-version").ok_or_else(|| unreadable("no fork is named"))?;
    let blinded = match answer.header("eth-execution-payload-blinded") {
        Some(text) if text.eq_ignore_ascii_case("true") => true,
        Some(text) if text.eq_ignore_ascii_case("false") => false,
        _ => return Err(unreadable("it is not said whether the block is blinded")),
    };
    let value = |name: &str| answer.header(name).and_then(|text| text.parse().ok()).unwrap_or_default();
    Ok(ProducedBlock {
        fork: supported(node, doing, version)?,
        block: UnsignedBlock::from_ssz(blinded, &answer.body)
            .map_err(|_| unreadable("not a block in SSZ"))?,
        execution_payload_value: value("eth-execution-payload-value"),
        consensus_block_value: value("eth-consensus-block-value"),
    })
}

/// Blocks of electra and fulu have one form; earlier ones are history and later ones are drafts.
fn supported(node: &Node, doing: &'static str, version: &str) -> Result<ForkName, RequestError> {
    match ForkName::from_str(version) {
        Ok(fork @ (ForkName::Electra | ForkName::Fulu)) => Ok(fork),
        _ => Err(node.endpoint.fail(doing, Cause::Unfitting(format!("a block of the fork {version:.20}")))),
    }
}
