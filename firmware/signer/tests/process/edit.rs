//! A change of the cluster: one real signer among simulated members, with power cuts at every step.

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

#[tokio::test(flavor = "multi_thread")]
async fn new_shares_take_the_old_ones_place_and_a_power_cut_at_any_step_leaves_one_of_them() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    assert_eq!(who_votes(&signer, &world, None).await, (true, false));

    // A power cut while shares are dealt: the old ones are as they were, and it begins again.
    let status: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    assert_eq!(status.stage, EditStage::Allowed);
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    world.reshare(&signer, &begun, 0).await;
    drop(signer); // kill -9
    let signer = machine.start().await;
    let status: EditStatus = signer.sign.get(EDIT_STATUS_PATH).await.unwrap();
    assert_eq!(status.stage, EditStage::None);
    until_epoch(&world.clock, epoch_of(&world.clock) + 4).await;
    assert_eq!(who_votes(&signer, &world, None).await, (true, false));

    // Sealed: the old shares still sign, the new ones do not.
    let (prepared, others) = world.prepare(&signer).await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let new = lock.validators[0].public_shares[0];
    assert_ne!(new, world.old(0));
    assert_eq!(lock.validators[0].public_key, world.created.lock.validators[0].public_key);
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (true, false));
    drop(signer);
    let signer = machine.start().await;
    let status: EditStatus = signer.sign.get(EDIT_STATUS_PATH).await.unwrap();
    assert_eq!((status.stage, status.lock_hash.as_ref()), (EditStage::Prepared, Some(&prepared.lock_hash)));
    until_epoch(&world.clock, epoch_of(&world.clock) + 4).await;
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (true, false));

    // The dry run: neither votes.
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (false, false));
    drop(signer);
    let signer = machine.start().await;
    assert!(signer.problem_codes().await.contains(&"edit_unfinished".to_owned()));
    until_epoch(&world.clock, epoch_of(&world.clock) + 4).await;
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (false, false));
    let again: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    assert_eq!(ours, again);

    // Every member's new share signed: checked one by one and together.
    let members = everybody(&ours, &others, &lock);
    let check = EditCheck { lock: prepared.lock.clone(), members };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let complete = world.complete(&lock, &checked.signature_aggregate);
    let committed: EditCommitted =
        post(&signer, EDIT_COMMIT_PATH, &EditCommit { lock: json(&complete) }).await.unwrap();
    assert_eq!(committed.shares.len(), VALIDATORS);
    assert_eq!(committed.retired.len(), VALIDATORS);
    let begins = committed.begins_in_epoch.unwrap();
    until_epoch(&world.clock, begins).await;
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (false, true));
    let gone = signer.attest(&world.old(0), &vote(begins - 1, begins, 1)).await;
    assert_eq!(code(gone), refused(404, "unknown_key"));
    let early = signer.attest(&new, &vote(begins - 2, begins - 1, 2)).await;
    assert_eq!(code(early), refused(412, "slashable"), "what another member's old share may have signed");

    // For good: after a power cut, and when somebody imports the old share again. A lost answer can be asked for again.
    drop(signer);
    let signer = machine.start().await;
    assert!(!signer.problem_codes().await.contains(&"edit_unfinished".to_owned()));
    until_epoch(&world.clock, epoch_of(&world.clock) + 4).await;
    assert_eq!(who_votes(&signer, &world, Some(new)).await, (false, true));
    let again: EditCommitted =
        post(&signer, EDIT_COMMIT_PATH, &EditCommit { lock: json(&complete) }).await.unwrap_or_else(|_| {
            panic!("asked again: {}", signer.log_text());
        });
    assert_eq!(again.shares, committed.shares);
    let back = code(signer.import_only(&world.bundle()).await);
    assert_eq!(back, refused(422, "share_retired"));
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signer_deals_only_with_the_owner_s_consent_and_to_keys_that_the_members_signed() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import_only(&world.bundle()).await.unwrap();
    let nothing: Result<EditBegun, _> = post(&signer, EDIT_BEGIN_PATH, &()).await;
    assert_eq!(code(nothing), refused(422, "edit_none"));
    let forbidden: Result<EditStatus, _> = signer.sign.put(EDIT_PATH, &world.consent()).await;
    assert!(forbidden.is_err(), "dv-node's socket takes no consent");
    let mut other = world.consent();
    other.genesis_validators_root = chain::Root([1; 32]).to_string();
    let other: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &other).await;
    assert_eq!(code(other), refused(422, "share_conflict"));

    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    let early = step(&signer, 0, EditEvent::Start).await;
    assert_eq!(code(early), refused(422, "edit_out_of_order"));
    // Whoever carries the messages puts its own key in a member's place.
    let mut forged = world.announced(&begun);
    forged.members[2].public_key = EphemeralKey::random(&mut rand::rng()).public_key().to_bytes().to_string();
    let refused_keys: Result<EditStatus, _> = post(&signer, EDIT_KEYS_PATH, &forged).await;
    // Members go by the name that the plan has for them, whatever their place in the messages.
    let message = &problem(&refused_keys).message;
    let named = format!("{} did not", world.plan().name_of(2));
    assert!(message.to_lowercase().starts_with(&named.to_lowercase()), "{message}");
    assert_eq!(code(refused_keys), refused(422, "edit_key_not_signed"));
    let early = step(&signer, 0, EditEvent::Start).await;
    assert_eq!(code(early), refused(422, "edit_out_of_order"), "nothing was dealt");
    // Whoever brings the consent cannot say that nobody needs to vouch, nor bring a lock that no share has signed.
    for (unvouched, lock_is_signed, expected) in [
        (vec![2, 3], true, "edit_too_few_vouch"),
        (vec![2, 3, 4], true, "edit_too_few_vouch"),
        (vec![], false, "edit_invalid"),
    ] {
        let mut lock = world.created.lock.clone();
        if !lock_is_signed {
            lock.signature_aggregate.clear();
        }
        let consent = EditConsent { unvouched, lock: json(&lock), ..world.consent() };
        let outcome: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &consent).await;
        assert_eq!(code(outcome), refused(422, expected));
    }
    // The third deals and leaves, and the second is a Charon, which would not tell it of the new lock.
    let leaves = world.created.view.operators[2].enr.clone();
    let edit = Edit::Remove { operators: vec![leaves.clone()], dealing: vec![leaves], threshold: Some(3) };
    for (unvouched, expected) in [(vec![2], Some("edit_leaving_untold")), (vec![3], None)] {
        let edit = serde_json::to_value(&edit).unwrap();
        let consent = EditConsent { unvouched, edit, ..world.consent() };
        let outcome: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &consent).await;
        match expected {
            Some(expected) => {
                // Not round in a circle: without it too few may be left to vouch.
                assert!(problem(&outcome).next_step.contains("`replace`"), "{outcome:?}");
                assert_eq!(code(outcome), refused(422, expected));
            }
            None => assert!(outcome.is_ok(), "{outcome:?}"),
        }
    }
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    // A hijacked network process has its member's identity and signs whatever key it likes, but not with the old shares.
    let other = EphemeralKey::random(&mut rand::rng()).public_key().to_bytes();
    let others = world.voucher(3, &other);
    // Nor does a sum count of which the parts are not each of their own share.
    let digest = world.plan().digest();
    let mut crossed = world.old_shares(2);
    crossed.reverse();
    let parts = world.created.nodes[2].shares.iter().zip(crossed);
    let parts: Vec<_> =
        parts.map(|(share, public)| share.sign(&voucher_message(&digest, &other, &public))).collect();
    let crossed = threshold::aggregate_signatures(&parts).unwrap().to_bytes();
    let vouchers = [
        None,
        Some(world.announced(&begun).members[2].voucher.clone().unwrap()),
        Some(others.to_string()),
        Some(crossed.to_string()),
    ];
    for voucher in vouchers {
        let mut forged = world.announced(&begun);
        let parsed = voucher.as_deref().map(|voucher| voucher.parse().unwrap());
        let announcement = Announcement { key: other, shares: Some(world.old_shares(2)), voucher: parsed };
        let session = Session {
            version: Profile::of_minor(MINOR).unwrap().broadcast,
            hash: world.created.lock.lock_hash,
        };
        let hash = announcement_hash(&session, &world.created.lock.definition.definition_hash, &announcement);
        forged.members[2] = EditKey {
            public_key: other.to_string(),
            signature: hex::encode(world.created.nodes[2].identity.sign(&hash)),
            voucher,
        };
        let outcome: Result<EditStatus, _> = post(&signer, EDIT_KEYS_PATH, &forged).await;
        assert_eq!(code(outcome), refused(422, "edit_key_not_vouched"));
    }
    let early = step(&signer, 0, EditEvent::Start).await;
    assert_eq!(code(early), refused(422, "edit_out_of_order"), "nothing was dealt");
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    let dealt = step(&signer, 0, EditEvent::Start).await.unwrap();
    assert_eq!(dealt.send.len(), 1);
    assert_eq!(code(step(&signer, 0, EditEvent::Start).await), refused(422, "edit_out_of_order"));
    for event in [
        EditEvent::Received { from: 9, kind: EditBundleKind::Deal, bundle: String::new() },
        EditEvent::Received { from: 1, kind: EditBundleKind::Deal, bundle: "00".to_owned() },
        EditEvent::Received { from: 1, kind: EditBundleKind::Deal, bundle: dealt.send[0].bundle.clone() },
    ] {
        let outcome = step(&signer, 0, event).await;
        assert!(!problem(&outcome).message.contains("member 2:"), "by its name: {outcome:?}");
        assert_eq!(code(outcome), refused(422, "edit_request_invalid"));
    }
    let unknown = EditDryRun { lock_hash: format!("0x{}", "11".repeat(32)) };
    let outcome: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &unknown).await;
    assert_eq!(code(outcome), refused(422, "edit_not_prepared"), "no hash but its own is ever signed");
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_shares_are_not_given_up_for_a_lock_that_not_every_new_share_signed() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let (prepared, others) = world.prepare(&signer).await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };

    let commit = |lock: &Lock| EditCommit { lock: json(lock) };
    let early: Result<EditCommitted, _> = post(&signer, EDIT_COMMIT_PATH, &commit(&lock)).await;
    assert_eq!(code(early), refused(422, "lock_invalid"));
    assert_eq!(who_votes(&signer, &world, None).await, (true, false));

    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    let good = everybody(&ours, &others, &lock);
    let mut table = vec![good[..3].to_vec()];
    let mut wrong = good.clone();
    wrong[2][1].signature = wrong[2][0].signature.clone();
    table.push(wrong);
    let mut missing = good.clone();
    missing[3].pop();
    table.push(missing);
    for members in table {
        let check = EditCheck { lock: prepared.lock.clone(), members };
        let outcome: Result<EditChecked, _> = post(&signer, EDIT_CHECK_PATH, &check).await;
        let (status, code) = code(outcome);
        assert!(
            status == 422 && ["dry_run_failed", "edit_request_invalid"].contains(&code.as_str()),
            "{code}"
        );
    }
    let check = EditCheck { lock: prepared.lock.clone(), members: good };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let complete = world.complete(&lock, &checked.signature_aggregate);
    let mut unsigned = complete.clone();
    unsigned.node_signatures[3][10] ^= 1;
    let mut partly = complete.clone();
    partly.signature_aggregate = world.created.lock.signature_aggregate.clone();
    for lock in [&unsigned, &partly, &lock] {
        let outcome: Result<EditCommitted, _> = post(&signer, EDIT_COMMIT_PATH, &commit(lock)).await;
        assert_eq!(code(outcome), refused(422, "lock_invalid"));
    }
    let in_force: Result<EditCommitted, _> =
        post(&signer, EDIT_COMMIT_PATH, &commit(&world.created.lock)).await;
    assert!(in_force.unwrap().retired.is_empty(), "the lock in force changes nothing");
    let status: EditStatus = signer.sign.get(EDIT_STATUS_PATH).await.unwrap();
    assert_eq!(status.stage, EditStage::Frozen);

    // With the complete lock it goes through.
    let _: EditCommitted = post(&signer, EDIT_COMMIT_PATH, &commit(&complete)).await.unwrap();
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_promise_only_all_members_together_make_other_shares_from_the_same_lock() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let enr = |place: usize| world.created.view.operators[place].enr.clone();
    let remove = Edit::Remove { operators: vec![enr(3)], dealing: vec![enr(3)], threshold: None };
    let mut other = world.consent();
    other.edit = serde_json::to_value(&remove).unwrap();
    // Before the promise another edit may take the place of one that is prepared.
    let _ = world.prepare(&signer).await;
    let _: EditStatus = signer.control.put(EDIT_PATH, &other).await.unwrap();
    let undealt: Result<EditPrepared, _> = post(&signer, EDIT_PREPARE_PATH, &()).await;
    assert_eq!(code(undealt), refused(422, "edit_out_of_order"));
    let (prepared, _) = world.prepare(&signer).await;
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let _: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();

    // After it, the complete lock of it may be with others.
    drop(signer); // kill -9
    let signer = machine.start().await;
    let _: EditStatus = signer.control.put(EDIT_PATH, &other).await.unwrap();
    let promised: Result<EditPrepared, _> = post(&signer, EDIT_PREPARE_PATH, &()).await;
    assert_eq!(code(promised), refused(422, "edit_promised"));
    let (newer, _) = world.prepare(&signer).await;
    let dropped: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await;
    assert_eq!(code(dropped), refused(422, "edit_not_prepared"), "the promise of before is void here");
    let dry_run = EditDryRun { lock_hash: newer.lock_hash };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    assert_eq!(ours.partials.len(), VALIDATORS);
    assert_eq!(who_votes(&signer, &world, None).await, (false, false));
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_shares_whose_change_a_start_has_forgotten_are_shown_and_given_up_by_name() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let (prepared, _) = world.prepare(&signer).await;
    // What is remembered goes by its own name, not by that of the lock that is to come.
    let whole: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    let left: EditStatus = signer.control.delete(&edit_discard_path(&prepared.lock_hash)).await.unwrap();
    assert_eq!(left, whole);
    drop(signer); // kill -9
    let signer = machine.start().await;
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    assert_eq!(
        (shown.stage, shown.open.len(), shown.open[0].validators),
        (EditStage::Prepared, 1, VALIDATORS)
    );
    let another = edit_discard_path(&format!("0x{}", "77".repeat(32)));
    let left: EditStatus = signer.control.delete(&another).await.unwrap();
    assert_eq!((left.stage, left.open), (EditStage::Prepared, shown.open.clone()));
    let left: EditStatus = signer.control.delete(&edit_discard_path(&shown.open[0].name)).await.unwrap();
    assert_eq!((left.stage, left.open), (EditStage::None, Vec::new()));
    // What was given up cannot be promised any more.
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    assert!(post::<EditPartials>(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_has_a_share_of_the_validators_does_not_join_them_as_another_member() {
    let world = World::joining();
    let machine = Machine::new();
    let signer = machine.start().await;
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    for validator in 0..VALIDATORS {
        world.reshare(&signer, &begun, validator).await;
    }
    // A share comes in after the owner's word and before the new ones are sealed: that word is good for nothing any more.
    signer.import_only(&world.bundle()).await.unwrap();
    let first: Result<EditPrepared, _> = post(&signer, EDIT_PREPARE_PATH, &()).await;
    assert_eq!(code(first), refused(422, "validator_already_here"));
    let second: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &world.consent()).await;
    assert_eq!(code(second), refused(422, "validator_already_here"));
    // The member that it is may go on as before.
    let recreate = serde_json::to_value(Edit::Recreate { threshold: None }).unwrap();
    let identity = hex::encode(world.identity(0).public_key().as_bytes());
    let own = EditConsent { edit: recreate, identity, ..world.consent() };
    let _: EditStatus = signer.control.put(EDIT_PATH, &own).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_shares_whose_change_left_no_mark_are_given_up_by_the_lock_that_they_wait_for() {
    let world = World::joining();
    let machine = Machine::new();
    let signer = machine.start().await;
    let (prepared, _) = world.prepare(&signer).await;
    // Another share of these validators waits for that to be over.
    let other = signer.import_only(&world.bundle()).await;
    assert!(problem(&other).next_step.contains("give it up"), "{other:?}");
    assert_eq!(code(other), refused(422, "validator_already_here"));
    drop(signer); // kill -9
    let signer = machine.start().await;
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    let names: Vec<_> = shown.open.iter().map(|open| (open.name.as_str(), open.validators)).collect();
    assert_eq!(names, [(prepared.lock_hash.as_str(), VALIDATORS)]);
    let left: EditStatus = signer.control.delete(&edit_discard_path(&prepared.lock_hash)).await.unwrap();
    assert_eq!((left.stage, left.open), (EditStage::None, Vec::new()));
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let outcome: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await;
    assert_eq!(code(outcome), refused(422, "edit_not_prepared"));
    signer.import_only(&world.bundle()).await.unwrap();
}

/// A box that joins, after its promise.
async fn promised(world: &World, signer: &Running) -> (EditPrepared, EditPartials, Vec<Vec<SecretShare>>) {
    let (prepared, others) = world.prepare(signer).await;
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    (prepared, ours, others)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_has_promised_to_join_takes_in_no_other_share_before_its_owner_gives_that_up_for_good() {
    let world = World::joining();
    let machine = Machine::new();
    let signer = machine.start().await;
    let (prepared, ours, others) = promised(&world, &signer).await;
    let other = signer.import_only(&world.bundle()).await;
    assert!(problem(&other).next_step.contains("waits for the new cluster lock"), "{other:?}");
    assert_eq!(code(other), refused(422, "validator_already_here"));
    // It is shown with its name, after a start too, and what is at stake has to be said.
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    let is_named = |open: &OpenEdit| open.name == prepared.lock_hash && open.promised;
    assert_eq!(shown.open.iter().filter(|open| is_named(open)).count(), 1, "{shown:?}");
    drop(signer); // kill -9
    let signer = machine.start().await;
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    assert_eq!((shown.stage, shown.open.len(), shown.open[0].validators), (EditStage::Frozen, 1, VALIDATORS));
    assert!(is_named(&shown.open[0]), "{shown:?}");
    for path in
        [edit_discard_path(&prepared.lock_hash), edit_discard_path(&prepared.lock_hash) + "&confirm=yes"]
    {
        let outcome: Result<EditStatus, _> = signer.control.delete(&path).await;
        assert_eq!(code(outcome), refused(422, "not_confirmed"));
    }
    let before = machine.disk();
    let left: EditStatus = signer.control.delete(&edit_forgo_path(&prepared.lock_hash)).await.unwrap();
    assert_eq!((left.stage, left.open), (EditStage::None, Vec::new()));
    // A copy of the disk from before is behind at once, before anything else has stepped the counter.
    signer.stop();
    let after = machine.disk();
    machine.put_back(&before);
    let signer = machine.start().await;
    assert!(signer.problem_codes().await.contains(&"ledger_rolled_back".to_owned()));
    drop(signer);
    machine.put_back(&after);
    let signer = machine.start().await;
    // Whoever brings the complete lock now brings nothing back, and the other share may come in.
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody_but(world.own(), &ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };
    let late: Result<EditCommitted, _> = post(&signer, EDIT_COMMIT_PATH, &commit).await;
    assert_eq!(code(late), refused(422, "edit_out_of_order"));
    signer.import_only(&world.bundle()).await.unwrap();
    // Nor does a copy of the disk from before.
    signer.stop();
    machine.put_back(&before);
    let signer = machine.start().await;
    assert!(signer.problem_codes().await.contains(&"ledger_rolled_back".to_owned()));
    let late: Result<EditCommitted, _> = post(&signer, EDIT_COMMIT_PATH, &commit).await;
    assert_eq!(code(late), refused(503, "ledger_rolled_back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_has_promised_to_join_does_so_with_the_complete_lock_whenever_it_comes() {
    let world = World::joining();
    let machine = Machine::new();
    let signer = machine.start().await;
    let (prepared, ours, others) = promised(&world, &signer).await;
    drop(signer); // kill -9
    let signer = machine.start().await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody_but(world.own(), &ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };
    let committed: EditCommitted = post(&signer, EDIT_COMMIT_PATH, &commit).await.unwrap();
    assert_eq!((committed.shares.len(), committed.retired.len()), (VALIDATORS, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_shares_of_a_chain_that_may_not_be_served_here_are_kept_and_stay_out_of_service() {
    let world = World::on_hoodi();
    let mut machine = Machine::new();
    let signer = machine.start().await;
    signer.import_only(&world.bundle()).await.unwrap();
    let (prepared, others) = world.prepare(&signer).await;
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody(&ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };
    signer.stop();
    // After the promise comes an image that serves no public chain. What was promised comes to its end all the same.
    machine.release_keys = false;
    let signer = machine.start().await;
    let committed: EditCommitted = post(&signer, EDIT_COMMIT_PATH, &commit).await.unwrap();
    assert_eq!((committed.shares.len(), committed.retired.len()), (VALIDATORS, VALIDATORS));
    let in_service = async |signer: &Running| {
        signer.sign.get::<Vec<PublicKeyBytes>>(ipc::web3signer::PUBLIC_KEYS_PATH).await.unwrap()
    };
    assert_eq!(in_service(&signer).await, []);
    assert!(signer.problem_codes().await.contains(&"test_keys_real_chain".to_owned()));
    let held = |status: ipc::SignerStatus| status.shares.into_iter().map(|share| share.pubshare).collect();
    let kept: Vec<String> = held(signer.status().await);
    assert!(committed.shares.iter().all(|share| kept.contains(share)), "{kept:?}");
    signer.stop();
    machine.release_keys = true;
    let signer = machine.start().await;
    assert_eq!(in_service(&signer).await.len(), VALIDATORS);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_cluster_gets_validators_its_shares_are_in_no_change_and_leave_in_no_file() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import_only(&world.bundle()).await.unwrap();
    let add = async |signer: &Running| -> Result<CeremonyStatus, ClientError> {
        signer.control.put(CEREMONY_PATH, &world.adding()).await
    };
    let change = async |signer: &Running| -> Result<EditStatus, ClientError> {
        signer.control.put(EDIT_PATH, &world.consent()).await
    };
    add(&signer).await.unwrap();
    drop(signer); // kill -9
    let signer = machine.start().await;
    assert_eq!(code(change(&signer).await), refused(422, "ceremony_under_way"));
    let backup = moving::order_backup(&signer, moving::WORDS, None).await;
    assert_eq!(code(backup), refused(422, "ceremony_under_way"));
    let moved = moving::order_move(&signer, &"09".repeat(32), None).await;
    assert_eq!(code(moved), refused(422, "ceremony_under_way"));
    // Given up, and the other way round.
    let _: CeremonyStatus = signer.control.delete(CEREMONY_PATH).await.unwrap();
    let backup = moving::order_backup(&signer, moving::WORDS, None).await;
    assert_eq!(code(backup), refused(422, "confirm_on_screen"));
    change(&signer).await.unwrap();
    assert_eq!(code(add(&signer).await), refused(422, "edit_under_way"));
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    let name = &shown.open[0].name;
    let _: EditStatus = signer.control.delete(&edit_discard_path(name)).await.unwrap();
    add(&signer).await.unwrap();
    let _: CeremonyStatus = signer.control.delete(CEREMONY_PATH).await.unwrap();
    // A share that has vouched for all being made anew is on its way out, also when a start has forgotten the change.
    change(&signer).await.unwrap();
    let _: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    drop(signer);
    let signer = machine.start().await;
    assert_eq!(code(add(&signer).await), refused(422, "edit_promised"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_another_box_gives_away_in_between_ends_the_change_before_it_is_promised() {
    let world = World::joining();
    let (machine, other) = (Machine::new(), Machine::new());
    let (signer, giver) = (machine.start().await, other.start().await);
    giver.import_only(&world.bundle()).await.unwrap();
    let (prepared, _) = world.prepare(&signer).await;
    let status = signer.status().await;
    let to = status.import_key.unwrap();
    assert_eq!(code(moving::order_move(&giver, &to, None).await), refused(422, "confirm_on_screen"));
    let certificate = moving::order_move(&giver, &to, Some(giver.code_on_screen())).await.unwrap();
    let release_key = giver.status().await.release_key.unwrap();
    moving::arrive(&signer, &release_key, &certificate).await.unwrap();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let promised: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await;
    assert_eq!(code(promised), refused(422, "validator_already_here"));
    let shown: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
    assert_eq!(shown.stage, EditStage::Prepared, "nothing is promised");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_from_before_the_promise_is_too_old() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let (prepared, _) = world.prepare(&signer).await;
    let before = machine.disk();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let _: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    drop(signer); // kill -9
    for (path, _) in machine.disk() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, content) in before {
        std::fs::write(path, content).unwrap();
    }
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["ledger_rolled_back"]);
    let target = epoch_of(&world.clock);
    let outcome = signer.attest(&world.old(0), &vote(target - 1, target, 1)).await;
    assert_eq!(code(outcome), refused(503, "ledger_rolled_back"));
    signer.stop();
}

/// The first validator's share is given up by the keymanager API.
async fn delete(machine: &Machine, signer: &Running, world: &World) -> Vec<String> {
    let token = keymanager::token(signer).await;
    let body = serde_json::json!({ "pubkeys": [world.old(0).to_string()] }).to_string();
    let (_, answer) = keymanager::ask(machine, Some(&token), "DELETE", keymanager::KEYSTORES, &body).await;
    keymanager::statuses(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_was_deleted_in_the_middle_of_a_change_is_not_replaced() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    for validator in 0..VALIDATORS {
        world.reshare(&signer, &begun, validator).await;
    }
    assert_eq!(delete(&machine, &signer, &world).await, ["deleted"]);
    let outcome: Result<EditPrepared, _> = post(&signer, EDIT_PREPARE_PATH, &()).await;
    assert_eq!(code(outcome), refused(422, "share_missing"));
    let again: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &world.consent()).await;
    assert_eq!(code(again), refused(422, "share_missing"));
    assert!(signer.problem_codes().await.is_empty(), "the signer goes on as it was");
    signer.stop();

    // Once the new ones are sealed beside them, the old ones are needed until the end.
    let (world, machine) = (World::new(), Machine::new());
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let _ = world.prepare(&signer).await;
    assert_eq!(delete(&machine, &signer, &world).await, ["error"]);
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_was_seen_elsewhere_is_replaced_only_when_the_owner_has_let_it_go_on() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let seen = |source: u64, target: u64| {
        let data = vote(source, target, 8);
        let request = ipc::SignRequest::attestation(fork_info(), &data).unwrap();
        let domain =
            chain::domain::domain_at(chain::domain::BEACON_ATTESTER, data.target.epoch, &fork_info());
        let signing_root = chain::domain::signing_root(&data, domain);
        let signature = world.created.nodes[0].shares[0].sign(&signing_root.0).to_bytes();
        [ipc::web3signer::SeenSignature { key: world.old(0), request, signature }]
    };
    let goes_on = async || {
        let confirm = ipc::owner::RESUME_CONFIRMATION;
        elsewhere::resume_share(&signer, &world.old(0), confirm).await.unwrap();
    };
    assert_eq!(elsewhere::tell(&signer, &seen(4, 5)).await, [world.old(0)]);
    let early: Result<EditStatus, _> = signer.control.put(EDIT_PATH, &world.consent()).await;
    assert_eq!(code(early), refused(422, "signs_elsewhere"));
    goes_on().await;

    let (prepared, _) = world.prepare(&signer).await;
    assert_eq!(elsewhere::tell(&signer, &seen(6, 7)).await, [world.old(0)]);
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash };
    let outcome: Result<EditPartials, _> = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await;
    assert_eq!(code(outcome), refused(422, "signs_elsewhere"));
    let status: EditStatus = signer.sign.get(EDIT_STATUS_PATH).await.unwrap();
    assert_eq!(status.stage, EditStage::Prepared, "nothing is promised");
    goes_on().await;
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    assert_eq!(ours.partials.len(), VALIDATORS);
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_disk_from_before_it_vouched_signs_nothing_and_takes_no_lock() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let copy = machine.disk();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    assert!(begun.voucher.is_some());
    drop(signer); // kill -9
    for (path, content) in &copy {
        std::fs::write(path, content).unwrap();
    }
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, ["ledger_rolled_back"]);
    signer.stop();
}

/// What becomes of an earlier change's complete lock while all members make their shares anew.
#[tokio::test(flavor = "multi_thread")]
async fn once_it_has_vouched_no_earlier_lock_takes_the_old_share_s_place_until_the_owner_gives_it_up() {
    let (world, other) = (World::new(), World::new());
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    signer.import(&other.bundle()).await.unwrap();
    // A change that was promised, of which another member has the complete lock.
    let (prepared, others) = world.prepare(&signer).await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody(&ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };

    // The owner allows to make all shares anew: nothing is said yet.
    let _: EditStatus = signer.control.put(EDIT_PATH, &world.consent()).await.unwrap();
    let begun: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    assert!(begun.voucher.is_some());
    let brought = async |signer: &Running| post::<EditCommitted>(signer, EDIT_COMMIT_PATH, &commit).await;
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    // A network process in foreign hands lets the attempt fail.
    let _: EditStatus = post(&signer, EDIT_KEYS_PATH, &world.announced(&begun)).await.unwrap();
    step(&signer, 0, EditEvent::Start).await.unwrap();
    let mut failed = String::new();
    for _ in 0..4 {
        if let Err(error) = step(&signer, 0, EditEvent::Timeout).await {
            failed = code::<()>(Err(error)).1;
            break;
        }
    }
    assert_eq!(failed, "edit_failed");
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    // Or the power fails.
    drop(signer); // kill -9
    let signer = machine.start().await;
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    // A change of another cluster that is allowed and given up says nothing about this one.
    let _: EditStatus = signer.control.put(EDIT_PATH, &other.consent()).await.unwrap();
    let _: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    // After a start neither is in memory, and which one the owner means is not guessed: both are shown with their names.
    drop(signer); // kill -9
    let signer = machine.start().await;
    let unclear = async |signer: &Running| code(signer.control.delete::<EditStatus>(EDIT_PATH).await);
    assert_eq!(unclear(&signer).await, refused(422, "edit_which"));
    let name = |world: &World| format!("0x{}", hex::encode(world.created.lock.lock_hash));
    let of = |world: &World| edit_discard_path(&name(world));
    let open = async |signer: &Running| {
        let status: EditStatus = signer.control.get(EDIT_PATH).await.unwrap();
        let open = status.open.into_iter().map(|open| (open.name, open.validators, open.validator.unwrap()));
        open.collect::<std::collections::BTreeSet<_>>()
    };
    let shown = |world: &World| {
        let validator =
            world.created.lock.validators.iter().map(|validator| validator.public_key.to_string());
        validator.map(|validator| (name(world), VALIDATORS, validator)).collect::<Vec<_>>()
    };
    let both = open(&signer).await;
    assert_eq!(both.len(), 2);
    assert!(both.iter().all(|one| shown(&world).contains(one) || shown(&other).contains(one)), "{both:?}");
    let left: EditStatus = signer.control.delete(&of(&other)).await.unwrap();
    assert_eq!(left.open[0].name, name(&world));
    // Nor when there is only one left: it may be another than the owner thinks.
    assert_eq!(unclear(&signer).await, refused(422, "edit_which"));
    // A change of the other cluster in hand is no more meant than one on the disk.
    let _: EditStatus = signer.control.put(EDIT_PATH, &other.consent()).await.unwrap();
    let _: EditBegun = post(&signer, EDIT_BEGIN_PATH, &()).await.unwrap();
    assert_eq!(unclear(&signer).await, refused(422, "edit_which"));
    assert_eq!(open(&signer).await.len(), 2);
    let left: EditStatus = signer.control.delete(&of(&other)).await.unwrap();
    assert_eq!(left.open.len(), 1);
    assert_eq!(code(brought(&signer).await), refused(422, "edit_under_way"));
    assert_eq!(who_votes(&signer, &world, None).await, (false, false));
    // The owner gives it up.
    let _: EditStatus = signer.control.delete(&of(&world)).await.unwrap();
    assert_eq!(brought(&signer).await.unwrap().retired.len(), VALIDATORS);
    signer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_the_new_making_itself_takes_its_place_also_after_a_power_cut() {
    let world = World::new();
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&world.bundle()).await.unwrap();
    let (prepared, others) = world.prepare(&signer).await;
    let lock = Lock::from_value(prepared.lock.clone()).unwrap();
    let dry_run = EditDryRun { lock_hash: prepared.lock_hash.clone() };
    let ours: EditPartials = post(&signer, EDIT_DRY_RUN_PATH, &dry_run).await.unwrap();
    let check = EditCheck { lock: prepared.lock, members: everybody(&ours, &others, &lock) };
    let checked: EditChecked = post(&signer, EDIT_CHECK_PATH, &check).await.unwrap();
    let commit = EditCommit { lock: json(&world.complete(&lock, &checked.signature_aggregate)) };
    drop(signer); // kill -9
    let signer = machine.start().await;
    let before = machine.disk();
    let committed: EditCommitted = post(&signer, EDIT_COMMIT_PATH, &commit).await.unwrap();
    assert_eq!(committed.retired.len(), VALIDATORS);
    drop(signer);
    machine.put_back(&before);
    let signer = machine.start().await;
    // Beside it stands that the change is unfinished, as the copy has it.
    let problems = signer.problem_codes().await;
    assert!(problems.contains(&"ledger_rolled_back".to_owned()), "no copy takes the step back: {problems:?}");
    signer.stop();
}

/// What `dv-node` says of identity keys is worth less than what a lock shows that the shares held here have signed.
#[tokio::test(flavor = "multi_thread")]
async fn identity_keys_that_a_lock_proves_are_never_dropped_for_what_the_node_says_or_another_box_carries() {
    use ipc::folder::{IdentityAnswer, IdentityGiven, identity_path};
    let (world, other) = (World::new(), World::new());
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import_only(&world.bundle()).await.unwrap();
    let text = |world: &World, place: usize| world.created.nodes[place].identity.to_file_text().to_string();
    let put = async |path: &str, key: String, lock: Option<&Lock>| {
        let given = IdentityGiven { identity_key: Sensitive::new(key), lock: lock.map(json) };
        signer.sign.put::<serde_json::Value>(path, &given).await
    };
    let path = |hash: &[u8; 32]| identity_path(&hex::encode(hash));
    let get = async |hash: &[u8; 32]| {
        let answer = signer.sign.get::<IdentityAnswer>(&path(hash)).await;
        answer.ok().map(|answer| answer.identity_key.expose_secret().to_owned())
    };
    let garbage = async || {
        let mut kept = 0;
        for number in 1..=70_u8 {
            let key = hex::encode([number; 32]);
            kept += u8::from(put(&path(&[number; 32]), key, None).await.is_ok());
        }
        kept
    };
    let hash = world.created.lock.lock_hash;
    // Another one's key under the hash of our cluster, and all places full: before the cluster is joined.
    put(&path(&hash), hex::encode([9; 32]), None).await.unwrap();
    assert_eq!(garbage().await, 63);
    let conflict = put(&path(&hash), text(&world, 0), None).await;
    assert_eq!(code(conflict), refused(422, "identity_conflict"));
    // The lock shows which key is this box's: not another member's, nor that of a cluster whose shares are not here.
    let conflict = put(&path(&hash), text(&world, 1), Some(&world.created.lock)).await;
    assert_eq!(code(conflict), refused(422, "identity_conflict"));
    put(&path(&hash), text(&world, 0), Some(&world.created.lock)).await.unwrap();
    let no_share =
        put(&path(&other.created.lock.lock_hash), text(&other, 0), Some(&other.created.lock)).await;
    assert_eq!(code(no_share), refused(422, "too_many_identities"));
    assert_eq!(get(&hash).await, Some(text(&world, 0)));
    // A second cluster finds a place, and the youngest garbage makes room.
    signer.import_only(&other.bundle()).await.unwrap();
    let other_hash = other.created.lock.lock_hash;
    put(&path(&other_hash), text(&other, 0), Some(&other.created.lock)).await.unwrap();
    assert_eq!((get(&hash).await, get(&other_hash).await), (Some(text(&world, 0)), Some(text(&other, 0))));
    assert_eq!((get(&[1; 32]).await.is_some(), get(&[63; 32]).await), (true, None));
    let conflict = put(&path(&hash), hex::encode([9; 32]), None).await;
    assert_eq!(code(conflict), refused(422, "identity_conflict"));

    // Another box brings 64 keys along, ours among them with another secret.
    let from_machine = Machine::new();
    let from = from_machine.start().await;
    from.import_only(&bundle(&[1], History::NeverSigned)).await.unwrap();
    for (hash, number) in [(hash, 9), (other_hash, 9)].into_iter().chain((101..=162).map(|n| ([n; 32], n))) {
        let given = IdentityGiven { identity_key: Sensitive::new(hex::encode([number; 32])), lock: None };
        from.sign.put::<serde_json::Value>(&path(&hash), &given).await.unwrap();
    }
    let (certificate, release_key) = crate::carried::move_to(&from, &signer).await;
    crate::moving::arrive(&signer, &release_key, &certificate).await.unwrap();
    assert_eq!((get(&hash).await, get(&other_hash).await), (Some(text(&world, 0)), Some(text(&other, 0))));
    assert_eq!(
        (get(&[101; 32]).await.is_some(), get(&[1; 32]).await),
        (true, None),
        "worth more than the node's"
    );
    signer.stop();
}
