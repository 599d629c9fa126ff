//! Every reason this process ever wakes up.

use std::collections::BTreeSet;

use beacon::{AttesterDuties, BeaconError, ChainEvent, ProposerDuties, ValidatorInfo};
use chain::{AttestationData, Epoch, PublicKeyBytes, SignatureBytes, SyncDuty, VoluntaryExit};
use duty::{Duty, FetchError, PublishError, SignError, TaskId, Value};
use ipc::ClientError;
use ipc::web3signer::ChainMark;
use obol::HostEvent;
use qbft::Member;
use tokio::sync::oneshot;

use super::combine::Combined;
use super::remembered::Witness;
use crate::obol_api::{ApiError, Call};
use crate::validator_client::question::Question;

/// One thing that happened. The loop takes one at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// Time passed.
    Tick,
    /// Something from the other members, or about them.
    Host(HostEvent),
    /// Something a beacon node reported by itself.
    Chain(ChainEvent),
    /// All beacon nodes were examined.
    BeaconExamined,
    /// What the chain knows about our validators.
    Validators(Result<Vec<ValidatorInfo>, BeaconError>),
    /// The attester duties of an epoch.
    Duties(Epoch, Result<AttesterDuties, BeaconError>),
    /// The proposer duties of an epoch.
    Proposers(Epoch, Result<ProposerDuties, BeaconError>),
    /// Who sits in the sync committee of an epoch.
    SyncDuties(Epoch, Result<Vec<SyncDuty>, BeaconError>),
    /// What the signer holds.
    Shares(Result<BTreeSet<PublicKeyBytes>, ClientError>),
    /// What a beacon node would vote for a head that it has just told of, or nothing.
    HeadVote(Option<AttestationData>),
    /// The signer knows what this witness remembers of us.
    RememberedTold(Witness),
    /// It cannot be told of what this witness remembers yet, and says why.
    RememberedUntold(Witness, String),
    /// Which validators have voted lately, as far as the chain shows; none when no beacon node says.
    ChainMarks(Option<Vec<ChainMark>>),
    /// A value to propose, or none.
    Fetched(Duty, Result<Value, FetchError>),
    /// The signer's answers.
    Signed(Duty, Vec<(TaskId, Result<SignatureBytes, SignError>)>),
    /// Combined and verified signatures, or who spoiled them.
    Combined(Duty, Combined),
    /// The beacon nodes' answer to a publication.
    Published(Duty, Result<(), PublishError>),
    /// A member's answer in an info-sync, or none.
    Priority(Duty, Member, Option<Vec<u8>>),
    /// The signer's answer about an exit.
    ExitSigned(PublicKeyBytes, VoluntaryExit, Result<SignatureBytes, SignError>),
    /// The beacon nodes' answer to an exit.
    ExitPublished(PublicKeyBytes, VoluntaryExit, Result<(), BeaconError>),
    /// The Obol API's answer, or why there is none.
    ObolApi(Call, Result<Option<Vec<u8>>, ApiError>),
    /// A validator client asks something, or signed something.
    Client(Question),
    /// What a validator client signed for a duty goes to the engine.
    ClientSigned(Duty),
    /// The watchdog asks whether the loop still turns.
    Alive(oneshot::Sender<()>),
}
