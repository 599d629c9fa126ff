//! The signer's control socket: what it holds, and how a share gets in.
//!
//! `GET /v1/status` answers [`SignerStatus`], `POST /v1/shares` takes [`ShareImport`], `GET /metrics` is for Prometheus.
//! Signing itself is another socket with the Web3Signer API.

use serde::{Deserialize, Serialize};

use crate::owner::ExitApproval;
use crate::passphrase::PassphraseStatus;
use crate::{Problem, Sensitive};

/// Path of [`SignerStatus`] on the control socket.
pub const STATUS_PATH: &str = "/v1/status";
/// Path that takes [`ShareImport`] and answers [`ShareImported`].
pub const SHARES_PATH: &str = "/v1/shares";
/// Path of the EIP-3076 history of all shares that are or were here: `?form=minimal` (the usual) or `complete`, and
/// `&genesis_validators_root=0x…` when there are shares of several chains.
pub const HISTORY_PATH: &str = "/v1/slashing-protection";
/// The most validators one import may carry.
pub const MAX_IMPORTED: usize = 1000;

/// All that the signer tells the page. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignerStatus {
    /// Version of the software.
    pub version: String,
    /// What keeps the shares from being copied on this board.
    pub protection: KeyProtection,
    /// The TPM, when there is one.
    pub tpm: Option<TpmFacts>,
    /// The HPKE public key that share imports are sealed to, 32 bytes in hex; none while nothing can be sealed.
    pub import_key: Option<String>,
    /// What another box is told when its shares shall move to this one: an HPKE public key, 32 bytes in hex, and after it
    /// [`crate::moving::TEST_KEYS_MARK`] where the image is signed with everybody's keys. Without a TPM the key is not the import
    /// key, which is another one after each start.
    #[serde(default)]
    pub arrival_key: Option<String>,
    /// The secp256k1 public key that signs certificates of shares that were given away, 33 bytes in hex.
    #[serde(default)]
    pub release_key: Option<String>,
    /// The shares held, by public key.
    pub shares: Vec<HeldShare>,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
    /// The exits that the owner has confirmed.
    #[serde(default)]
    pub exits: Vec<ExitApproval>,
    /// Who vouches for the clock; absent in answers of the first versions.
    #[serde(default)]
    pub clock: Option<ClockVouched>,
    /// On a board without a TPM: where its passphrase stands.
    #[serde(default)]
    pub passphrase: Option<PassphraseStatus>,
}

/// Who vouches for the clock that signing goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockVouched {
    /// Whether the signer believes the clock now.
    pub trusted: bool,
    /// How far that goes, in words.
    pub explanation: String,
}

/// What keeps the shares from being copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyProtection {
    /// How strong it is.
    pub tier: ProtectionTier,
    /// The same in words, for the page.
    pub explanation: String,
}

/// How strong the protection is, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProtectionTier {
    /// Sealed to the board's TPM and to the measured, signed boot.
    TpmMeasuredBoot,
    /// Sealed to the board's TPM, but this boot was not checked by Secure Boot.
    TpmWithoutSecureBoot,
    /// Encrypted under the owner's passphrase, on a board that has no TPM: neither other software nor an old copy of the disk is noticed.
    Passphrase,
    /// Sealed to a TPM made of software, as in tests: whoever has its state files has the shares.
    SoftwareTpm,
    /// Nothing can be sealed: no share is accepted and nothing is signed.
    None,
}

/// The TPM the shares are sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmFacts {
    /// Four letters of the maker, such as `IFX`.
    pub manufacturer: String,
    /// The maker's own text, such as `SLB9672`.
    pub model: String,
    /// Firmware version.
    pub firmware: String,
    /// Whether it is a program and not a chip.
    pub is_software: bool,
    /// The PCR whose value must be approved by the image's signature.
    pub signed_pcr: u8,
    /// The PCRs whose values must be as they were when sealing.
    pub literal_pcrs: Vec<u8>,
}

/// One share in the signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldShare {
    /// Public key of the share, `0x` hex.
    pub pubshare: String,
    /// Public key of the validator, `0x` hex.
    pub group_key: String,
    /// Share index, from 1.
    pub share_index: u8,
    /// The last things recorded for it; none when it never signed.
    pub last_signed: Option<LastSigned>,
    /// It signs nothing until the owner lets it go on: when it was seen signing elsewhere, unix milliseconds; 0 when it came in to rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at_ms: Option<u64>,
}

/// The highest marks the ledger holds for a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSigned {
    /// Highest attestation source epoch.
    pub source_epoch: Option<u64>,
    /// Highest attestation target epoch.
    pub target_epoch: Option<u64>,
    /// Highest block slot.
    pub block_slot: Option<u64>,
}

/// A sealed envelope with shares; see [`crate::envelope`] for how it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareImport {
    /// HPKE encapsulated key, hex.
    pub enc: String,
    /// HPKE ciphertext of a [`ShareBundle`] as JSON, hex.
    pub ciphertext: String,
}

/// The signer's answer to an import.
#[derive(Default, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareImported {
    /// Shares that were new.
    pub imported: Vec<HeldShare>,
    /// Public keys of shares that were there already, with the same group key and index.
    pub already_held: Vec<String>,
    /// Public keys of shares that were left out since they were given up on this box for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Shares that were left out since this box has another one of their validator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub second: Vec<SecondShare>,
}

/// A share of a backup that was left out since the box has another one of its validator. Which of the two the cluster uses, its lock
/// says. If it is this one, the other is deleted (`DELETE /eth/v1/keystores`) and the backup restored once more, sealed anew: what was
/// sealed before a deletion does not open any more (decision 0303).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondShare {
    /// The public key of the share that was left out, `0x` hex.
    pub share: String,
    /// Public key of the validator, `0x` hex.
    pub validator: String,
    /// The public key of the share that this box has, or that waits here in a change of the cluster, `0x` hex.
    pub other: String,
    /// What the owner can do about the other one.
    pub next_step: String,
}

/// The plaintext inside [`ShareImport`]. It exists where the owner's files are (the page, a tool) and in the signer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareBundle {
    /// The shares, at most [`MAX_IMPORTED`].
    pub validators: Vec<ShareEntry>,
    /// What the shares have signed before.
    pub history: History,
    /// The chain these shares may sign for, `0x` hex; pinned for good.
    pub genesis_validators_root: String,
    /// The chain's clock: the signer refuses votes from the far future, and begins a share beyond every epoch that could
    /// have been signed before.
    pub chain: ChainClock,
}

/// One share of one validator.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareEntry {
    /// The EIP-2335 keystore that holds the share.
    pub keystore: serde_json::Value,
    /// Its password.
    pub password: Sensitive,
    /// The public key the share must have, `0x` hex.
    pub public_key: String,
    /// Public key of the validator, `0x` hex.
    pub group_public_key: String,
    /// Share index, from 1.
    pub share_index: u8,
}

/// What imported shares have signed before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// An EIP-3076 interchange document.
    Interchange(serde_json::Value),
    /// The owner states that none of these shares ever signed anything.
    NeverSigned,
}

/// When the chain's slots are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainClock {
    /// When the chain began, unix seconds.
    pub genesis_time: u64,
    /// Length of a slot.
    pub slot_ms: u64,
    /// Slots in an epoch.
    pub slots_per_epoch: u64,
    /// The preset the chain was built with; left out, it is mainnet.
    #[serde(default)]
    pub preset: ChainPreset,
}

/// The consensus specification's preset: it decides how long lists may be, and so how some containers are hashed. It
/// cannot be told from the slots of an epoch, which a chain may set as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainPreset {
    /// Mainnet, every public test chain, and our local one.
    #[default]
    Mainnet,
    /// Small test chains of the specification's own tests.
    Minimal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_reads_as_the_contract_writes_it() {
        let never: History = serde_json::from_str("\"never_signed\"").unwrap();
        assert_eq!(never, History::NeverSigned);
        let some: History = serde_json::from_str("{\"interchange\":{\"metadata\":{}}}").unwrap();
        assert!(matches!(some, History::Interchange(_)));
    }

    #[test]
    fn a_clock_without_a_preset_is_of_mainnet() {
        let clock = r#"{"genesis_time":1,"slot_ms":12000,"slots_per_epoch":8}"#;
        let read: ChainClock = serde_json::from_str(clock).unwrap();
        assert_eq!(read.preset, ChainPreset::Mainnet);
        let minimal = clock.replace('}', r#","preset":"minimal"}"#);
        assert_eq!(serde_json::from_str::<ChainClock>(&minimal).unwrap().preset, ChainPreset::Minimal);
        assert!(serde_json::from_str::<ChainClock>(&minimal.replace("minimal", "other")).is_err());
    }

    #[test]
    fn a_bundle_without_its_chain_s_clock_is_none() {
        let bundle = r#"{"validators":[],"history":"never_signed","genesis_validators_root":"0x00"}"#;
        assert!(serde_json::from_str::<ShareBundle>(bundle).is_err());
    }
}
