//! The clusters of this box as the control socket sees them: for each place what is shown and what can be asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chain::PublicKeyBytes;
use ipc::Problem;
use ipc::node::ClusterEntry;

use crate::board::Board;
use crate::config::P2p;
use crate::exits::Desk;
use crate::preflight::Preflight;
use crate::setup::{Membership, ValidatorKeys};
use crate::store::{Store, StoreError};

/// One place. It may be without a cluster, as the first one is at the beginning.
#[derive(Debug)]
pub struct Place {
    /// Its number, from 0.
    pub number: u8,
    /// What is shown.
    pub board: Arc<Board>,
    /// The owner's wishes about exits.
    pub desk: Arc<Desk>,
    /// The checks.
    pub preflight: Arc<Preflight>,
    /// Its files.
    pub store: Store,
    facts: Mutex<Option<Facts>>,
}

/// The cluster at a place.
#[derive(Debug, Clone)]
pub struct Facts {
    lock_hash: String,
    name: String,
    share_index: u8,
    validators: Arc<BTreeMap<PublicKeyBytes, ValidatorKeys>>,
}

impl Facts {
    /// Of a verified cluster.
    pub fn of(membership: &Membership) -> Self {
        Self {
            lock_hash: hex::encode(membership.view.lock_hash),
            name: membership.view.name.clone(),
            share_index: membership.share_index,
            validators: Arc::clone(&membership.keys),
        }
    }

    /// Of one whose lock cannot be read, by what it left behind.
    pub fn remembered(lock_hash: String, share_index: u8) -> Self {
        Self { lock_hash, name: String::new(), share_index, validators: Arc::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    /// With what was kept before a restart.
    pub fn open(number: u8, store: Store) -> Result<Self, StoreError> {
        Ok(Self::with(number, Desk::open(store.clone())?, store))
    }

    /// One whose files cannot be used.
    pub fn halted(number: u8, store: Store) -> Self {
        Self::with(number, Desk::empty(store.clone()), store)
    }

    fn with(number: u8, desk: Desk, store: Store) -> Self {
        let board = Arc::new(Board::at_place(number));
        let preflight = Arc::new(Preflight::new(Arc::clone(&board), store.clone()));
        Self { number, board, desk: Arc::new(desk), preflight, store, facts: Mutex::default() }
    }

    /// From now on this cluster is here, or none.
    pub fn set_facts(&self, facts: Option<Facts>) {
        *lock(&self.facts) = facts;
    }

    fn facts(&self) -> Option<Facts> {
        lock(&self.facts).clone()
    }

    /// Whether there is a cluster here.
    pub fn is_taken(&self) -> bool {
        lock(&self.facts).is_some()
    }

    /// The lock hash of its cluster, hex; empty when that is not known.
    pub fn lock_hash(&self) -> Option<String> {
        self.facts().map(|facts| facts.lock_hash)
    }

    /// The name of its cluster, for sentences.
    pub fn name(&self) -> String {
        self.facts().map(|facts| facts.name).unwrap_or_default()
    }

    /// Whether its cluster has that validator.
    pub fn has(&self, validator: &PublicKeyBytes) -> bool {
        lock(&self.facts).as_ref().is_some_and(|facts| facts.validators.contains_key(validator))
    }
}

/// All places.
#[derive(Debug)]
pub struct Places {
    p2p: P2p,
    all: Mutex<BTreeMap<u8, Arc<Place>>>,
}

impl Places {
    /// None yet.
    pub fn new(p2p: P2p) -> Self {
        Self { p2p, all: Mutex::default() }
    }

    /// From now on shown.
    pub fn add(&self, place: Arc<Place>) {
        lock(&self.all).insert(place.number, place);
    }

    /// From now on not shown.
    pub fn remove(&self, number: u8) {
        lock(&self.all).remove(&number);
    }

    /// Those with a cluster, in order.
    pub fn taken(&self) -> Vec<Arc<Place>> {
        lock(&self.all).values().filter(|place| place.is_taken()).cloned().collect()
    }

    /// Whom those mean who know of one cluster only: the first cluster, or the place where it would be.
    pub fn first(&self) -> Option<Arc<Place>> {
        let all = lock(&self.all);
        all.values().find(|place| place.is_taken()).or_else(|| all.values().next()).cloned()
    }

    /// The place of a cluster, by its lock hash in hex with or without `0x`.
    pub fn of_cluster(&self, lock_hash: &str) -> Result<Arc<Place>, Problem> {
        let wanted = lock_hash.strip_prefix("0x").unwrap_or(lock_hash).to_ascii_lowercase();
        let is_it = |place: &Arc<Place>| place.facts().is_some_and(|facts| facts.lock_hash == wanted);
        self.taken().into_iter().find(is_it).ok_or_else(|| {
            Problem::new(
                "cluster_unknown",
                "This box is not a member of the cluster with this lock hash.",
                "Look up the lock hash in the list of this box's clusters.",
            )
        })
    }

    /// The place whose cluster has the validator; the first one when none has, which says so in its own words.
    pub fn of_validator(&self, validator: &str) -> Option<Arc<Place>> {
        let key = validator.trim().to_ascii_lowercase().parse().ok();
        let found = key.and_then(|key| self.taken().into_iter().find(|place| place.has(&key)));
        found.or_else(|| self.first())
    }

    /// What the list of clusters says.
    pub fn entries(&self) -> Vec<ClusterEntry> {
        let entry = |place: Arc<Place>| {
            let facts = place.facts()?;
            let (state, problems) = place.board.brief();
            let listen = self.p2p.at_place(place.number).listen;
            Some(ClusterEntry {
                lock_hash: format!("0x{}", facts.lock_hash),
                name: facts.name,
                share_index: facts.share_index,
                place: place.number,
                listen: listen.iter().map(ToString::to_string).collect(),
                state,
                problems,
            })
        };
        self.taken().into_iter().filter_map(entry).collect()
    }
}
