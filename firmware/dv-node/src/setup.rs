//! From what the owner hands in to a membership that can be trusted, or to a problem that says what to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::PublicKeyBytes;
use cluster::{ClusterView, IdentityKey, Lock, LockError, Network, PeerId};
use ipc::{ClusterSetup, Problem};
use obol::host;
use threshold::{PublicKey, ShareIndex};

use crate::graffiti::Graffiti;
use crate::settings::Settings;

/// More addresses than any cluster has.
const MAX_PEER_ADDRESSES: usize = 256;

/// Everything about this box's place in its cluster. Made only by [`verify`] and [`verify_stored`].
#[derive(Debug, Clone)]
pub struct Membership {
    /// The cluster as its verified lock has it.
    pub view: Arc<ClusterView>,
    /// Our identity key.
    pub identity: Arc<IdentityKey>,
    /// Our share index, from 1.
    pub share_index: u8,
    /// The other members and where they are dialled.
    pub members: Vec<host::Member>,
    /// Relays through which members meet.
    pub relays: Vec<host::RelayEntry>,
    /// The definition's identifier, by which relays count clusters.
    pub uuid: String,
    /// Beacon nodes, the preferred one first.
    pub beacon_nodes: Vec<String>,
    /// Beacon nodes for when none of those can be used.
    pub fallback_beacon_nodes: Vec<String>,
    /// Whether builders' offers for blocks are taken.
    pub builder_api: bool,
    /// Whether the Obol API is used.
    pub obol_api: bool,
    /// What our blocks say.
    pub graffiti: Graffiti,
    /// What is set here and cannot be used, for the page. Duties go on without it.
    pub unused: Vec<Problem>,
    /// Who signs.
    pub signing: ipc::Signing,
    /// The keys of every validator, parsed once.
    pub keys: Arc<BTreeMap<PublicKeyBytes, ValidatorKeys>>,
}

/// The keys of one validator.
#[derive(Debug)]
pub struct ValidatorKeys {
    /// Its own key.
    pub group: PublicKey,
    /// The public share of every member.
    pub shares: BTreeMap<ShareIndex, PublicKey>,
    /// This box's public share.
    pub own_share: PublicKeyBytes,
}

impl Membership {
    /// Our position, from 0.
    pub fn me(&self) -> qbft::Member {
        qbft::Member(self.share_index.saturating_sub(1))
    }

    /// The position of a member by its peer id.
    pub fn member_of(&self, peer: &PeerId) -> Option<qbft::Member> {
        let index = self.view.operators.iter().position(|operator| operator.peer_id == *peer)?;
        u8::try_from(index).ok().map(qbft::Member)
    }

    /// A member's readable name.
    pub fn name_of(&self, member: qbft::Member) -> &str {
        self.view.operators.get(usize::from(member.0)).map_or("nobody", |operator| operator.name.as_str())
    }

    /// Takes what the owner sets.
    fn set(&mut self, settings: &Settings) -> Result<(), Problem> {
        self.graffiti = graffiti(&settings.proposals, &self.view)?;
        self.builder_api = settings.proposals.builder_api;
        self.obol_api = settings.obol_api;
        self.fallback_beacon_nodes.clone_from(&settings.fallback_beacon_nodes);
        Ok(())
    }

    /// Of what was set before, by whichever version of the software, what can be used; the rest is named.
    fn usable(&self, mut settings: Settings) -> (Settings, Vec<Problem>) {
        let mut unused = Vec::new();
        let mut taken = Vec::new();
        for url in settings.fallback_beacon_nodes {
            taken.push(url);
            let all = beacon::BeaconNodes::with_fallbacks(
                &self.beacon_nodes,
                &taken,
                beacon::Timeouts::default(),
                beacon::ExpectedChain::default(),
            );
            // One that is the owner's own may be what is wrong; that is told when the node starts.
            if let Err(error) = all
                && beacon::BeaconNodes::new(
                    &self.beacon_nodes,
                    beacon::Timeouts::default(),
                    beacon::ExpectedChain::default(),
                )
                .is_ok()
            {
                let url = taken.pop().unwrap_or_default();
                unused.push(not_used("fallback_beacon_nodes", &format!("{url}: {error}")));
            }
        }
        settings.fallback_beacon_nodes = taken;
        if let Err(problem) = graffiti(&settings.proposals, &self.view) {
            unused.push(not_used("graffiti", &problem.message));
            settings.proposals.graffiti = Vec::new();
        }
        (settings, unused)
    }
}

/// Something is set that is not used.
pub(crate) fn not_used(name: &str, why: &str) -> Problem {
    Problem::new(
        "setting_not_used",
        sentence(&format!("the setting `{name}` of this cluster is not used: {why}")),
        "Duties go on without it. Set it again on the page.",
    )
}

/// Checks everything that can be checked without asking anybody. Takes a while for large clusters: not for the event loop.
pub fn verify(setup: &ClusterSetup, networks: &[Network]) -> Result<Membership, Problem> {
    let mut membership = without_settings(setup, networks)?;
    membership.set(&Settings::said(setup))?;
    Ok(membership)
}

/// The same for what this box has kept: of what its owner has set apart from the cluster, what cannot be used costs no duty.
pub fn verify_stored(setup: &mut ClusterSetup, networks: &[Network]) -> Result<Membership, Problem> {
    let mut membership = without_settings(setup, networks)?;
    let (settings, unused) = membership.usable(Settings::said(setup));
    membership.set(&settings)?;
    membership.unused = unused;
    settings.into_setup(setup);
    Ok(membership)
}

fn without_settings(setup: &ClusterSetup, networks: &[Network]) -> Result<Membership, Problem> {
    let identity = IdentityKey::from_file_text(setup.identity_key.expose_secret())
        .map_err(|error| advised("identity_key_invalid", &error.to_string(), KEY_ADVICE))?;
    let lock = Lock::from_value(setup.lock.clone()).map_err(lock_problem)?;
    let view = lock.verify(networks).map_err(lock_problem)?;
    if lock.signature_aggregate.is_empty() {
        // Old files may lack it; but then nothing proves that every member holds its share.
        return Err(lock_problem(LockError::AggregateMissing));
    }
    if !view.threshold_is_safe() {
        return Err(Problem::new(
            "threshold_too_low",
            format!(
                "The cluster's threshold {} of {} is too low: members that lie or are split could sign two different \
                 messages for one duty, which gets the validator slashed.",
                view.threshold,
                view.operators.len()
            ),
            format!("Create the cluster again with a threshold of at least {}.", view.least_safe_threshold()),
        ));
    }
    let share_index = view.share_index_of(&identity.public_key()).map_err(|error| {
        advised(
            "identity_not_in_lock",
            &error.to_string(),
            "Import the identity key that belongs to this cluster lock.",
        )
    })?;
    qbft::Size::new(view.operators.len()).map_err(|error| {
        advised("cluster_too_large", &error.to_string(), "Join a cluster with fewer members.")
    })?;
    let members = members(setup, &view, share_index)?;
    let relays = relays(setup, &view)?;
    let keys = keys(&view, share_index)?;
    if setup.beacon_nodes.is_empty() {
        return Err(Problem::new(
            "beacon_node_missing",
            "No beacon node is named.",
            "Name at least one beacon node, such as http://127.0.0.1:5052.",
        ));
    }
    if let ipc::Signing::ValidatorClient { listen } = setup.signing
        && listen.port() == 0
    {
        return Err(Problem::new(
            "validator_client_port_missing",
            format!("The validator API has no port to listen on: {listen}."),
            "Name the address and the port that the validator client is told, such as 127.0.0.1:3600.",
        ));
    }
    Ok(Membership {
        view: Arc::new(view),
        identity: Arc::new(identity),
        share_index,
        members,
        relays,
        uuid: lock.definition.uuid.clone(),
        beacon_nodes: setup.beacon_nodes.clone(),
        fallback_beacon_nodes: Vec::new(),
        builder_api: false,
        obol_api: false,
        graffiti: Graffiti::default(),
        unused: Vec::new(),
        signing: setup.signing,
        keys: Arc::new(keys),
    })
}

/// What a box knows of its place in a cluster that it joins again.
#[derive(Debug, Default)]
pub struct Kept {
    /// What the owner has set.
    pub settings: Settings,
    /// Addresses of the other members.
    pub peers: Vec<String>,
}

/// Puts what this cluster has set here before in the place of what a setup leaves out.
pub fn keep_unsaid(setup: &mut ClusterSetup, membership: &mut Membership, kept: Kept) -> Result<(), Problem> {
    if setup.peers.is_empty() {
        setup.peers = kept.peers;
        membership.members = members(setup, &membership.view, membership.share_index)?;
    }
    // What nobody says now is kept as far as it can be used: it must not be in the way of what is said.
    let (kept, unused) = membership.usable(kept.settings);
    for problem in &unused {
        tracing::warn!(%problem, "a setting that cannot be used is not kept");
    }
    let said = Settings {
        fallback_beacon_nodes: setup.fallback_beacon_nodes.take().unwrap_or(kept.fallback_beacon_nodes),
        proposals: setup.proposals.take().unwrap_or(kept.proposals),
        obol_api: setup.obol_api.unwrap_or(kept.obol_api),
    };
    membership.set(&said)?;
    said.into_setup(setup);
    Ok(())
}

const KEY_ADVICE: &str = "Restore charon-enr-private-key from your backup.";
const LOCK_ADVICE: &str = "Get the original cluster-lock.json from whoever created the cluster.";

fn lock_problem(error: LockError) -> Problem {
    advised("lock_invalid", &error.to_string(), LOCK_ADVICE)
}

/// The errors of `cluster` end with their advice after a semicolon; without one, `advice` stands in.
fn advised(code: &str, text: &str, advice: &str) -> Problem {
    let (what, next_step) = text.rsplit_once("; ").unwrap_or((text, advice));
    Problem::new(code, sentence(what), sentence(next_step))
}

/// First letter large, full stop at the end.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.trim().chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let mut whole = first + chars.as_str();
    if !whole.ends_with(['.', '!', '?']) {
        whole.push('.');
    }
    whole
}

/// Every operator but ourselves, with the addresses that were given for it.
fn members(setup: &ClusterSetup, view: &ClusterView, share_index: u8) -> Result<Vec<host::Member>, Problem> {
    if setup.peers.len() > MAX_PEER_ADDRESSES {
        return Err(Problem::new(
            "peer_address_invalid",
            format!(
                "{} member addresses are given, at most {MAX_PEER_ADDRESSES} are taken.",
                setup.peers.len()
            ),
            "Give one or two addresses per member.",
        ));
    }
    let own = usize::from(share_index) - 1;
    let mut addresses: BTreeMap<PeerId, Vec<obol::Multiaddr>> = view
        .operators
        .iter()
        .filter(|operator| operator.index != own)
        .map(|operator| (operator.peer_id, Vec::new()))
        .collect();
    for text in &setup.peers {
        let (peer, address) = host::parse_member_address(text).map_err(|error| {
            Problem::new(
                "peer_address_invalid",
                sentence(&error.to_string()),
                "Correct the address; the member's own page shows it.",
            )
        })?;
        if view.operators.get(own).is_some_and(|operator| operator.peer_id == peer) {
            continue; // A list of everybody may be given to everybody.
        }
        match addresses.get_mut(&peer) {
            Some(list) => list.push(address),
            None => {
                return Err(Problem::new(
                    "peer_not_in_lock",
                    format!(
                        "The member address {text} belongs to peer {peer}, who is no operator of the cluster '{}'.",
                        view.name
                    ),
                    "Remove this address, or import the lock of the cluster that this member belongs to.",
                ));
            }
        }
    }
    Ok(addresses.into_iter().map(|(peer_id, addrs)| host::Member { peer_id, addrs }).collect())
}

fn graffiti(proposals: &ipc::Proposals, view: &ClusterView) -> Result<Graffiti, Problem> {
    Graffiti::new(&proposals.graffiti, proposals.graffiti_alone, view.validators.len()).map_err(|error| {
        advised(
            "graffiti_invalid",
            &error.to_string(),
            "Shorten the graffiti, or set it without the client's mark.",
        )
    })
}

/// The relays that the owner named, or those of Obol on the networks that they serve.
fn relays(setup: &ClusterSetup, view: &ClusterView) -> Result<Vec<host::RelayEntry>, Problem> {
    let public = Network::by_fork_version(view.fork_version).is_some();
    let named: Vec<&str> = match &setup.relays {
        Some(named) => named.iter().map(String::as_str).collect(),
        None if public => host::DEFAULT_RELAYS.to_vec(),
        None => Vec::new(),
    };
    let next_step = "Name relays such as https://0.relay.obol.tech, or none when all members have addresses.";
    if named.len() > host::MAX_RELAYS {
        let what = format!("{} relays are named, at most {} are used.", named.len(), host::MAX_RELAYS);
        return Err(Problem::new("relay_invalid", what, next_step));
    }
    let parse = |text: &str| host::RelayEntry::parse(text);
    named
        .into_iter()
        .map(parse)
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::new("relay_invalid", sentence(&error.to_string()), next_step))
}

fn keys(view: &ClusterView, share_index: u8) -> Result<BTreeMap<PublicKeyBytes, ValidatorKeys>, Problem> {
    let bad = |_| lock_problem(LockError::PublicKey { validator: 0 });
    let mut keys = BTreeMap::new();
    for validator in &view.validators {
        let group = PublicKey::parse(&validator.group_public_key).map_err(bad)?;
        let mut shares = BTreeMap::new();
        for (index, share) in (1_u64..).zip(&validator.public_shares) {
            shares.insert(ShareIndex::new(index).map_err(bad)?, PublicKey::parse(share).map_err(bad)?);
        }
        let own_share = validator.public_shares.get(usize::from(share_index) - 1).copied();
        let own_share = own_share.ok_or_else(|| lock_problem(LockError::PublicKey { validator: 0 }))?;
        keys.insert(validator.group_public_key, ValidatorKeys { group, shares, own_share });
    }
    Ok(keys)
}

/// The beacon nodes that the owner named, used as one.
pub fn beacon_nodes(
    membership: &Membership,
    timeouts: beacon::Timeouts,
    expected: beacon::ExpectedChain,
) -> Result<beacon::BeaconNodes, beacon::ConfigError> {
    let (first, fallbacks) = (&membership.beacon_nodes, &membership.fallback_beacon_nodes);
    beacon::BeaconNodes::with_fallbacks(first, fallbacks, timeouts, expected)
}

/// Whether the beacon nodes can serve this cluster: at least one answers, and none is on another chain.
pub async fn check_beacon_nodes(nodes: &beacon::BeaconNodes) -> Result<(), Problem> {
    nodes.refresh().await;
    let statuses = nodes.statuses();
    for status in &statuses {
        if let beacon::Health::WrongChain(mismatch) = &status.health {
            return Err(wrong_chain(&status.endpoint, mismatch));
        }
    }
    if nodes.chain().is_some() {
        return Ok(());
    }
    let why: Vec<String> = statuses.iter().map(|status| status.health.describe()).collect();
    Err(Problem::new(
        "beacon_node_unreachable",
        format!("No beacon node answers: {}.", why.join("; ")),
        "Start the beacon node, or correct its address, then try again.",
    ))
}

pub(crate) fn wrong_chain(endpoint: &str, mismatch: &beacon::ChainMismatch) -> Problem {
    Problem::new(
        "beacon_node_wrong_chain",
        sentence(&format!("{endpoint}: {mismatch}")),
        "Point this box to a beacon node of the cluster's chain, or import the lock that belongs to this chain.",
    )
}

pub(crate) fn bad_beacon_address(error: &beacon::ConfigError) -> Problem {
    Problem::new(
        "beacon_node_address_invalid",
        sentence(&error.to_string()),
        "Correct the beacon node address.",
    )
}
