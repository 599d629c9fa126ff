//! Whole runs among members in one thread, honest and hostile.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a hostile member changes one kind of bundle and passes the rest on"
)]

use std::collections::{BTreeMap, VecDeque};

use chain::SignatureBytes;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::keys::{PublicKey, SecretKey, SecretShare, ShareIndex};
use crate::shamir::split;
use crate::{combine, verify_bytes};

/// Old and new index.
type Place = (Option<u32>, Option<u32>);

/// Name, places, old threshold and total, new threshold.
type Case = (&'static str, Vec<Place>, (usize, usize), usize);

/// One member: its places and its key.
struct Member {
    own: Own,
    key: EphemeralKey,
}

/// A resharing or a key generation about to begin.
struct World {
    rng: ChaCha20Rng,
    members: Vec<Member>,
    setup: Setup,
    /// The old shares of the dealers, by old index.
    old: BTreeMap<u32, SecretShare>,
}

/// What a hostile member does with a bundle on its way from one member to another: nothing, change, or swallow.
type Hostile<'a> = &'a mut dyn FnMut(usize, usize, Bundle, &[Member]) -> Vec<Bundle>;

struct Ran {
    outcomes: Vec<Result<Outcome, Failure>>,
    accused: Vec<Vec<Accusation>>,
    sent: Vec<Bundle>,
}

impl World {
    /// `places` says for each member its old and new index.
    fn new(places: &[Place], threshold: usize, old: Option<(usize, usize)>, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let members: Vec<Member> = places
            .iter()
            .map(|(dealer, receiver)| Member {
                own: Own { dealer: *dealer, receiver: *receiver },
                key: EphemeralKey::random(&mut rng),
            })
            .collect();
        let side = |of: fn(&Own) -> Option<u32>| -> BTreeMap<u32, PublicKey> {
            members.iter().filter_map(|m| Some((of(&m.own)?, m.key.public_key()))).collect()
        };
        let (dealers, receivers) = (side(|own| own.dealer), side(|own| own.receiver));
        let mut shares = BTreeMap::new();
        let sharing = old.map(|(threshold, total)| {
            let secret = SecretKey::random(&mut rng);
            let split = split(secret, threshold, total, &mut rng).unwrap();
            let group_key = split.commitments.group_key();
            let mut public_shares = BTreeMap::new();
            for (index, share) in (0_u32..).zip(split.shares) {
                public_shares.insert(index, share.public_share().key);
                shares.insert(index, share);
            }
            OldSharing { threshold, public_shares, group_key }
        });
        let setup = Setup { threshold, session: [9; 32], dealers, receivers, old: sharing };
        Self { rng, members, setup, old: shares }
    }

    fn start(&mut self, place: usize) -> (Pedersen, Vec<Output>) {
        let member = &self.members[place];
        let secret = member.own.dealer.and_then(|dealer| self.old.get(&dealer)).map(copy);
        Pedersen::start(self.setup.clone(), member.own, secret, &member.key, &mut self.rng).unwrap()
    }

    /// Runs to the end. When no bundle is under way any more, the phase's time is up for everybody.
    fn run(&mut self, hostile: Hostile<'_>) -> Ran {
        let count = self.members.len();
        let mut runs = Vec::new();
        let mut queue: VecDeque<(usize, Vec<Output>)> = VecDeque::new();
        for place in 0..count {
            let (run, out) = self.start(place);
            runs.push(run);
            queue.push_back((place, out));
        }
        let mut ran = Ran { outcomes: Vec::new(), accused: vec![Vec::new(); count], sent: Vec::new() };
        let mut outcomes: BTreeMap<usize, Result<Outcome, Failure>> = BTreeMap::new();
        loop {
            while let Some((from, outputs)) = queue.pop_front() {
                for output in outputs {
                    match output {
                        Output::Send(bundle) => {
                            ran.sent.push(bundle.clone());
                            for to in (0..count).filter(|to| *to != from) {
                                for bundle in hostile(from, to, bundle.clone(), &self.members) {
                                    let out = runs[to].step(Event::Received(bundle), &self.members[to].key);
                                    queue.push_back((to, out));
                                }
                            }
                        }
                        Output::Accused(accusation) => ran.accused[from].push(accusation),
                        Output::Entered(_) => {}
                        Output::Finished(outcome) => {
                            outcomes.insert(from, Ok(*outcome));
                        }
                        Output::Failed(failure) => {
                            outcomes.insert(from, Err(failure));
                        }
                    }
                }
            }
            if outcomes.len() == count {
                ran.outcomes = outcomes.into_values().collect();
                return ran;
            }
            // Only those in the earliest phase: the others would be let down by nobody but their own clock.
            let phase = runs.iter().map(Pedersen::phase).min().unwrap();
            for (place, (run, member)) in runs.iter_mut().zip(&self.members).enumerate() {
                if run.phase() == phase {
                    let out = run.step(Event::Timeout, &member.key);
                    queue.push_back((place, out));
                }
            }
        }
    }

    fn run_honestly(&mut self) -> Ran {
        self.run(&mut |_, _, bundle, _| vec![bundle])
    }
}

fn copy(share: &SecretShare) -> SecretKey {
    SecretKey::from_bytes(share.key().expose_bytes().as_slice()).unwrap()
}

fn same_places(count: u32) -> Vec<Place> {
    (0..count).map(|index| (Some(index), Some(index))).collect()
}

fn partial(share: &SecretShare) -> (ShareIndex, SignatureBytes) {
    (share.index(), share.sign(b"message").to_bytes())
}

/// Whether these shares make a signature of the key.
fn sign_together<'a>(key: &PublicKey, shares: impl IntoIterator<Item = &'a SecretShare>) -> bool {
    let partials: Vec<_> = shares.into_iter().map(partial).collect();
    combine(&partials).is_ok_and(|signature| verify_bytes(&key.to_bytes(), b"message", &signature).is_ok())
}

/// All outcomes are of one sharing, of which any `threshold` shares sign and one fewer do not.
fn check_sharing(outcomes: &[Result<Outcome, Failure>], threshold: usize) -> (PublicKey, Vec<&SecretShare>) {
    let outcomes: Vec<&Outcome> = outcomes.iter().map(|outcome| outcome.as_ref().unwrap()).collect();
    let commitments = &outcomes[0].commitments;
    assert!(outcomes.iter().all(|outcome| outcome.commitments == *commitments));
    assert!(outcomes.iter().all(|outcome| outcome.dealers == outcomes[0].dealers));
    let shares: Vec<&SecretShare> = outcomes.iter().filter_map(|outcome| outcome.share.as_ref()).collect();
    let group_key = commitments.group_key();
    for share in &shares {
        assert_eq!(commitments.public_share(share.index()).unwrap(), share.public_share());
    }
    for first in 0..=shares.len() - threshold {
        assert!(sign_together(&group_key, shares[first..first + threshold].iter().copied()));
    }
    assert!(!sign_together(&group_key, shares[..threshold - 1].iter().copied()));
    (group_key, shares)
}

#[test]
fn a_key_generation_makes_one_key_that_any_threshold_signs_with() {
    for (members, threshold) in [(1, 1), (3, 2), (4, 3), (7, 5)] {
        let ran = World::new(&same_places(members), threshold, None, 1).run_honestly();
        check_sharing(&ran.outcomes, threshold);
        assert!(ran.accused.iter().all(Vec::is_empty));
    }
}

/// All kinds of edit: the key stays, the new shares sign, and old and new shares together are worth nothing.
#[test]
fn every_edit_keeps_the_key_and_makes_old_and_new_shares_strangers() {
    let some = Some::<u32>;
    let add: Vec<_> = (0..5).map(|index| ((index < 4).then_some(index), some(index))).collect();
    // Member 1 of 0 to 4 leaves without dealing; the indices above it move down.
    let remove_absent = vec![(some(0), some(0)), (some(2), some(1)), (some(3), some(2)), (some(4), some(3))];
    let remove_present = [remove_absent.clone(), vec![(some(1), None)]].concat();
    let replace = vec![(some(0), some(0)), (some(1), some(1)), (None, some(2)), (some(3), some(3))];
    let cases: [Case; 7] = [
        ("recreate", same_places(4), (3, 4), 3),
        ("higher threshold", same_places(4), (3, 4), 4),
        ("lower threshold", same_places(7), (5, 7), 4),
        ("add", add, (3, 4), 4),
        ("remove, absent", remove_absent, (4, 5), 3),
        ("remove, present", remove_present, (4, 5), 3),
        ("replace", replace, (3, 4), 3),
    ];
    for (name, places, old, threshold) in cases {
        let mut world = World::new(&places, threshold, Some(old), 2);
        let ran = world.run_honestly();
        let (group_key, shares) = check_sharing(&ran.outcomes, threshold);
        let sharing = world.setup.old.clone().unwrap();
        assert!(group_key == sharing.group_key, "{name}");
        let leaving = world.members.iter().filter(|member| member.own.receiver.is_none()).count();
        assert_eq!(shares.len(), places.len() - leaving, "{name}");
        for share in &shares {
            assert!(!sharing.public_shares.values().any(|old| *old == share.public_share().key), "{name}");
        }
        // One fewer than the threshold of each sharing, at different indices: far more than either threshold.
        let few_new: Vec<_> = shares.iter().copied().take(threshold - 1).collect();
        let few_old: Vec<_> = world.old.values().rev().take(old.0 - 1).collect();
        let mut mixed: BTreeMap<ShareIndex, &SecretShare> =
            few_old.into_iter().map(|share| (share.index(), share)).collect();
        mixed.extend(few_new.into_iter().map(|share| (share.index(), share)));
        assert!(!sign_together(&group_key, mixed.values().copied()), "{name}");
        for count in 1..=mixed.len() {
            assert!(!sign_together(&group_key, mixed.values().copied().take(count)), "{name}, {count}");
        }
    }
}

fn faults(ran: &Ran, by: usize) -> Vec<(Fault, u32)> {
    ran.accused[by].iter().map(|accusation| (accusation.fault, accusation.index)).collect()
}

fn resign(bundle: Bundle, key: &EphemeralKey) -> Bundle {
    let sign = |hash: [u8; 32]| key.sign(&hash).to_bytes().0.to_vec();
    match bundle {
        Bundle::Deal(mut bundle) => {
            bundle.signature = sign(bundle.hash());
            Bundle::Deal(bundle)
        }
        Bundle::Response(mut bundle) => {
            bundle.signature = sign(bundle.hash());
            Bundle::Response(bundle)
        }
        Bundle::Justification(mut bundle) => {
            bundle.signature = sign(bundle.hash());
            Bundle::Justification(bundle)
        }
    }
}

/// Changes the deals of member 2 on their way to everybody, with a right signature.
fn run_with_deals_changed(old: Option<(usize, usize)>, change: &dyn Fn(&mut DealBundle)) -> Ran {
    World::new(&same_places(4), 3, old, 3).run(&mut |from, _, bundle, members| match bundle {
        Bundle::Deal(mut deal) if from == 2 => {
            change(&mut deal);
            vec![resign(Bundle::Deal(deal), &members[2].key)]
        }
        bundle => vec![bundle],
    })
}

#[test]
fn a_dealer_that_breaks_the_rules_is_evicted_and_named() {
    type Change = fn(&mut DealBundle);
    let table: [(Change, Fault); 6] = [
        (|deal| deal.session = [8; 32], Fault::DealerWrongSession),
        (|deal| deal.public.truncate(2), Fault::DealerCommitments),
        (|deal| deal.public.push(deal.public[0]), Fault::DealerCommitments),
        (|deal| deal.public[1].0[0] ^= 0x40, Fault::DealerCommitments),
        (|deal| deal.public.swap(0, 1), Fault::DealerOtherShare),
        (|deal| deal.deals[0].share_index = 77, Fault::DealerIndices),
    ];
    for (change, fault) in table {
        let ran = run_with_deals_changed(Some((3, 4)), &change);
        let honest = [0, 1, 3];
        for place in honest {
            assert!(faults(&ran, place).contains(&(fault, 2)), "{fault:?}: {:?}", faults(&ran, place));
        }
        let mut outcomes = ran.outcomes;
        drop(outcomes.remove(2));
        let (_, shares) = check_sharing(&outcomes, 3);
        assert_eq!(shares.len(), 3);
        assert_eq!(outcomes[0].as_ref().unwrap().dealers, [0, 1, 3]);
    }
}

#[test]
fn a_dealer_that_says_two_things_to_one_member_is_evicted() {
    let mut world = World::new(&same_places(4), 3, Some((3, 4)), 4);
    let ran = world.run(&mut |from, _, bundle, members| match bundle {
        Bundle::Deal(deal) if from == 2 => {
            let mut other = deal.clone();
            other.deals.pop();
            vec![Bundle::Deal(deal), resign(Bundle::Deal(other), &members[2].key)]
        }
        bundle => vec![bundle],
    });
    for place in [0, 1, 3] {
        assert!(faults(&ran, place).contains(&(Fault::DealerEquivocated, 2)));
        assert_eq!(ran.outcomes[place].as_ref().unwrap().dealers, [0, 1, 3]);
    }
}

#[test]
fn a_bundle_delivered_twice_changes_nothing() {
    let mut world = World::new(&same_places(4), 3, Some((3, 4)), 5);
    let ran = world.run(&mut |_, _, bundle, _| vec![bundle.clone(), bundle]);
    check_sharing(&ran.outcomes, 3);
    assert!(ran.accused.iter().all(Vec::is_empty));
}

#[test]
fn a_bundle_in_another_s_name_is_not_believed() {
    let mut world = World::new(&same_places(4), 3, Some((3, 4)), 6);
    let ran = world.run(&mut |from, _, bundle, members| match bundle {
        // Member 2 answers for member 1, before member 1 does.
        Bundle::Response(response) if from == 1 => {
            let mut forged = response.clone();
            forged.responses.iter_mut().for_each(|response| response.is_good = false);
            vec![resign(Bundle::Response(forged), &members[2].key), Bundle::Response(response)]
        }
        bundle => vec![bundle],
    });
    check_sharing(&ran.outcomes, 3);
    assert!(faults(&ran, 0).contains(&(Fault::NotSigned, 1)));
}

#[test]
fn a_truncated_share_is_complained_of_and_justified() {
    let truncate = |deal: &mut DealBundle| deal.deals[0].encrypted_share.truncate(CIPHERTEXT_BYTES - 1);
    let ran = run_with_deals_changed(None, &truncate);
    // Member 0 got no share, said so, and was shown it.
    assert!(faults(&ran, 0).contains(&(Fault::DealerBadShare, 2)));
    assert!(faults(&ran, 1).contains(&(Fault::ReceiverComplained, 0)));
    let shown = ran.sent.iter().filter(|bundle| matches!(bundle, Bundle::Justification(_))).count();
    assert_eq!(shown, 1);
    check_sharing(&ran.outcomes, 3);
    assert_eq!(ran.outcomes[0].as_ref().unwrap().dealers, [0, 1, 2, 3]);
}

/// What all dealers show of one receiver adds up to its new share: whoever carries that receiver's messages could complain of
/// each of them in its name, and would have the share in the clear.
#[test]
fn in_a_resharing_no_share_is_ever_shown() {
    let mut world = World::new(&same_places(4), 3, Some((3, 4)), 7);
    let ran = world.run(&mut |from, _, bundle, members| match bundle {
        // Member 3 never deals, and says of every dealer that it got nothing.
        Bundle::Deal(_) if from == 3 => Vec::new(),
        Bundle::Response(mut response) if from == 3 => {
            response.responses.iter_mut().for_each(|response| response.is_good = false);
            vec![resign(Bundle::Response(response), &members[3].key)]
        }
        bundle => vec![bundle],
    });
    assert!(!ran.sent.iter().any(|bundle| matches!(bundle, Bundle::Justification(_))));
    for dealer in 0..3 {
        let expected = &Failure::TooFewDealers { qualified: 0, needed: 3 };
        assert_eq!(ran.outcomes[dealer].as_ref().unwrap_err(), expected);
    }
}

#[test]
fn a_false_complaint_is_answered_and_costs_the_dealer_nothing() {
    let mut world = World::new(&same_places(4), 3, None, 7);
    let ran = world.run(&mut |from, _, bundle, members| match bundle {
        Bundle::Response(mut response) if from == 3 => {
            response.responses.iter_mut().for_each(|response| response.is_good = response.dealer_index != 0);
            vec![resign(Bundle::Response(response), &members[3].key)]
        }
        bundle => vec![bundle],
    });
    assert!(faults(&ran, 1).contains(&(Fault::ReceiverComplained, 3)));
    check_sharing(&ran.outcomes[..3], 3);
    assert!(ran.outcomes[1].as_ref().unwrap().dealers.contains(&0));
}

/// With 4 members of which 3 are needed, one may lie. It and one false complaint answered make two known values of our
/// polynomial; a second answer would make three, and our secret is the value at zero.
#[test]
fn a_dealer_never_reveals_enough_to_rebuild_its_secret() {
    let mut world = World::new(&same_places(4), 3, None, 8);
    let ran = world.run(&mut |from, _, bundle, members| match bundle {
        Bundle::Response(mut response) if from >= 2 => {
            response.responses.iter_mut().for_each(|response| response.is_good = response.dealer_index != 0);
            vec![resign(Bundle::Response(response), &members[from].key)]
        }
        bundle => vec![bundle],
    });
    let by_0 = |bundle: &&Bundle| matches!(bundle, Bundle::Justification(bundle) if bundle.dealer_index == 0);
    assert_eq!(ran.sent.iter().filter(by_0).count(), 0);
    assert!(faults(&ran, 0).contains(&(Fault::TooManyComplaints, 0)));
    assert!(faults(&ran, 1).contains(&(Fault::DealerUnjustified, 0)));
    assert_eq!(ran.outcomes[1].as_ref().unwrap().dealers, [1, 2, 3]);
}

#[test]
fn a_wrong_justification_evicts_the_dealer() {
    let mut world = World::new(&same_places(4), 3, None, 9);
    let ran = world.run(&mut |from, _, bundle, members| match bundle {
        Bundle::Deal(mut deal) if from == 2 => {
            deal.deals[0].encrypted_share[60] ^= 1;
            vec![resign(Bundle::Deal(deal), &members[2].key)]
        }
        Bundle::Justification(mut justification) if from == 2 => {
            justification.justifications[0].share[31] ^= 1;
            vec![resign(Bundle::Justification(justification), &members[2].key)]
        }
        bundle => vec![bundle],
    });
    assert!(faults(&ran, 1).contains(&(Fault::DealerBadJustification, 2)));
    for place in [0, 1, 3] {
        assert_eq!(ran.outcomes[place].as_ref().unwrap().dealers, [0, 1, 3]);
    }
}

#[test]
fn too_few_dealers_end_the_run_without_a_share() {
    let mut world = World::new(&same_places(4), 3, Some((3, 4)), 10);
    let silent = |from| from >= 2;
    let ran = world.run(&mut |from, _, bundle, _| if silent(from) { Vec::new() } else { vec![bundle] });
    for outcome in &ran.outcomes[..2] {
        assert_eq!(outcome.as_ref().unwrap_err(), &Failure::TooFewDealers { qualified: 2, needed: 3 });
    }
    assert!(faults(&ran, 0).contains(&(Fault::DealerSilent, 2)));
    assert!(faults(&ran, 0).contains(&(Fault::ReceiverSilent, 3)));
}

/// What no single member can see: a dealer gives two halves of the cluster two different, consistent polynomials. The new
/// shares then do not belong together, which the dry run shows.
#[test]
fn a_dealer_with_two_faces_is_found_by_the_dry_run() {
    let mut world = World::new(&same_places(4), 3, Some((3, 4)), 11);
    let (_, other) = world.start(2);
    let other = other.into_iter().find_map(|output| match output {
        Output::Send(Bundle::Deal(deal)) => Some(deal),
        _ => None,
    });
    let other = other.unwrap();
    let ran = world.run(&mut |from, to, bundle, _| match bundle {
        Bundle::Deal(_) if from == 2 && to == 0 => vec![Bundle::Deal(other.clone())],
        bundle => vec![bundle],
    });
    let shares: Vec<_> = ran.outcomes.iter().filter_map(|o| o.as_ref().ok()?.share.as_ref()).collect();
    let group_key = world.setup.old.unwrap().group_key;
    assert!(!sign_together(&group_key, shares[..3].iter().copied()));
}

#[test]
fn a_run_that_does_not_hold_together_is_not_begun() {
    let mut rng = ChaCha20Rng::seed_from_u64(12);
    let world = World::new(&same_places(4), 3, Some((3, 4)), 12);
    let mut begin = |change: &dyn Fn(&mut Setup), own: Own, secret: Option<u32>| {
        let mut setup = world.setup.clone();
        change(&mut setup);
        let secret = secret.map(|index| copy(&world.old[&index]));
        Pedersen::start(setup, own, secret, &world.members[0].key, &mut rng).map(drop)
    };
    let own = world.members[0].own;
    assert_eq!(begin(&|_| {}, own, Some(0)), Ok(()));
    assert_eq!(begin(&|_| {}, own, Some(1)), Err(SetupError::OwnShare), "another member's share");
    assert_eq!(begin(&|_| {}, own, None), Err(SetupError::OwnShare));
    assert_eq!(begin(&|_| {}, world.members[1].own, Some(1)), Err(SetupError::Member(1)), "another's place");
    let too_high = |setup: &mut Setup| setup.threshold = 5;
    assert!(matches!(begin(&too_high, own, Some(0)), Err(SetupError::Size { .. })));
    let none = |setup: &mut Setup| setup.threshold = 0;
    assert!(matches!(begin(&none, own, Some(0)), Err(SetupError::Size { .. })));
    let few = |setup: &mut Setup| setup.dealers.retain(|index, _| *index < 2);
    assert_eq!(begin(&few, own, Some(0)), Err(SetupError::TooFewDealers { dealers: 2, threshold: 3 }));
    let twice = |setup: &mut Setup| {
        setup.dealers.insert(1, setup.dealers[&2]);
    };
    assert_eq!(begin(&twice, own, Some(0)), Err(SetupError::Member(2)));
    let other_key = |setup: &mut Setup| {
        if let Some(old) = &mut setup.old {
            old.group_key = old.public_shares[&3];
        }
    };
    assert_eq!(begin(&other_key, own, Some(0)), Err(SetupError::OldSharing));
}
