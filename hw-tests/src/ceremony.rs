//! Key generation among native members, as their owners would start it: consent in the signer, then the ceremony in the
//! node, then the files.

use std::path::Path;
use std::time::{Duration, Instant};

use chain::{Epoch, ForkInfo, PublicKeyBytes, SignatureBytes};
use cluster::create::{CreateError, CreateOptions, draft};
use cluster::{Definition, DefinitionError, Enr, IdentityKey, Lock, LockError, PeerId};
use ipc::dkg::{
    CEREMONY_PATH, CeremonyConsent, CeremonyStatus, DKG_FILES_PATH, DKG_PATH, KeyGeneration,
    KeyGenerationFiles, KeyGenerationStatus, PrivateNetwork,
};
use ipc::signer::ChainClock;
use ipc::web3signer::{SignAnswer, SignRequest, sign_path};
use ipc::{Client, ClientError, Sensitive};
use threshold::ShareIndex;

use crate::member::Member;

/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(200);
/// Checking a definition and its signatures takes a moment on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a ceremony did not make keys.
#[derive(Debug, thiserror::Error)]
pub enum CeremonyError {
    /// No runtime.
    #[error("cannot start a runtime")]
    Runtime(#[source] std::io::Error),
    /// A definition cannot be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A definition cannot be written.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A daemon refused or did not answer.
    #[error("{member}: {source}")]
    Daemon {
        /// Whose.
        member: String,
        /// What it said.
        #[source]
        source: ClientError,
    },
    /// The lock is not one.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It failed, or took too long.
    #[error("{member}: the ceremony did not finish: {why}")]
    Unfinished {
        /// Whose.
        member: String,
        /// What its status said last.
        why: String,
    },
    /// Members have different files.
    #[error("{member}: its {file} differs from the first member's")]
    Differs {
        /// Whose.
        member: String,
        /// Which file.
        file: String,
    },
    /// The new shares do not sign for the new key.
    #[error("the new shares do not sign: {0}")]
    DryRun(String),
}

/// The chain that the new validators are for.
#[derive(Clone, Debug)]
pub struct CeremonyChain {
    /// `0x` hex.
    pub genesis_validators_root: String,
    /// Its clock.
    pub clock: ChainClock,
    /// When it is not public.
    pub network: Option<PrivateNetwork>,
    /// Beacon nodes for the cluster afterwards.
    pub beacon_nodes: Vec<String>,
}

/// Everybody in a ceremony: Hearth members and, behind them in no particular order, others.
pub struct Ceremony {
    /// The definition that all start from.
    pub definition: Definition,
    /// The identities of our members, in the order in which they are given everywhere here.
    pub identities: Vec<IdentityKey>,
    /// The chain.
    pub chain: CeremonyChain,
    /// The minor version of Charon v1 that is spoken.
    pub minor: u8,
    /// Share indices of members who run other software.
    pub others: Vec<u8>,
    /// Where everybody is reached; `/ip4/…/tcp/…/p2p/…`.
    pub peers: Vec<String>,
    /// Relays through which members without an address are reached.
    pub relays: Option<Vec<String>>,
}

impl Ceremony {
    /// A ceremony of our members alone, with fresh identities.
    ///
    /// # Errors
    /// When the options make no cluster.
    pub fn among(
        members: &[Member],
        options: &CreateOptions,
        chain: CeremonyChain,
    ) -> Result<Self, CeremonyError> {
        let mut rng = rand::rng();
        let identities: Vec<IdentityKey> = members.iter().map(|_| IdentityKey::generate(&mut rng)).collect();
        let records: Vec<Enr> = identities.iter().map(Enr::build).collect();
        let definition = draft(options, &records, &mut rng)?;
        let peers = members.iter().zip(&identities).map(|(member, key)| address(member, key)).collect();
        Ok(Self { definition, identities, chain, minor: 10, others: Vec::new(), peers, relays: None })
    }

    /// Tells the signer and the node of one member to take part.
    ///
    /// # Errors
    /// When either refuses.
    pub fn begin(&self, place: usize, member: &Member) -> Result<(), CeremonyError> {
        let said = |source| CeremonyError::Daemon { member: member.name().to_owned(), source };
        let definition: serde_json::Value =
            serde_json::from_slice(&self.definition.to_json()?).unwrap_or_default();
        let Some(identity) = self.identities.get(place) else { return Ok(()) };
        let consent = CeremonyConsent {
            definition: definition.clone(),
            adding: None,
            identity: identity.public_key().to_string(),
            genesis_validators_root: self.chain.genesis_validators_root.clone(),
            chain: self.chain.clock,
            network: self.chain.network.clone(),
            unsealed: self.others.clone(),
        };
        let request = KeyGeneration {
            definition,
            adding: None,
            identity_key: Sensitive::new(identity.to_file_text().to_string()),
            minor: self.minor,
            peers: self.peers.clone(),
            beacon_nodes: self.chain.beacon_nodes.clone(),
            relays: self.relays.clone(),
        };
        runtime()?.block_on(async {
            let signer = Client::new(member.signer_socket()).with_timeout(PATIENCE);
            let _: CeremonyStatus = signer.put(CEREMONY_PATH, &consent).await.map_err(said)?;
            let node = Client::new(member.node_socket()).with_timeout(PATIENCE);
            let _: KeyGenerationStatus = node.put(DKG_PATH, &request).await.map_err(said)?;
            Ok(())
        })
    }

    /// Waits until a member has its files; fails when its status says that the ceremony failed.
    ///
    /// # Errors
    /// When it fails or takes longer.
    pub fn wait(&self, member: &Member, patience: Duration) -> Result<KeyGenerationFiles, CeremonyError> {
        let unfinished = |why: String| CeremonyError::Unfinished { member: member.name().to_owned(), why };
        let deadline = Instant::now() + patience;
        loop {
            let status = status(member)?;
            let Some(ceremony) = &status.ceremony else {
                return Err(unfinished("there is none".to_owned()));
            };
            if ceremony.lock_hash.is_some() {
                return files(member);
            }
            if ceremony.phase == "failed" || Instant::now() > deadline {
                return Err(unfinished(format!("{ceremony:?}")));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Runs the whole ceremony; the lock that everybody has.
    ///
    /// # Errors
    /// When it fails, takes longer, or members end with different files.
    pub fn run(&self, members: &[Member], patience: Duration) -> Result<Lock, CeremonyError> {
        for (place, member) in members.iter().enumerate() {
            self.begin(place, member)?;
        }
        self.finish(members, patience)
    }

    /// Waits for everybody and compares what they have.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn finish(&self, members: &[Member], patience: Duration) -> Result<Lock, CeremonyError> {
        let mut first: Option<KeyGenerationFiles> = None;
        for member in members {
            let found = self.wait(member, patience)?;
            let Some(expected) = &first else {
                first = Some(found);
                continue;
            };
            for (file, other) in expected.files.iter().zip(&found.files) {
                if file != other {
                    let (member, file) = (member.name().to_owned(), file.name.clone());
                    return Err(CeremonyError::Differs { member, file });
                }
            }
        }
        let lock = first.iter().flat_map(|found| &found.files).find(|file| file.name == "cluster-lock.json");
        let lock = Lock::from_json(lock.map(|file| file.content.as_bytes()).unwrap_or_default())?;
        Ok(lock)
    }
}

/// Where a member is reached.
pub fn address(member: &Member, identity: &IdentityKey) -> String {
    let peer = PeerId::from_public_key(&identity.public_key());
    format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", member.p2p_port())
}

/// What a member's node says of its ceremony.
///
/// # Errors
/// When it does not answer.
pub fn status(member: &Member) -> Result<KeyGenerationStatus, CeremonyError> {
    get(member, DKG_PATH)
}

/// The files of a member's finished ceremony.
///
/// # Errors
/// When it does not answer.
pub fn files(member: &Member) -> Result<KeyGenerationFiles, CeremonyError> {
    get(member, DKG_FILES_PATH)
}

fn get<T: serde::de::DeserializeOwned>(member: &Member, path: &str) -> Result<T, CeremonyError> {
    let said = |source| CeremonyError::Daemon { member: member.name().to_owned(), source };
    runtime()?.block_on(async {
        Client::new(member.node_socket()).with_timeout(PATIENCE).get(path).await.map_err(said)
    })
}

/// Has the members' signers sign something harmless, a randao reveal, with their new shares, and puts it together: what
/// comes out must be the validator's own signature.
///
/// # Errors
/// When a signer refuses or the result is wrong.
pub fn dry_run(
    members: &[(u64, &Path)],
    lock: &Lock,
    fork_info: ForkInfo,
    epoch: Epoch,
) -> Result<(), CeremonyError> {
    let failed = |why: String| CeremonyError::DryRun(why);
    let request = SignRequest::new(
        "RANDAO_REVEAL",
        Some(fork_info),
        "randao_reveal",
        &serde_json::json!({ "epoch": epoch.0.to_string() }),
    )
    .map_err(|error| failed(error.to_string()))?;
    let domain = chain::domain::domain_at(chain::domain::RANDAO, epoch, &fork_info);
    let root = chain::domain::signing_root(&epoch, domain);
    for validator in &lock.validators {
        let mut partials: Vec<(ShareIndex, SignatureBytes)> = Vec::new();
        for (index, socket) in members {
            let place = usize::try_from(*index).unwrap_or_default().saturating_sub(1);
            let share: PublicKeyBytes =
                *validator.public_shares.get(place).ok_or_else(|| failed("no such share".to_owned()))?;
            let answer: SignAnswer = runtime()?
                .block_on(Client::new(*socket).post(&sign_path(&share), &request))
                .map_err(|error| failed(error.to_string()))?;
            let index = ShareIndex::new(*index).map_err(|error| failed(error.to_string()))?;
            partials.push((index, answer.signature));
        }
        let signature = threshold::combine(&partials).map_err(|error| failed(error.to_string()))?;
        threshold::verify_bytes(&validator.public_key, &root.0, &signature)
            .map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, CeremonyError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CeremonyError::Runtime)
}
