//! One ceremony from its start to its end: the host's events in, the ceremony's outputs carried out in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::add::{AddedValidator, Addition};
use cluster::{Definition, IdentityKey, IdentityPublicKey, Lock, Network, PeerId};
use ipc::dkg::{Adding, KeyGeneration, KeyGenerationMember, KeyGenerationProgress, NamedFile};
use ipc::{ClusterSetup, Problem, Sensitive};
use obol::dkg::ceremony::{Channel, Event, Failure, Output, Phase, Progress};
use obol::dkg::{BroadcastVersion, Ceremony, Plan, Profile};
use obol::host::{MAX_RELAYS, OwnInfo, RelayEntry, Responder, parse_member_address};
use obol::{Host, HostConfig, HostEvent, HostHandle, Inbound, Member, Multiaddr, Protocol};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::signer::Secrets;
use super::store::CeremonyStore;
use crate::node::relays;
use crate::setup::sentence;

/// How often members tell their step (obol spec 11.3).
const TURN: Duration = Duration::from_millis(obol::dkg::sync::INTERVAL_MS);
/// Events of our own tasks that may wait.
const QUEUE: usize = 256;
/// A message is sent again and again for so long; when a member comes back later, the ceremony sends it anew.
const SEND_WITHIN: Duration = Duration::from_secs(60);
/// After the end, so that everybody hears our goodbye (the reference's shutdown delay).
const LINGER: Duration = Duration::from_secs(5);
/// Pause before a broken sync stream is opened again.
const REOPEN: Duration = Duration::from_millis(500);
/// Problems kept for the page.
const MAX_PROBLEMS: usize = 16;
/// What a release of that minor calls itself.
const PATCH: &str = ".0";

/// What a ceremony needs of the daemon.
#[derive(Clone)]
pub struct Surroundings {
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
    /// What the others see this box called.
    pub nickname: String,
    /// The signer's signing socket.
    pub signer_socket: std::path::PathBuf,
    /// Chains that are not public.
    pub networks: Vec<Network>,
    /// Where it is kept.
    pub store: CeremonyStore,
}

/// What a ceremony made.
pub struct Made {
    /// The cluster with its new lock.
    pub setup: ClusterSetup,
    /// What was asked for, when the cluster was there before: its lock of before is in it.
    pub adding: Option<Adding>,
}

/// A ceremony that runs. Dropping it stops it; what it recorded stays.
pub struct Running {
    shown: Arc<Mutex<KeyGenerationProgress>>,
    task: JoinHandle<()>,
    /// None once it has ended, in whichever way.
    finished: Option<oneshot::Receiver<Made>>,
}

impl Running {
    /// How far it is.
    pub fn progress(&self) -> KeyGenerationProgress {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops it and waits until its port is free.
    pub async fn stop(self) {
        self.task.abort();
        let _ended_or_aborted = self.task.await;
    }

    /// Resolves with the new cluster once everybody has left. Never, when the ceremony fails.
    pub async fn finished(&mut self) -> Made {
        if let Some(finished) = &mut self.finished {
            let ended = finished.await;
            // The daemon asks with each turn of its loop, and nothing comes after the end.
            self.finished = None;
            if let Ok(made) = ended {
                return made;
            }
        }
        std::future::pending().await
    }
}

/// Starts or resumes the ceremony that the store holds.
pub async fn start(request: KeyGeneration, around: Surroundings) -> Result<Running, Problem> {
    let identity = IdentityKey::from_file_text(request.identity_key.expose_secret())
        .map_err(|error| refused("identity_key_invalid", &error.to_string()))?;
    let identity = Arc::new(identity);
    let (definition, adding) = (request.definition.clone(), request.adding.clone());
    let (key, networks) = (identity.public_key(), around.networks.clone());
    let planned = tokio::task::spawn_blocking(move || match adding {
        Some(adding) => plan_to_add(adding, &networks, &key),
        None => plan_to_make(&definition, &networks, &key),
    });
    let plan = Arc::new(planned.await.map_err(|_| refused("internal", "reading the definition failed"))??);
    let profile = Profile::of_minor(request.minor).ok_or_else(|| {
        Problem::new(
            "minor_not_spoken",
            format!("Key generation of v1.{} is not spoken here.", request.minor),
            "Choose one of v1.8, v1.9, v1.10 and v1.11: that of the members who run Charon.",
        )
    })?;
    let secrets = Secrets::new(&around.signer_socket, &plan, request.minor);
    let records = around.store.records().map_err(|error| disk(&error))?;
    let seal_key = seal_key_of(&secrets, &records).await?;
    let mut ceremony =
        Ceremony::new(Arc::clone(&plan), profile, Arc::clone(&identity), &around.nickname, seal_key);
    ceremony.restore(records).map_err(|error| refused("ceremony_damaged", &error.to_string()))?;

    let entries = relay_entries(request.relays.as_deref().unwrap_or_default())?;
    let host_config = HostConfig {
        identity: identity.secret_bytes().clone(),
        listen: around.listen.clone(),
        external: Vec::new(),
        members: members(&plan, &request.peers)?,
        accepts: obol::host::Accepts::Ceremonies,
        info: OwnInfo {
            charon_version: format!("{}{PATCH}", profile.announced()),
            lock_hash: plan.hash(),
            git_hash: "unknown".to_owned(),
            nickname: around.nickname.clone(),
            builder_api_enabled: false,
        },
    };
    let (host, host_events) =
        Host::spawn(host_config).map_err(|error| refused("p2p_failed", &error.to_string()))?;
    // Relays count a ceremony by its whole definition hash (obol spec 4.4).
    let cluster = relays::Cluster { hash: hex::encode(plan.hash()), uuid: plan.definition().uuid.clone() };
    let relays = relays::Relays::start(&entries, &cluster, &host);
    let (done, finished) = oneshot::channel();
    let shown = Arc::new(Mutex::new(show(&plan, &ceremony.progress(), &[], None)));
    let shell = Shell {
        plan,
        profile,
        ceremony,
        secrets,
        host,
        store: around.store,
        request,
        tasks: JoinSet::new(),
        _relays: relays,
        events: mpsc::channel(QUEUE),
        replies: BTreeMap::new(),
        next_reply: 0,
        problems: Vec::new(),
        lock: None,
        done: Some(done),
        ended: None,
        failed: None,
        started: Instant::now(),
        shown: Arc::clone(&shown),
    };
    let task = tokio::spawn(shell.run(host_events));
    Ok(Running { shown, task, finished: Some(finished) })
}

fn plan_to_make(
    definition: &serde_json::Value,
    networks: &[Network],
    key: &IdentityPublicKey,
) -> Result<Plan, Problem> {
    let invalid = |why: &dyn std::error::Error| refused("definition_invalid", &why.to_string());
    let json = serde_json::to_vec(definition).unwrap_or_default();
    let definition = Definition::from_json(&json).map_err(|error| invalid(&error))?;
    Plan::new(definition, networks, key).map_err(|error| invalid(&error))
}

fn plan_to_add(adding: Adding, networks: &[Network], key: &IdentityPublicKey) -> Result<Plan, Problem> {
    let invalid = |why: &dyn std::error::Error| refused("addition_invalid", &why.to_string());
    let lock = Lock::from_value(adding.lock).map_err(|error| invalid(&error))?;
    let more = adding
        .validators
        .into_iter()
        .map(|wanted| AddedValidator { fee_recipient: wanted.fee_recipient, withdrawal: wanted.withdrawal });
    let more: Vec<_> = more.collect();
    let addition = Addition::new(lock, &more, networks).map_err(|error| invalid(&error))?;
    Plan::adding(addition, networks, key).map_err(|error| invalid(&error))
}

/// The key that the signer made for shares from other Hearths. After the release there is none any more, nor need for one.
async fn seal_key_of(
    secrets: &Secrets,
    records: &[obol::dkg::ceremony::Record],
) -> Result<[u8; 32], Problem> {
    use obol::dkg::ceremony::Record;
    let facts = secrets.facts().await.map_err(|error| {
        Problem::new(
            "signer_unavailable",
            sentence(&error.to_string()),
            "Look at the signer's own status, then try again.",
        )
    })?;
    let unreadable = || refused("signer_answer_malformed", "the signer's answer cannot be read");
    match facts {
        Some(facts) => {
            let mut key = [0; 32];
            hex::decode_to_slice(&facts.seal_key, &mut key).map_err(|_| unreadable())?;
            Ok(key)
        }
        None if records.iter().any(|record| matches!(record, Record::Lock { .. } | Record::Released)) => {
            Ok([0; 32])
        }
        None => Err(Problem::new(
            "ceremony_not_begun",
            "The owner has not begun this ceremony in the signer, so it deals nothing.",
            "Begin it on the box's page, which tells the signer first.",
        )),
    }
}

/// Every other operator, with the addresses that were given for it.
fn members(plan: &Plan, peers: &[String]) -> Result<Vec<Member>, Problem> {
    let mut addresses: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
    for member in plan.others() {
        if let Some(key) = plan.members().get(member) {
            addresses.insert(PeerId::from_public_key(key), Vec::new());
        }
    }
    for text in peers.iter().take(4 * plan.members().len()) {
        let (peer, address) = parse_member_address(text)
            .map_err(|error| refused("peer_address_invalid", &error.to_string()))?;
        match (addresses.get_mut(&peer), plan.member_of(&peer)) {
            (Some(list), _) => list.push(address),
            (None, Some(_)) => {} // Ourselves: a list of everybody may be given to everybody.
            (None, None) => {
                return Err(refused(
                    "peer_not_in_definition",
                    &format!("the member address {text} belongs to nobody in the definition; remove it"),
                ));
            }
        }
    }
    Ok(addresses.into_iter().map(|(peer_id, addrs)| Member { peer_id, addrs }).collect())
}

fn relay_entries(named: &[String]) -> Result<Vec<RelayEntry>, Problem> {
    if named.len() > MAX_RELAYS {
        let what = format!("{} relays are named, at most {MAX_RELAYS} are used; name fewer", named.len());
        return Err(refused("relay_invalid", &what));
    }
    let entries = named.iter().map(|text| RelayEntry::parse(text));
    entries.collect::<Result<_, _>>().map_err(|error| refused("relay_invalid", &error.to_string()))
}

struct Shell {
    plan: Arc<Plan>,
    profile: Profile,
    ceremony: Ceremony,
    secrets: Secrets,
    host: HostHandle,
    store: CeremonyStore,
    request: KeyGeneration,
    tasks: JoinSet<()>,
    _relays: relays::Relays,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    replies: BTreeMap<u64, Responder>,
    next_reply: u64,
    problems: Vec<Problem>,
    lock: Option<Lock>,
    done: Option<oneshot::Sender<Made>>,
    ended: Option<Instant>,
    failed: Option<Instant>,
    started: Instant,
    shown: Arc<Mutex<KeyGenerationProgress>>,
}

impl Shell {
    async fn run(mut self, mut host_events: mpsc::Receiver<HostEvent>) {
        let (say, said) = watch::channel((Vec::new(), false));
        for member in self.plan.others() {
            if let Some(key) = self.plan.members().get(member) {
                let peer = PeerId::from_public_key(key);
                let answered = move |bytes| Event::SyncAnswer { member, bytes };
                let stream =
                    tell_step(self.host.clone(), peer, said.clone(), self.events.0.clone(), answered);
                self.tasks.spawn(stream);
            }
        }
        let mut turns = tokio::time::interval(TURN);
        loop {
            let event = tokio::select! {
                event = host_events.recv() => match event {
                    Some(event) => self.on_host(event),
                    None => return,
                },
                event = self.events.1.recv() => event,
                _ = turns.tick() => {
                    let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let message = self.ceremony.sync_message(crate::node::wall().0);
                    say.send_replace((message, self.ceremony.is_leaving()));
                    Some(Event::Tick { now_ms })
                }
            };
            if let Some(event) = event
                && let Err(error) = self.step(event)
            {
                tracing::error!(%error, "the ceremony cannot be recorded: it stops, and can be resumed");
                self.note(disk(&error));
                self.show();
                return std::future::pending().await;
            }
            self.show();
            if self.failed.is_some_and(|failed| failed.elapsed() > LINGER) {
                // Silent from now on: what is left of it must not disturb the next attempt of the others.
                return;
            }
            if self.ended.is_some_and(|ended| ended.elapsed() > LINGER) {
                break;
            }
        }
        self.hand_over();
    }

    /// One event, and everything that follows from it, in order.
    fn step(&mut self, event: Event) -> std::io::Result<()> {
        let mut outputs = Vec::new();
        self.ceremony.step(event, &mut outputs);
        for output in outputs {
            match output {
                // On the disk before anything later is said.
                Output::Record(record) => self.store.append(&record)?,
                Output::Reply { reply, bytes, .. } => {
                    if let (Some(responder), Some(bytes)) = (self.replies.remove(&reply), bytes) {
                        responder.respond(bytes);
                    }
                }
                Output::RequestSignature { member, bytes } => self.request_signature(member, bytes),
                Output::Send { member, channel, bytes } => {
                    if let Some(peer) = self.peer(member) {
                        let protocol = self.protocol(channel);
                        let _only_strangers_fail =
                            self.host.send_within(&peer, protocol, &bytes, SEND_WITHIN);
                    }
                }
                Output::Ask(question) => {
                    let (secrets, events) = (self.secrets.clone(), self.events.0.clone());
                    self.tasks.spawn(async move {
                        let answer = secrets.answer(question).await;
                        let _stopping = events.send(Event::Answer(answer)).await;
                    });
                }
                Output::Refused { member, why } => {
                    let name = self.plan.name_of(member);
                    tracing::warn!(member = %name, why, "a member's message was refused");
                    self.note(Problem::new(
                        "message_refused",
                        sentence(&format!("a message of {name} was refused: {why}")),
                        "If the ceremony does not go on, speak with that member's owner.",
                    ));
                }
                Output::Complete(lock) => {
                    self.keep_files(&lock)?;
                    self.lock = Some(*lock);
                }
                Output::Failed(failure) => self.on_failure(&failure),
                Output::Done => self.ended = Some(Instant::now()),
            }
        }
        while self.tasks.try_join_next().is_some() {}
        Ok(())
    }

    fn on_failure(&mut self, failure: &Failure) {
        let who = failure.member.map(|member| format!("{}: ", self.plan.name_of(member))).unwrap_or_default();
        tracing::error!(who, why = %failure.why, "the ceremony failed");
        self.failed.get_or_insert_with(Instant::now);
        self.problems.insert(
            0,
            Problem::new(
                "ceremony_failed",
                sentence(&format!("{who}{}", failure.why)),
                failure.next_step.clone(),
            ),
        );
        self.problems.truncate(MAX_PROBLEMS);
    }

    fn request_signature(&mut self, member: usize, bytes: Vec<u8>) {
        let Some(peer) = self.peer(member) else { return };
        let protocol = match self.profile.broadcast {
            BroadcastVersion::V1 => Protocol::DkgSignV1,
            BroadcastVersion::V2 => Protocol::DkgSignV2,
        };
        let (host, events) = (self.host.clone(), self.events.0.clone());
        self.tasks.spawn(async move {
            match host.request(&peer, protocol, &bytes).await {
                Ok(bytes) => {
                    let _stopping = events.send(Event::Signed { member, bytes }).await;
                }
                // Asked again with a later turn.
                Err(error) => tracing::debug!(member, %error, "a member did not sign our broadcast"),
            }
        });
    }

    fn protocol(&self, channel: Channel) -> Protocol {
        match (channel, self.profile.broadcast) {
            (Channel::Broadcast, BroadcastVersion::V1) => Protocol::DkgBroadcastV1,
            (Channel::Broadcast, BroadcastVersion::V2) => Protocol::DkgBroadcastV2,
            (Channel::Share, _) => Protocol::DkgShare,
            (Channel::Partials, _) => Protocol::ParSigEx,
        }
    }

    fn peer(&self, member: usize) -> Option<PeerId> {
        self.plan.members().get(member).map(PeerId::from_public_key)
    }

    fn on_host(&mut self, event: HostEvent) -> Option<Event> {
        match event {
            HostEvent::PeerConnected { peer, .. } | HostEvent::PeerConnectedAgain { peer } => {
                self.plan.member_of(&peer).map(|member| Event::Connected { member })
            }
            HostEvent::PeerDisconnected { peer, .. } => {
                self.plan.member_of(&peer).map(|member| Event::Disconnected { member })
            }
            HostEvent::Inbound(inbound) => self.on_inbound(inbound),
            HostEvent::Listening { addr } => {
                tracing::info!(%addr, "listening for the other members of the ceremony");
                None
            }
            HostEvent::Refused { addr, why, .. } => {
                tracing::warn!(%addr, %why, "a connection was turned away");
                None
            }
            HostEvent::DialFailed { peer, why } => {
                tracing::debug!(%peer, why, "a member cannot be reached");
                None
            }
            HostEvent::PeerInfo { .. } => None,
        }
    }

    fn on_inbound(&mut self, inbound: Inbound) -> Option<Event> {
        let member = self.plan.member_of(&inbound.peer)?;
        let ours = match self.profile.broadcast {
            BroadcastVersion::V1 => (Protocol::DkgSignV1, Protocol::DkgBroadcastV1),
            BroadcastVersion::V2 => (Protocol::DkgSignV2, Protocol::DkgBroadcastV2),
        };
        let Inbound { protocol, bytes, responder, .. } = inbound;
        match protocol {
            Protocol::DkgSync => {
                let reply = self.keep_responder(responder);
                Some(Event::Sync { member, bytes, reply })
            }
            sign if sign == ours.0 => {
                let reply = self.keep_responder(responder);
                Some(Event::SignRequest { member, bytes, reply })
            }
            broadcast if broadcast == ours.1 => Some(Event::Broadcast { member, bytes }),
            Protocol::DkgShare => Some(Event::Share { member, bytes: bytes.into() }),
            Protocol::ParSigEx => Some(Event::Partials { member, bytes }),
            // The other version's broadcasts, and run mode and resharing, which a ceremony has nothing to do with.
            Protocol::DkgSignV1
            | Protocol::DkgSignV2
            | Protocol::DkgBroadcastV1
            | Protocol::DkgBroadcastV2
            | Protocol::Qbft
            | Protocol::PeerInfo
            | Protocol::Priority
            | Protocol::DkgDeal
            | Protocol::DkgResponse
            | Protocol::DkgJustification
            | Protocol::DkgPublicShare => None,
        }
    }

    fn keep_responder(&mut self, responder: Option<Responder>) -> u64 {
        self.next_reply = self.next_reply.wrapping_add(1);
        if let Some(responder) = responder {
            self.replies.insert(self.next_reply, responder);
        }
        self.next_reply
    }

    /// The lock and the deposit files, for the owner to download.
    fn keep_files(&self, lock: &Lock) -> std::io::Result<()> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_default();
        let written = lock.to_json().map_err(std::io::Error::other)?;
        let mut files = vec![NamedFile { name: "cluster-lock.json".to_owned(), content: text(written) }];
        for amount in self.plan.amounts() {
            // The present validators have had theirs.
            let deposits: Vec<_> = lock
                .validators
                .iter()
                .skip(self.plan.present().len())
                .flat_map(|validator| &validator.deposits)
                .filter(|deposit| deposit.amount == *amount)
                .copied()
                .collect();
            files.push(NamedFile {
                name: cluster::deposit::file_name(*amount),
                content: text(cluster::deposit::file_content(&deposits, self.plan.network())),
            });
        }
        self.store.save_files(&files)
    }

    /// Gives the new cluster to the daemon, which joins it.
    fn hand_over(mut self) {
        let (Some(lock), Some(done)) = (self.lock.take(), self.done.take()) else { return };
        let lock = lock.to_json().ok().and_then(|json| serde_json::from_slice(&json).ok());
        let Some(lock) = lock else { return };
        let setup = ClusterSetup {
            lock,
            identity_key: Sensitive::new(self.request.identity_key.expose_secret().to_owned()),
            beacon_nodes: self.request.beacon_nodes.clone(),
            peers: self.request.peers.clone(),
            relays: self.request.relays.clone(),
            // The shares were made in this box.
            signing: ipc::Signing::BuiltIn,
            fallback_beacon_nodes: None,
            proposals: None,
            obol_api: None,
        };
        let _stopping = done.send(Made { setup, adding: self.request.adding });
    }

    fn note(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) && self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn show(&self) {
        let progress = show(&self.plan, &self.ceremony.progress(), &self.problems, self.lock.as_ref());
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

/// Tells one member our step, ten times a second, for as long as the ceremony runs.
pub(crate) async fn tell_step<E>(
    host: HostHandle,
    peer: PeerId,
    mut said: watch::Receiver<(Vec<u8>, bool)>,
    events: mpsc::Sender<E>,
    answered: impl Fn(Vec<u8>) -> E,
) {
    loop {
        if let Ok(mut stream) = host.sync_stream(&peer).await {
            loop {
                if said.changed().await.is_err() {
                    return;
                }
                let (message, is_goodbye) = said.borrow_and_update().clone();
                let Ok(bytes) = stream.exchange(&message).await else { break };
                if events.send(answered(bytes)).await.is_err() || is_goodbye {
                    return;
                }
            }
        }
        tokio::time::sleep(REOPEN).await;
    }
}

fn show(
    plan: &Plan,
    progress: &Progress,
    problems: &[Problem],
    lock: Option<&Lock>,
) -> KeyGenerationProgress {
    let member = |(place, member): (usize, &obol::dkg::ceremony::MemberProgress)| KeyGenerationMember {
        index: u8::try_from(place + 1).unwrap_or(u8::MAX),
        name: plan.members().get(place).map(|key| PeerId::from_public_key(key).name()).unwrap_or_default(),
        nickname: member.nickname.clone(),
        is_self: member.is_self,
        connected: member.connected,
        in_sync: member.in_sync,
        step: member.step,
        sealed: member.takes_sealed_shares,
        waited_for: member.waited_for,
    };
    KeyGenerationProgress {
        name: plan.definition().name.clone(),
        definition_hash: format!("0x{}", hex::encode(plan.hash())),
        phase: phase_word(progress.phase, progress.failure.is_some()).to_owned(),
        step: progress.step,
        members: progress.members.iter().enumerate().map(member).collect(),
        problems: problems.to_vec(),
        lock_hash: lock.map(Lock::lock_hash_hex),
    }
}

fn phase_word(phase: Phase, failed: bool) -> &'static str {
    match phase {
        _ if failed => "failed",
        Phase::Connecting => "connecting",
        Phase::MakingKeys => "making_keys",
        Phase::SigningDeposits => "signing_deposits",
        Phase::SigningRegistrations => "signing_registrations",
        Phase::SigningLock => "signing_lock",
        Phase::SigningAsNodes => "signing_as_nodes",
        Phase::Storing => "storing",
        Phase::Leaving => "leaving",
        Phase::Done => "done",
    }
}

/// Errors that end with their advice after a semicolon.
fn refused(code: &str, text: &str) -> Problem {
    let (what, next_step) =
        text.rsplit_once("; ").unwrap_or((text, "Correct it and start the ceremony again."));
    Problem::new(code, sentence(what), sentence(next_step))
}

fn disk(error: &std::io::Error) -> Problem {
    Problem::new(
        "disk_write_failed",
        sentence(&format!("the ceremony cannot be kept: {error}")),
        "Free space on this box's disk, then restart it: the ceremony goes on where it was.",
    )
}
