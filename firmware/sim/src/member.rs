//! One member: a shell around the real engine.

use std::collections::BTreeMap;
use std::rc::Rc;

use chain::Slot;
use duty::{Duty, Engine, Saved, Settings, UnknownView};
use qbft::Member;

use crate::byzantine::Memory;
use crate::send::Packet;
use crate::signer::Signer;
use crate::values::{Seal, SimNetwork};
use crate::world::{Disk, Ledger, World};

pub(crate) struct Node {
    pub(crate) me: Member,
    /// `None` while it is down.
    pub(crate) engine: Option<Engine<SimNetwork>>,
    /// Counts restarts, so that answers to a former life are dropped.
    pub(crate) life: u32,
    pub(crate) disk: BTreeMap<Duty, Saved<Seal>>,
    pub(crate) signer: Signer,
    /// The next planned wake-up.
    pub(crate) wake_at: Option<u64>,
    pub(crate) memory: Memory,
    /// Its partial signatures in this life, for members that come back.
    pub(crate) sent: Vec<(Duty, Rc<Packet>)>,
    /// Slots whose duties it was told of.
    pub(crate) told: Vec<Slot>,
}

impl Node {
    pub(crate) fn new(me: Member) -> Self {
        Node {
            me,
            engine: None,
            life: 0,
            disk: BTreeMap::new(),
            signer: Signer::new(me),
            wake_at: None,
            memory: Memory::default(),
            sent: Vec::new(),
            told: Vec::new(),
        }
    }

    pub(crate) fn boot(&mut self, world: &World) {
        let settings = Settings {
            timing: World::timing(),
            size: world.size(),
            me: self.me,
            threshold: world.threshold(),
            unknown_view: UnknownView::Sign,
            view_patience_ms: 1000,
        };
        let network = SimNetwork { timing: World::timing() };
        self.life += 1;
        self.wake_at = None;
        self.engine = Some(Engine::new(settings, network, self.disk.clone()));
    }

    pub(crate) fn crash(&mut self, disk: Disk, ledger: Ledger) {
        self.engine = None;
        self.sent.clear();
        self.signer.crash(ledger);
        if disk == Disk::JournalLost {
            self.disk.clear();
        }
    }
}
