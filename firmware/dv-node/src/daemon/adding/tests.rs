//! The take-over of a lock with more validators, with a daemon whose nodes only say that they run.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chain::{ExecutionAddress, UnixMillis};
use cluster::add::{AddedValidator, Addition};
use cluster::create::{Addresses, CreateOptions, CreatedCluster};
use cluster::{Lock, Network};
use ipc::dkg::{Adding, KeyGeneration, NamedFile};
use ipc::{ClusterSetup, Sensitive};
use serde_json::Value;

use super::super::{Daemon, Work};
use crate::board::Pace;
use crate::dkg::Made;
use crate::folders::Folders;
use crate::node::wall;
use crate::places::Places;
use crate::store::{Forgotten, PinnedChain};

/// Which member this box is.
const PLACE: usize = 2;
const SLOT_MS: u64 = 12_000;

fn options() -> CreateOptions {
    let addresses =
        Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
    CreateOptions::new("growing", 4, 1, Network::by_name("hoodi").unwrap(), addresses)
}

/// A cluster with one validator, and its lock with one more, signed by everybody.
fn grown() -> (CreatedCluster, Lock) {
    let create = || cluster::create::cluster(&options(), &mut rand::rng()).unwrap();
    let (base, more) = (create(), create());
    let wanted = AddedValidator {
        fee_recipient: format!("0x{}", "01".repeat(20)),
        withdrawal: format!("0x{}", "02".repeat(20)),
    };
    let addition = Addition::new(base.lock.clone(), &[wanted], &[]).unwrap();
    let mut lock = addition.lock(more.lock.validators.clone()).unwrap();
    let shares = base.nodes.iter().chain(&more.nodes).flat_map(|node| &node.shares);
    let signatures: Vec<_> = shares.map(|share| share.sign(&lock.lock_hash)).collect();
    lock.signature_aggregate = threshold::aggregate_signatures(&signatures).unwrap().to_bytes().0.to_vec();
    lock.node_signatures =
        base.nodes.iter().map(|node| node.identity.sign(&lock.lock_hash).to_vec()).collect();
    lock.verify(&[]).unwrap();
    (base, lock)
}

fn json(lock: &Lock) -> Value {
    serde_json::from_slice(&lock.to_json().unwrap()).unwrap()
}

/// What has happened to the nodes: how many validators one had that began, and 0 for each end.
type Said = Arc<Mutex<Vec<usize>>>;

struct Member {
    dir: tempfile::TempDir,
    base: CreatedCluster,
    lock: Lock,
    said: Said,
}

impl Member {
    fn new() -> Self {
        let (base, lock) = grown();
        Self { dir: tempfile::tempdir().unwrap(), base, lock, said: Said::default() }
    }

    fn state(&self) -> &Path {
        self.dir.path()
    }

    fn work(&self) -> Work {
        let said = Arc::clone(&self.said);
        Arc::new(move |membership, mut around| {
            let said = Arc::clone(&said);
            Box::pin(async move {
                said.lock().unwrap().push(membership.keys.len());
                let _asked_to_end = around.stop.wait_for(|stop| *stop).await;
                said.lock().unwrap().push(0);
                Ok(())
            })
        })
    }

    /// As after a start: what the files say is served.
    async fn start(&self) -> Daemon {
        let text = format!(
            "state_dir = \"{0}\"\nsigner_socket = \"{0}/sign.sock\"\nlog = \"info\"\n\
             [p2p]\nlisten = [\"/ip4/127.0.0.1/tcp/1\"]\n[callers]\ncontrol = [\"self\"]\n",
            self.state().display()
        );
        let config: crate::config::Config = toml::from_str(&text).unwrap();
        let folders = Folders::at(self.state()).unwrap();
        let places = Arc::new(Places::new(config.p2p.clone()));
        let mut daemon = Daemon::new(config, folders, places, self.work());
        daemon.open_seats(None).unwrap();
        daemon.resume().await;
        daemon
    }

    fn setup(&self, lock: &Lock) -> ClusterSetup {
        let key = self.base.nodes[PLACE].identity.to_file_text().to_string();
        // No signer runs here, and no key is written without it.
        crate::sealed::as_if_opened(&format!("sealed:{}", &key[..8]), &key);
        ClusterSetup {
            lock: json(lock),
            identity_key: Sensitive::new(key),
            beacon_nodes: vec!["http://127.0.0.1:9".to_owned()],
            peers: Vec::new(),
            relays: None,
            signing: ipc::Signing::BuiltIn,
            fallback_beacon_nodes: None,
            proposals: None,
            obol_api: None,
        }
    }

    fn adding(&self) -> Adding {
        let validators = vec![ipc::dkg::AddedValidator {
            fee_recipient: format!("0x{}", "01".repeat(20)),
            withdrawal: format!("0x{}", "02".repeat(20)),
        }];
        Adding { lock: json(&self.base.lock), validators }
    }

    fn made(&self) -> Option<Made> {
        Some(Made { setup: self.setup(&self.lock), adding: Some(self.adding()) })
    }

    /// A member of the cluster that has spoken, with an addition under way.
    async fn with_addition(&self) -> Daemon {
        let folders = Folders::at(self.state()).unwrap();
        let store = folders.store(0).unwrap();
        store.save_cluster(&self.setup(&self.base.lock)).unwrap();
        let chain = PinnedChain {
            genesis_validators_root: chain::Root([7; 32]),
            genesis_time: 1,
            lock_hash: Some(hex::encode(self.base.lock.lock_hash)),
            share_index: Some(u8::try_from(PLACE).unwrap() + 1),
        };
        store.save_chain(&chain).unwrap();
        let spoken = std::collections::BTreeMap::from([((77, 2), vec![1])]);
        std::fs::write(store.journal_path(), crate::journal::write_bytes(&spoken).unwrap()).unwrap();
        let daemon = self.start().await;
        daemon.ceremonies.begin(&self.request()).unwrap();
        let files = [NamedFile { name: "cluster-lock.json".to_owned(), content: "{}".to_owned() }];
        daemon.ceremonies.save_files(&files).unwrap();
        daemon
    }

    fn request(&self) -> KeyGeneration {
        KeyGeneration {
            definition: Value::Null,
            adding: Some(self.adding()),
            identity_key: self.setup(&self.base.lock).identity_key,
            minor: 10,
            peers: Vec::new(),
            beacon_nodes: Vec::new(),
            relays: None,
        }
    }

    fn said(&self) -> Vec<usize> {
        self.said.lock().unwrap().clone()
    }

    /// The node is one thread and the test another.
    async fn has_said(&self, expected: &[usize]) {
        for _ in 0..600 {
            if self.said() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?} instead of {expected:?}", self.said());
    }

    fn assert_grown(&self, daemon: &Daemon) {
        let seat = &daemon.seats[&0];
        assert_eq!(seat.membership.as_ref().unwrap().view.lock_hash, self.lock.lock_hash);
        assert_eq!(daemon.seats.len(), 1, "at the place where it was");
        assert!(daemon.born.is_none());
        let store = &seat.place.store;
        assert!(!store.journal_path().exists(), "nothing that was said is the new lock's");
        assert_eq!(store.load_forgotten().unwrap(), Some(Forgotten { slot: 77 }));
        let pinned = store.load_chain().unwrap().unwrap().lock_hash;
        assert_eq!(pinned, Some(hex::encode(self.lock.lock_hash)));
        let name = format!("{}-{}", hex::encode(self.base.lock.lock_hash), PLACE + 1);
        assert_eq!(crate::journal::latest_slot(&self.state().join("left").join(name).join("journal")), 77);
    }
}

/// How far away the next attempt is, in seconds.
fn next(daemon: &Daemon) -> u64 {
    let left = daemon.born.as_ref().unwrap().until().as_millis();
    u64::try_from(left).unwrap().div_ceil(1_000)
}

fn problem(daemon: &Daemon) -> Option<String> {
    daemon.last_ceremony.as_ref()?.problems.first().map(|problem| problem.code.clone())
}

#[tokio::test]
async fn the_members_take_a_new_lock_one_after_the_other_and_not_before_a_proposal_is_made() {
    let this = Member::new();
    let mut daemon = this.with_addition().await;
    this.has_said(&[1]).await;
    let board = Arc::clone(&daemon.seats[&0].place.board);
    let pace = |proposes_until| Some(Pace { slot_ms: SLOT_MS, proposes_until });
    board.show_pace(pace(None));
    daemon.on_ceremony_finished(this.made()).await;
    // The third member: two others are before it, two slots each.
    assert_eq!(next(&daemon), 4 * SLOT_MS / 1_000);
    // Its turn has come; one of its validators proposes in the slot after this one.
    let soon = UnixMillis(wall().0 + 20_000);
    for _ in 0..3 {
        board.show_pace(pace(Some(soon)));
        daemon.on_ceremony_finished(None).await;
        assert!((15..=20).contains(&next(&daemon)), "{}", next(&daemon));
    }
    assert_eq!(this.said(), [1], "nothing has happened to the node");
    let refused = daemon.discard_ceremony().await;
    assert_eq!(refused.map_err(|problem| problem.code), Err("turn_awaited".to_owned()), "the others have it");
    // Where validators propose all the time, it is not put off for ever.
    daemon.on_ceremony_finished(None).await;
    this.has_said(&[1, 0, 2]).await;
    this.assert_grown(&daemon);
}

#[tokio::test]
async fn a_member_that_does_no_duties_takes_the_new_lock_at_once_and_keeps_nothing_but_the_files() {
    let this = Member::new();
    let mut daemon = this.with_addition().await;
    this.has_said(&[1]).await;
    daemon.on_ceremony_finished(this.made()).await;
    this.has_said(&[1, 0, 2]).await;
    this.assert_grown(&daemon);
    assert!(daemon.ceremonies.request().unwrap().is_none(), "the version before could not read it");
    assert!(daemon.ceremonies.is_over().unwrap());
    assert_eq!(daemon.ceremonies.files().unwrap().len(), 1);
    drop(daemon);
    // One that was over before the request was put away loses it at the next start.
    let mut daemon = this.start().await;
    daemon.ceremonies.keep_request(&this.request()).unwrap();
    daemon.resume_ceremony().await;
    assert!(daemon.ceremony.is_none() && daemon.ceremonies.request().unwrap().is_none());
    assert_eq!(daemon.ceremonies.files().unwrap().len(), 1);
}

#[tokio::test]
async fn a_new_lock_for_which_there_is_no_room_costs_the_running_node_nothing() {
    let this = Member::new();
    let mut daemon = this.with_addition().await;
    this.has_said(&[1]).await;
    // Nothing can be put away, as on a disk that is full or read-only.
    std::fs::write(this.state().join("left"), "").unwrap();
    let mut made = this.made();
    for pause in [15, 30, 60, 60] {
        daemon.last_ceremony = Some(super::super::key_generation::standing("done", super::gone()));
        daemon.on_ceremony_finished(made.take()).await;
        assert_eq!((problem(&daemon).as_deref(), next(&daemon)), (Some("disk_write_failed"), pause));
    }
    assert_eq!(this.said(), [1], "it was neither ended nor started");
    assert_eq!(daemon.seats[&0].place.store.load_forgotten().unwrap(), None, "nor silenced");
    std::fs::remove_file(this.state().join("left")).unwrap();
    daemon.on_ceremony_finished(None).await;
    this.has_said(&[1, 0, 2]).await;
    this.assert_grown(&daemon);
    daemon.discard_ceremony().await.unwrap();
    let names = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    assert_eq!(names(&this.state().join("left")), 1, "the room is given back");
}

#[tokio::test]
async fn an_addition_whose_request_cannot_be_read_any_more_is_never_a_join() {
    let this = Member::new();
    let mut daemon = this.with_addition().await;
    this.has_said(&[1]).await;
    std::fs::write(this.state().join("dkg/request.json"), "{").unwrap();
    daemon.on_ceremony_finished(this.made()).await;
    this.has_said(&[1, 0, 2]).await;
    this.assert_grown(&daemon);
    // After a restart nothing is made of it, the owner is told, and the cluster can be left.
    std::fs::write(this.state().join("dkg/request.json"), "{").unwrap();
    std::fs::remove_file(this.state().join("dkg/over")).unwrap();
    let mut daemon = this.start().await;
    daemon.resume_ceremony().await;
    assert_eq!(problem(&daemon).as_deref(), Some("ceremony_damaged"));
    daemon.leave(&hex::encode(this.lock.lock_hash)).await.unwrap();
    assert!(daemon.ceremonies.is_over().unwrap());
}

#[tokio::test]
async fn a_cut_between_the_old_memory_and_the_new_lock_leaves_a_silent_member_that_goes_on() {
    let this = Member::new();
    let daemon = this.with_addition().await;
    let seat = &daemon.seats[&0];
    let (membership, _) = daemon.verify_stored(this.setup(&this.lock)).await.unwrap();
    daemon.put_old_memory_away(0, &seat.place.store, seat.membership.as_ref(), &membership).unwrap();
    drop(daemon);
    // The power comes back: the old lock is served, by a member that keeps silent about all it has said.
    let mut daemon = this.start().await;
    let store = daemon.seats[&0].place.store.clone();
    assert_eq!(daemon.seats[&0].membership.as_ref().unwrap().view.lock_hash, this.base.lock.lock_hash);
    assert_eq!(store.load_forgotten().unwrap(), Some(Forgotten { slot: 77 }));
    assert!(!store.journal_path().exists());
    daemon.on_ceremony_finished(this.made()).await;
    this.assert_grown(&daemon);
}

#[tokio::test]
async fn who_left_the_cluster_and_joins_it_by_the_new_lock_is_silent_about_what_it_said_by_the_old_one() {
    let this = Member::new();
    let mut daemon = this.with_addition().await;
    daemon.leave(&hex::encode(this.base.lock.lock_hash)).await.unwrap();
    let setup = this.setup(&this.lock);
    let (membership, setup) = daemon.verify_stored(setup).await.unwrap();
    daemon.prepare(0, &membership, &setup).unwrap();
    let store = daemon.seats[&0].place.store.clone();
    assert_eq!(store.load_forgotten().unwrap(), Some(Forgotten { slot: 77 }));
    // Whoever is another member, or of another cluster, has said none of it.
    let other = cluster::create::cluster(&options(), &mut rand::rng()).unwrap();
    let key = other.nodes[0].identity.public_key();
    assert_eq!(daemon.folders.left_by_member(&key, "").unwrap(), None);
    // What cannot be read may be anybody's.
    let left = this.state().join("left");
    let name = std::fs::read_dir(&left).unwrap().next().unwrap().unwrap().file_name();
    std::fs::write(left.join(&name).join("cluster.json"), "{").unwrap();
    assert_eq!(daemon.folders.left_by_member(&key, "").unwrap(), Some(77));
    assert_eq!(daemon.folders.left_by_member(&key, name.to_str().unwrap()).unwrap(), None);
}
