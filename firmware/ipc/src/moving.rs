//! Shares that leave the box encrypted: a backup for a bad day, and the move to another box (decisions 0301 and 0302).
//!
//! All on the signer's control socket. `POST` [`BACKUPS_PATH`] takes a sealed [`BackupOrder`] and answers [`BackupFile`];
//! `POST` [`RESTORES_PATH`] takes a sealed [`RestoreOrder`]; `POST` [`MOVES_PATH`] takes a [`MoveOrder`] and answers
//! [`MoveCertificate`], `GET` there answers those given before; `POST` [`ARRIVALS_PATH`] takes an [`Arrival`]. Both ways back in
//! answer [`crate::signer::ShareImported`].
//!
//! Whatever would let a share out must be allowed with a one-time code that only the box's own screen shows: a first
//! order without one is answered `confirm_on_screen`.

use serde::{Deserialize, Serialize};

use crate::Sensitive;
use crate::signer::ChainClock;

/// Path of backups.
pub const BACKUPS_PATH: &str = "/v1/backups";
/// HPKE's `info` of a sealed [`BackupOrder`].
pub const BACKUP_INFO: &[u8] = b"hearth backup order v1";
/// Path that takes a backup back.
pub const RESTORES_PATH: &str = "/v1/restores";
/// HPKE's `info` of a sealed [`RestoreOrder`].
pub const RESTORE_INFO: &[u8] = b"hearth restore order v1";
/// Path of moves away.
pub const MOVES_PATH: &str = "/v1/moves";
/// Path of moves to this box.
pub const ARRIVALS_PATH: &str = "/v1/arrivals";
/// HPKE's `info` of the secrets in a [`MoveCertificate`].
pub const MOVE_INFO: &[u8] = b"hearth move v1";
/// The largest backup or certificate that is read.
pub const MAX_CARRIED_BYTES: usize = 4 * 1024 * 1024;
/// The largest answer with one: as JSON in JSON it is longer, and an answer with several ends with the one that passes
/// [`MAX_CARRIED_BYTES`].
pub const MAX_CARRIED_ANSWER: usize = 4 * MAX_CARRIED_BYTES;

/// Shares in one backup or certificate at most.
pub const MAX_CARRIED_SHARES: usize = 2048;
/// Identity keys that a signer keeps at most.
pub const MAX_IDENTITIES: usize = 64;

/// The owner wants a backup. Sealed by the page.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupOrder {
    /// What opens it. Whoever has both has the shares.
    pub passphrase: Sensitive,
    /// The code on the box's screen; none to have one shown.
    #[serde(default)]
    pub code: Option<String>,
}

/// An encrypted backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupFile {
    /// Text to be kept as a file.
    pub file: String,
    /// How many shares are in it.
    pub shares: usize,
}

/// The owner brings a backup back. Sealed by the page.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreOrder {
    /// The file's text.
    pub file: String,
    /// What opens it.
    pub passphrase: Sensitive,
    /// The owner's word that the box it comes from signs no more and never will again.
    pub old_box_gone: bool,
}

/// At the end of a box's key for moves, when its image is signed with keys that everybody has: it would refuse shares of a public
/// chain for ever, and they would be gone by then.
pub const TEST_KEYS_MARK: &str = "-test";

/// The owner moves all shares to another box.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveOrder {
    /// The other box's [`crate::signer::SignerStatus::arrival_key`], as its page shows it.
    pub to: String,
    /// The code on this box's screen; none to have one shown.
    #[serde(default)]
    pub code: Option<String>,
}

/// What the old box gives out once it cannot sign any more. Only the box it is for can open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveCertificate {
    /// A [`MoveBody`] as JSON; these very bytes are signed.
    pub body: String,
    /// HPKE encapsulated key of the [`CarriedSecrets`], hex.
    pub enc: String,
    /// Their ciphertext, hex.
    pub ciphertext: String,
    /// secp256k1 signature of the old box's signer, 65 bytes in hex.
    pub signature: String,
}

/// Which of the certificates given before are asked for: those after so many.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct MovesAfter {
    /// How many are known already.
    #[serde(default)]
    pub after: usize,
}

/// Certificates given before, the first first: as many as one answer takes, and one at least.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// These.
    pub moves: Vec<MoveCertificate>,
    /// After how many the next ones come; none when these are the last.
    #[serde(default)]
    pub next: Option<usize>,
}

/// The owner hands a certificate to the new box.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrival {
    /// The old signer's release key, hex, as its page and its screen showed it.
    pub from: String,
    /// Its certificate.
    pub certificate: MoveCertificate,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveBody {
    /// 1.
    pub version: u8,
    /// The old signer's release key, hex. It holds these shares no more and will never take them in again.
    pub from: String,
    /// The new signer's import key, hex.
    pub to: String,
    /// When it was given, unix milliseconds by the old box's clock.
    pub issued_at_ms: u64,
    /// The shares.
    pub shares: Vec<CarriedShare>,
}

/// A share without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedShare {
    /// Public key of the share, `0x` hex.
    pub pubshare: String,
    /// Public key of the validator, `0x` hex.
    pub group_key: String,
    /// Share index, from 1.
    pub share_index: u8,
    /// The chain, `0x` hex.
    pub genesis_validators_root: String,
    /// Its clock.
    pub chain: ChainClock,
    /// Below and at these marks nothing may be signed.
    pub marks: Watermarks,
    /// When it was seen signing elsewhere, unix milliseconds: it is stopped, and stays so wherever it goes.
    pub stopped_at_ms: Option<u64>,
}

/// The highest that a share has signed or may have signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watermarks {
    /// Block slot.
    pub block: Option<u64>,
    /// Attestation source epoch.
    pub source: Option<u64>,
    /// Attestation target epoch.
    pub target: Option<u64>,
}

/// The secret half. Exists in the two signers only.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedSecrets {
    /// One for each share, in the same order, hex.
    pub shares: Vec<Sensitive>,
    /// The identity keys that this signer knows.
    pub identities: Vec<CarriedIdentity>,
}

/// An identity key and its cluster.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedIdentity {
    /// The cluster's lock hash, hex.
    pub lock_hash: String,
    /// As in `charon-enr-private-key`.
    pub identity_key: Sensitive,
}

/// The file of a backup: how the key is made of the passphrase, and the ciphertext of a [`BackupContent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupEnvelope {
    /// 1.
    pub hearth_backup: u8,
    /// Argon2id's memory, KiB.
    pub memory_kib: u32,
    /// Argon2id's passes.
    pub passes: u32,
    /// Salt, 16 bytes in hex.
    pub salt: String,
    /// Nonce of XChaCha20-Poly1305, 24 bytes in hex.
    pub nonce: String,
    /// Ciphertext, hex.
    pub ciphertext: String,
}

/// What is in a backup.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupContent {
    /// When it was made, unix milliseconds.
    pub made_at_ms: u64,
    /// The shares, with what they had signed by then.
    pub shares: Vec<CarriedShare>,
    /// Their secrets.
    pub secrets: CarriedSecrets,
}
