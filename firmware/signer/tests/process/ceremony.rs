//! Key generation against a `dv-node` in foreign hands: what it can ask, and what it cannot get.

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::{ExecutionAddress, PublicKeyBytes, SignatureBytes};
use cluster::create::{Addresses, CreateOptions, draft};
use cluster::{Enr, IdentityKey, Lock, Network};
use ipc::ClientError;
use ipc::dkg::{
    CEREMONY_PATH, CeremonyConsent, CeremonySignature, CeremonyStatus, DEAL_PATH, DealRequest, Dealt,
    FINISH_PATH, FinishRequest, KEEP_PATH, KeepRequest, Made, MemberCast, MemberMessage, MemberSealKey,
    PARTIALS_PATH, PartialsMade, PartialsRequest, RELEASE_PATH, ReleaseRequest,
};
use ipc::envelope::{ImportSecret, seal_for};
use ipc::{Sensitive, signer::ChainClock, signer::ChainPreset};
use obol::dkg::exchange::Exchange;
use obol::dkg::frost::{self, Cast};
use obol::dkg::sync::seal_key_digest;
use obol::dkg::{Born, BroadcastVersion, Dealer, Plan, Session, SignedByValidators};
use obol::wire::Named as _;
use threshold::ShareIndex;
use zeroize::Zeroizing;

use crate::harness::*;

const INFO: &[u8] = b"hearth dkg share v1";

fn identity(member: usize) -> IdentityKey {
    let byte = u8::try_from(member + 1).unwrap();
    IdentityKey::from_bytes(Zeroizing::new([byte; 32])).unwrap()
}

/// Three members, of whom the signer under test is the first.
pub(crate) struct Ceremony {
    plans: Vec<Arc<Plan>>,
    dealers: BTreeMap<usize, Dealer>,
    seals: BTreeMap<usize, ImportSecret>,
    hash: String,
}

impl Ceremony {
    pub(crate) fn new() -> Self {
        let hoodi = Network::by_name("hoodi").unwrap();
        let addresses =
            Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
        let options = CreateOptions::new("hostile", 3, 2, hoodi, addresses);
        let records: Vec<Enr> = (0..3).map(|member| Enr::build(&identity(member))).collect();
        let definition = draft(&options, &records, &mut rand::rng()).unwrap();
        let plan = |own| Arc::new(Plan::new(definition.clone(), &[], &identity(own).public_key()).unwrap());
        let plans: Vec<_> = (0..3).map(plan).collect();
        let dealer = |own: usize| {
            let seed = Zeroizing::new([u8::try_from(own).unwrap() + 50; 32]);
            (own, Dealer::new(Arc::clone(&plans[own]), seed))
        };
        let dealers = [1, 2].map(dealer).into();
        let seals = [1, 2].map(|member| (member, ImportSecret::generate())).into();
        let hash = format!("0x{}", hex::encode(plans[0].hash()));
        Self { plans, dealers, seals, hash }
    }

    pub(crate) fn consent(&self, unsealed: Vec<u8>) -> CeremonyConsent {
        let hoodi = Network::by_name("hoodi").unwrap();
        let definition = self.plans[0].definition().to_json().unwrap();
        CeremonyConsent {
            definition: serde_json::from_slice(&definition).unwrap(),
            adding: None,
            identity: identity(0).public_key().to_string(),
            genesis_validators_root: hoodi.genesis_validators_root().unwrap().to_string(),
            chain: ChainClock {
                genesis_time: hoodi.genesis_time,
                slot_ms: 12_000,
                slots_per_epoch: 32,
                preset: ChainPreset::Mainnet,
            },
            network: None,
            unsealed,
        }
    }

    fn seal_key(&self, member: usize, key: &ImportSecret, signed_by: usize) -> MemberSealKey {
        let bytes = key.public_bytes();
        let digest = seal_key_digest(&self.plans[0].hash(), &bytes);
        let signature = hex::encode(identity(signed_by).sign(&digest));
        MemberSealKey { member, key: hex::encode(bytes), signature }
    }

    fn deal(&self, seal_keys: Vec<MemberSealKey>) -> DealRequest {
        DealRequest { definition_hash: self.hash.clone(), seal_keys }
    }

    fn right_keys(&self) -> Vec<MemberSealKey> {
        self.seals.iter().map(|(member, key)| self.seal_key(*member, key, *member)).collect()
    }

    fn context(&self, from: u64, to: u64) -> Vec<u8> {
        [&self.plans[0].hash()[..], &from.to_be_bytes(), &to.to_be_bytes()].concat()
    }

    fn keep(&self, member: usize, message: &[u8]) -> KeepRequest {
        let message = Sensitive::new(hex::encode(message));
        KeepRequest { definition_hash: self.hash.clone(), share: MemberMessage { member, message } }
    }

    /// Every member's broadcast, signed by all.
    fn signed(&self, casts: &BTreeMap<usize, Vec<u8>>) -> FinishRequest {
        let session = Session { version: BroadcastVersion::V1, hash: self.plans[0].hash() };
        let type_url = frost::write_round_1(0, &[]).to_any().type_url;
        let cast = |value: &Vec<u8>| {
            let any = obol::wire::Any { type_url: type_url.clone(), value: value.clone() };
            let hash = session.hash_of(frost::ROUND_1, &any);
            let signatures = (0..3).map(|member| hex::encode(identity(member).sign(&hash))).collect();
            MemberCast { value: hex::encode(value), signatures }
        };
        FinishRequest {
            definition_hash: self.hash.clone(),
            minor: 10,
            casts: casts.values().map(cast).collect(),
        }
    }

    fn partials(&self, what: CeremonySignature) -> PartialsRequest {
        PartialsRequest { definition_hash: self.hash.clone(), what }
    }
}

fn texts(signatures: &[SignatureBytes]) -> Vec<String> {
    signatures.iter().map(ToString::to_string).collect()
}

/// Puts the partial signatures of the signer and of the two simulated members together, validator by validator.
fn combined(ours: &PartialsMade, others: [Vec<SignatureBytes>; 2]) -> Vec<SignatureBytes> {
    let index = |number| ShareIndex::new(number).unwrap();
    let [second, third] = others;
    let all = ours.signatures.iter().zip(second).zip(third);
    all.map(|((first, second), third)| {
        let partials = [(index(1), first.parse().unwrap()), (index(2), second), (index(3), third)];
        threshold::combine(&partials).unwrap()
    })
    .collect()
}

fn signed_by(born: &Born, exchange: Exchange) -> Vec<SignatureBytes> {
    born.sign(exchange).unwrap().into_iter().map(|(_, signature)| signature).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_for_a_public_chain_are_not_made_on_an_image_signed_with_everybodys_keys() {
    let mut machine = Machine::new();
    machine.release_keys = false;
    let signer = machine.start().await;
    let begun = signer.control.put::<CeremonyStatus>(CEREMONY_PATH, &Ceremony::new().consent(vec![])).await;
    assert_eq!(code(begun), refused(422, "test_keys_real_chain"));
    let status: CeremonyStatus = signer.control.get(CEREMONY_PATH).await.unwrap();
    assert!(status.ceremony.is_none() && !machine.state().join("ceremony.sealed").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_for_a_public_chain_are_not_made_by_another_clock_or_for_another_root() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let begun = async |consent: &CeremonyConsent| {
        code(signer.control.put::<CeremonyStatus>(CEREMONY_PATH, consent).await)
    };
    let mut consent = Ceremony::new().consent(vec![]);
    consent.chain.genesis_time += 384;
    assert_eq!(begun(&consent).await, refused(422, "chain_clock_wrong"));
    consent.genesis_validators_root = GENESIS_ROOT.to_string();
    assert_eq!(begun(&consent).await, refused(422, "chain_root_wrong"));
    assert!(!machine.state().join("ceremony.sealed").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hijacked_node_gets_neither_a_second_dealing_nor_an_unsealed_share() {
    let machine = Machine::new();
    let mut signer = machine.start().await;
    let world = Ceremony::new();
    let ask = async |signer: &Running, request: &DealRequest| -> Result<Dealt, ClientError> {
        signer.sign.post(DEAL_PATH, request).await
    };

    // Not without the owner, who speaks on another socket.
    let begin = signer.sign.put::<CeremonyStatus>(CEREMONY_PATH, &world.consent(vec![2, 3])).await;
    assert!(matches!(begin, Err(ClientError::Refused { status: 404, .. })), "{begin:?}");
    assert_eq!(code(ask(&signer, &world.deal(vec![])).await), refused(422, "ceremony_not_begun"));
    let consent = world.consent(vec![]);
    let begun: CeremonyStatus = signer.control.put(CEREMONY_PATH, &consent).await.unwrap();
    let facts = begun.ceremony.unwrap();
    let changed = signer.control.put::<CeremonyStatus>(CEREMONY_PATH, &world.consent(vec![2])).await;
    assert_eq!(code(changed), refused(422, "ceremony_under_way"));

    // Not in the clear, and not to a key that its owner's identity does not vouch for.
    assert_eq!(code(ask(&signer, &world.deal(vec![])).await), refused(422, "member_takes_no_sealed_shares"));
    let own_key = ImportSecret::generate();
    let forged = vec![world.seal_key(1, &own_key, 0), world.right_keys().remove(1)];
    assert_eq!(code(ask(&signer, &world.deal(forged)).await), refused(422, "member_at_fault_1"));

    // The same again, also after a restart, and never to another key.
    let first = ask(&signer, &world.deal(world.right_keys())).await.unwrap();
    drop(signer);
    signer = machine.start().await;
    let second = ask(&signer, &world.deal(vec![])).await.unwrap();
    assert_eq!(first.cast, second.cast);
    let new_key = vec![world.seal_key(1, &ImportSecret::generate(), 1)];
    assert_eq!(code(ask(&signer, &world.deal(new_key)).await), refused(422, "seal_key_changed"));
    let mut sent_to_others: BTreeMap<usize, Vec<Zeroizing<[u8; 32]>>> = BTreeMap::new();
    for share in &second.shares {
        let bytes = hex::decode(share.message.expose_secret()).unwrap();
        let (enc, sealed) = frost::read_sealed(&bytes).expect("sealed");
        let context = world.context(0, u64::try_from(share.member).unwrap());
        let plain = world.seals[&share.member].open_for(&enc, &sealed, INFO, &context).unwrap();
        let read = frost::read_shares(&world.plans[share.member], 0, &plain).unwrap();
        sent_to_others.insert(share.member, read);
    }
    assert_eq!(sent_to_others.keys().copied().collect::<Vec<_>>(), [1, 2], "and none for ourselves");

    // What comes in must be sealed for this ceremony, from this member, to us.
    let plain = |from: usize| world.dealers[&from].shares_for(0).unwrap();
    let unsealed = world.keep(1, &plain(1));
    let result = signer.sign.post::<CeremonyStatus>(KEEP_PATH, &unsealed).await;
    assert_eq!(code(result), refused(422, "member_at_fault_1"));
    let to_us = hex::decode(&facts.seal_key).unwrap();
    for (from, claimed) in [(1, 2), (2, 1), (1, 1), (2, 2)] {
        let context = world.context(u64::try_from(from).unwrap(), 0);
        let (enc, sealed) = seal_for(&to_us, INFO, &context, &plain(from)).unwrap();
        let request = world.keep(claimed, &frost::write_sealed(enc, sealed));
        let result = signer.sign.post::<CeremonyStatus>(KEEP_PATH, &request).await;
        if from == claimed {
            result.unwrap();
        } else {
            assert_eq!(code(result), refused(422, &format!("member_at_fault_{claimed}")));
        }
    }

    // Only broadcasts that everybody signed, and only one set of them.
    let encode = |own: usize, casts: &[Cast]| frost::write_round_1(own, casts).to_any().value;
    let mut casts: BTreeMap<usize, Vec<u8>> =
        [1, 2].map(|member| (member, encode(member, &world.dealers[&member].casts().unwrap()))).into();
    casts.insert(0, hex::decode(&second.cast).unwrap());
    let request = world.signed(&casts);
    let finish = async |signer: &Running, request: &FinishRequest| -> Result<Made, ClientError> {
        signer.sign.post(FINISH_PATH, request).await
    };
    let mut unsigned = request.clone();
    unsigned.casts[2].signatures[1] = unsigned.casts[2].signatures[0].clone();
    assert_eq!(code(finish(&signer, &unsigned).await), refused(422, "member_at_fault_2"));
    let foreign = Dealer::new(Arc::clone(&world.plans[0]), Zeroizing::new([99; 32]));
    let mut instead_of_ours = casts.clone();
    instead_of_ours.insert(0, encode(0, &foreign.casts().unwrap()));
    assert_eq!(
        code(finish(&signer, &world.signed(&instead_of_ours)).await),
        refused(422, "member_at_fault_0")
    );
    let made = finish(&signer, &request).await.unwrap();
    drop(signer);
    signer = machine.start().await;
    assert_eq!(finish(&signer, &request).await.unwrap(), made);
    assert_eq!(
        code(finish(&signer, &world.signed(&instead_of_ours)).await),
        refused(422, "ceremony_finished")
    );

    // The other members arrive at the same keys.
    let read = |(member, value): (&usize, &Vec<u8>)| {
        (*member, frost::read_round_1(&world.plans[0], *member, value).unwrap())
    };
    let all: BTreeMap<usize, Vec<Cast>> = casts.iter().map(read).collect();
    let born_by = |own: usize| {
        let other = 3 - own;
        let from_other = world.dealers[&other].shares_for(own).unwrap();
        let mut shares: BTreeMap<_, _> =
            [(other, frost::read_shares(&world.plans[own], other, &from_other).unwrap())].into();
        shares.insert(
            0,
            frost::read_shares(&world.plans[own], 0, &{
                let values = &sent_to_others[&own];
                frost::write_shares(0, own, values)
            })
            .unwrap(),
        );
        world.dealers[&own].finish(&all, &shares).unwrap()
    };
    let others = [born_by(1), born_by(2)];
    let keys: Vec<String> = others[0].validators().iter().map(|v| v.group_key.to_string()).collect();
    assert_eq!(made.validators.iter().map(|v| v.group_key.clone()).collect::<Vec<_>>(), keys);

    // Only what it works out itself is signed.
    let partials = async |signer: &Running, what: CeremonySignature| -> Result<PartialsMade, ClientError> {
        signer.sign.post(PARTIALS_PATH, &world.partials(what)).await
    };
    let mut signed = SignedByValidators::default();
    for position in 0..2 {
        let ours = partials(&signer, CeremonySignature::Deposit(position)).await.unwrap();
        let exchange = Exchange::Deposit(position);
        let theirs = [signed_by(&others[0], exchange), signed_by(&others[1], exchange)];
        signed.deposits.push(combined(&ours, theirs));
    }
    let none = partials(&signer, CeremonySignature::Deposit(2)).await;
    assert_eq!(code(none), refused(422, "request_invalid"));
    let ours = partials(&signer, CeremonySignature::Registration).await.unwrap();
    let theirs = [&others[0], &others[1]].map(|born| signed_by(born, Exchange::Registration));
    signed.registrations = combined(&ours, theirs);
    let lock_of = |deposits: &[Vec<SignatureBytes>]| CeremonySignature::Lock {
        deposits: deposits.iter().map(|list| texts(list)).collect(),
        registrations: texts(&signed.registrations),
    };
    let swapped: Vec<_> = signed.deposits.iter().rev().cloned().collect();
    assert_eq!(code(partials(&signer, lock_of(&swapped)).await), refused(422, "request_invalid"));
    let ours = partials(&signer, lock_of(&signed.deposits)).await.unwrap();

    // Only a whole lock puts the shares into service, and then nothing more is signed for the ceremony.
    let validators = others[0].validators();
    let mut lock = signed.lock(&world.plans[0], validators).unwrap();
    let release = |lock: &Lock| ReleaseRequest {
        definition_hash: world.hash.clone(),
        lock: serde_json::from_slice(&lock.to_json().unwrap()).unwrap(),
    };
    let early = signer.sign.post::<CeremonyStatus>(RELEASE_PATH, &release(&lock)).await;
    assert_eq!(code(early), refused(422, "lock_invalid"));
    assert_eq!(signer.status().await.shares, []);
    let mut all_signatures: Vec<threshold::Signature> = Vec::new();
    for text in &ours.signatures {
        let bytes: SignatureBytes = text.parse().unwrap();
        all_signatures.push(threshold::Signature::parse(&bytes).unwrap());
    }
    for born in &others {
        for (_, signature) in born.sign_lock(&signed, &[]).unwrap().1 {
            all_signatures.push(threshold::Signature::parse(&signature).unwrap());
        }
    }
    lock.signature_aggregate =
        threshold::aggregate_signatures(&all_signatures).unwrap().to_bytes().0.to_vec();
    lock.node_signatures = (0..3).map(|member| identity(member).sign(&lock.lock_hash).to_vec()).collect();
    lock.verify(&[]).unwrap();
    signer.sign.post::<CeremonyStatus>(RELEASE_PATH, &release(&lock)).await.unwrap();
    let held: Vec<PublicKeyBytes> =
        signer.status().await.shares.iter().map(|share| share.pubshare.parse().unwrap()).collect();
    let expected: Vec<_> = validators.iter().map(|validator| validator.public_shares[0]).collect();
    assert!(held.len() == 2 && expected.iter().all(|share| held.contains(share)));
    let after = partials(&signer, lock_of(&signed.deposits)).await;
    assert_eq!(code(after), refused(422, "ceremony_not_begun"));
    // The answer may have been lost: asking once more is no error.
    signer.sign.post::<CeremonyStatus>(RELEASE_PATH, &release(&lock)).await.unwrap();
    assert!(!machine.state().join("ceremony.sealed").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_ceremony_deals_something_else_the_next_time() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let world = Ceremony::new();
    let consent = world.consent(vec![2, 3]);
    let mut seen = Vec::new();
    for _ in 0..2 {
        signer.control.put::<CeremonyStatus>(CEREMONY_PATH, &consent).await.unwrap();
        let dealt: Dealt = signer.sign.post(DEAL_PATH, &world.deal(vec![])).await.unwrap();
        seen.push(dealt.cast);
        let gone: CeremonyStatus = signer.control.delete(CEREMONY_PATH).await.unwrap();
        assert_eq!(gone.ceremony, None);
    }
    assert_ne!(seen[0], seen[1]);
}
