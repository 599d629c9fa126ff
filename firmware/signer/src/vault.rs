//! The box's own secrets: one key that the TPM keeps, and the shares sealed under it.
//!
//! `vault.tpm` is a key that the TPM made and that works only after the signed boot. From it come the vault key, the private
//! halves of the import keys and the release key, each as its HMAC of a label, so nobody else can ever have chosen or seen them.
//! Every share is sealed under the vault key (XChaCha20-Poly1305) together with the facts that belong to it, so that none
//! of them can be swapped. One TPM operation opens a thousand shares (decision 0122). On a board that has no TPM at all the
//! same keys come from a root under the owner's passphrase; see [`crate::no_tpm`].

use std::path::PathBuf;

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead as _, KeyInit as _, Payload},
};
use cluster::IdentityKey;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ipc::{
    Problem,
    envelope::ImportSecret,
    signer::{ChainClock, ChainPreset, TpmFacts},
};
use rand::TryRngCore as _;
use sha2::Sha256;
use threshold::{SecretKey, SecretShare, ShareIndex};
use tpm::{Policy, SealedBlob, Tpm, TpmError, policy::SIGNED_PCR};
use zeroize::Zeroizing;

use crate::{
    boot,
    config::{Config, TpmConfig},
    files,
    ledger::ShareRow,
    no_tpm,
    rollback::Witness,
};

/// The file's name in the state folder.
pub(crate) const FILE: &str = "vault.tpm";
/// Frozen: other labels are other keys, and no share would open.
const VAULT_LABEL: &[u8] = b"hearth vault key v1";
const RELEASE_LABEL: &[u8] = b"hearth release key v1";
const IMPORT_LABEL: &[u8] = b"hearth share import key v1";
/// Where there is no TPM; with one, what arrives is sealed to the import key.
const ARRIVAL_LABEL: &[u8] = b"hearth arrival key v1";
const NONCE_BYTES: usize = 24;

/// Why the vault does not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    /// The TPM says no.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The boot's public key or approvals cannot be read.
    #[error(transparent)]
    Policy(#[from] tpm::PolicyError),
    /// The file cannot be read or written.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// This board has no TPM, and no time service vouches for its clock.
    #[error("this board has no TPM, and no time service vouches for its clock")]
    ClockUnvouched,
    /// Shares are there and the vault is not.
    #[error("{} is gone, and the shares cannot be opened without it", .path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// This board has no TPM, and no passphrase was chosen yet.
    #[error("this board has no TPM, and no passphrase was chosen yet")]
    PassphraseUnset,
    /// This board has no TPM, and the passphrase was not typed since the last start.
    #[error("this board has no TPM, and they wait for your passphrase after each start")]
    PassphraseNeeded,
    /// The shares are under a passphrase, and there is a TPM now.
    #[error("they were put under a passphrase when this board had no TPM, and it has one now")]
    TpmAppeared,
    /// The first system saw no TPM, and one answers now: its driver was late, and `/var` was made without it (decision 0345).
    #[error("this board has a TPM, and was started as one that has none")]
    TpmLate,
    /// A vault made now would open for anything.
    #[error("Secure Boot is off")]
    SecureBootOff,
    /// What came out of the TPM is not a vault.
    #[error("the vault's content is not what was put in")]
    Damaged,
    /// No randomness.
    #[error("the operating system gave no randomness")]
    NoRandomness,
}

impl VaultError {
    /// The same for the owner.
    pub(crate) fn to_problem(&self) -> Problem {
        let (code, next_step) = match self {
            Self::Tpm(TpmError::Missing { .. }) => (
                "tpm_missing",
                "Switch the TPM on in the firmware settings (it may be called fTPM or PTT), or use a board that has one. Until then no share is accepted and nothing is signed.",
            ),
            Self::Tpm(TpmError::PcrMismatch { .. }) => {
                ("boot_changed", "Restore the Secure Boot settings and remove add-ons, then restart.")
            }
            Self::Tpm(TpmError::NotApproved | TpmError::OtherSigner) => {
                ("software_changed", "Install a genuine image; the shares stay sealed until then.")
            }
            Self::Tpm(TpmError::Unsupported) => (
                "tpm_unsupported",
                "Update the TPM's firmware, or use a board with a newer TPM. Until then no share is accepted and nothing is signed.",
            ),
            Self::Tpm(TpmError::OtherTpm) => (
                "other_tpm",
                "Put the disk back into the box it comes from. A share is never copied: moving to a new box means importing there and removing here. If this box's TPM was cleared, set the box up anew and import the shares with their history.",
            ),
            Self::Tpm(TpmError::Tampered | TpmError::Foreign | TpmError::Blob(_)) | Self::Damaged => (
                "vault_damaged",
                "Do not restore an old copy of the disk. Set the box up anew and import the shares with their history.",
            ),
            Self::PassphraseUnset => (
                "passphrase_unset",
                "Choose a passphrase on the page, after you compared the key there with the one on the box's screen. Better: use a board with a TPM.",
            ),
            Self::PassphraseNeeded => (
                "passphrase_needed",
                "Type the passphrase on the page, after you compared the key there with the one on the box's screen.",
            ),
            Self::ClockUnvouched => (
                "time_service_missing",
                "Set `mark` in the `[clock]` part of signer.toml to a file that the time service keeps fresh. Without a TPM only the clock keeps an old copy of the disk from signing again, so it must be vouched for.",
            ),
            Self::TpmAppeared => (
                "tpm_appeared",
                "Type nothing: a passphrase is never asked for on a board with a TPM. If you switched the TPM on, make a backup without it, set the box up anew with it and restore; otherwise find out who changed the board.",
            ),
            Self::TpmLate => (
                "tpm_late",
                "Write the disk anew without `--tpm none`: the TPM was not seen in time by the start that made this disk. Until then no share is accepted and nothing is signed.",
            ),
            Self::SecureBootOff => return boot::secure_boot_off(),
            Self::Gone { .. } => {
                ("vault_missing", "Set the box up anew and import the shares with their history.")
            }
            Self::Policy(_) => (
                "boot_not_measured",
                "Start the box from its signed image: the files that prove the boot are missing.",
            ),
            Self::Tpm(_) | Self::Io { .. } | Self::NoRandomness => {
                ("vault_unavailable", "Restart the box; if it persists, look into the log of the signer.")
            }
        };
        Problem::new(code, format!("The shares cannot be opened: {self}."), next_step)
    }
}

/// The open vault.
pub(crate) struct Vault {
    key: XChaCha20Poly1305,
    import: Zeroizing<Vec<u8>>,
    arrival: Zeroizing<Vec<u8>>,
    release: IdentityKey,
    facts: Option<TpmFacts>,
}

impl Vault {
    /// Opens the TPM's vault in the state directory, or makes one when there is none and nothing depends on one.
    pub(crate) fn open(whole: &Config, shares_exist: bool) -> Result<Self, VaultError> {
        let config = &whole.tpm;
        let path = whole.state_dir.join(FILE);
        let io = |source| VaultError::Io { path: path.clone(), source };
        let mut tpm = match Tpm::open(&config.tcti) {
            Ok(tpm) => tpm,
            Err(missing) => return Err(no_tpm::instead_of(missing.into(), whole, shares_exist)),
        };
        if !path.exists() {
            if no_tpm::file(whole).exists() {
                return Err(VaultError::TpmAppeared);
            }
            if !shares_exist && no_tpm::started_so(whole) {
                return Err(VaultError::TpmLate);
            }
        }
        let policy = Policy::load(&config.pcr_public_key, &config.pcr_signature, &config.literal_pcrs)?;
        let identity = tpm.identity()?;
        let facts = TpmFacts {
            manufacturer: identity.manufacturer,
            model: identity.model,
            firmware: identity.firmware,
            is_software: identity.is_software,
            signed_pcr: SIGNED_PCR,
            literal_pcrs: policy.literal_pcrs().to_vec(),
        };
        let limit = u64::try_from(tpm::blob::MAX_BLOB_BYTES).unwrap_or(u64::MAX) + 1;
        let derive = |tpm: &mut Tpm, blob: &SealedBlob| {
            tpm.derive(blob, &policy, [VAULT_LABEL, IMPORT_LABEL, RELEASE_LABEL])
        };
        let [key, import, release] = match files::read_small(&path, limit).map_err(io)? {
            Some(bytes) => derive(&mut tpm, &SealedBlob::from_bytes(&bytes).map_err(TpmError::Blob)?)?,
            None if shares_exist => return Err(VaultError::Gone { path }),
            None if whole.lacks_secure_boot() => return Err(VaultError::SecureBootOff),
            None => {
                let blob = tpm.make_key(&policy)?;
                // Used once before it is believed.
                let keys = derive(&mut tpm, &blob)?;
                files::write_atomically(&path, &blob.to_bytes()).map_err(io)?;
                tracing::info!("a new vault was made in the TPM");
                keys
            }
        };
        Ok(Self {
            key: XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| VaultError::Damaged)?,
            import: Zeroizing::new(import.as_slice().to_vec()),
            arrival: Zeroizing::new(import.as_slice().to_vec()),
            release: release_key(release.as_slice())?,
            facts: Some(facts),
        })
    }

    /// The vault of a board without a TPM, by its root. What is sealed for the box is sealed to a key of this start alone: a
    /// ledger that was put back, which nothing notices there, would bring an old one back to life (decision 0303). But what
    /// another box gave away for good, and now exists in its certificate only, must open after a restart, too (decision 0321).
    pub(crate) fn from_root(root: &[u8; no_tpm::ROOT_BYTES]) -> Result<Self, VaultError> {
        let derive = |label: &[u8]| -> Result<Zeroizing<[u8; 32]>, VaultError> {
            let mut mac = Hmac::<Sha256>::new_from_slice(root).map_err(|_| VaultError::Damaged)?;
            mac.update(label);
            Ok(Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes())))
        };
        let mut import = Zeroizing::new(vec![0; 32]);
        rand::rngs::OsRng.try_fill_bytes(&mut import).map_err(|_| VaultError::NoRandomness)?;
        let key = derive(VAULT_LABEL)?;
        Ok(Self {
            key: XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| VaultError::Damaged)?,
            import,
            arrival: Zeroizing::new(derive(ARRIVAL_LABEL)?.to_vec()),
            release: release_key(derive(RELEASE_LABEL)?.as_slice())?,
            facts: None,
        })
    }

    /// What beside the disk knows how old the ledger is.
    pub(crate) fn witness<'a>(&self, tpm: &'a TpmConfig) -> Witness<'a> {
        if self.facts.is_some() { Witness::Tpm(tpm) } else { Witness::Nobody }
    }

    /// The key that opens what is sealed for this box, of one generation (decision 0303).
    pub(crate) fn import_key(&self, generation: u64) -> Result<ImportSecret, VaultError> {
        of_generation(&self.import, generation)
    }

    /// The key that opens certificates of moves to this box: the import key, or where that is another one after each start, one
    /// that stays.
    pub(crate) fn arrival_key(&self, generation: u64) -> Result<ImportSecret, VaultError> {
        of_generation(&self.arrival, generation)
    }

    /// The key that signs certificates of shares that were given away.
    pub(crate) fn release_key(&self) -> &IdentityKey {
        &self.release
    }

    /// The TPM it is sealed to; none where a passphrase takes its place.
    pub(crate) fn facts(&self) -> Option<&TpmFacts> {
        self.facts.as_ref()
    }

    /// Seals a share's secret together with the facts in `row` (whose `sealed` is not looked at).
    pub(crate) fn seal_share(&self, row: &ShareRow, secret: &SecretKey) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_BYTES];
        rand::rngs::OsRng.try_fill_bytes(&mut nonce).map_err(|_| VaultError::NoRandomness)?;
        let bytes = secret.expose_bytes();
        let payload = Payload { msg: bytes.as_slice(), aad: &facts_of(row) };
        let sealed =
            self.key.encrypt(XNonce::from_slice(&nonce), payload).map_err(|_| VaultError::Damaged)?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Seals any bytes for one purpose.
    pub(crate) fn seal_bytes(&self, label: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_BYTES];
        rand::rngs::OsRng.try_fill_bytes(&mut nonce).map_err(|_| VaultError::NoRandomness)?;
        let payload = Payload { msg: plain, aad: label };
        let sealed =
            self.key.encrypt(XNonce::from_slice(&nonce), payload).map_err(|_| VaultError::Damaged)?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens what was sealed for the same purpose.
    pub(crate) fn open_bytes(&self, label: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let payload = Payload { msg: sealed, aad: label };
        self.key.decrypt(XNonce::from_slice(nonce), payload).ok().map(Zeroizing::new)
    }

    /// Opens a share and checks that it is the one its public key says.
    pub(crate) fn open_share(&self, row: &ShareRow) -> Option<SecretShare> {
        let (nonce, sealed) = row.sealed.split_at_checked(NONCE_BYTES)?;
        let payload = Payload { msg: sealed, aad: &facts_of(row) };
        let secret = Zeroizing::new(self.key.decrypt(XNonce::from_slice(nonce), payload).ok()?);
        let key = SecretKey::from_bytes(&secret).ok()?;
        (key.public_key().to_bytes() == row.pubshare)
            .then(|| Some(SecretShare::new(ShareIndex::try_from(row.share_index).ok()?, key)))
            .flatten()
    }
}

fn of_generation(secret: &[u8], generation: u64) -> Result<ImportSecret, VaultError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| VaultError::Damaged)?;
    mac.update(&generation.to_be_bytes());
    let key = Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()));
    ImportSecret::from_bytes(key.as_slice()).ok_or(VaultError::Damaged)
}

/// Out of range once in 2^127.
fn release_key(bytes: &[u8]) -> Result<IdentityKey, VaultError> {
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| VaultError::Damaged)?;
    IdentityKey::from_bytes(Zeroizing::new(bytes)).map_err(|_| VaultError::Damaged)
}

/// What a share's seal is bound to. Every field has a fixed length, so two different rows never read the same.
fn facts_of(row: &ShareRow) -> Vec<u8> {
    // Taken apart, so that none can be forgotten.
    let ShareRow { pubshare, group_key, share_index, genesis_validators_root, clock, sealed: _ } = row;
    let ChainClock { genesis_time, slot_ms, slots_per_epoch, preset } = *clock;
    let mut facts = b"hearth share v2".to_vec();
    facts.extend(pubshare.as_slice());
    facts.extend(group_key.as_slice());
    facts.push(*share_index);
    facts.extend(genesis_validators_root.as_slice());
    for number in [genesis_time, slot_ms, slots_per_epoch] {
        facts.extend(number.to_be_bytes());
    }
    facts.push(match preset {
        ChainPreset::Mainnet => 0,
        ChainPreset::Minimal => 1,
    });
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_opens_with_exactly_the_facts_it_was_sealed_with() {
        let vault = Vault::from_root(&[3; no_tpm::ROOT_BYTES]).unwrap();
        let secret = |number: u8| {
            let mut bytes = [number; 32];
            bytes[0] = 0x11; // Below the group's order.
            SecretKey::from_bytes(&bytes).unwrap()
        };
        let clock =
            ChainClock { genesis_time: 1, slot_ms: 2, slots_per_epoch: 3, preset: ChainPreset::Mainnet };
        let mut row = ShareRow {
            pubshare: secret(7).public_key().to_bytes(),
            group_key: chain::PublicKeyBytes([9; 48]),
            share_index: 2,
            genesis_validators_root: chain::Root([4; 32]),
            clock,
            sealed: Vec::new(),
        };
        row.sealed = vault.seal_share(&row, &secret(7)).unwrap();
        assert!(vault.open_share(&row).is_some());
        let changes: [fn(&mut ShareRow); 8] = [
            |row| row.pubshare.0[0] ^= 1,
            |row| row.group_key.0[0] ^= 1,
            |row| row.share_index = 3,
            |row| row.genesis_validators_root.0[0] ^= 1,
            |row| row.clock.genesis_time += 1,
            |row| row.clock.slot_ms += 1,
            |row| row.clock.slots_per_epoch += 1,
            |row| row.clock.preset = ChainPreset::Minimal,
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut other = row.clone();
            change(&mut other);
            assert!(vault.open_share(&other).is_none(), "{at}");
        }
        row.sealed = vault.seal_share(&row, &secret(8)).unwrap();
        assert!(vault.open_share(&row).is_none(), "another share's secret");
    }
}
