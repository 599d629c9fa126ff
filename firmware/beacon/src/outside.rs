//! The parsers of what a beacon node answers, as plain functions on bytes: the way in for fuzzing.
//!
//! Not an interface: nothing that runs on the box calls it.

use chain::{AttesterDuty, ProposerDuty, UnsignedBlock};
use serde::de::DeserializeOwned;

use crate::chain_info::ChainInfo;
use crate::error::Cause;
use crate::events::{self, ChainEvent};
use crate::health::Health;
use crate::sse::Parser;
use crate::wire::{
    Data, DutiesWire, ForkWire, GenesisWire, HeadRootWire, HeaderWire, ProducedWire, SpecWire,
    SyncDutiesWire, SyncingWire, ValidatorWire, VersionWire,
};

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// How many kinds of answers [`answer`] reads.
pub const ANSWERS: u8 = 14;

/// Whether an answer of one kind can be read.
pub fn answer(kind: u8, bytes: &[u8]) -> bool {
    match kind {
        0 => read::<Data<GenesisWire>>(bytes).is_some(),
        1 => read::<Data<SpecWire>>(bytes).is_some(),
        2 => read::<Data<Vec<ForkWire>>>(bytes).is_some(),
        3 => read::<Data<VersionWire>>(bytes).is_some(),
        4 => read::<Data<Vec<ValidatorWire>>>(bytes).is_some(),
        5 => read::<DutiesWire<AttesterDuty>>(bytes).is_some(),
        6 => read::<DutiesWire<ProposerDuty>>(bytes).is_some(),
        7 => read::<SyncDutiesWire>(bytes).is_some(),
        8 => read::<HeadRootWire>(bytes).is_some(),
        9 => read::<Data<HeaderWire>>(bytes).is_some(),
        10 => read::<Data<crate::FinalityCheckpoints>>(bytes).is_some(),
        11 => read::<Data<chain::AttestationData>>(bytes).is_some(),
        12 => read::<Data<chain::Attestation>>(bytes).is_some(),
        _ => read::<Data<chain::SyncCommitteeContribution>>(bytes).is_some(),
    }
}

/// The chain that three answers describe: its genesis, its parameters and its forks.
pub fn chain_info(genesis: &[u8], spec: &[u8], forks: &[u8]) -> Option<ChainInfo> {
    let genesis: Data<GenesisWire> = read(genesis)?;
    let (spec, forks): (Data<SpecWire>, Data<Vec<ForkWire>>) = (read(spec)?, read(forks)?);
    let info = crate::identity::chain_info(&genesis.data, &spec.data, &forks.data).ok()?;
    info.check_genesis(&genesis.data).ok().map(|()| info)
}

/// Whether a node says that it can be used.
pub fn sync_state(bytes: &[u8], slots_per_epoch: u64) -> Option<Health> {
    read::<Data<SyncingWire>>(bytes).map(|answer| crate::identity::judge_sync(&answer.data, slots_per_epoch))
}

/// A block that was made for us, in JSON.
pub fn produced_block(bytes: &[u8]) -> Option<UnsignedBlock> {
    let wire: ProducedWire = read(bytes)?;
    UnsignedBlock::deserialize_as(wire.execution_payload_blinded, &*wire.data).ok()
}

/// Why a node refused, in words, and which items of a list it was about.
pub fn refusal(status: u16, body: &[u8]) -> Cause {
    crate::http::refusal(status, body)
}

/// The events of a stream that comes `step` bytes at a time, until one is too long.
pub fn events(stream: &[u8], step: usize) -> (Vec<ChainEvent>, bool) {
    let (mut parser, mut raw) = (Parser::default(), Vec::new());
    let ended = stream.chunks(step.max(1)).any(|chunk| parser.feed(chunk, &mut raw).is_err());
    (raw.iter().filter_map(events::parse).collect(), ended)
}
