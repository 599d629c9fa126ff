//! What the recorded process does: check, record, sign, with the signer's own code, and a word for all that is given out.

use std::{
    fmt,
    io::Write as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use chain::{Epoch, PublicKeyBytes, Root, Slot, UnixMillis};
use ipc::signer::{ChainClock, ChainPreset};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use slashing::{SignedAttestation, SignedBlock};
use threshold::{SecretKey, SecretShare, ShareIndex};
use tokio::sync::mpsc;

use super::super::{Import, Ledger, QUEUE, ShareRow, Store, writer};
use super::disk::MARKS;
use crate::{
    message::{Asks, Kind, Message, Vote},
    metrics::Metrics,
    rules::{self, Permitted, Subject},
    share::Share,
};

/// Genesis lies far ahead, so that no floor is raised over what a cut may have taken: only the records count here.
const CLOCK: ChainClock = ChainClock {
    genesis_time: 4_000_000_000,
    slot_ms: 2000,
    slots_per_epoch: 8,
    preset: ChainPreset::Mainnet,
};
const CHAIN: Root = Root([9; 32]);
/// The third share is of the first one's validator.
const VALIDATORS: [u8; 3] = [101, 102, 101];
pub(super) const SHARES: [u8; 3] = [1, 2, 3];

/// How the recorded process works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As the signer does.
    Sound,
    /// The database is told not to sync at all.
    NeverSyncs,
    /// The database is told to sync only now and then, as `synchronous=NORMAL` does.
    SyncsSeldom,
    /// The signature leaves before its record is made.
    SignsFirst,
}

/// One process's life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Play {
    pub seed: u64,
    pub way: Way,
    pub steps: usize,
}

impl fmt::Display for Play {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {:?} {}", self.seed, self.way, self.steps)
    }
}

impl FromStr for Play {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let seed = words.next().and_then(|word| word.parse().ok()).ok_or(())?;
        let ways = [Way::Sound, Way::NeverSyncs, Way::SyncsSeldom, Way::SignsFirst];
        let word = words.next().ok_or(())?;
        let way = ways.into_iter().find(|way| format!("{way:?}") == word).ok_or(())?;
        let steps = words.next().and_then(|word| word.parse().ok()).ok_or(())?;
        Ok(Self { seed, way, steps })
    }
}

/// Something that somebody outside may rely on from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// A signature of this share is out, here or elsewhere.
    Signed { share: u8, vote: Vote, root: u8 },
    /// The owner was told that this share is held.
    Held(u8),
    /// The TPM's counter is stepped to this next.
    Counter(u64),
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed { share, vote: Vote::Attestation { source, target }, root } => {
                writeln!(out, "attested {share} {root} {source} {target}")
            }
            Self::Signed { share, vote: Vote::Block { slot }, root } => {
                writeln!(out, "proposed {share} {root} {slot}")
            }
            Self::Signed { vote: Vote::None, .. } => Ok(()),
            Self::Held(share) => writeln!(out, "held {share}"),
            Self::Counter(value) => writeln!(out, "counter {value}"),
        }
    }
}

/// Reads marks back.
pub(super) fn read_marks(text: &str) -> Vec<Mark> {
    let mark = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        let small = |at: usize| words[at].parse::<u8>().unwrap();
        match words[0] {
            "attested" => Mark::Signed {
                share: small(1),
                root: small(2),
                vote: Vote::Attestation { source: Epoch(number(3)), target: Epoch(number(4)) },
            },
            "proposed" => {
                Mark::Signed { share: small(1), root: small(2), vote: Vote::Block { slot: Slot(number(3)) } }
            }
            "held" => Mark::Held(small(1)),
            "counter" => Mark::Counter(number(1)),
            other => panic!("the mark {other} is unknown"),
        }
    };
    text.lines().map(mark).collect()
}

pub(super) fn secret(number: u8) -> SecretKey {
    let mut bytes = [number; 32];
    bytes[0] = 0x11;
    SecretKey::from_bytes(&bytes).unwrap()
}

fn row(number: u8) -> ShareRow {
    let at = SHARES.iter().position(|share| *share == number).unwrap();
    ShareRow {
        pubshare: secret(number).public_key().to_bytes(),
        group_key: PublicKeyBytes([VALIDATORS[at]; 48]),
        share_index: number,
        genesis_validators_root: CHAIN,
        clock: CLOCK,
        sealed: vec![number; 72],
    }
}

pub(super) fn message(vote: Vote, root: u8) -> Message {
    let epoch = match vote {
        Vote::Attestation { target, .. } => target,
        Vote::Block { slot } => Epoch(slot.0 / CLOCK.slots_per_epoch),
        Vote::None => Epoch(0),
    };
    Message { kind: Kind::Attestation, signing_root: Root([root; 32]), epoch, vote, asks: Asks::Duty }
}

struct Process {
    dir: PathBuf,
    play: Play,
    random: StdRng,
    ledger: Ledger,
    marks: std::fs::File,
}

/// Lives one life in a folder. Runs in a process of its own, under the recorder.
pub(super) fn live(dir: &Path, play: Play) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let random = StdRng::seed_from_u64(play.seed);
        let marks = std::fs::OpenOptions::new().append(true).create(true).open(dir.join(MARKS)).unwrap();
        let ledger = open(dir, play);
        let mut process = Process { dir: dir.to_owned(), play, random, ledger, marks };
        process.begin().await;
        for _ in 0..play.steps {
            match process.random.random_range(0..40) {
                0 => process.import().await,
                1 => process.restart().await,
                _ => process.sign_some().await,
            }
        }
        process.ledger.close().await.unwrap();
    });
}

fn open(dir: &Path, play: Play) -> Ledger {
    let store = Store::open(dir).unwrap();
    let set = |name: &str, value: &str| store.connection().pragma_update(None, name, value).unwrap();
    match play.way {
        Way::Sound | Way::SignsFirst => {}
        Way::NeverSyncs => set("synchronous", "OFF"),
        Way::SyncsSeldom => set("synchronous", "NORMAL"),
    }
    // Checkpoints are rare in a short life; so most lives have them more often, and some as the signer has them.
    if !play.seed.is_multiple_of(4) {
        set("wal_autocheckpoint", &(4 + play.seed % 23).to_string());
    }
    let (jobs, queue) = mpsc::channel(QUEUE);
    let shown = writer::start(store, queue, Metrics::default()).unwrap();
    Ledger { jobs, shown }
}

impl Process {
    fn say(&mut self, marks: &[Mark]) {
        let text: String = marks.iter().map(Mark::to_string).collect();
        if !text.is_empty() {
            // One write, so that the record has it at one moment.
            assert_eq!(self.marks.write(text.as_bytes()).unwrap(), text.len());
        }
    }

    async fn begin(&mut self) {
        let facts = self.ledger.facts().await.unwrap();
        let next = facts.counter.unwrap_or(0) + 1;
        self.ledger.begin_run(next, crate::ledger::Past::Known).await.unwrap();
        self.say(&[Mark::Counter(next)]);
        if self.ledger.rows().await.unwrap().len() < SHARES.len() {
            self.import_these(&SHARES, false).await;
        }
    }

    async fn restart(&mut self) {
        if self.random.random_bool(0.5) {
            self.ledger.close().await.unwrap();
        }
        // The other way the database's thread is still at it when the next one begins, unless it is waited for.
        let (jobs, _) = mpsc::channel(1);
        let nothing = Ledger { jobs, shown: writer::Shown::default() };
        let before = std::mem::replace(&mut self.ledger, nothing);
        drop(before);
        let begun = std::time::Instant::now();
        while Store::open(&self.dir).is_err() {
            assert!(begun.elapsed().as_secs() < 20, "the old ledger is not let go");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.ledger = open(&self.dir, self.play);
        self.begin().await;
    }

    /// The highest target on record.
    async fn highest(&self) -> u64 {
        let marks = self.ledger.marks().await.unwrap();
        marks.iter().filter_map(|(_, last)| last.target_epoch).max().unwrap_or(60)
    }

    async fn import(&mut self) {
        let share = SHARES[self.random.random_range(0..SHARES.len())];
        self.import_these(&[share], true).await;
    }

    async fn import_these(&mut self, shares: &[u8], with_history: bool) {
        let top = self.highest().await;
        let mut marks = Vec::new();
        let mut imports = Vec::new();
        for share in shares {
            let mut history = (Vec::new(), Vec::new());
            if with_history {
                let target = top + self.random.random_range(0..3);
                let source = target - self.random.random_range(1..4);
                history.1.push(SignedAttestation {
                    source_epoch: Epoch(source),
                    target_epoch: Epoch(target),
                    signing_root: None,
                });
                let slot = Slot(target * CLOCK.slots_per_epoch);
                history.0.push(SignedBlock { slot, signing_root: None });
                let vote = Vote::Attestation { source: Epoch(source), target: Epoch(target) };
                marks.push(Mark::Signed { share: *share, vote, root: 255 });
                marks.push(Mark::Signed { share: *share, vote: Vote::Block { slot }, root: 255 });
            }
            imports.push(Import {
                row: row(*share),
                history,
                was_damaged: false,
                more_epochs: 0,
                stopped: None,
            });
            marks.push(Mark::Held(*share));
        }
        let imported = self.ledger.import(imports).await.unwrap();
        marks.push(Mark::Counter(imported.counter));
        self.say(&marks);
    }

    async fn sign_some(&mut self) {
        let top = self.highest().await;
        let mut asked = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            let share = SHARES[self.random.random_range(0..SHARES.len())];
            asked.push((share, self.vote(top), self.random.random_range(1..4)));
        }
        if self.play.way == Way::SignsFirst {
            let vote = Vote::Attestation { source: Epoch(top), target: Epoch(top + 1) };
            asked = vec![(SHARES[1], vote, 1)];
        }
        let permitted: Vec<(u8, Vote, u8, Permitted)> = asked
            .into_iter()
            .filter_map(|(share, vote, root)| Some((share, vote, root, permit(share, vote, root)?)))
            .collect();
        if self.play.way == Way::SignsFirst {
            let marks: Vec<Mark> = permitted
                .iter()
                .map(|(share, vote, root, _)| Mark::Signed { share: *share, vote: *vote, root: *root })
                .collect();
            self.say(&marks);
        }
        let keys: Vec<_> =
            permitted.iter().map(|(share, .., permitted)| (row(*share).pubshare, permitted)).collect();
        let outcomes = self.ledger.clear_all(&keys).await;
        let mut marks = Vec::new();
        for ((share, vote, root, _), outcome) in permitted.iter().zip(outcomes) {
            let Ok(clearance) = outcome else { continue };
            let index = ShareIndex::try_from(*share).unwrap();
            let signer = Share::new(row(*share), SecretShare::new(index, secret(*share)));
            // The signature exists from here on.
            signer.sign(clearance).unwrap();
            marks.push(Mark::Signed { share: *share, vote: *vote, root: *root });
        }
        if self.play.way != Way::SignsFirst {
            self.say(&marks);
        }
    }

    fn vote(&mut self, top: u64) -> Vote {
        let random = &mut self.random;
        let target = match random.random_range(0..20) {
            0..12 => top + 1,
            19 if self.play.seed.is_multiple_of(3) => top + 300, // More than is kept in detail.
            _ => (top + 3).saturating_sub(random.random_range(0..6)),
        };
        if random.random_range(0..4) == 0 {
            return Vote::Block { slot: Slot(target * CLOCK.slots_per_epoch + random.random_range(0..3)) };
        }
        let source = target.saturating_sub(random.random_range(1..4));
        Vote::Attestation { source: Epoch(source), target: Epoch(target) }
    }
}

fn permit(share: u8, vote: Vote, root: u8) -> Option<Permitted> {
    let message = message(vote, root);
    let now = UnixMillis(CLOCK.genesis_time * 1000 + message.epoch.0 * CLOCK.slots_per_epoch * CLOCK.slot_ms);
    let subject = Subject { validator: row(share).group_key, clock: &CLOCK, rules: None, exit: None };
    rules::permit(message, &subject, now).ok()
}
