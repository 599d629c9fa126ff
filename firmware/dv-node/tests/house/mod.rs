//! A whole cluster on loopback: real `dv-node` processes and real libp2p, a fake beacon node, and signers that are the
//! real rules (`slashing`) and real shares (`threshold`) behind the real socket API.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod flood;
pub mod impostor;

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chain::{AttestationData, ExecutionAddress, ForkInfo, ForkVersion, PublicKeyBytes, Root};
use cluster::create::{Addresses, CreateOptions, CreatedCluster};
use cluster::{Network, PeerId};
use ipc::dkg::{CEREMONY_STATUS_PATH, CeremonyFacts, CeremonyStatus};
use ipc::server::{CallerName, CallerNames, Limits};
use ipc::web3signer::{PUBLIC_KEYS_PATH, SIGN_MANY_PATH, SignAnswer, SignGroup, SignOutcome, SignRequest};
use ipc::{Client, ClusterSetup, NodeStatus, Problem, Sensitive};
use slashing::{AttestationVote, Protection, Retention};
use threshold::SecretShare;

use crate::fake::{FakeChain, FakeNode};

pub const FORK_VERSION: ForkVersion = ForkVersion([0x20, 0, 0, 0x89]);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes a cluster document with its secrets.
pub fn create_cluster(members: usize, validators: usize) -> CreatedCluster {
    create_cluster_with(members, validators, None)
}

/// The same with a threshold of choice, also one that is not created here: other tools make such clusters.
pub fn create_cluster_with(members: usize, validators: usize, threshold: Option<u8>) -> CreatedCluster {
    let network = Network {
        name: "fake".to_owned(),
        chain_id: 1337,
        genesis_fork_version: FORK_VERSION,
        genesis_time: 1_700_000_000,
    };
    let address = ExecutionAddress([0x11; 20]);
    let addresses = Addresses { fee_recipient: address, withdrawal: address };
    let mut options = CreateOptions::new("house", members, validators, network, addresses);
    options.timestamp = "2026-01-01T00:00:00Z".to_owned();
    let mut created = cluster::create::cluster(&options, &mut rand::rng()).unwrap();
    if let Some(threshold) = threshold {
        split_anew(&mut created, threshold);
    }
    created
}

/// Makes the validators' keys anew with another threshold and seals the lock again.
fn split_anew(created: &mut CreatedCluster, threshold: u8) {
    let (lock, nodes) = (&mut created.lock, &mut created.nodes);
    lock.definition.threshold = u64::from(threshold);
    lock.definition.set_hashes().unwrap();
    nodes.iter_mut().for_each(|node| node.shares.clear());
    for validator in &mut lock.validators {
        let secret = threshold::SecretKey::random(&mut rand::rng());
        validator.public_key = secret.public_key().to_bytes();
        validator.deposits.clear();
        let registration = validator.builder_registration.as_mut().unwrap();
        registration.message.pubkey = validator.public_key;
        let root = chain::deposit::registration_signing_root(&registration.message, FORK_VERSION);
        registration.signature = secret.sign(&root.0).to_bytes();
        let split = threshold::split(secret, threshold.into(), nodes.len(), &mut rand::rng()).unwrap();
        validator.public_shares =
            split.shares.iter().map(|share| share.public_share().key.to_bytes()).collect();
        for (node, share) in nodes.iter_mut().zip(split.shares) {
            node.shares.push(share);
        }
    }
    lock.lock_hash = lock.compute_lock_hash().unwrap();
    let shares = nodes.iter().flat_map(|node| &node.shares);
    let signatures: Vec<_> = shares.map(|share| share.sign(&lock.lock_hash)).collect();
    lock.signature_aggregate = threshold::aggregate_signatures(&signatures).unwrap().to_bytes().0.to_vec();
    lock.node_signatures = nodes.iter().map(|node| node.identity.sign(&lock.lock_hash).to_vec()).collect();
    created.view = lock.verify(&[]).unwrap();
}

impl SignerState {
    /// Signs like a validator client that holds the shares: its own protection is not what is tested.
    pub fn sign_root(&self, root: Root) -> Vec<(PublicKeyBytes, chain::SignatureBytes)> {
        self.shares.iter().map(|(key, share)| (*key, share.sign(&root.0).to_bytes())).collect()
    }
}

/// What one signer was asked for and did.
pub struct SignerState {
    shares: BTreeMap<PublicKeyBytes, SecretShare>,
    protection: Protection,
    genesis_root: Root,
    pub signed: Vec<(PublicKeyBytes, AttestationData)>,
    /// What it had to refuse, with the message: whoever asks for it does something wrong.
    pub refused: Vec<String>,
    /// Answers 503 while set.
    pub locked: bool,
    /// Signs something else while set: a member that lies.
    pub lies: bool,
    /// Signatures that it was told of.
    pub seen: Vec<ipc::web3signer::SeenSignature>,
    /// Copies of identity keys, by the lock's hash, and whether it takes any.
    pub copies: BTreeMap<String, String>,
    pub takes_copies: bool,
    /// Those that members remember, each with how much had been signed when it was told.
    pub remembered: Vec<(usize, ipc::web3signer::SeenSignature)>,
    /// What the chain shows, each with how much had been signed when it was told.
    pub chain_marks: Vec<(usize, ipc::web3signer::ChainMark)>,
    /// The ceremony that its owner has begun: its definition hash.
    pub ceremony: Option<String>,
    /// Its owner has confirmed that every validator leaves.
    pub exits_confirmed: bool,
    /// Its owner has allowed a change of the cluster.
    pub edit_allowed: bool,
    /// What the seal of identity keys is bound to, as to a vault; 503 while there is none.
    pub vault: Option<u8>,
    /// Hash of the lock with which it has promised to join a cluster.
    pub edit_promised: Option<String>,
}

impl SignerState {
    /// Its disk is an old copy: it does not know what it has signed.
    pub fn forget(&mut self) {
        self.protection = Protection::new(self.genesis_root, Retention::Complete);
        for key in self.shares.keys() {
            self.protection.declare_never_signed(*key).unwrap();
        }
    }

    fn hold(&mut self, shares: Vec<SecretShare>) {
        for share in shares {
            let key = share.public_share().key.to_bytes();
            self.protection.declare_never_signed(key).unwrap();
            self.shares.insert(key, share);
        }
    }
}

type Shared = Arc<Mutex<SignerState>>;

/// A port that is free together with the one after it, where a second cluster would listen.
///
/// Between the moment a test chooses a port and the moment its program listens there, nobody else may get it: it is none of those
/// that the system gives to outgoing connections (from 32768 on), and the UDP port of the same number, which nobody
/// needs, is held to tell the other tests of this machine that it is taken.
pub struct Port {
    pub number: u16,
    _taken: [(UdpSocket, UnixDatagram); 2],
}

impl Port {
    pub fn take() -> Self {
        // The mark is the one of the ports of native members: what is given there and not open yet looks free.
        let take = |port: u16| {
            let mark =
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("hearth-port-{port}"))?)?;
            TcpListener::bind(("127.0.0.1", port))?;
            std::io::Result::Ok((UdpSocket::bind(("127.0.0.1", port))?, mark))
        };
        loop {
            let number = rand::random_range(10_000..32_000_u16);
            if let (Ok(this), Ok(next)) = (take(number), take(number + 1)) {
                return Self { number, _taken: [this, next] };
            }
        }
    }
}

fn start_signer(socket: &Path, shares: Vec<SecretShare>, genesis_root: Root) -> Shared {
    let mut state = SignerState {
        shares: BTreeMap::new(),
        protection: Protection::new(genesis_root, Retention::Complete),
        genesis_root,
        signed: Vec::new(),
        refused: Vec::new(),
        locked: false,
        lies: false,
        seen: Vec::new(),
        copies: BTreeMap::new(),
        takes_copies: true,
        remembered: Vec::new(),
        chain_marks: Vec::new(),
        ceremony: None,
        exits_confirmed: false,
        edit_allowed: false,
        vault: Some(0x5a),
        edit_promised: None,
    };
    state.hold(shares);
    let state = Arc::new(Mutex::new(state));
    let router = axum::Router::new()
        .route(PUBLIC_KEYS_PATH, get(public_keys))
        .route(CEREMONY_STATUS_PATH, get(ceremony))
        .route(SIGN_MANY_PATH, post(sign_many))
        .route(ipc::edit::EDIT_STATUS_PATH, get(edit_status))
        .route(ipc::web3signer::SEEN_PATH, post(seen))
        .route(ipc::web3signer::REMEMBERED_PATH, post(remembered))
        .route(ipc::web3signer::CHAIN_MARKS_PATH, post(chain_marks))
        .route("/api/v1/eth2/sign/{key}", post(sign_one))
        .route(ipc::folder::SEAL_IDENTITY_PATH, post(seal_identity))
        .route("/v1/identities/{lock_hash}", get(identity).put(keep_identity))
        .route(ipc::folder::OPEN_IDENTITY_PATH, post(open_identity))
        .with_state(Arc::clone(&state));
    let listener = ipc::listen::Inherited::default().take("sign", Some(socket)).unwrap();
    let callers = CallerNames::new(vec![CallerName::Name("self".to_owned())]).resolve();
    tokio::spawn(ipc::server::serve(listener, router, callers, Limits::default()));
    state
}

async fn public_keys(State(state): State<Shared>) -> Json<Vec<PublicKeyBytes>> {
    Json(state.lock().unwrap().shares.keys().copied().collect())
}

/// Notes it; what it proves is the real signer's to judge.
async fn seen(
    State(state): State<Shared>,
    Json(seen): Json<Vec<ipc::web3signer::SeenSignature>>,
) -> Json<ipc::web3signer::SeenAnswer> {
    state.lock().unwrap().seen.extend(seen);
    Json(ipc::web3signer::SeenAnswer::default())
}

/// The same for what members remember; while it is locked it is told nothing.
async fn remembered(
    State(state): State<Shared>,
    Json(seen): Json<Vec<ipc::web3signer::SeenSignature>>,
) -> Response {
    let mut state = state.lock().unwrap();
    if state.locked {
        return vault_is_locked();
    }
    let signed = state.signed.len();
    state.remembered.extend(seen.into_iter().map(|seen| (signed, seen)));
    Json(ipc::web3signer::SeenAnswer::default()).into_response()
}

/// The same for what the chain shows.
async fn chain_marks(
    State(state): State<Shared>,
    Json(marks): Json<Vec<ipc::web3signer::ChainMark>>,
) -> Response {
    let mut state = state.lock().unwrap();
    if state.locked {
        return vault_is_locked();
    }
    let signed = state.signed.len();
    state.chain_marks.extend(marks.into_iter().map(|mark| (signed, mark)));
    Json(serde_json::json!({})).into_response()
}

/// As if sealed: what another vault made does not open. How it is done truly is the real signer's to test.
async fn seal_identity(
    State(state): State<Shared>,
    Json(wanted): Json<ipc::folder::IdentityToSeal>,
) -> Response {
    let Some(vault) = state.lock().unwrap().vault else { return vault_is_locked() };
    let Ok(key) = cluster::IdentityKey::from_file_text(wanted.identity_key.expose_secret()) else {
        return ipc::server::refusal(
            axum::http::StatusCode::UNPROCESSABLE_ENTITY,
            Problem::new("identity_key_invalid", "It is no key.", "Test."),
        );
    };
    let text = key.to_file_text();
    let sealed: Vec<u8> = std::iter::once(vault).chain(text.bytes().map(|byte| byte ^ vault)).collect();
    Json(ipc::folder::SealedIdentity { sealed: hex::encode(sealed) }).into_response()
}

async fn open_identity(
    State(state): State<Shared>,
    Json(kept): Json<ipc::folder::SealedIdentity>,
) -> Response {
    let Some(vault) = state.lock().unwrap().vault else { return vault_is_locked() };
    let sealed = hex::decode(&kept.sealed).unwrap_or_default();
    match sealed.split_first() {
        Some((by, text)) if *by == vault => {
            let text = text.iter().map(|byte| byte ^ vault).collect();
            let identity_key = Sensitive::new(String::from_utf8(text).unwrap());
            Json(ipc::folder::IdentityAnswer { identity_key }).into_response()
        }
        _ => ipc::server::refusal(
            axum::http::StatusCode::UNPROCESSABLE_ENTITY,
            Problem::new("identity_sealed_elsewhere", "It does not open.", "Join again."),
        ),
    }
}

/// The copy that it keeps for backups.
async fn identity(
    State(state): State<Shared>,
    axum::extract::Path(lock_hash): axum::extract::Path<String>,
) -> Response {
    let state = state.lock().unwrap();
    if state.vault.is_none() {
        return vault_is_locked();
    }
    match state.copies.get(lock_hash.trim_start_matches("0x")) {
        Some(key) => {
            let identity_key = Sensitive::new(key.clone());
            Json(ipc::folder::IdentityAnswer { identity_key }).into_response()
        }
        None => ipc::server::refusal(
            axum::http::StatusCode::NOT_FOUND,
            Problem::new("identity_unknown", "It has none.", "Test."),
        ),
    }
}

async fn keep_identity(
    State(state): State<Shared>,
    axum::extract::Path(lock_hash): axum::extract::Path<String>,
    Json(given): Json<ipc::folder::IdentityGiven>,
) -> Response {
    let mut state = state.lock().unwrap();
    if state.vault.is_none() || !state.takes_copies {
        return vault_is_locked();
    }
    state
        .copies
        .insert(lock_hash.trim_start_matches("0x").to_owned(), given.identity_key.expose_secret().to_owned());
    Json(serde_json::json!({})).into_response()
}

fn vault_is_locked() -> Response {
    let problem = Problem::new("passphrase_needed", "They wait for your passphrase.", "Type it.");
    ipc::server::refusal(axum::http::StatusCode::SERVICE_UNAVAILABLE, problem)
}

async fn ceremony(State(state): State<Shared>) -> Json<CeremonyStatus> {
    let facts = |definition_hash: &String| CeremonyFacts {
        definition_hash: definition_hash.clone(),
        seal_key: "07".repeat(32),
        kept: Vec::new(),
        finished: false,
        unsealed: Vec::new(),
    };
    Json(CeremonyStatus { ceremony: state.lock().unwrap().ceremony.as_ref().map(facts) })
}

async fn edit_status(State(state): State<Shared>) -> Json<ipc::edit::EditStatus> {
    use ipc::edit::{EditStage, EditStatus, OpenEdit};
    let state = state.lock().unwrap();
    let stage = if state.edit_allowed { EditStage::Allowed } else { EditStage::None };
    let promise =
        |name: &String| OpenEdit { name: name.clone(), validators: 1, validator: None, promised: true };
    let open = state.edit_promised.iter().map(promise).collect();
    Json(EditStatus { stage, lock_hash: None, dealt: 0, validators: 0, open })
}

async fn sign_one(
    State(state): State<Shared>,
    axum::extract::Path(key): axum::extract::Path<PublicKeyBytes>,
    Json(request): Json<SignRequest>,
) -> Response {
    match sign(&mut state.lock().unwrap(), &key, &request) {
        SignOutcome::Signed(answer) => Json(answer).into_response(),
        SignOutcome::Refused { status, problem } => {
            ipc::server::refusal(axum::http::StatusCode::from_u16(status).unwrap(), problem)
        }
    }
}

async fn sign_many(State(state): State<Shared>, Json(groups): Json<Vec<SignGroup>>) -> Response {
    let mut state = state.lock().unwrap();
    let outcomes = groups.iter().map(|group| {
        let outcome = |key: &PublicKeyBytes| sign(&mut state, key, &group.request);
        group.keys.iter().map(outcome).collect()
    });
    Json(outcomes.collect::<Vec<Vec<SignOutcome>>>()).into_response()
}

fn sign(state: &mut SignerState, key: &PublicKeyBytes, request: &SignRequest) -> SignOutcome {
    let problem = |status: u16, code: &str, text: String| SignOutcome::Refused {
        status,
        problem: Problem::new(code, text, "Test."),
    };
    if state.locked {
        return problem(503, "locked", "locked".to_owned());
    }
    if request.kind == "VOLUNTARY_EXIT" {
        if !state.exits_confirmed {
            let text = "not confirmed".to_owned();
            return problem(412, "exit_not_confirmed", text);
        }
        let exit: chain::VoluntaryExit =
            serde_json::from_value(request.body["voluntary_exit"].clone()).unwrap();
        let root = exit_root(&exit, request.fork_info.unwrap().genesis_validators_root);
        assert_eq!(request.signing_root, Some(root));
        let signature = state.shares[key].sign(&root.0).to_bytes();
        return SignOutcome::Signed(SignAnswer { signature });
    }
    if request.kind != "ATTESTATION" {
        // The real signer computes the root itself, this one believes it.
        let signing_root = request.signing_root.unwrap();
        if request.kind == "BLOCK_V2" {
            let header = request.body["beacon_block"]["block_header"].clone();
            let header: chain::BeaconBlockHeader = serde_json::from_value(header).unwrap();
            let proposal = slashing::BlockProposal { slot: header.slot, signing_root };
            match state.protection.check_block(key, &proposal) {
                Ok(permit) => drop(state.protection.record_block(permit).unwrap()),
                Err(error) => {
                    state.refused.push(format!("{key} {proposal:?}: {error}"));
                    return problem(412, "slashable", error.to_string());
                }
            }
        }
        let message = if state.lies { [0xee; 32] } else { signing_root.0 };
        let signature = state.shares[key].sign(&message).to_bytes();
        return SignOutcome::Signed(SignAnswer { signature });
    }
    let data: AttestationData = serde_json::from_value(request.body["attestation"].clone()).unwrap();
    let fork_info: ForkInfo = request.fork_info.unwrap();
    let domain = chain::domain::domain_at(chain::domain::BEACON_ATTESTER, data.target.epoch, &fork_info);
    let signing_root = chain::domain::signing_root(&data, domain);
    assert_eq!(request.signing_root, Some(signing_root), "dv-node expects another root than the message has");
    let vote = AttestationVote { source: data.source.epoch, target: data.target.epoch, signing_root };
    let permit = match state.protection.check_attestation(key, &vote) {
        Ok(permit) => permit,
        Err(error) => {
            state.refused.push(format!("{key} slot {} {vote:?}: {error}", data.slot));
            return problem(412, "slashable", error.to_string());
        }
    };
    state.protection.record_attestation(permit).unwrap();
    state.signed.push((*key, data));
    let message = if state.lies { [0xee; 32] } else { signing_root.0 };
    let signature = state.shares[key].sign(&message).to_bytes();
    SignOutcome::Signed(SignAnswer { signature })
}

/// What is signed in an exit (EIP-7044).
pub fn exit_root(exit: &chain::VoluntaryExit, genesis_validators_root: Root) -> Root {
    let capella = ForkVersion([0x20, 0, 0, 0x92]);
    let domain = chain::compute_domain(chain::domain::VOLUNTARY_EXIT, capella, genesis_validators_root);
    chain::domain::signing_root(exit, domain)
}

/// One member: its folder, its signer, its process.
pub struct Member {
    pub dir: tempfile::TempDir,
    pub signer: Shared,
    pub peer_id: PeerId,
    pub port: u16,
    /// Who signs for it, from the next set-up on.
    pub signing: ipc::Signing,
    /// What its blocks are like, from the next set-up on.
    pub proposals: ipc::Proposals,
    /// Its fallback beacon nodes, from the next set-up on.
    pub fallbacks: Vec<String>,
    /// Where its Obol API is, and whether its owner wants it, from the next start and set-up on.
    pub obol_api: (Option<String>, bool),
    identity: String,
    process: Option<Child>,
    _port: Option<Port>,
}

impl Member {
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    pub fn client(&self) -> Client {
        Client::new(self.socket()).with_timeout(Duration::from_secs(30))
    }

    pub async fn status(&self) -> NodeStatus {
        self.client().get(ipc::node::STATUS_PATH).await.unwrap()
    }

    /// What its configuration file says.
    pub fn config(&self) -> String {
        let dir = self.dir.path().display();
        let service =
            self.obol_api.0.as_ref().map(|url| format!("obol_api = \"{url}\"\n")).unwrap_or_default();
        format!(
            "{service}state_dir = \"{dir}/state\"\nsigner_socket = \"{dir}/sign.sock\"\nlog = \"info,libp2p=warn,dv_node=debug\"\n\
             [p2p]\nlisten = [\"/ip4/127.0.0.1/tcp/{}\"]\n[callers]\ncontrol = [\"self\"]\n[listen]\ncontrol = \"{dir}/control.sock\"\n",
            self.port
        )
    }

    /// Starts the program and waits until it has read its files and does what it is asked.
    pub async fn start(&mut self) {
        self.spawn();
        self.answers().await;
        // The socket answers a moment before the stored clusters are verified. This is answered by who has verified them.
        let client = self.client();
        eventually("the stored clusters are read", || async {
            client.get::<ipc::edit::ClusterEditStatus>(ipc::edit::CLUSTER_EDIT_PATH).await.is_ok()
        })
        .await;
    }

    /// Starts the program.
    pub fn spawn(&mut self) {
        let path = self.dir.path().join("dv-node.toml");
        std::fs::write(&path, self.config()).unwrap();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_dv-node"))
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Asks it to stop, as the service manager does, and waits until it has ended.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(process.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        tokio::task::spawn_blocking(move || process.wait().unwrap()).await.unwrap();
    }

    /// Starts the program once more, with the same files and sockets of its own, and waits for its end.
    pub fn second_process(&self) -> std::process::Output {
        let path = self.dir.path().join("second.toml");
        let config = self.config().replace("/control.sock", "/second.sock");
        std::fs::write(&path, config).unwrap();
        Command::new(env!("CARGO_BIN_EXE_dv-node"))
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Waits until its control socket answers.
    pub async fn answers(&self) {
        let client = self.client();
        eventually("the control socket answers", || async {
            client.get::<NodeStatus>(ipc::node::STATUS_PATH).await.is_ok()
        })
        .await;
    }

    /// The power goes.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Its secret name, for who speaks in its place.
    pub fn identity(&self) -> cluster::IdentityKey {
        cluster::IdentityKey::from_file_text(&self.identity).unwrap()
    }

    /// The number of its process.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- {} ---", self.peer_id);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// The cluster and its chain.
pub struct House {
    pub created: CreatedCluster,
    pub beacon: FakeNode,
    pub members: Vec<Member>,
    /// How much of what was submitted has been read, and the attestations in it: each is checked once.
    read: Mutex<(usize, Vec<chain::SingleAttestation>)>,
}

impl House {
    /// Folders, signers and ports; nothing is started.
    pub async fn build(members: usize, validators: usize) -> Self {
        Self::build_with_slots(members, validators, 2_000).await
    }

    /// The same with slots of another length.
    pub async fn build_with_slots(members: usize, validators: usize, slot_ms: u64) -> Self {
        let mut created = create_cluster(members, validators);
        let chain = FakeChain { slot_ms, slots_per_epoch: 4, ..FakeChain::new(created.group_public_keys()) };
        let genesis_root = chain.genesis_validators_root;
        let beacon = FakeNode::start(chain).await;
        beacon.inner.lock().unwrap().makes_aggregates = true;
        let mut built = Vec::new();
        for node in &mut created.nodes {
            let port = Port::take();
            let dir = tempfile::tempdir().unwrap();
            let signer =
                start_signer(&dir.path().join("sign.sock"), std::mem::take(&mut node.shares), genesis_root);
            built.push(Member {
                dir,
                signer,
                peer_id: PeerId::from_public_key(&node.identity.public_key()),
                port: port.number,
                signing: ipc::Signing::BuiltIn,
                proposals: ipc::Proposals::default(),
                fallbacks: Vec::new(),
                obol_api: (None, false),
                identity: node.identity.to_file_text().to_string(),
                process: None,
                _port: Some(port),
            });
        }
        Self { created, beacon, members: built, read: Mutex::default() }
    }

    pub fn lock(&self) -> serde_json::Value {
        serde_json::from_slice(&self.created.lock.to_json().unwrap()).unwrap()
    }

    pub fn setup(&self, member: usize) -> ClusterSetup {
        ClusterSetup {
            lock: self.lock(),
            identity_key: Sensitive::new(self.members[member].identity.clone()),
            beacon_nodes: vec![self.beacon.url.clone()],
            relays: None,
            peers: self
                .members
                .iter()
                .map(|member| format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", member.port, member.peer_id))
                .collect(),
            signing: self.members[member].signing,
            fallback_beacon_nodes: Some(self.members[member].fallbacks.clone()),
            proposals: Some(self.members[member].proposals.clone()),
            obol_api: Some(self.members[member].obol_api.1),
        }
    }

    /// Another cluster on the same chain, whose first member is this one's first member too: the same box, the same signer.
    pub fn beside(&mut self, members: usize, validators: usize) -> Self {
        let mut created = create_cluster(members, validators);
        let keys = created.group_public_keys();
        let genesis_root = {
            let chain = &mut self.beacon.inner.lock().unwrap().chain;
            chain.validators.extend(keys);
            chain.genesis_validators_root
        };
        let mut built = Vec::new();
        for (index, node) in created.nodes.iter_mut().enumerate() {
            let shares = std::mem::take(&mut node.shares);
            let identity = node.identity.to_file_text().to_string();
            let peer_id = PeerId::from_public_key(&node.identity.public_key());
            let dir = tempfile::tempdir().unwrap();
            let taken = (index > 0).then(Port::take);
            let (signer, port) = if let Some(port) = &taken {
                let signer = start_signer(&dir.path().join("sign.sock"), shares, genesis_root);
                (signer, port.number)
            } else {
                let signer = Arc::clone(&self.members[0].signer);
                signer.lock().unwrap().hold(shares);
                (signer, self.members[0].port + 1)
            };
            let signing = ipc::Signing::BuiltIn;
            built.push(Member {
                dir,
                signer,
                peer_id,
                port,
                signing,
                proposals: ipc::Proposals::default(),
                fallbacks: Vec::new(),
                obol_api: (None, false),
                identity,
                process: None,
                _port: taken,
            });
        }
        Self { created, beacon: self.beacon.clone(), members: built, read: Mutex::default() }
    }

    /// A lock of the same members and validators under another name, signed by everybody.
    pub fn lock_under_another_name(&self) -> serde_json::Value {
        let mut lock = cluster::Lock::from_value(self.lock()).unwrap();
        lock.definition.name = "another name".to_owned();
        lock.definition.set_hashes().unwrap();
        lock.lock_hash = lock.compute_lock_hash().unwrap();
        self.sign_lock(&mut lock);
        serde_json::from_slice(&lock.to_json().unwrap()).unwrap()
    }

    /// A lock of the same members with these validators and one more, signed by everybody. Every signer gets its new share.
    pub fn grown_lock(&self) -> serde_json::Value {
        use cluster::add::{AddedValidator, Addition};
        let mut more = create_cluster(self.members.len(), 1);
        let address = format!("0x{}", "11".repeat(20));
        let wanted = AddedValidator { fee_recipient: address.clone(), withdrawal: address };
        let base = cluster::Lock::from_value(self.lock()).unwrap();
        let addition = Addition::new(base, &[wanted], &[]).unwrap();
        let mut lock = addition.lock(std::mem::take(&mut more.lock.validators)).unwrap();
        for (member, node) in self.members.iter().zip(&mut more.nodes) {
            member.signer.lock().unwrap().hold(std::mem::take(&mut node.shares));
        }
        self.sign_lock(&mut lock);
        serde_json::from_slice(&lock.to_json().unwrap()).unwrap()
    }

    /// Every share of every signer signs it, and so does every member.
    fn sign_lock(&self, lock: &mut cluster::Lock) {
        let partials = |member: &Member| member.signer.lock().unwrap().sign_root(Root(lock.lock_hash));
        let partials = self.members.iter().flat_map(partials);
        let signatures: Vec<_> =
            partials.map(|(_, signature)| threshold::Signature::parse(&signature).unwrap()).collect();
        lock.signature_aggregate =
            threshold::aggregate_signatures(&signatures).unwrap().to_bytes().0.to_vec();
        let nodes = self.created.nodes.iter();
        lock.node_signatures = nodes.map(|node| node.identity.sign(&lock.lock_hash).to_vec()).collect();
        lock.verify(&[]).unwrap();
    }

    /// A lock of the same members with other validators.
    pub fn lock_of_other_validators(&mut self) -> serde_json::Value {
        split_anew(&mut self.created, 3);
        self.lock()
    }

    /// `0x` hex.
    pub fn lock_hash(&self) -> String {
        format!("0x{}", hex::encode(self.created.view.lock_hash))
    }

    /// Starts everybody and makes them members.
    pub async fn start(&mut self) {
        for index in 0..self.members.len() {
            self.members[index].start().await;
            let setup = self.setup(index);
            let _status: NodeStatus =
                self.members[index].client().put(ipc::node::CLUSTER_PATH, &setup).await.unwrap();
        }
    }

    /// Hands a member its set-up once more, as an owner who changed something does.
    pub async fn set_up_again(&self, member: usize) {
        let setup = self.setup(member);
        let _status: NodeStatus =
            self.members[member].client().put(ipc::node::CLUSTER_PATH, &setup).await.unwrap();
    }

    /// This cluster's attestations that the beacon node got: each checked under its validator's key.
    pub fn published(&self) -> Vec<chain::SingleAttestation> {
        let mut read = self.read.lock().unwrap();
        let (before, all) = &mut *read;
        let own = self.created.group_public_keys();
        let chain = self.beacon.inner.lock().unwrap().chain.clone();
        let attestations = |(path, _): &(String, serde_json::Value)| path.contains("attestations");
        let new: Vec<_> = self.beacon.inner.lock().unwrap().submitted[*before..].to_vec();
        *before += new.len();
        for (_, body) in new.into_iter().filter(attestations) {
            let list: Vec<chain::SingleAttestation> = serde_json::from_value(body).unwrap();
            for attestation in list {
                let index = usize::try_from(attestation.attester_index.0).unwrap();
                let key = chain.validators[index];
                if !own.contains(&key) {
                    continue;
                }
                let domain = chain::compute_domain(
                    chain::domain::BEACON_ATTESTER,
                    ForkVersion([0x20, 0, 0, 0x94]),
                    chain.genesis_validators_root,
                );
                let root = chain::domain::signing_root(&attestation.data, domain);
                let key = threshold::PublicKey::parse(&key).unwrap();
                let signature = threshold::Signature::parse(&attestation.signature).unwrap();
                assert!(
                    threshold::verify(&key, &root.0, &signature),
                    "a published attestation does not verify"
                );
                all.push(attestation);
            }
        }
        all.clone()
    }

    /// This cluster's attestations of these slots that never came.
    pub fn missed(&self, slots: std::ops::Range<u64>) -> Vec<(u64, u64)> {
        let chain = self.beacon.inner.lock().unwrap().chain.clone();
        let own = self.created.group_public_keys();
        let published = self.published();
        let done: std::collections::BTreeSet<(u64, u64)> =
            published.iter().map(|vote| (vote.data.slot.0, vote.attester_index.0)).collect();
        let mut missed = Vec::new();
        for slot in slots {
            for (index, _) in (0_u64..).zip(&chain.validators).filter(|(_, key)| own.contains(key)) {
                // As the tests' beacon node deals them out.
                let epoch = slot / chain.slots_per_epoch;
                let is_due = (index + epoch) % chain.slots_per_epoch == slot % chain.slots_per_epoch;
                if is_due && !done.contains(&(slot, index)) {
                    missed.push((slot, index));
                }
            }
        }
        missed
    }

    /// Waits until a slot begins.
    pub async fn until(&self, slot: u64) {
        let chain = self.beacon.inner.lock().unwrap().chain.clone();
        let begins = chain.genesis_time_s * 1_000 + slot * chain.slot_ms;
        tokio::time::sleep(Duration::from_millis(begins.saturating_sub(chain.now_ms()))).await;
    }

    /// Whether anything was sent there.
    pub fn submitted_to(&self, path: &str) -> bool {
        self.beacon.submitted().iter().any(|(to, _)| to == path)
    }

    /// Waits until an attestation for a slot after now is published.
    pub async fn attested_again(&self) -> u64 {
        let since = self.beacon.inner.lock().unwrap().chain.slot_now();
        let newest = || self.published().iter().map(|attestation| attestation.data.slot.0).max();
        eventually("an attestation is published", || async { newest() > Some(since) }).await;
        newest().unwrap()
    }
}

/// A file system of its own in the place of a folder, so that a test can fill it.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this machine does not let us.
    pub fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"]).arg(at).status();
        mount.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }

    /// Leaves room for so many bytes.
    pub fn fill_but(&self, bytes: u64) {
        use std::io::Write as _;
        let path = self.0.join("filler");
        let mut filler = std::fs::File::create(&path).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        let full = filler.metadata().unwrap().len();
        filler.set_len(full - bytes).unwrap();
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Polls until it is so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let mut look = tokio::time::interval(Duration::from_millis(50));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        look.tick().await;
    }
}
