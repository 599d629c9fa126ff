//! The page's HTTPS API: what a browser sees of the box.

use serde::{Deserialize, Serialize};

use crate::disks::DiskHealth;
use crate::{NodeStatus, Problem, SignerStatus};

/// Path of [`BoxStatus`].
pub const STATUS_PATH: &str = "/api/v1/status";
/// Path that takes [`crate::ClusterSetup`]; needs the claim code.
pub const CLUSTER_PATH: &str = "/api/v1/cluster";
/// Path that answers a list of [`crate::node::ClusterEntry`]. With the claim code, `POST` takes a [`crate::ClusterSetup`] to join,
/// and `DELETE` of `/api/v1/clusters/<lock hash>` leaves one. What is asked of one cluster is below its path.
pub const CLUSTERS_PATH: &str = "/api/v1/clusters";
/// Path of [`ImportKey`].
pub const IMPORT_KEY_PATH: &str = "/api/v1/import-key";
/// Path that takes [`crate::ShareImport`]; needs the claim code.
pub const SHARES_PATH: &str = "/api/v1/shares";

/// Path that takes [`FolderUpload`] and answers [`crate::folder::FolderImported`]; needs the claim code.
pub const FOLDERS_PATH: &str = "/api/v1/folders";

/// Path that takes sealed [`crate::ssv::SsvFiles`] and answers [`crate::ssv::SsvImported`]; needs the claim code.
pub const SSV_PATH: &str = "/api/v1/ssv";

/// Path that takes a sealed [`crate::moving::BackupOrder`]; needs the claim code, and the code on the box's screen inside.
pub const BACKUPS_PATH: &str = "/api/v1/backups";
/// Path that takes a sealed [`crate::moving::RestoreOrder`]; needs the claim code.
pub const RESTORES_PATH: &str = "/api/v1/restores";
/// Path that takes [`crate::moving::MoveOrder`] and answers [`crate::moving::MoveCertificate`]; `GET` answers those given before.
/// Both need the claim code.
pub const MOVES_PATH: &str = "/api/v1/moves";
/// Path that takes a sealed [`crate::passphrase::PassphraseOrder`] on a board without a TPM; needs the claim code.
pub const PASSPHRASE_PATH: &str = "/api/v1/passphrase";
/// Path that answers [`crate::recovery::RecoveryStatus`]; needs the claim code.
pub const RECOVERY_PATH: &str = "/api/v1/recovery-key";
/// Path that answers [`crate::recovery::RecoveryShown`] to `POST`; needs the claim code.
pub const RECOVERY_SHOW_PATH: &str = "/api/v1/recovery-key/show";
/// Path that takes [`crate::recovery::RecoveryNoted`]; needs the claim code.
pub const RECOVERY_NOTED_PATH: &str = "/api/v1/recovery-key/noted";
/// Path that takes [`crate::moving::Arrival`]; needs the claim code.
pub const ARRIVALS_PATH: &str = "/api/v1/arrivals";

/// A Charon node's folder: sealed for the signer, with what `dv-node` needs to join beside it. Nothing in here is secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderUpload {
    /// The sealed [`crate::folder::CharonFolder`].
    pub sealed: crate::ShareImport,
    /// The same lock as in the folder.
    pub lock: serde_json::Value,
    /// As in [`crate::ClusterSetup`].
    pub beacon_nodes: Vec<String>,
    /// As in [`crate::ClusterSetup`].
    #[serde(default)]
    pub peers: Vec<String>,
    /// As in [`crate::ClusterSetup`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relays: Option<Vec<String>>,
}

/// Path of [`crate::dkg::KeyGenerationStatus`]; takes [`KeyGenerationStart`] and `DELETE`, which need the claim code.
pub const KEY_GENERATION_PATH: &str = "/api/v1/key-generation";
/// Path of [`crate::dkg::KeyGenerationFiles`].
pub const KEY_GENERATION_FILES_PATH: &str = "/api/v1/key-generation/files";

/// The owner takes part in a key generation. Holds the identity key, hence no `Clone`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyGenerationStart {
    /// What the signer is told.
    pub consent: crate::dkg::CeremonyConsent,
    /// What the node is told.
    pub ceremony: crate::dkg::KeyGeneration,
}

/// Path that takes [`crate::owner::ResumeShare`]; needs the claim code.
pub const RESUME_PATH: &str = "/api/v1/shares/resume";

/// Path that takes [`ClusterEditStart`] and answers [`ClusterEditShown`]; `PUT` and `DELETE` need the claim code, and `DELETE` the
/// name of what is given up ([`crate::edit::EditDiscard`] in the query), as it was shown.
pub const CLUSTER_EDIT_PATH: &str = "/api/v1/cluster-edit";
/// Path of the complete lock of the last change as [`crate::edit::EditCommit`]; `PUT` takes another member's and needs the
/// claim code.
pub const CLUSTER_EDIT_LOCK_PATH: &str = "/api/v1/cluster-edit/lock";

/// The owner takes part in a change of the cluster. May hold the identity key, hence no `Clone`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterEditStart {
    /// What the signer is told. Left out, the same change goes on after an interruption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<crate::edit::EditConsent>,
    /// What the node is told.
    pub edit: crate::edit::ClusterEdit,
}

/// What the page shows of changes of clusters.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClusterEditShown {
    /// How far the one is that the node carries.
    #[serde(flatten)]
    pub status: crate::edit::ClusterEditStatus,
    /// What can be given up: what the signer says is open, and what the node keeps besides.
    pub open: Vec<crate::edit::OpenEdit>,
}

/// Path that takes [`crate::owner::ExitOrder`]; needs the claim code.
pub const EXITS_PATH: &str = "/api/v1/exits";
/// Path that takes [`crate::owner::ExitCancel`]; needs the claim code.
pub const EXITS_CANCEL_PATH: &str = "/api/v1/exits/cancel";
/// Path of [`crate::node::ExitFiles`], and of a member's partial exits to take; needs the claim code.
pub const EXIT_FILES_PATH: &str = "/api/v1/exits/files";
/// Path of [`crate::preflight::PreflightReport`]; `POST` with [`crate::preflight::PreflightRequest`] and the claim code
/// begins one.
pub const PREFLIGHT_PATH: &str = "/api/v1/preflight";
/// Path that takes [`crate::owner::OwnerRules`]; needs the claim code.
pub const RULES_PATH: &str = "/api/v1/rules";
/// Path of the slashing protection history (EIP-3076), asked for as at [`crate::signer::HISTORY_PATH`]; needs the claim code.
pub const HISTORY_PATH: &str = "/api/v1/slashing-protection";
/// Path of [`crate::remote::RemoteStatus`]; needs the claim code.
pub const REMOTE_PATH: &str = "/api/v1/remote";
/// Path that takes [`crate::remote::RemoteClientOrder`]; needs the claim code.
pub const REMOTE_CLIENTS_PATH: &str = "/api/v1/remote/clients";
/// Path that takes [`crate::remote::RemoteClientRemoval`]; needs the claim code.
pub const REMOTE_REMOVE_PATH: &str = "/api/v1/remote/clients/remove";
/// Path that takes [`crate::node::DepositsAsked`] and answers [`crate::node::DepositPlan`]; needs the claim code.
pub const DEPOSITS_PATH: &str = "/api/v1/deposits";

/// The whole box on one page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoxStatus {
    /// The box itself.
    #[serde(rename = "box")]
    pub machine: MachineStatus,
    /// `dv-node`'s status of the first cluster, none when it does not answer.
    pub node: Option<NodeStatus>,
    /// The same of the other clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<NodeStatus>,
    /// The signer's status, none when it does not answer.
    pub signer: Option<SignerStatus>,
    /// What the disks say about themselves, where there is an image that asks them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskHealth>,
    /// What is wrong that neither of them can say, such as one of them not answering.
    pub problems: Vec<Problem>,
    /// The box's own clock when this was put together, unix milliseconds.
    pub now_ms: u64,
}

/// The box itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Host name.
    pub name: String,
    /// Version of the running image.
    pub image_version: String,
    /// `release`, `dev` or `native`.
    pub profile: String,
    /// How it booted.
    pub boot: BootStatus,
}

/// How the box booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootStatus {
    /// Whether the firmware checked signatures.
    pub secure_boot: bool,
    /// Whether a TPM 2.0 was found.
    pub tpm: bool,
    /// Whether the system partition is checked while it is read.
    pub verity: bool,
    /// `verified` (signed boot, checked system disk, TPM), `partial` (some of it), or `unverified`.
    pub state: String,
    /// The same in words, for the page.
    pub explanation: String,
}

/// The key that share imports are sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportKey {
    /// HPKE public key, 32 bytes in hex.
    pub import_key: String,
}
