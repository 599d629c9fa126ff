//! JSON forms of the beacon API that are not consensus containers.

use std::collections::BTreeMap;

use chain::{Epoch, ForkVersion, PublicKeyBytes, Root, SyncDuty, Uint256, ValidatorIndex};
use serde::{Deserialize, Deserializer, Serialize};

#[derive(Deserialize)]
pub(crate) struct Data<T> {
    pub(crate) data: T,
}

/// A number as the beacon API writes it (a decimal string); plain numbers are forgiven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Plain(u64),
        }
        match Either::deserialize(deserializer)? {
            Either::Plain(number) => Ok(Self(number)),
            Either::Text(text) => {
                text.parse().map(Self).map_err(|_| serde::de::Error::custom("not a decimal number"))
            }
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct GenesisWire {
    pub(crate) genesis_time: Number,
    pub(crate) genesis_validators_root: Root,
    pub(crate) genesis_fork_version: ForkVersion,
}

#[derive(Deserialize)]
pub(crate) struct ForkWire {
    pub(crate) current_version: ForkVersion,
}

/// `config/spec`. Most values are strings, some are lists: only the strings are of use here.
pub(crate) struct SpecWire(pub(crate) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for SpecWire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
        let text = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => Some(text),
            serde_json::Value::Number(number) => Some(number.to_string()),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_) => None,
        };
        Ok(Self(raw.into_iter().filter_map(|(key, value)| Some((key, text(value)?))).collect()))
    }
}

#[derive(Deserialize)]
pub(crate) struct SyncingWire {
    pub(crate) is_syncing: bool,
    pub(crate) sync_distance: Number,
    #[serde(default)]
    pub(crate) is_optimistic: bool,
    #[serde(default)]
    pub(crate) el_offline: bool,
}

#[derive(Deserialize)]
pub(crate) struct PeerCountWire {
    pub(crate) connected: Number,
}

#[derive(Deserialize)]
pub(crate) struct VersionWire {
    pub(crate) version: String,
}

#[derive(Serialize)]
pub(crate) struct ValidatorsRequest {
    pub(crate) ids: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct ValidatorWire {
    pub(crate) index: ValidatorIndex,
    pub(crate) status: String,
    pub(crate) validator: ValidatorDetailsWire,
}

#[derive(Deserialize)]
pub(crate) struct ValidatorDetailsWire {
    pub(crate) pubkey: PublicKeyBytes,
    pub(crate) activation_epoch: Epoch,
    pub(crate) exit_epoch: Epoch,
}

#[derive(Deserialize)]
pub(crate) struct LivenessWire {
    pub(crate) index: ValidatorIndex,
    pub(crate) is_live: bool,
}

#[derive(Deserialize)]
pub(crate) struct DutiesWire<D> {
    pub(crate) dependent_root: Root,
    #[serde(default)]
    pub(crate) execution_optimistic: bool,
    pub(crate) data: Vec<D>,
}

#[derive(Deserialize)]
pub(crate) struct SyncDutiesWire {
    #[serde(default)]
    pub(crate) execution_optimistic: bool,
    pub(crate) data: Vec<SyncDuty>,
}

/// A block that was asked for, in JSON. It is read once it is known what it is.
#[derive(Deserialize)]
pub(crate) struct ProducedWire {
    pub(crate) version: String,
    pub(crate) execution_payload_blinded: bool,
    #[serde(default)]
    pub(crate) execution_payload_value: Uint256,
    #[serde(default)]
    pub(crate) consensus_block_value: Uint256,
    pub(crate) data: Box<serde_json::value::RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct HeadRootWire {
    #[serde(default)]
    pub(crate) execution_optimistic: bool,
    pub(crate) data: RootWire,
}

#[derive(Deserialize)]
pub(crate) struct RootWire {
    pub(crate) root: Root,
}

/// The body of a refused list: which of the items were bad.
#[derive(Deserialize)]
pub(crate) struct FailuresWire {
    pub(crate) failures: Vec<FailureWire>,
}

#[derive(Deserialize)]
pub(crate) struct FailureWire {
    pub(crate) index: Number,
    #[serde(default)]
    pub(crate) message: String,
}

#[derive(Deserialize)]
pub(crate) struct HeaderWire {
    pub(crate) root: Root,
    pub(crate) canonical: bool,
    pub(crate) header: SignedHeaderWire,
}

#[derive(Deserialize)]
pub(crate) struct SignedHeaderWire {
    pub(crate) message: HeaderMessageWire,
}

#[derive(Deserialize)]
pub(crate) struct HeaderMessageWire {
    pub(crate) slot: chain::Slot,
}
