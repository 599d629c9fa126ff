//! Editing a cluster: who takes part, and what the new lock says.

#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

mod sample;

use std::collections::VecDeque;

use chain::PublicKeyBytes;
use cluster::create::CreatedCluster;
use cluster::edit::{Edit, EditError, EditMember, EditPlan};
use cluster::{Enr, IdentityKey, Lock, Network};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use threshold::pedersen::{EphemeralKey, Event, OldSharing, Output, Own, Pedersen, Setup};
use threshold::{HashedMessage, PublicKey, SecretKey, SecretShare};

fn hoodi() -> Vec<Network> {
    vec![Network::by_name("hoodi").unwrap()]
}

fn of(members: usize) -> CreatedCluster {
    cluster::create::cluster(&sample::options(members, 2), &mut sample::rng()).unwrap()
}

fn enr(created: &CreatedCluster, place: usize) -> String {
    created.view.operators[place].enr.clone()
}

fn newcomer() -> (IdentityKey, String) {
    let identity = IdentityKey::generate(&mut ChaCha20Rng::seed_from_u64(77));
    let enr = Enr::build(&identity).as_str().to_owned();
    (identity, enr)
}

fn plan(created: &CreatedCluster, edit: &Edit) -> Result<EditPlan, EditError> {
    EditPlan::new(created.lock.clone(), edit, &hoodi())
}

/// An old and a new position.
type Place = (Option<u32>, Option<u32>);

/// The places of everybody that takes part, and the new threshold.
fn places(plan: &EditPlan) -> (Vec<Place>, u8) {
    (plan.members().iter().map(|member| (member.old, member.new)).collect(), plan.threshold())
}

#[test]
fn each_edit_says_who_deals_who_receives_and_how_many_must_sign() {
    let (four, five, seven) = (of(4), of(5), of(7));
    let new = newcomer().1;
    let same: Vec<_> = (0..4).map(|place| (Some(place), Some(place))).collect();
    let recreate = plan(&four, &Edit::Recreate { threshold: None }).unwrap();
    assert_eq!(places(&recreate), (same.clone(), 3));
    let higher = plan(&four, &Edit::Recreate { threshold: Some(4) }).unwrap();
    assert_eq!(places(&higher), (same.clone(), 4));

    // Three of five would let two groups sign different messages: the threshold rises with the members.
    let add = plan(&four, &Edit::Add { operators: vec![new.clone()], threshold: None }).unwrap();
    assert_eq!(places(&add), ([same.clone(), vec![(None, Some(4))]].concat(), 4));

    let replace = plan(&four, &Edit::Replace { old: enr(&four, 1), new: new.clone() }).unwrap();
    let expected = vec![(Some(0), Some(0)), (None, Some(1)), (Some(2), Some(2)), (Some(3), Some(3))];
    assert_eq!(places(&replace), (expected, 3));

    let gone = |created: &CreatedCluster, out: &[usize], dealing: &[usize]| Edit::Remove {
        operators: out.iter().map(|place| enr(created, *place)).collect(),
        dealing: dealing.iter().map(|place| enr(created, *place)).collect(),
        threshold: None,
    };
    let remove = plan(&five, &gone(&five, &[1], &[])).unwrap();
    let compact = vec![(Some(0), Some(0)), (Some(2), Some(1)), (Some(3), Some(2)), (Some(4), Some(3))];
    assert_eq!(places(&remove), (compact.clone(), 3));
    let dealing = plan(&five, &gone(&five, &[1], &[1])).unwrap();
    let mut with_who_leaves = compact;
    with_who_leaves.insert(1, (Some(1), None));
    assert_eq!(places(&dealing), (with_who_leaves, 3));
    // The numbers in nonces and in the dry run: a member that takes no part leaves a gap, one that deals and leaves does not.
    let numbers = |plan: &EditPlan| plan.members().iter().map(EditMember::index).collect::<Vec<_>>();
    assert_eq!(numbers(&remove), [0, 2, 3, 4]);
    assert_eq!(numbers(&dealing), [0, 1, 2, 3, 4]);
    assert_eq!((numbers(&add), numbers(&replace)), (vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3]));

    // Three that leave and two that lie could sign with old shares: whether they help to deal or not.
    for dealing in [&[][..], &[0], &[0, 1, 2]] {
        let three_leave = gone(&seven, &[0, 1, 2], dealing);
        assert_eq!(plan(&seven, &three_leave), Err(EditError::TooFewStay { staying: 4, threshold: 5 }));
    }
    assert_eq!(places(&plan(&seven, &gone(&seven, &[0, 1], &[])).unwrap()).1, 4);
}

#[test]
fn those_that_join_and_those_that_lie_are_too_few_to_sign_alone() {
    let four = of(4);
    let join = |count: u64| {
        let identities =
            (0..count).map(|seed| IdentityKey::generate(&mut ChaCha20Rng::seed_from_u64(100 + seed)));
        let operators = identities.map(|identity| Enr::build(&identity).as_str().to_owned()).collect();
        plan(&four, &Edit::Add { operators, threshold: None })
    };
    assert_eq!(places(&join(2).unwrap()).1, 4);
    assert_eq!(join(3), Err(EditError::TooManyJoin { joining: 3, threshold: 5 }));
    assert_eq!(join(4), Err(EditError::TooManyJoin { joining: 4, threshold: 6 }));
}

#[test]
fn what_cannot_be_or_is_not_safe_is_refused() {
    let four = of(4);
    let new = newcomer().1;
    let threshold = |threshold, least| EditError::Threshold { threshold, members: 4, least };
    for low in [0, 1, 2] {
        assert_eq!(plan(&four, &Edit::Recreate { threshold: Some(low) }), Err(threshold(low, 3)));
    }
    assert_eq!(plan(&four, &Edit::Recreate { threshold: Some(5) }), Err(threshold(5, 3)));
    let add = |operators| Edit::Add { operators, threshold: None };
    assert_eq!(plan(&four, &add(vec![])), Err(EditError::Nobody));
    assert!(matches!(plan(&four, &add(vec![enr(&four, 2)])), Err(EditError::AlreadyAMember(_))));
    assert!(matches!(plan(&four, &add(vec![new.clone(), new.clone()])), Err(EditError::AlreadyAMember(_))));
    assert!(matches!(plan(&four, &add(vec!["enr:-".to_owned()])), Err(EditError::Enr { .. })));
    let replace = |old, new| Edit::Replace { old, new };
    assert!(matches!(plan(&four, &replace(new.clone(), new.clone())), Err(EditError::NotAMember(_))));
    assert!(matches!(plan(&four, &replace(enr(&four, 0), enr(&four, 1))), Err(EditError::AlreadyAMember(_))));
    let remove = |places: &[usize], dealing: Vec<String>| Edit::Remove {
        operators: places.iter().map(|place| enr(&four, *place)).collect(),
        dealing,
        threshold: None,
    };
    assert_eq!(plan(&four, &remove(&[], vec![])), Err(EditError::Nobody));
    assert_eq!(plan(&four, &remove(&[0, 1], vec![])), Err(EditError::Size(2)));
    assert!(matches!(plan(&four, &remove(&[0], vec![enr(&four, 1)])), Err(EditError::NotAMember(_))));
    let mut broken = four.lock.clone();
    broken.lock_hash[0] ^= 1;
    let refused = EditPlan::new(broken, &Edit::Recreate { threshold: None }, &hoodi());
    assert!(matches!(refused, Err(EditError::Lock(_))));
}

/// A real resharing among all members of the plan, without a network.
fn reshare(created: &CreatedCluster, plan: &EditPlan, validator: usize) -> Vec<SecretShare> {
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let keys: Vec<_> = plan.members().iter().map(|_| EphemeralKey::random(&mut rng)).collect();
    let side = |of: fn(&EditMember) -> Option<u32>| {
        let places = plan.members().iter().zip(&keys);
        places.filter_map(|(member, key)| Some((of(member)?, key.public_key()))).collect()
    };
    let parse = |key: &PublicKeyBytes| PublicKey::parse(key).unwrap();
    let old = OldSharing {
        threshold: usize::from(plan.base().threshold),
        public_shares: plan.old_shares(validator).unwrap().iter().map(|(i, key)| (*i, parse(key))).collect(),
        group_key: parse(&plan.base().validators[validator].group_public_key),
    };
    let setup = Setup {
        threshold: usize::from(plan.threshold()),
        session: [1; 32],
        dealers: side(|member| member.old),
        receivers: side(|member| member.new),
        old: Some(old),
    };
    let (mut runs, mut queue, mut shares) = (Vec::new(), VecDeque::new(), Vec::new());
    for (member, key) in plan.members().iter().zip(&keys) {
        let own = Own { dealer: member.old, receiver: member.new };
        let secret = member.old.map(|place| {
            let share = &created.nodes[usize::try_from(place).unwrap()].shares[validator];
            SecretKey::from_bytes(share.key().expose_bytes().as_slice()).unwrap()
        });
        let (run, out) = Pedersen::start(setup.clone(), own, secret, key, &mut rng).unwrap();
        queue.push_back((runs.len(), out));
        runs.push(run);
    }
    while let Some((from, outputs)) = queue.pop_front() {
        for output in outputs {
            match output {
                Output::Send(bundle) => {
                    for to in (0..runs.len()).filter(|to| *to != from) {
                        let out = runs[to].step(Event::Received(bundle.clone()), &keys[to]);
                        queue.push_back((to, out));
                    }
                }
                Output::Finished(outcome) => shares.extend(outcome.share),
                Output::Entered(_) => {}
                Output::Accused(_) | Output::Failed(_) => panic!("{output:?}"),
            }
        }
    }
    shares.sort_by_key(SecretShare::index);
    shares
}

#[test]
fn the_new_lock_verifies_once_the_new_shares_and_the_members_signed_it() {
    let four = of(4);
    let (identity, enr) = newcomer();
    let plan = plan(&four, &Edit::Add { operators: vec![enr], threshold: None }).unwrap();
    let shares: Vec<_> = (0..2).map(|validator| reshare(&four, &plan, validator)).collect();
    let public: Vec<Vec<PublicKeyBytes>> = shares
        .iter()
        .map(|shares| shares.iter().map(|share| share.public_share().key.to_bytes()).collect())
        .collect();
    assert_eq!(plan.lock(&public[..1]), Err(EditError::Shares));
    let mut lock = plan.lock(&public).unwrap();
    assert!(lock.definition.operators.iter().all(|operator| operator.address.is_empty()));
    assert_eq!((lock.definition.operators.len(), lock.definition.threshold), (5, 4));
    assert_ne!(lock.lock_hash, four.lock.lock_hash);
    assert!(lock.verify(&hoodi()).is_err(), "nobody signed it yet");

    let message = HashedMessage::new(&lock.lock_hash);
    let signatures: Vec<_> = shares.iter().flatten().map(|share| share.key().sign_hashed(&message)).collect();
    lock.signature_aggregate = threshold::aggregate_signatures(&signatures).unwrap().to_bytes().0.to_vec();
    let identities = four.nodes.iter().map(|node| &node.identity).chain([&identity]);
    lock.node_signatures = identities.map(|key| key.sign(&lock.lock_hash).to_vec()).collect();
    let view = lock.verify(&hoodi()).unwrap();
    let keys = |lock: &Lock| lock.validators.iter().map(|validator| validator.public_key).collect::<Vec<_>>();
    assert_eq!(keys(&lock), keys(&four.lock));
    assert_eq!(view.operators.len(), 5);
    assert_eq!(Lock::from_json(&lock.to_json().unwrap()).unwrap(), lock);
}
