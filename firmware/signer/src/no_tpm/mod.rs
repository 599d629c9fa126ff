//! A board that has no TPM at all: its vault is kept by a passphrase of the owner's, typed after each start (decision 0320).
//!
//! This is the weaker tier, and must never be what somebody talks the owner into: as long as there is any sign of a TPM, whether
//! it answers, refuses or was cleared, nothing here happens, and a vault of one kind never becomes one of the other. Nothing but
//! the disk knows how old the ledger is there, so every start is treated as one on an old copy (decision 0321).

mod evidence;
mod strength;
mod wrapped;

use evidence::has_none;
pub(crate) use evidence::{names_a_tpm, started_so};
pub(crate) use strength::weakness;
pub(crate) use wrapped::{Fresh, ROOT_BYTES, Wrapped};

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipc::{
    Problem, Sensitive, ShareImport,
    envelope::{ImportSecret, fingerprint},
    passphrase::{MAX_ORDER_BYTES, PASSPHRASE_INFO, PassphraseOrder, PassphraseState, PassphraseStatus},
};
use rand::TryRngCore as _;
use tpm::TpmError;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use crate::{
    config::Config,
    files,
    folder::{fault, unsealed},
    import::bad,
    screen,
    signer::{Signer, blocking, ledger_problem},
    vault::{Vault, VaultError},
};

/// Wrong passphrases before somebody has to wait.
const FREE_TRIES: u32 = 3;
/// The first wait; each further wrong one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(30);
/// Not longer: a page in foreign hands must not keep the owner out for good.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What this start knows of the passphrase.
pub(crate) struct NoTpm {
    /// Orders are sealed to it. Made anew at each start: there is no older secret before the passphrase is known.
    key: ImportSecret,
    /// The vault that the passphrase opened. The clock may have to be waited for with it in hand.
    opened: Mutex<Option<Arc<Vault>>>,
    tries: Mutex<Tries>,
}

impl Default for NoTpm {
    fn default() -> Self {
        Self { key: ImportSecret::generate(), opened: Mutex::default(), tries: Mutex::default() }
    }
}

impl NoTpm {
    /// The vault, once the passphrase was typed.
    pub(crate) fn opened(&self) -> Option<Arc<Vault>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tries(&self) -> std::sync::MutexGuard<'_, Tries> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wrong passphrases since the last right one.
#[derive(Default)]
struct Tries {
    wrong: u32,
    not_before: Option<Instant>,
}

impl Tries {
    fn allow(&self, now: Instant) -> Result<(), Problem> {
        let left = self.not_before.map(|then| then.saturating_duration_since(now)).unwrap_or_default();
        if left.is_zero() {
            return Ok(());
        }
        Err(bad(
            "passphrase_too_often",
            &format!("the passphrase was wrong {} times; it is not tried now", self.wrong),
            &format!("Try again in {} seconds. Nothing is lost.", left.as_secs() + 1),
        ))
    }

    fn note_wrong(&mut self, now: Instant) {
        self.wrong = self.wrong.saturating_add(1);
        let doublings = self.wrong.checked_sub(FREE_TRIES);
        let wait = doublings.map(|doublings| FIRST_WAIT.saturating_mul(1 << doublings.min(8)));
        self.not_before = wait.map(|wait| now + wait.min(LONGEST_WAIT));
    }
}

/// Where the vault under a passphrase is.
pub(crate) fn file(config: &Config) -> PathBuf {
    config.state_dir.join(wrapped::FILE)
}

/// What is said when no TPM answers: that it is missing, unless this board has none at all.
pub(crate) fn instead_of(missing: VaultError, config: &Config, shares_exist: bool) -> VaultError {
    let is_missing = matches!(missing, VaultError::Tpm(TpmError::Missing { .. }));
    if !is_missing || !has_none(config) {
        return missing;
    }
    if config.lacks_secure_boot() {
        return VaultError::SecureBootOff;
    }
    // By the clock alone the shares are kept from signing twice (decision 0321).
    if config.clock.mark.is_none() {
        return VaultError::ClockUnvouched;
    }
    let path = file(config);
    if path.exists() {
        VaultError::PassphraseNeeded
    } else if shares_exist {
        VaultError::Gone { path }
    } else {
        VaultError::PassphraseUnset
    }
}

impl Signer {
    /// Where the passphrase stands; nothing on a board that needs none.
    pub(crate) fn passphrase_status(&self) -> Option<PassphraseStatus> {
        let state = if self.no_tpm.opened().is_some() {
            PassphraseState::Open
        } else if self.is_unlocked() || !has_none(&self.config) || self.config.lacks_secure_boot() {
            return None;
        } else if self.is_locked_for(&["tpm_appeared", "vault_missing", "time_service_missing"]) {
            return None; // No passphrase helps.
        } else if file(&self.config).exists() {
            PassphraseState::Locked
        } else {
            PassphraseState::Unset
        };
        Some(PassphraseStatus { state, key: self.no_tpm.key.public_hex() })
    }

    /// The key that orders are sealed to, for whoever stands before the box.
    pub(crate) fn show_passphrase_key(&self) {
        if self.passphrase_status().is_some() {
            let key = fingerprint(&self.no_tpm.key.public_bytes());
            screen::show(&format!("no TPM here; the key for its passphrase is {key}, until the next start"));
        }
    }

    /// What the owner wants with the passphrase.
    pub(crate) async fn passphrase_order(
        self: &Arc<Self>,
        sealed: ShareImport,
    ) -> Result<PassphraseStatus, Problem> {
        // One after the other: each try takes as much memory as the limit has room for.
        let _one_at_a_time = self.importing.lock().await;
        let text = self
            .no_tpm
            .key
            .open_from_page(&sealed, PASSPHRASE_INFO, MAX_ORDER_BYTES)
            .map_err(|error| unsealed(&error.to_string()))?;
        let order: PassphraseOrder =
            serde_json::from_slice(&text).map_err(|_| unsealed("the order is not as expected"))?;
        let order = in_one_spelling(order);
        match order {
            PassphraseOrder::Open { passphrase } => {
                // While it is open the words are tried all the same: a wrong passphrase must not look like the right one.
                let root = self.root(passphrase).await?;
                if self.no_tpm.opened().is_none() {
                    self.adopt_root(&root).await?;
                }
            }
            PassphraseOrder::First { passphrase } => {
                let stopped_by = self.what_stops_the_vault().await?;
                if matches!(stopped_by, VaultError::PassphraseNeeded) {
                    return Err(bad(
                        "passphrase_set",
                        "a passphrase was chosen before",
                        "Type that one. If you never chose one, somebody else did: set the box up anew.",
                    ));
                }
                if !matches!(stopped_by, VaultError::PassphraseUnset) {
                    return Err(stopped_by.to_problem());
                }
                check(passphrase.expose_secret())?;
                let mut root = Zeroizing::new([0; ROOT_BYTES]);
                rand::rngs::OsRng
                    .try_fill_bytes(root.as_mut_slice())
                    .map_err(|_| VaultError::NoRandomness.to_problem())?;
                self.keep_under(&root, passphrase).await?;
                tracing::warn!("a passphrase was chosen for this board, which has no TPM");
                // If it was not the owner, the owner should know.
                screen::show("a passphrase was chosen for this box on its page");
                self.adopt_root(&root).await?;
            }
            PassphraseOrder::Change { passphrase, new } => {
                check(new.expose_secret())?;
                let root = self.root(passphrase).await?;
                self.keep_under(&root, new).await?;
                tracing::warn!("the passphrase was changed");
                screen::show("the passphrase of this box was changed on its page");
            }
        }
        self.passphrase_status().ok_or_else(fault)
    }

    /// Why the vault does not open by itself. An error when it does, or when the ledger does not answer.
    async fn what_stops_the_vault(&self) -> Result<VaultError, Problem> {
        let ledger = self.ledger()?;
        let failed = |error| ledger_problem(&error);
        let shares_exist = !ledger.rows().await.map_err(failed)?.is_empty()
            || !ledger.pending().await.map_err(failed)?.is_empty()
            || !ledger.releases().await.map_err(failed)?.is_empty();
        let config = self.config.clone();
        // A vault in the TPM may be made by this very look: that is what a board with a TPM is for.
        match blocking(move || Vault::open(&config, shares_exist)).await {
            Some(Err(error)) => Ok(error),
            Some(Ok(_)) => Err(bad(
                "passphrase_not_wanted",
                "this board has a TPM, which keeps the shares better than a passphrase",
                "Nothing to do.",
            )),
            None => Err(fault()),
        }
    }

    /// What the passphrase opens, if this board goes by one and it is the right one.
    async fn root(&self, passphrase: ipc::Sensitive) -> Result<Zeroizing<[u8; ROOT_BYTES]>, Problem> {
        let stopped_by = self.what_stops_the_vault().await?;
        if !matches!(stopped_by, VaultError::PassphraseNeeded) {
            return Err(stopped_by.to_problem());
        }
        self.no_tpm.tries().allow(Instant::now())?;
        let limit = u64::try_from(wrapped::MAX_BYTES).unwrap_or(u64::MAX) + 1;
        let path = file(&self.config);
        let bytes = files::read_small(&path, limit)
            .map_err(|source| VaultError::Io { path, source }.to_problem())?
            .unwrap_or_default();
        let wrapped = Wrapped::read(&bytes).ok_or_else(|| VaultError::Damaged.to_problem())?;
        let root = blocking(move || wrapped.open(passphrase.expose_secret())).await.ok_or_else(fault)?;
        let mut tries = self.no_tpm.tries();
        match root {
            Some(root) => {
                *tries = Tries::default();
                Ok(root)
            }
            None => {
                tries.note_wrong(Instant::now());
                tracing::warn!(wrong = tries.wrong, "a wrong passphrase was typed");
                Err(bad(
                    "passphrase_wrong",
                    "the passphrase is another one, or its file on the disk was changed",
                    "Try again. Nothing is lost by a wrong one; without the right one the shares cannot be opened by anybody.",
                ))
            }
        }
    }

    /// Puts the root under a passphrase: the old file or the new one is there, whatever happens.
    async fn keep_under(&self, root: &[u8; ROOT_BYTES], passphrase: ipc::Sensitive) -> Result<(), Problem> {
        let mut fresh = Fresh::default();
        rand::rngs::OsRng
            .try_fill_bytes(&mut fresh.salt)
            .and_then(|()| rand::rngs::OsRng.try_fill_bytes(&mut fresh.nonce))
            .map_err(|_| VaultError::NoRandomness.to_problem())?;
        let (path, memory_kib) = (file(&self.config), self.config.argon2_memory_kib);
        let root = Zeroizing::new(*root);
        let written = blocking(move || {
            let wrapped = Wrapped::wrap(&root, passphrase.expose_secret(), memory_kib, &fresh)?;
            Some(
                files::write_atomically(&path, &wrapped.to_bytes())
                    .map_err(|source| VaultError::Io { path, source }.to_problem()),
            )
        });
        written.await.flatten().ok_or_else(fault)?
    }

    async fn adopt_root(&self, root: &[u8; ROOT_BYTES]) -> Result<(), Problem> {
        let vault = Vault::from_root(root).map_err(|error| error.to_problem())?;
        *self.no_tpm.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(vault));
        self.unlock().await;
        Ok(())
    }
}

/// One spelling of a letter, whatever keyboard or tool it comes from, as the page sends it: NFC.
fn in_one_spelling(order: PassphraseOrder) -> PassphraseOrder {
    let nfc = |words: Sensitive| {
        // With room for all of it, so that no part is left behind in memory by growing.
        let mut spelt = String::with_capacity(words.expose_secret().len().saturating_mul(3));
        spelt.extend(words.expose_secret().nfc());
        Sensitive::new(spelt)
    };
    match order {
        PassphraseOrder::Open { passphrase } => PassphraseOrder::Open { passphrase: nfc(passphrase) },
        PassphraseOrder::First { passphrase } => PassphraseOrder::First { passphrase: nfc(passphrase) },
        PassphraseOrder::Change { passphrase, new } => {
            PassphraseOrder::Change { passphrase: nfc(passphrase), new: nfc(new) }
        }
    }
}

fn check(passphrase: &str) -> Result<(), Problem> {
    weakness(passphrase).map_or(Ok(()), |weakness| {
        Err(bad(
            "passphrase_weak",
            &weakness,
            "Take five or more words that chance has chosen, for instance with dice.",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_passphrases_cost_more_and_more_time_up_to_ten_minutes() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        let waits: Vec<u64> = (0..12)
            .map(|_| {
                tries.note_wrong(now);
                tries.not_before.map_or(0, |then| (then - now).as_secs())
            })
            .collect();
        assert_eq!(waits, [0, 0, 30, 60, 120, 240, 480, 600, 600, 600, 600, 600]);
        assert!(tries.allow(now + Duration::from_secs(599)).is_err());
        assert!(tries.allow(now + LONGEST_WAIT).is_ok());
        assert!(Tries::default().allow(now).is_ok());
    }
}
