//! A change of the cluster: one real signer among simulated members, with power cuts at every step.

mod change;
mod joining;
mod recreating;

use crate::{elsewhere, harness::*, keymanager, moving};
use chain::{ExecutionAddress, PublicKeyBytes, SignatureBytes};
use cluster::create::{self, Addresses, CreateOptions, CreatedCluster};
use cluster::edit::{Edit, EditPlan};
use cluster::keystore::{KdfCost, Keystore};
use cluster::{IdentityKey, Lock, Network};
use ipc::dkg::{AddedValidator, Adding, CEREMONY_PATH, CeremonyConsent, CeremonyStatus, PrivateNetwork};
use ipc::edit::*;
use ipc::signer::{History, ShareBundle, ShareEntry};
use ipc::{ClientError, Sensitive};
use obol::dkg::pedersen::{
    Announcement, BundleKind, announcement_hash, nonce_rule, read_bundle, voucher_message, write_bundle,
};
use obol::dkg::{Profile, Session};
use std::collections::{BTreeMap, VecDeque};
use threshold::pedersen::{EphemeralKey, Event, OldSharing, Output, Own, Pedersen, Setup, session_nonce};
use threshold::{PublicKey, SecretKey, SecretShare};

const MINOR: u8 = 10;
const VALIDATORS: usize = 2;

/// A cluster of four, of which the first member is the real signer, or which the real signer joins.
pub(crate) struct World {
    created: CreatedCluster,
    network: Network,
    root: chain::Root,
    clock: ipc::signer::ChainClock,
    edit: Edit,
    /// The identity with which the real signer's box joins, behind all others.
    newcomer: Option<IdentityKey>,
    /// The others' ephemeral keys, by place; the real signer's is not used.
    keys: Vec<EphemeralKey>,
}

impl World {
    pub(crate) fn new() -> Self {
        let network = Network {
            name: "local".to_owned(),
            chain_id: 1337,
            genesis_fork_version: chain::ForkVersion([0x20, 0, 0, 0x89]),
            genesis_time: clock().genesis_time,
        };
        let clock = ipc::signer::ChainClock { genesis_time: network.genesis_time, ..clock() };
        Self::on(network, GENESIS_ROOT, clock)
    }

    /// The same on a public chain.
    fn on_hoodi() -> Self {
        let network = Network::by_name("hoodi").unwrap();
        let clock = ipc::signer::ChainClock {
            genesis_time: 1_742_213_400,
            slot_ms: 12_000,
            slots_per_epoch: 32,
            preset: ipc::signer::ChainPreset::Mainnet,
        };
        let root = network.genesis_validators_root().unwrap();
        Self::on(network, root, clock)
    }

    fn on(network: Network, root: chain::Root, clock: ipc::signer::ChainClock) -> Self {
        let addresses = Addresses {
            fee_recipient: ExecutionAddress([0xfe; 20]),
            withdrawal: ExecutionAddress([0xd1; 20]),
        };
        let options = CreateOptions::new("four friends", 4, VALIDATORS, network.clone(), addresses);
        let created = create::cluster(&options, &mut rand::rng()).unwrap();
        let edit = Edit::Recreate { threshold: None };
        let keys = (0..4).map(|_| EphemeralKey::random(&mut rand::rng())).collect();
        Self { created, network, root, clock, edit, newcomer: None, keys }
    }

    /// The real signer is a fifth one, which joins.
    fn joining() -> Self {
        let newcomer = IdentityKey::from_bytes(zeroize::Zeroizing::new([7; 32])).unwrap();
        let operators = vec![cluster::Enr::build(&newcomer).as_str().to_owned()];
        let mut world = Self::new();
        world.edit = Edit::Add { operators, threshold: None };
        world.newcomer = Some(newcomer);
        world.keys.push(EphemeralKey::random(&mut rand::rng()));
        world
    }

    fn plan(&self) -> EditPlan {
        EditPlan::new(self.created.lock.clone(), &self.edit, std::slice::from_ref(&self.network)).unwrap()
    }

    /// The real signer's place.
    fn own(&self) -> usize {
        if self.newcomer.is_some() { 4 } else { 0 }
    }

    fn identity(&self, place: usize) -> &IdentityKey {
        self.created.nodes.get(place).map_or_else(|| self.newcomer.as_ref().unwrap(), |node| &node.identity)
    }

    fn old(&self, validator: usize) -> PublicKeyBytes {
        self.created.view.validators[validator].public_shares[0]
    }

    /// The first member's shares, to be imported.
    fn bundle(&self) -> ShareBundle {
        let entry = |validator: usize| {
            let share = &self.created.nodes[0].shares[validator];
            let keystore =
                Keystore::encrypt_share(share.key(), PASSWORD, KdfCost::Insecure, &mut rand::rng());
            ShareEntry {
                keystore: serde_json::from_slice(&keystore.to_json()).unwrap(),
                password: Sensitive::new(PASSWORD.to_owned()),
                public_key: self.old(validator).to_string(),
                group_public_key: self.created.view.validators[validator].group_public_key.to_string(),
                share_index: 1,
            }
        };
        ShareBundle {
            validators: (0..VALIDATORS).map(entry).collect(),
            history: History::NeverSigned,
            genesis_validators_root: self.root.to_string(),
            chain: self.clock,
        }
    }

    pub(crate) fn consent(&self) -> EditConsent {
        EditConsent {
            lock: json(&self.created.lock),
            edit: serde_json::to_value(&self.edit).unwrap(),
            identity: hex::encode(self.identity(self.own()).public_key().as_bytes()),
            minor: MINOR,
            genesis_validators_root: self.root.to_string(),
            chain: self.clock,
            network: (self.root == GENESIS_ROOT)
                .then(|| EditNetwork { name: self.network.name.clone(), chain_id: self.network.chain_id }),
            unvouched: Vec::new(),
        }
    }

    /// What the owner says when the cluster is to get one more validator.
    fn adding(&self) -> CeremonyConsent {
        let address = |byte: &str| format!("0x{}", byte.repeat(20));
        CeremonyConsent {
            definition: serde_json::Value::Null,
            adding: Some(Adding {
                lock: json(&self.created.lock),
                validators: vec![AddedValidator { fee_recipient: address("fe"), withdrawal: address("d1") }],
            }),
            identity: self.identity(0).public_key().to_string(),
            genesis_validators_root: self.root.to_string(),
            chain: self.clock,
            network: Some(PrivateNetwork {
                name: self.network.name.clone(),
                chain_id: self.network.chain_id,
                genesis_time: self.network.genesis_time,
            }),
            unsealed: Vec::new(),
        }
    }

    fn old_shares(&self, place: usize) -> Vec<PublicKeyBytes> {
        self.created.view.validators.iter().map(|validator| validator.public_shares[place]).collect()
    }

    /// What a simulated member's old shares sign to vouch for its key.
    fn voucher(&self, place: usize, key: &PublicKeyBytes) -> SignatureBytes {
        let digest = self.plan().digest();
        let shares = self.created.nodes[place].shares.iter().zip(self.old_shares(place));
        let signatures: Vec<_> =
            shares.map(|(share, public)| share.sign(&voucher_message(&digest, key, &public))).collect();
        threshold::aggregate_signatures(&signatures).unwrap().to_bytes()
    }

    /// What all members announced, given what the real signer did.
    fn announced(&self, begun: &EditBegun) -> EditKeys {
        let session = Session {
            version: Profile::of_minor(MINOR).unwrap().broadcast,
            hash: self.created.lock.lock_hash,
        };
        let members = self.plan().members().to_vec();
        let member = |place: usize| {
            let is_own = place == self.own();
            let key = if is_own {
                begun.public_key.parse().unwrap()
            } else {
                self.keys[place].public_key().to_bytes()
            };
            let deals = members[place].old.is_some();
            let ours = is_own.then(|| begun.voucher.as_ref().map(|voucher| voucher.parse().unwrap()));
            let voucher = ours.unwrap_or_else(|| deals.then(|| self.voucher(place, &key)));
            let shares = deals.then(|| self.old_shares(place));
            let announcement = Announcement { key, shares, voucher };
            let hash =
                announcement_hash(&session, &self.created.lock.definition.definition_hash, &announcement);
            EditKey {
                public_key: key.to_string(),
                signature: hex::encode(self.identity(place).sign(&hash)),
                voucher: voucher.map(|voucher| voucher.to_string()),
            }
        };
        EditKeys { members: (0..members.len()).map(member).collect() }
    }

    /// The resharing of one validator between the real signer and the simulated members. The others' new shares come back.
    async fn reshare(&self, signer: &Running, begun: &EditBegun, validator: usize) -> Vec<SecretShare> {
        let profile = Profile::of_minor(MINOR).unwrap();
        let plan = self.plan();
        let own = u32::try_from(self.own()).unwrap();
        let mut places: BTreeMap<u32, PublicKey> =
            (0..).zip(self.keys.iter().map(EphemeralKey::public_key)).collect();
        places.insert(own, PublicKey::parse(&begun.public_key.parse().unwrap()).unwrap());
        let view = &self.created.view.validators[validator];
        let parse = |key: &PublicKeyBytes| PublicKey::parse(key).unwrap();
        let setup = Setup {
            threshold: usize::from(plan.threshold()),
            session: session_nonce(nonce_rule(profile), u32::try_from(validator).unwrap(), &places),
            dealers: (0..4).map(|place| (place, places[&place])).collect(),
            receivers: places,
            old: Some(OldSharing {
                threshold: 3,
                public_shares: (0..).zip(view.public_shares.iter().map(parse)).collect(),
                group_key: parse(&view.group_public_key),
            }),
        };
        let mut runs = BTreeMap::new();
        let mut queue = VecDeque::new();
        for place in (0..4).filter(|place| *place != self.own()) {
            let own = Own { dealer: u32::try_from(place).ok(), receiver: u32::try_from(place).ok() };
            let secret = self.created.nodes[place].shares[validator].key().expose_bytes();
            let secret = SecretKey::from_bytes(secret.as_slice()).unwrap();
            let (run, out) =
                Pedersen::start(setup.clone(), own, Some(secret), &self.keys[place], &mut rand::rng())
                    .unwrap();
            runs.insert(place, run);
            queue.push_back((place, out));
        }
        let mut from_signer = VecDeque::from([step(signer, validator, EditEvent::Start).await.unwrap()]);
        let (mut shares, mut finished) = (Vec::new(), false);
        loop {
            if let Some(stepped) = from_signer.pop_front() {
                assert_eq!(stepped.accused, [""; 0]);
                finished |= stepped.finished;
                for bundle in stepped.send {
                    let kind = wire_kind(bundle.kind);
                    let bundle = read_bundle(kind, own, &hex::decode(bundle.bundle).unwrap()).unwrap();
                    for (place, run) in &mut runs {
                        queue.push_back((
                            *place,
                            run.step(Event::Received(bundle.clone()), &self.keys[*place]),
                        ));
                    }
                }
                continue;
            }
            let Some((from, outputs)) = queue.pop_front() else { break };
            for output in outputs {
                match output {
                    Output::Send(bundle) => {
                        for (place, run) in runs.iter_mut().filter(|(place, _)| **place != from) {
                            let event = Event::Received(bundle.clone());
                            queue.push_back((*place, run.step(event, &self.keys[*place])));
                        }
                        let kind = ipc_kind(BundleKind::of(&bundle));
                        let bundle = hex::encode(write_bundle(&bundle));
                        let event = EditEvent::Received { from, kind, bundle };
                        from_signer.push_back(step(signer, validator, event).await.unwrap());
                    }
                    Output::Finished(outcome) => shares.extend(outcome.share),
                    Output::Entered(_) => {}
                    Output::Accused(_) | Output::Failed(_) => panic!("{output:?}"),
                }
            }
        }
        assert!(finished && shares.len() == plan.members().len() - 1);
        shares.sort_by_key(SecretShare::index);
        shares
    }

    /// From the consent to sealed shares: the new lock and the others' shares by validator.
    async fn prepare(&self, signer: &Running) -> (EditPrepared, Vec<Vec<SecretShare>>) {
        let status: EditStatus = signer.control.put(EDIT_PATH, &self.consent()).await.unwrap();
        assert_eq!((status.stage, status.validators), (EditStage::Allowed, VALIDATORS));
        let begun: EditBegun = post(signer, EDIT_BEGIN_PATH, &()).await.unwrap();
        let _: EditStatus = post(signer, EDIT_KEYS_PATH, &self.announced(&begun)).await.unwrap();
        let mut shares = Vec::new();
        for validator in 0..VALIDATORS {
            shares.push(self.reshare(signer, &begun, validator).await);
        }
        (post(signer, EDIT_PREPARE_PATH, &()).await.unwrap(), shares)
    }

    /// The lock signed by everybody.
    fn complete(&self, lock: &Lock, aggregate: &str) -> Lock {
        let mut lock = lock.clone();
        lock.signature_aggregate = hex::decode(aggregate.strip_prefix("0x").unwrap()).unwrap();
        let sign = |place| self.identity(place).sign(&lock.lock_hash).to_vec();
        lock.node_signatures = (0..lock.definition.operators.len()).map(sign).collect();
        lock
    }
}

fn json(lock: &Lock) -> serde_json::Value {
    serde_json::from_slice(&lock.to_json().unwrap()).unwrap()
}

fn wire_kind(kind: EditBundleKind) -> BundleKind {
    match kind {
        EditBundleKind::Deal => BundleKind::Deal,
        EditBundleKind::Response => BundleKind::Response,
        EditBundleKind::Justification => BundleKind::Justification,
    }
}

fn ipc_kind(kind: BundleKind) -> EditBundleKind {
    match kind {
        BundleKind::Deal => EditBundleKind::Deal,
        BundleKind::Response => EditBundleKind::Response,
        BundleKind::Justification => EditBundleKind::Justification,
    }
}

async fn post<T: serde::de::DeserializeOwned>(
    signer: &Running,
    path: &str,
    body: &impl serde::Serialize,
) -> Result<T, ClientError> {
    signer.sign.post(path, body).await
}

async fn step(signer: &Running, validator: usize, event: EditEvent) -> Result<EditStepped, ClientError> {
    post(signer, EDIT_STEP_PATH, &EditStep { validator, event }).await
}

/// Our partials, we being the first, and the simulated members', by new share index minus one.
fn everybody(ours: &EditPartials, others: &[Vec<SecretShare>], lock: &Lock) -> Vec<Vec<EditPartial>> {
    everybody_but(0, ours, others, lock)
}

/// The same where we have another place.
fn everybody_but(
    own: usize,
    ours: &EditPartials,
    others: &[Vec<SecretShare>],
    lock: &Lock,
) -> Vec<Vec<EditPartial>> {
    let of = |member: usize| {
        let partial = |(validator, shares): (usize, &Vec<SecretShare>)| EditPartial {
            validator: lock.validators[validator].public_key.to_string(),
            signature: shares[member].sign(&lock.lock_hash).to_bytes().to_string(),
        };
        others.iter().enumerate().map(partial).collect()
    };
    let mut members: Vec<Vec<EditPartial>> = (0..lock.definition.operators.len() - 1).map(of).collect();
    members.insert(own, ours.partials.clone());
    members
}

/// Which of the two shares of the first validator sign a vote of the chain's present.
async fn who_votes(signer: &Running, world: &World, new: Option<PublicKeyBytes>) -> (bool, bool) {
    let target = epoch_of(&world.clock);
    let asked = vote(target - 1, target, 1);
    let old = signer.attest(&world.old(0), &asked).await.is_ok();
    let new = match new {
        Some(new) => signer.attest(&new, &asked).await.is_ok(),
        None => false,
    };
    (old, new)
}
