//! One change of the cluster from its start to its end: the host's events in, the state machine's outputs carried out in
//! order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::edit::{Edit, EditPlan};
use cluster::{IdentityKey, Lock, Network, PeerId};
use ipc::dkg::KeyGenerationMember;
use ipc::edit::{ClusterEdit, ClusterEditProgress, EditStage};
use ipc::{ClusterSetup, Problem, Sensitive};
use obol::dkg::edit::{Channel, Editing, Event, Output, Phase, Record};
use obol::dkg::pedersen::BundleKind;
use obol::dkg::{BroadcastVersion, Profile};
use obol::host::{MAX_RELAYS, OwnInfo, RelayEntry, Responder, parse_member_address};
use obol::{Host, HostConfig, HostEvent, HostHandle, Inbound, Member, Multiaddr, Protocol};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::signer::Secrets;
use super::store::EditStore;
use crate::dkg::tell_step;
use crate::node::relays;
use crate::sealed;
use crate::setup::sentence;

/// How often members tell their step (obol spec 11.3).
const TURN: Duration = Duration::from_millis(obol::dkg::sync::INTERVAL_MS);
/// Events of our own tasks that may wait.
const QUEUE: usize = 256;
/// A message is sent again and again for so long; what is still missing is said again by the state machine.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// After the end, so that everybody hears our goodbye.
const LINGER: Duration = Duration::from_secs(5);
/// After a failure, so that everybody hears that we cannot go on, also who has just lost its connection to us.
const LINGER_FAILED: Duration = Duration::from_secs(20);
/// After a promise, when the others were waited for so long, the owner hears of the other way out.
const LATE: Duration = Duration::from_secs(60);
/// Problems kept for the page.
const MAX_PROBLEMS: usize = 16;
/// What a release of that minor calls itself.
const PATCH: &str = ".0";

/// What a change needs of the daemon.
pub struct Surroundings {
    /// Where to listen: the cluster's own port.
    pub listen: Vec<Multiaddr>,
    /// Where the others can dial us, as far as we cannot see it ourselves.
    pub external: Vec<Multiaddr>,
    /// What the others see this box called.
    pub nickname: String,
    /// The signer's signing socket.
    pub signer_socket: std::path::PathBuf,
    /// Chains that are not public.
    pub networks: Vec<Network>,
    /// Where it is kept.
    pub store: EditStore,
    /// The cluster as this box has it; none for a box that joins.
    pub present: Option<ClusterSetup>,
}

/// How a change ended.
pub enum Ending {
    /// This is the cluster now.
    Changed(Box<ClusterSetup>),
    /// This box is not in the cluster any more.
    Left,
    /// It came to nothing. The problems say why and what to do.
    Failed(Vec<Problem>),
}

/// A change that runs. Dropping it stops it; what it recorded stays.
pub struct Running {
    shown: Arc<Mutex<ClusterEditProgress>>,
    events: mpsc::Sender<Event>,
    task: JoinHandle<Ending>,
}

impl Running {
    /// How far it is.
    pub fn progress(&self) -> ClusterEditProgress {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Brings it the complete lock.
    /// Whether it takes it: one that has ended, or is behind with its messages, does not.
    pub fn bring_lock(&self, lock: &serde_json::Value) -> bool {
        let bytes = serde_json::to_vec(lock).unwrap_or_default();
        self.events.try_send(Event::Lock { bytes }).is_ok()
    }

    /// Stops it and waits until its port is free.
    pub async fn stop(self) {
        self.task.abort();
        let _ended_or_aborted = self.task.await;
    }

    /// Resolves when it has ended. Not to be asked again afterwards.
    pub async fn ended(&mut self) -> Ending {
        (&mut self.task).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the change of the cluster stopped by a fault of ours");
            let problem = Problem::new(
                "edit_fault",
                "The change of the cluster stopped by a fault of ours.",
                "Send us the log, and begin the same change on this box again: it goes on where it was.",
            );
            Ending::Failed(vec![problem])
        })
    }
}

/// Starts or resumes the change that the store holds.
pub async fn start(request: ClusterEdit, around: Surroundings) -> Result<Running, Problem> {
    let secrets = Secrets::new(&around.signer_socket);
    let records = around.store.records().map_err(|error| {
        if error.kind() == std::io::ErrorKind::InvalidData {
            crate::daemon::damaged_change()
        } else {
            disk(&error)
        }
    })?;
    let (editing, plan, identity, profile) = resume(&request, &around, records.clone()).await?;
    allowed(&secrets, &records).await?;
    let entries = relay_entries(&request, &around, &plan)?;
    let host_config = HostConfig {
        identity: identity.secret_bytes().clone(),
        listen: around.listen.clone(),
        external: around.external.clone(),
        members: members(&request, &around, &plan, &identity)?,
        accepts: obol::host::Accepts::Ceremonies,
        info: OwnInfo {
            charon_version: format!("{}{PATCH}", profile.announced()),
            lock_hash: plan.base().lock_hash,
            git_hash: "unknown".to_owned(),
            nickname: around.nickname.clone(),
            builder_api_enabled: false,
        },
    };
    let (host, host_events) =
        Host::spawn(host_config).map_err(|error| refused("p2p_failed", &error.to_string()))?;
    let hash = hex::encode(plan.base().lock_hash).chars().take(7).collect();
    let uuid = request.lock.pointer("/cluster_definition/uuid").and_then(serde_json::Value::as_str);
    let cluster = relays::Cluster { hash, uuid: uuid.unwrap_or_default().to_owned() };
    let relays = relays::Relays::start(&entries, &cluster, &host);
    let events = mpsc::channel(QUEUE);
    let shown = Arc::new(Mutex::new(show(&plan, &editing, &[], None)));
    let (to, seen) = (events.0.clone(), Arc::clone(&shown));
    let shell = Shell {
        plan,
        profile,
        editing,
        identity,
        secrets,
        host,
        present: around.present,
        store: around.store,
        request,
        tasks: JoinSet::new(),
        _relays: relays,
        events,
        replies: BTreeMap::new(),
        next_reply: 0,
        problems: Vec::new(),
        lock: None,
        ended: None,
        failed: None,
        promised: None,
        started: Instant::now(),
        shown,
    };
    let task = tokio::spawn(shell.run(host_events));
    Ok(Running { shown: seen, events: to, task })
}

/// Whether a change could begin: the lock, the edit, the identity, the addresses and the owner's word in the signer.
pub async fn check(request: &ClusterEdit, around: &Surroundings) -> Result<(), Problem> {
    let (_, plan, identity, _) = resume(request, around, Vec::new()).await?;
    relay_entries(request, around, &plan)?;
    members(request, around, &plan, &identity)?;
    allowed(&Secrets::new(&around.signer_socket), &[]).await
}

type Resumed = (Editing, Arc<EditPlan>, Arc<IdentityKey>, Profile);

/// The state machine with what was recorded. Verifying the lock takes a while.
async fn resume(
    request: &ClusterEdit,
    around: &Surroundings,
    records: Vec<Record>,
) -> Result<Resumed, Problem> {
    let present = around.present.as_ref().map(|present| &present.identity_key);
    let key = present.or(request.identity_key.as_ref()).ok_or_else(|| {
        refused("identity_key_missing", "this box has no identity yet; give it the identity key to join with")
    })?;
    let key = sealed::open(&around.signer_socket, key).await.map_err(sealed::unavailable)?;
    let identity = IdentityKey::from_file_text(key.expose_secret())
        .map_err(|error| refused("identity_key_invalid", &error.to_string()))?;
    let identity = Arc::new(identity);
    let profile = Profile::of_minor(request.minor)
        .ok_or_else(|| refused("minor_not_spoken", &format!("v1.{} is not spoken here", request.minor)))?;
    let (lock, edit) = (request.lock.clone(), request.edit.clone());
    let (networks, nickname) = (around.networks.clone(), around.nickname.clone());
    let read = tokio::task::spawn_blocking(move || {
        let lock = Lock::from_value(lock).map_err(|error| refused("lock_invalid", &error.to_string()))?;
        let edit: Edit = serde_json::from_value(edit)
            .map_err(|_| refused("edit_invalid", "the edit is none of recreate, add, remove and replace"))?;
        let plan = EditPlan::new(lock, &edit, &networks)
            .map_err(|error| refused("edit_invalid", &error.to_string()))?;
        let plan = Arc::new(plan);
        let mut editing =
            Editing::new(Arc::clone(&plan), networks, profile, Arc::clone(&identity), &nickname)
                .map_err(|error| refused("edit_invalid", &error.to_string()))?;
        editing.restore(records).map_err(|error| refused("edit_damaged", &error.to_string()))?;
        Ok((editing, plan, identity, profile))
    });
    read.await.map_err(|_| refused("internal", "reading the lock failed"))?
}

/// Whether the owner has allowed the change in the signer. Who goes on after the sealing needs no word any more.
async fn allowed(secrets: &Secrets, records: &[Record]) -> Result<(), Problem> {
    if records.iter().any(|record| matches!(record, Record::Step(_) | Record::Prepared { .. })) {
        return Ok(());
    }
    let status = secrets.status().await.map_err(|error| {
        let next_step = "Look at the signer's own status, then try again.";
        Problem::new("signer_unavailable", sentence(&error.to_string()), next_step)
    })?;
    if status.stage == EditStage::None {
        return Err(Problem::new(
            "edit_not_allowed",
            "The owner has not allowed this change in the signer, so it deals nothing.",
            "Begin it on the box's page, which tells the signer first.",
        ));
    }
    Ok(())
}

/// Everybody else who takes part, with the addresses that are known for it.
fn members(
    request: &ClusterEdit,
    around: &Surroundings,
    plan: &EditPlan,
    identity: &IdentityKey,
) -> Result<Vec<Member>, Problem> {
    let own = PeerId::from_public_key(&identity.public_key());
    let mut addresses: BTreeMap<PeerId, BTreeSet<Multiaddr>> = plan
        .members()
        .iter()
        .map(|member| (PeerId::from_public_key(&member.public_key), BTreeSet::new()))
        .filter(|(peer, _)| *peer != own)
        .collect();
    let known = around.present.iter().flat_map(|present| &present.peers);
    for text in request.peers.iter().chain(known).take(8 * plan.members().len()) {
        let (peer, address) = parse_member_address(text)
            .map_err(|error| refused("peer_address_invalid", &error.to_string()))?;
        // Addresses of members that leave are in the cluster's list, and ours is in everybody's.
        if let Some(list) = addresses.get_mut(&peer) {
            list.insert(address);
        }
    }
    let member = |(peer_id, addrs): (PeerId, BTreeSet<Multiaddr>)| Member {
        peer_id,
        addrs: addrs.into_iter().collect(),
    };
    Ok(addresses.into_iter().map(member).collect())
}

/// The relays that are named; else those of the cluster; else the usual ones, as for the cluster itself.
fn relay_entries(
    request: &ClusterEdit,
    around: &Surroundings,
    plan: &EditPlan,
) -> Result<Vec<RelayEntry>, Problem> {
    let present = around.present.as_ref().and_then(|present| present.relays.as_ref());
    let public = Network::by_fork_version(plan.base().fork_version).is_some();
    let named: Vec<&str> = match request.relays.as_ref().or(present) {
        Some(named) => named.iter().map(String::as_str).collect(),
        None if public => obol::host::DEFAULT_RELAYS.to_vec(),
        None => Vec::new(),
    };
    if named.len() > MAX_RELAYS {
        let what = format!("{} relays are named, at most {MAX_RELAYS} are used; name fewer", named.len());
        return Err(refused("relay_invalid", &what));
    }
    let entries = named.into_iter().map(RelayEntry::parse);
    entries.collect::<Result<_, _>>().map_err(|error| refused("relay_invalid", &error.to_string()))
}

struct Shell {
    plan: Arc<EditPlan>,
    profile: Profile,
    editing: Editing,
    identity: Arc<IdentityKey>,
    secrets: Secrets,
    host: HostHandle,
    present: Option<ClusterSetup>,
    store: EditStore,
    request: ClusterEdit,
    tasks: JoinSet<()>,
    _relays: relays::Relays,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    replies: BTreeMap<u64, Responder>,
    next_reply: u64,
    problems: Vec<Problem>,
    lock: Option<Lock>,
    ended: Option<Instant>,
    failed: Option<Instant>,
    promised: Option<Instant>,
    started: Instant,
    shown: Arc<Mutex<ClusterEditProgress>>,
}

impl Shell {
    async fn run(mut self, mut host_events: mpsc::Receiver<HostEvent>) -> Ending {
        let (say, said) = watch::channel((Vec::new(), false));
        for (member, known) in self.plan.members().iter().enumerate() {
            if known.public_key == self.identity.public_key() {
                continue;
            }
            let peer = PeerId::from_public_key(&known.public_key);
            let answered = move |bytes| Event::SyncAnswer { member, bytes };
            let stream = tell_step(self.host.clone(), peer, said.clone(), self.events.0.clone(), answered);
            self.tasks.spawn(stream);
        }
        let mut turns = tokio::time::interval(TURN);
        loop {
            let event = tokio::select! {
                event = host_events.recv() => match event {
                    Some(event) => self.on_host(event),
                    None => return self.stopped("the peer-to-peer host has stopped"),
                },
                event = self.events.1.recv() => event,
                _ = turns.tick() => {
                    let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let message = self.editing.sync_message(crate::node::wall().0);
                    say.send_replace((message, self.editing.is_leaving()));
                    Some(Event::Tick { now_ms })
                }
            };
            if let Some(event) = event
                && let Err(error) = self.step(event)
            {
                tracing::error!(%error, "the change cannot be recorded: it stops, and can be gone on with");
                self.note(disk(&error));
                return Ending::Failed(self.problems);
            }
            self.look_for_the_late();
            self.show();
            if self.failed.is_some_and(|failed| failed.elapsed() > LINGER_FAILED) {
                return Ending::Failed(self.problems);
            }
            if self.ended.is_some_and(|ended| ended.elapsed() > LINGER) {
                break;
            }
        }
        self.hand_over()
    }

    fn stopped(self, why: &str) -> Ending {
        let next_step = "Begin the same change on this box again: it goes on where it was.";
        let mut problems = self.problems;
        problems.push(Problem::new("edit_stopped", sentence(why), next_step));
        Ending::Failed(problems)
    }

    /// One event, and everything that follows from it, in order.
    fn step(&mut self, event: Event) -> std::io::Result<()> {
        let mut outputs = Vec::new();
        self.editing.step(event, &mut outputs);
        for output in outputs {
            match output {
                // On the disk before anything later is said or asked.
                Output::Record(record) => self.store.append(&record)?,
                Output::Reply { reply, bytes } => {
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
                Output::Refused { member, why } => self.on_refused(member, &why),
                Output::Accused { what } => {
                    tracing::warn!(what, "a member broke the rules of the resharing");
                    self.note(Problem::new(
                        "member_accused",
                        sentence(&format!("a member broke the rules of the resharing: {what}")),
                        "The change goes on without what it dealt where it can. Speak with that member's owner.",
                    ));
                }
                Output::Changed(lock) => {
                    self.store.save_lock(&lock.to_json().map_err(std::io::Error::other)?)?;
                    self.lock = Some(*lock);
                }
                Output::Failed(failure) => {
                    let who = failure.member.map(|member| self.plan.name_of(member));
                    let who = who.map(|name| format!("{name}: ")).unwrap_or_default();
                    tracing::error!(who, why = %failure.why, "the change of the cluster does not go on");
                    self.failed.get_or_insert_with(Instant::now);
                    if !self.editing.may_go_on() {
                        self.store.forget_records()?;
                    }
                    let what = sentence(&format!("{who}{}", failure.why));
                    self.problems.insert(0, Problem::new("edit_failed", what, failure.next_step));
                    self.problems.truncate(MAX_PROBLEMS);
                }
                Output::Done => self.ended = Some(Instant::now()),
            }
        }
        while self.tasks.try_join_next().is_some() {}
        Ok(())
    }

    fn on_refused(&mut self, member: usize, why: &str) {
        let name = self.plan.name_of(member);
        let problem = Problem::new(
            "message_refused",
            sentence(&format!("what {name} said was refused: {why}")),
            "If the change does not go on, speak with that member's owner.",
        );
        if !self.problems.contains(&problem) {
            tracing::warn!(member = %name, why, "a member's message was refused");
        }
        self.note(problem);
    }

    /// After a promise the others may have finished without us while we were off.
    fn look_for_the_late(&mut self) {
        if !self.editing.is_promised() {
            return;
        }
        let since = *self.promised.get_or_insert_with(Instant::now);
        if since.elapsed() > LATE {
            self.note(Problem::new(
                "edit_unfinished",
                "The old shares are silent and the new ones are not in force yet: this box waits for other members.",
                "Ask their owners to switch them on. If any member's page says that the change is done, take the new cluster lock from there and hand it in here.",
            ));
        }
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
            (Channel::Bundle(BundleKind::Deal), _) => Protocol::DkgDeal,
            (Channel::Bundle(BundleKind::Response), _) => Protocol::DkgResponse,
            (Channel::Bundle(BundleKind::Justification), _) => Protocol::DkgJustification,
            (Channel::PublicShare, _) => Protocol::DkgPublicShare,
            (Channel::Partials, _) => Protocol::ParSigEx,
        }
    }

    fn peer(&self, member: usize) -> Option<PeerId> {
        self.plan.members().get(member).map(|known| PeerId::from_public_key(&known.public_key))
    }

    fn member_of(&self, peer: &PeerId) -> Option<usize> {
        let is_it = |known: &cluster::edit::EditMember| PeerId::from_public_key(&known.public_key) == *peer;
        self.plan.members().iter().position(is_it)
    }

    fn on_host(&mut self, event: HostEvent) -> Option<Event> {
        match event {
            HostEvent::PeerConnected { peer, .. } | HostEvent::PeerConnectedAgain { peer } => {
                self.member_of(&peer).map(|member| Event::Connected { member })
            }
            HostEvent::PeerDisconnected { peer, .. } => {
                self.member_of(&peer).map(|member| Event::Disconnected { member })
            }
            HostEvent::Inbound(inbound) => self.on_inbound(inbound),
            HostEvent::Listening { addr } => {
                tracing::info!(%addr, "listening for the other members of the change");
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
        let member = self.member_of(&inbound.peer)?;
        let (sign, broadcast) = match self.profile.broadcast {
            BroadcastVersion::V1 => (Protocol::DkgSignV1, Protocol::DkgBroadcastV1),
            BroadcastVersion::V2 => (Protocol::DkgSignV2, Protocol::DkgBroadcastV2),
        };
        let Inbound { protocol, bytes, responder, .. } = inbound;
        let message = |channel, bytes| Some(Event::Message { member, channel, bytes });
        match protocol {
            Protocol::DkgSync => {
                let reply = self.keep_responder(responder);
                Some(Event::Sync { member, bytes, reply })
            }
            found if found == sign => {
                let reply = self.keep_responder(responder);
                Some(Event::SignRequest { member, bytes, reply })
            }
            found if found == broadcast => message(Channel::Broadcast, bytes),
            Protocol::DkgDeal => message(Channel::Bundle(BundleKind::Deal), bytes),
            Protocol::DkgResponse => message(Channel::Bundle(BundleKind::Response), bytes),
            Protocol::DkgJustification => message(Channel::Bundle(BundleKind::Justification), bytes),
            Protocol::DkgPublicShare => message(Channel::PublicShare, bytes),
            Protocol::ParSigEx => message(Channel::Partials, bytes),
            // The other version's broadcasts, key generation, and run mode, with which a change has nothing to do.
            Protocol::DkgSignV1
            | Protocol::DkgSignV2
            | Protocol::DkgBroadcastV1
            | Protocol::DkgBroadcastV2
            | Protocol::DkgShare
            | Protocol::Qbft
            | Protocol::PeerInfo
            | Protocol::Priority => None,
        }
    }

    fn keep_responder(&mut self, responder: Option<Responder>) -> u64 {
        self.next_reply = self.next_reply.wrapping_add(1);
        if let Some(responder) = responder {
            self.replies.insert(self.next_reply, responder);
        }
        self.next_reply
    }

    /// What the daemon does now.
    fn hand_over(self) -> Ending {
        let Some(lock) = self.lock.as_ref().and_then(|lock| lock.to_json().ok()) else {
            return self.stopped("the change ended without a lock");
        };
        let Ok(lock) = serde_json::from_slice(&lock) else {
            return self.stopped("the new lock cannot be read");
        };
        let own = self.plan.place_of(&self.identity.public_key());
        let own = own.and_then(|place| self.plan.members().get(place));
        if own.is_some_and(|own| own.new.is_none()) {
            return Ending::Left;
        }
        let staying = self.plan.members().iter().filter(|member| member.new.is_some());
        let staying = staying.map(|member| PeerId::from_public_key(&member.public_key)).collect();
        let identity = Sensitive::new(self.identity.to_file_text().to_string());
        Ending::Changed(Box::new(setup_after(
            lock,
            identity,
            &staying,
            self.present.as_ref(),
            Some(&self.request),
        )))
    }

    fn note(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) && self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn show(&self) {
        let progress = show(&self.plan, &self.editing, &self.problems, self.lock.as_ref());
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

/// How this box serves the changed cluster: as it served it before, or as it was told when it was to join, and with all
/// addresses that are known for who is in it now.
pub fn setup_after(
    lock: serde_json::Value,
    identity_key: Sensitive,
    operators: &BTreeSet<PeerId>,
    present: Option<&ClusterSetup>,
    request: Option<&ClusterEdit>,
) -> ClusterSetup {
    let asked = request.into_iter().flat_map(|request| request.peers.clone());
    let mut peers: Vec<String> =
        asked.chain(present.into_iter().flat_map(|present| present.peers.clone())).collect();
    // Addresses of who is not in the new cluster would be refused there.
    peers.retain(|text| parse_member_address(text).is_ok_and(|(peer, _)| operators.contains(&peer)));
    peers.sort_unstable();
    peers.dedup();
    let beacon_nodes = match present {
        Some(present) => present.beacon_nodes.clone(),
        None => request.map(|request| request.beacon_nodes.clone()).unwrap_or_default(),
    };
    ClusterSetup {
        lock,
        identity_key,
        beacon_nodes,
        peers,
        relays: present
            .and_then(|present| present.relays.clone())
            .or_else(|| request.and_then(|request| request.relays.clone())),
        signing: present.map_or(ipc::Signing::BuiltIn, |present| present.signing),
        fallback_beacon_nodes: present.and_then(|present| present.fallback_beacon_nodes.clone()),
        proposals: present.and_then(|present| present.proposals.clone()),
        obol_api: present.and_then(|present| present.obol_api),
    }
}

fn show(
    plan: &EditPlan,
    editing: &Editing,
    problems: &[Problem],
    lock: Option<&Lock>,
) -> ClusterEditProgress {
    let progress = editing.progress();
    let member = |(place, member): (usize, &obol::dkg::ceremony::MemberProgress)| {
        let known = plan.members().get(place);
        let index = known.and_then(|known| known.new).and_then(|new| u8::try_from(new + 1).ok());
        KeyGenerationMember {
            index: index.unwrap_or_default(),
            name: known.map(|known| PeerId::from_public_key(&known.public_key).name()).unwrap_or_default(),
            nickname: member.nickname.clone(),
            is_self: member.is_self,
            connected: member.connected,
            in_sync: member.in_sync,
            step: member.step,
            sealed: member.takes_sealed_shares,
            waited_for: member.waited_for,
        }
    };
    let hex = |hash: &[u8; 32]| format!("0x{}", hex::encode(hash));
    ClusterEditProgress {
        name: plan.base().name.clone(),
        lock_hash: hex(&plan.base().lock_hash),
        phase: phase_word(progress.phase, progress.failure.is_some()).to_owned(),
        step: progress.step,
        dealt: progress.dealt,
        validators: plan.base().validators.len(),
        promised: editing.is_promised(),
        members: progress.members.iter().enumerate().map(member).collect(),
        problems: problems.to_vec(),
        new_lock_hash: lock.map(Lock::lock_hash_hex),
    }
}

fn phase_word(phase: Phase, failed: bool) -> &'static str {
    match phase {
        _ if failed => "failed",
        Phase::Connecting => "connecting",
        Phase::Dealing => "dealing",
        Phase::Prepared => "prepared",
        Phase::DryRun => "dry_run",
        Phase::Changing => "changing",
        Phase::Leaving => "leaving",
        Phase::Done => "done",
    }
}

/// Errors that end with their advice after a semicolon.
fn refused(code: &str, text: &str) -> Problem {
    let (what, next_step) =
        text.rsplit_once("; ").unwrap_or((text, "Correct it and begin the change again."));
    Problem::new(code, sentence(what), sentence(next_step))
}

fn disk(error: &std::io::Error) -> Problem {
    Problem::new(
        "disk_write_failed",
        sentence(&format!("the change of the cluster cannot be kept: {error}")),
        "Free space on this box's disk, then begin the same change on this box again: it goes on where it was.",
    )
}
