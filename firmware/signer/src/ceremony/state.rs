//! What a ceremony must remember, sealed under the vault key in one file that is replaced whole.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chain::{PublicKeyBytes, Root};
use cluster::add::{AddedValidator, Addition};
use cluster::{Definition, IdentityPublicKey, Lock, Network};
use ipc::dkg::{Adding, CeremonyConsent, CeremonyFacts};
use ipc::envelope::ImportSecret;
use ipc::{Problem, Sensitive};
use obol::dkg::{Born, BornValidator, Dealer, Plan};
use serde::{Deserialize, Serialize};
use threshold::{SecretKey, SecretShare, ShareIndex};
use zeroize::Zeroizing;

use super::rounds::{bad, damaged, disk, invalid};
use crate::signer::blocking;
use crate::{
    clock, files,
    real_chain::{self, ImageKeys},
    vault::Vault,
};

const FILE: &str = "ceremony.sealed";
/// Binds the file's seal to its purpose.
const LABEL: &[u8] = b"hearth ceremony v1";
/// A thousand validators and thirty members come to a few megabytes.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The ceremony of this box, if there is one. One at a time; the lock also keeps its steps in order.
#[derive(Default)]
pub(crate) struct Ceremonies {
    current: tokio::sync::Mutex<Option<Ceremony>>,
}

impl Ceremonies {
    /// The ceremony, read from the disk when this is the first look since the start.
    pub(crate) async fn lock(
        &self,
        dir: &Path,
        vault: &Vault,
    ) -> Result<tokio::sync::MutexGuard<'_, Option<Ceremony>>, Problem> {
        let mut current = self.current.lock().await;
        if current.is_none()
            && let Some(kept) = Ceremony::load(dir, vault)?
        {
            // The lock of a cluster that exists takes a while to check, and nobody who signs is to wait for it.
            let checked = blocking(move || Ceremony::from_kept(kept)).await;
            *current = Some(checked.ok_or_else(damaged)??);
        }
        Ok(current)
    }
}

/// The file's content. Everything secret is wiped on drop.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) consent: CeremonyConsent,
    /// What is dealt follows from it.
    seed: Sensitive,
    /// The private half of the key that shares for us are sealed to.
    seal_secret: Sensitive,
    /// The key each other member's shares were sealed to, or none for those in the clear; set by the first deal.
    pub(super) dealt_to: Option<BTreeMap<usize, Option<String>>>,
    /// Others' shares for us, opened, hex.
    pub(super) shares: BTreeMap<usize, Sensitive>,
    pub(super) finished: Option<Finished>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Finished {
    /// SHA-256 over the broadcasts that were added up, hex.
    pub(super) of: String,
    secrets: Vec<Sensitive>,
    validators: Vec<FinishedValidator>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishedValidator {
    group_key: PublicKeyBytes,
    public_shares: Vec<PublicKeyBytes>,
}

impl Kept {
    fn new(consent: CeremonyConsent, seed: &[u8; 32]) -> Self {
        Self {
            consent,
            seed: Sensitive::new(hex::encode(seed)),
            seal_secret: Sensitive::new(hex::encode(ImportSecret::generate().to_bytes().as_slice())),
            dealt_to: None,
            shares: BTreeMap::new(),
            finished: None,
        }
    }
}

/// Whether a consent could begin a ceremony; nothing is dealt or kept.
pub(crate) fn is_sound(consent: CeremonyConsent) -> bool {
    Ceremony::from_kept(Kept::new(consent, &[0; 32])).is_ok()
}

/// A ceremony under way.
pub(crate) struct Ceremony {
    pub(super) plan: Arc<Plan>,
    pub(super) kept: Kept,
    pub(super) genesis_validators_root: Root,
    /// Places of the members whose shares may pass in the clear.
    pub(super) unsealed: Vec<usize>,
}

impl Ceremony {
    /// What the owner allows, checked. Nothing is kept yet.
    pub(super) fn of(consent: CeremonyConsent) -> Result<Self, Problem> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, seed.as_mut_slice()).map_err(|_| {
            bad("no_randomness", "the operating system gave no randomness", "Restart the box.")
        })?;
        Self::from_kept(Kept::new(consent, &seed))
    }

    /// Begins it, durably, before anything is dealt.
    pub(super) fn begin(self, dir: &Path, vault: &Vault, keys: ImageKeys) -> Result<Self, Problem> {
        keys.allow(&self.genesis_validators_root)?;
        keys.allow_fork(self.plan.network().genesis_fork_version)?;
        self.save(dir, vault)?;
        Ok(self)
    }

    fn load(dir: &Path, vault: &Vault) -> Result<Option<Kept>, Problem> {
        let path = path(dir);
        let Some(sealed) = files::read_small(&path, MAX_FILE_BYTES).map_err(|error| disk(&error))? else {
            return Ok(None);
        };
        let bytes = vault.open_bytes(LABEL, &sealed).ok_or_else(damaged)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged())
    }

    /// Checks the consent; nothing in it is believed because it was written before.
    fn from_kept(kept: Kept) -> Result<Self, Problem> {
        let consent = &kept.consent;
        let subject = Subject::of(consent)?;
        let network = consent.network.as_ref().map(|network| Network {
            name: network.name.clone(),
            chain_id: network.chain_id,
            genesis_fork_version: subject.definition().fork_version,
            genesis_time: network.genesis_time,
        });
        let identity: IdentityPublicKey = consent
            .identity
            .parse()
            .map_err(|_| invalid("`identity` is not a compressed secp256k1 public key"))?;
        let custom: Vec<Network> = network.into_iter().collect();
        let plan = subject.plan(&custom, &identity)?;
        let root: Root = consent
            .genesis_validators_root
            .parse()
            .map_err(|_| invalid("`genesis_validators_root` is not hex of 32 bytes"))?;
        clock::timing(&consent.chain).map_err(|error| invalid(&error.to_string()))?;
        real_chain::check_chain(plan.network().genesis_fork_version, &root, &consent.chain)?;
        let unsealed = consent
            .unsealed
            .iter()
            .map(|index| usize::from(*index).checked_sub(1).filter(|place| *place < plan.members().len()))
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(|| invalid("`unsealed` names a member that is not in the definition"))?;
        Ok(Self { plan: Arc::new(plan), genesis_validators_root: root, unsealed, kept })
    }

    /// Makes the present state durable. Nothing that depends on it is answered before.
    pub(super) fn save(&self, dir: &Path, vault: &Vault) -> Result<(), Problem> {
        // Measured first, so that the buffer never grows: growing would leave copies of the secrets that nothing wipes.
        let mut length = Length(0);
        serde_json::to_writer(&mut length, &self.kept).map_err(|_| damaged())?;
        let mut plain = Zeroizing::new(Vec::with_capacity(length.0));
        serde_json::to_writer(&mut *plain, &self.kept).map_err(|_| damaged())?;
        let sealed = vault.seal_bytes(LABEL, &plain).map_err(|error| error.to_problem())?;
        files::write_atomically(&path(dir), &sealed).map_err(|error| disk(&error))
    }

    /// Forgets everything. What was dealt can never be dealt again.
    pub(super) fn discard(dir: &Path) -> Result<(), Problem> {
        match std::fs::remove_file(path(dir)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk(&error)),
            Ok(()) | Err(_) => files::sync_dir(dir).map_err(|error| disk(&error)),
        }
    }

    pub(super) fn facts(&self) -> CeremonyFacts {
        let seal_key = self.seal_secret().map(|secret| secret.public_hex()).unwrap_or_default();
        CeremonyFacts {
            definition_hash: format!("0x{}", hex::encode(self.plan.hash())),
            seal_key,
            kept: self.kept.shares.keys().copied().collect(),
            finished: self.kept.finished.is_some(),
            unsealed: self.unsealed.clone(),
        }
    }

    pub(super) fn dealer(&self) -> Result<Dealer, Problem> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        hex::decode_to_slice(self.kept.seed.expose_secret(), seed.as_mut_slice()).map_err(|_| damaged())?;
        Ok(Dealer::new(Arc::clone(&self.plan), seed))
    }

    pub(super) fn seal_secret(&self) -> Result<ImportSecret, Problem> {
        let bytes =
            Zeroizing::new(hex::decode(self.kept.seal_secret.expose_secret()).map_err(|_| damaged())?);
        ImportSecret::from_bytes(&bytes).ok_or_else(damaged)
    }

    /// Notes what was made, from which broadcasts.
    pub(super) fn set_finished(&mut self, of: String, born: &Born) {
        let secret = |share: &SecretShare| Sensitive::new(hex::encode(share.key().expose_bytes().as_slice()));
        let validator = |validator: &BornValidator| FinishedValidator {
            group_key: validator.group_key,
            public_shares: validator.public_shares.clone(),
        };
        self.kept.finished = Some(Finished {
            of,
            secrets: born.secrets().iter().map(secret).collect(),
            validators: born.validators().iter().map(validator).collect(),
        });
    }

    /// What was made.
    pub(super) fn born(&self) -> Result<Born, Problem> {
        let finished = self.kept.finished.as_ref().ok_or_else(|| {
            bad("ceremony_unfinished", "the keys are not made yet", "Wait for the other members.")
        })?;
        let index = u64::try_from(self.plan.own() + 1).ok().and_then(|index| ShareIndex::new(index).ok());
        let index = index.ok_or_else(damaged)?;
        let secret = |text: &Sensitive| {
            let bytes = Zeroizing::new(hex::decode(text.expose_secret()).ok()?);
            Some(SecretShare::new(index, SecretKey::from_bytes(&bytes).ok()?))
        };
        let secrets = finished.secrets.iter().map(secret).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let validators = finished.validators.iter().map(|validator| BornValidator {
            group_key: validator.group_key,
            public_shares: validator.public_shares.clone(),
        });
        Born::from_parts(Arc::clone(&self.plan), secrets, validators.collect()).ok_or_else(damaged)
    }
}

/// Counts what is written to it.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the owner allows: the keys of a cluster to be, or more for one that exists.
enum Subject {
    New(Definition),
    More(Lock, Vec<AddedValidator>),
}

impl Subject {
    fn of(consent: &CeremonyConsent) -> Result<Self, Problem> {
        let Some(Adding { lock, validators }) = &consent.adding else {
            let json = serde_json::to_vec(&consent.definition).unwrap_or_default();
            return Definition::from_json(&json).map(Self::New).map_err(|error| not_the(&error));
        };
        if !consent.definition.is_null() {
            return Err(invalid("a cluster that exists has its definition in `lock`"));
        }
        let lock = Lock::from_value(lock.clone()).map_err(|error| no_addition(&error))?;
        let more = validators.iter().map(|wanted| AddedValidator {
            fee_recipient: wanted.fee_recipient.clone(),
            withdrawal: wanted.withdrawal.clone(),
        });
        Ok(Self::More(lock, more.collect()))
    }

    fn definition(&self) -> &Definition {
        match self {
            Self::New(definition) => definition,
            Self::More(lock, _) => &lock.definition,
        }
    }

    fn plan(self, custom: &[Network], identity: &IdentityPublicKey) -> Result<Plan, Problem> {
        match self {
            Self::New(definition) => Plan::new(definition, custom, identity).map_err(|error| not_the(&error)),
            Self::More(lock, more) => {
                let addition = Addition::new(lock, &more, custom).map_err(|error| no_addition(&error))?;
                Plan::adding(addition, custom, identity).map_err(|error| no_addition(&error))
            }
        }
    }
}

fn not_the(error: &dyn std::error::Error) -> Problem {
    bad("definition_invalid", &error.to_string(), "Get the original definition from whoever made it.")
}

fn no_addition(error: &dyn std::error::Error) -> Problem {
    bad(
        "addition_invalid",
        &error.to_string(),
        "Use the lock in force and addresses that every member was told.",
    )
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}
