//! Forks: their names, versions and when they start.

use crate::{Epoch, ForkVersion, Root};
use serde::{Deserialize, Serialize};
use ssz_derive::{Decode, Encode};
use std::fmt;
use std::str::FromStr;
use tree_hash_derive::TreeHash;

/// The forks of the beacon chain, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForkName {
    /// The first rules.
    Phase0,
    /// Sync committees.
    Altair,
    /// Execution payloads.
    Bellatrix,
    /// Withdrawals.
    Capella,
    /// Blobs.
    Deneb,
    /// Attestations across committees.
    Electra,
    /// Data columns.
    Fulu,
    /// Payload separation (draft).
    Gloas,
}

impl ForkName {
    /// All forks, oldest first.
    pub const ALL: [Self; 8] = [
        Self::Phase0,
        Self::Altair,
        Self::Bellatrix,
        Self::Capella,
        Self::Deneb,
        Self::Electra,
        Self::Fulu,
        Self::Gloas,
    ];

    /// The name in lower case, as in the beacon API's `version`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Phase0 => "phase0",
            Self::Altair => "altair",
            Self::Bellatrix => "bellatrix",
            Self::Capella => "capella",
            Self::Deneb => "deneb",
            Self::Electra => "electra",
            Self::Fulu => "fulu",
            Self::Gloas => "gloas",
        }
    }
}

impl fmt::Display for ForkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fork name nobody told us about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown fork name; this version knows phase0 to gloas")]
pub struct UnknownFork;

impl FromStr for ForkName {
    type Err = UnknownFork;

    /// Either case: the beacon API writes `electra`, the Web3Signer API `ELECTRA`.
    fn from_str(text: &str) -> Result<Self, UnknownFork> {
        Self::ALL.into_iter().find(|fork| fork.as_str().eq_ignore_ascii_case(text)).ok_or(UnknownFork)
    }
}

/// The `Fork` of a beacon state: which version signs before and from `epoch`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Encode, Decode, TreeHash,
)]
pub struct Fork {
    /// The version before `epoch`.
    pub previous_version: ForkVersion,
    /// The version from `epoch` on.
    pub current_version: ForkVersion,
    /// First epoch of `current_version`.
    pub epoch: Epoch,
}

impl Fork {
    /// The version that signs messages of `epoch` (consensus-specs `get_domain`).
    pub fn version_at(&self, epoch: Epoch) -> ForkVersion {
        if epoch < self.epoch { self.previous_version } else { self.current_version }
    }
}

/// What a domain is computed from, as the remote-signing APIs send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ForkInfo {
    /// The fork at the time of the message.
    pub fork: Fork,
    /// The root that names the chain.
    pub genesis_validators_root: Root,
}

/// One entry of a chain's fork schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledFork {
    /// Which rules start.
    pub name: ForkName,
    /// The version from then on.
    pub version: ForkVersion,
    /// First epoch.
    pub epoch: Epoch,
}

/// When each fork of one chain starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ForkSchedule {
    forks: Vec<ScheduledFork>,
}

/// Why a list of forks is not a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForkScheduleError {
    /// The list does not begin at genesis.
    #[error("a fork schedule must begin with phase0 at epoch 0")]
    NoGenesis,
    /// Forks are out of order or repeated.
    #[error("the forks of a schedule must be in order, each once, with epochs that never decrease")]
    OutOfOrder,
}

/// The epoch of a fork that is not scheduled.
const FAR_FUTURE_EPOCH: Epoch = Epoch(u64::MAX);

impl ForkSchedule {
    /// Checks the order. Entries at the far-future epoch are dropped: those forks are not scheduled.
    pub fn new(forks: impl IntoIterator<Item = ScheduledFork>) -> Result<Self, ForkScheduleError> {
        // At most one entry more than there are forks is kept, so that the order check catches an endless list.
        let forks: Vec<_> = forks
            .into_iter()
            .filter(|fork| fork.epoch != FAR_FUTURE_EPOCH)
            .take(ForkName::ALL.len() + 1)
            .collect();
        match forks.first() {
            Some(first) if first.name == ForkName::Phase0 && first.epoch == Epoch(0) => {}
            Some(_) | None => return Err(ForkScheduleError::NoGenesis),
        }
        let in_order =
            forks.windows(2).all(|pair| pair[0].name < pair[1].name && pair[0].epoch <= pair[1].epoch);
        if in_order { Ok(Self { forks }) } else { Err(ForkScheduleError::OutOfOrder) }
    }

    /// All scheduled forks, oldest first.
    pub fn forks(&self) -> &[ScheduledFork] {
        &self.forks
    }

    /// The version of the chain's genesis (builder registrations and deposits sign with it).
    pub fn genesis_version(&self) -> ForkVersion {
        self.forks[0].version
    }

    /// The version of a fork, when scheduled. Voluntary exits ask for capella's (EIP-7044).
    pub fn version_of(&self, name: ForkName) -> Option<ForkVersion> {
        self.forks.iter().find(|fork| fork.name == name).map(|fork| fork.version)
    }

    /// The rules in force at `epoch`.
    pub fn fork_name_at(&self, epoch: Epoch) -> ForkName {
        self.forks[self.position_at(epoch)].name
    }

    /// The `Fork` a beacon state of `epoch` carries.
    pub fn fork_at(&self, epoch: Epoch) -> Fork {
        let position = self.position_at(epoch);
        let current = self.forks[position];
        let previous = self.forks[position.saturating_sub(1)];
        Fork { previous_version: previous.version, current_version: current.version, epoch: current.epoch }
    }

    fn position_at(&self, epoch: Epoch) -> usize {
        // The first fork starts at epoch 0, so at least one entry always matches.
        self.forks.iter().rposition(|fork| fork.epoch <= epoch).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduled(name: ForkName, version: u8, epoch: u64) -> ScheduledFork {
        ScheduledFork { name, version: ForkVersion([version, 0, 0, 0]), epoch: Epoch(epoch) }
    }

    #[test]
    fn the_fork_follows_the_schedule() {
        let schedule = ForkSchedule::new([
            scheduled(ForkName::Phase0, 0, 0),
            scheduled(ForkName::Capella, 3, 0),
            scheduled(ForkName::Deneb, 4, 5),
            scheduled(ForkName::Electra, 5, 9),
            scheduled(ForkName::Fulu, 6, u64::MAX),
        ])
        .unwrap();
        let cases = [
            (0, ForkName::Capella, 0, 3, 0),
            (4, ForkName::Capella, 0, 3, 0),
            (5, ForkName::Deneb, 3, 4, 5),
            (8, ForkName::Deneb, 3, 4, 5),
            (9, ForkName::Electra, 4, 5, 9),
            (u64::MAX, ForkName::Electra, 4, 5, 9),
        ];
        for (at, name, previous, current, from) in cases {
            assert_eq!(schedule.fork_name_at(Epoch(at)), name, "epoch {at}");
            let expected = Fork {
                previous_version: ForkVersion([previous, 0, 0, 0]),
                current_version: ForkVersion([current, 0, 0, 0]),
                epoch: Epoch(from),
            };
            assert_eq!(schedule.fork_at(Epoch(at)), expected, "epoch {at}");
        }
        assert_eq!(schedule.version_of(ForkName::Fulu), None);
    }

    #[test]
    fn a_schedule_must_start_at_genesis_and_be_in_order() {
        assert_eq!(ForkSchedule::new([]), Err(ForkScheduleError::NoGenesis));
        assert_eq!(ForkSchedule::new([scheduled(ForkName::Altair, 1, 0)]), Err(ForkScheduleError::NoGenesis));
        let swapped = [
            scheduled(ForkName::Phase0, 0, 0),
            scheduled(ForkName::Deneb, 4, 5),
            scheduled(ForkName::Capella, 3, 6),
        ];
        assert_eq!(ForkSchedule::new(swapped), Err(ForkScheduleError::OutOfOrder));
        let endless = std::iter::repeat(scheduled(ForkName::Phase0, 0, 0));
        assert_eq!(ForkSchedule::new(endless), Err(ForkScheduleError::OutOfOrder));
    }

    #[test]
    fn names_are_read_in_either_case() {
        assert_eq!("ELECTRA".parse(), Ok(ForkName::Electra));
        assert_eq!("fulu".parse(), Ok(ForkName::Fulu));
        assert_eq!("future".parse::<ForkName>(), Err(UnknownFork));
    }
}
