//! The box's identity key with a real signer and a software TPM: taken over from a plain file, bound to this TPM, in no file.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[expect(dead_code, reason = "each test uses its own part")]
mod seated;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chain::{ExecutionAddress, ForkVersion};
use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
use cluster::{IdentityKey, Network};
use hw_tests::member::Member;
use ipc::node::{NodeState, STATUS_PATH};
use ipc::{Client, NodeStatus};

const PATIENCE: Duration = Duration::from_secs(120);

fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

fn network() -> Network {
    Network {
        name: "nowhere".to_owned(),
        chain_id: 1337,
        genesis_fork_version: ForkVersion([0x20, 0, 0, 0x89]),
        genesis_time: 1_700_000_000,
    }
}

fn created() -> CreatedCluster {
    let address = ExecutionAddress([0x11; 20]);
    let addresses = Addresses { fee_recipient: address, withdrawal: address };
    create::cluster(&CreateOptions::new("four", 4, 1, network(), addresses), &mut rand::rng()).unwrap()
}

/// Every file of the member in which a part of the key stands, as text or in bytes.
fn with_the_key(dir: &Path, key: &IdentityKey) -> Vec<PathBuf> {
    fn walk(dir: &Path, parts: &[Vec<u8>], found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, parts, found);
            } else if path.is_file()
                && let Ok(content) = fs::read(&path)
                && parts.iter().any(|part| content.windows(part.len()).any(|window| window == part))
            {
                found.push(path);
            }
        }
    }
    let (text, raw) = (key.to_file_text(), key.secret_bytes());
    let (text, raw) = (text.as_bytes(), raw.as_slice());
    let parts = [&text[..16], &text[48..], &raw[..16], &raw[16..]].map(<[u8]>::to_vec);
    let mut found = Vec::new();
    walk(dir, &parts, &mut found);
    found
}

struct World {
    runtime: tokio::runtime::Runtime,
    member: Member,
    created: CreatedCluster,
}

impl World {
    fn key(&self) -> &IdentityKey {
        &self.created.nodes[0].identity
    }

    fn file(&self, name: &str) -> PathBuf {
        self.member.dir().join("dv-node").join(name)
    }

    fn status(&self) -> NodeStatus {
        let node = Client::new(self.member.node_socket());
        self.runtime.block_on(node.get(STATUS_PATH)).unwrap()
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "in vain: {what}: {:?}", self.status().problems);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn is_sealed(&self) -> bool {
        let empty = fs::metadata(self.file("identity.key")).is_ok_and(|found| found.len() == 0);
        empty && with_the_key(self.member.dir(), self.key()).is_empty()
    }

    fn is_served(&self) -> bool {
        let status = self.status();
        status.cluster.is_some() && status.state != NodeState::Halted
    }
}

#[test]
fn a_plain_identity_key_is_sealed_to_the_tpm_and_opens_in_no_other_machine() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut member = Member::start("sealed", &dir.path().join("sealed"), &binaries()).unwrap();
    member.know_network(network());
    let mut world = World { runtime, member, created: created() };
    // As software of before left it; whenever the power goes, one of the two is there.
    for cut_after_ms in [0, 300, 700, 1200, 2000] {
        let identity = IdentityKey::from_bytes(world.key().secret_bytes().clone()).unwrap();
        let _ = fs::remove_file(world.file("identity.sealed"));
        seated::join(&mut world.member, &identity, &world.created, &[]);
        std::thread::sleep(Duration::from_millis(cut_after_ms));
        world.member.power_cut().unwrap();
        let plain = fs::read_to_string(world.file("identity.key")).unwrap();
        let is_plain = plain.trim() == world.key().to_file_text().as_str();
        assert!(is_plain || world.file("identity.sealed").exists(), "{cut_after_ms}: {plain:?}");
    }
    world.member.power_on().unwrap();
    world.until("the key is sealed", World::is_sealed);
    world.until("the cluster is served", World::is_served);

    // The disk in another machine, or the TPM cleared.
    let (own, away) = (world.member.dir().join("tpm"), world.member.dir().join("tpm of this box"));
    world.member.power_cut().unwrap();
    fs::rename(&own, &away).unwrap();
    world.member.power_on().unwrap();
    world.until("it says that it does not open", |world| {
        world.status().problems.iter().any(|problem| {
            problem.code == "identity_locked" && problem.next_step.contains("Put the disk back into the box")
        })
    });
    assert_eq!(world.status().state, NodeState::Halted);
    assert!(world.is_sealed() && world.file("identity.sealed").exists(), "nothing is made in its place");
    world.member.power_cut().unwrap();
    fs::remove_dir_all(&own).unwrap();
    fs::rename(&away, &own).unwrap();

    // The signer is up last on a slow board: its node waits for it.
    world.member.power_on_without_signer().unwrap();
    world.until("it waits for the signer", |world| {
        world.status().problems.iter().any(|problem| problem.code == "identity_locked")
    });
    world.member.power_on().unwrap();
    world.until("the cluster is served", World::is_served);

    // What goes back to software of before finds an empty file, and asks for what was sealed for backups.
    world.until("the signer was given the key", |world| {
        fs::read_dir(world.member.dir().join("signer"))
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("identity-"))
    });
    world.member.power_cut().unwrap();
    fs::remove_file(world.file("identity.sealed")).unwrap();
    world.member.power_on().unwrap();
    world.until("the cluster is served", World::is_served);
}
