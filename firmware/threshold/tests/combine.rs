//! Combining partial signatures when operators lie, are slow, or send rubbish.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use chain::{Epoch, SignatureBytes};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeMap;
use threshold::{
    CombineError, Combiner, Job, PublicKey, SecretKey, SecretShare, ShareIndex, Signature, combine,
    combine_and_verify, combine_plainly, split, verify_bytes,
};

struct Validator {
    group_key: PublicKey,
    shares: Vec<SecretShare>,
    public_shares: BTreeMap<ShareIndex, PublicKey>,
    threshold: usize,
}

impl Validator {
    fn new(seed: u64, threshold: usize, total: usize) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let secret = SecretKey::random(&mut rng);
        let group_key = secret.public_key();
        let shares = split(secret, threshold, total, &mut rng).unwrap().shares;
        let public_shares = shares.iter().map(|share| (share.index(), share.public_share().key)).collect();
        Self { group_key, shares, public_shares, threshold }
    }

    fn partials(&self, message: &[u8]) -> Vec<(ShareIndex, SignatureBytes)> {
        self.shares.iter().map(|share| (share.index(), share.sign(message).to_bytes())).collect()
    }

    fn job<'a>(&'a self, message: &'a [u8], partials: &'a [(ShareIndex, SignatureBytes)]) -> Job<'a> {
        Job {
            group_key: &self.group_key,
            public_shares: &self.public_shares,
            threshold: self.threshold,
            message,
            partials,
        }
    }
}

const MESSAGE: &[u8] = &[5; 32];

fn index(number: u64) -> ShareIndex {
    ShareIndex::new(number).unwrap()
}

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(99)
}

/// On the curve, outside the subgroup: from the published `deserialization_fails_not_in_G2`.
const NOT_IN_SUBGROUP: &str = concat!(
    "0x8123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
);

/// Ways to lie, and whether the bytes even parse.
fn lies(validator: &Validator, liar: usize) -> Vec<(&'static str, SignatureBytes)> {
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    let other = Validator::new(1234, 3, 4);
    let neighbour = (liar + 1) % validator.shares.len();
    vec![
        ("another message", validator.shares[liar].sign(b"another message").to_bytes()),
        ("a neighbour's partial", validator.shares[neighbour].sign(MESSAGE).to_bytes()),
        ("a share of another key", other.shares[0].sign(MESSAGE).to_bytes()),
        ("all zero bytes", SignatureBytes::ZERO),
        ("all one bytes", SignatureBytes([0xff; 96])),
        ("infinity", SignatureBytes(infinity)),
        ("outside the subgroup", NOT_IN_SUBGROUP.parse().unwrap()),
    ]
}

#[test]
fn every_quorum_of_every_cluster_gives_the_same_signature() {
    for (threshold, total) in [(1, 1), (2, 3), (3, 4), (4, 6), (5, 7)] {
        let validator = Validator::new(7, threshold, total);
        let partials = validator.partials(MESSAGE);
        let mut signatures = std::collections::BTreeSet::new();
        for subset in 1_u32..1 << total {
            let chosen: Vec<_> =
                partials.iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1).map(|(_, p)| *p).collect();
            let signature = combine(&chosen).unwrap();
            let valid = verify_bytes(&validator.group_key.to_bytes(), MESSAGE, &signature).is_ok();
            assert_eq!(valid, chosen.len() >= threshold, "{threshold} of {total}, subset {subset:b}");
            if valid {
                signatures.insert(signature);
            }
        }
        assert_eq!(signatures.len(), 1);
    }
}

#[test]
fn a_liar_is_named_and_left_out() {
    let validator = Validator::new(1, 3, 4);
    for liar in 0..4 {
        for (how, lie) in lies(&validator, liar) {
            let mut partials = validator.partials(MESSAGE);
            partials[liar].1 = lie;
            let combined = combine_and_verify(&validator.job(MESSAGE, &partials), &mut rng()).unwrap();
            verify_bytes(&validator.group_key.to_bytes(), MESSAGE, &combined.signature).unwrap();
            // Operator 4 is not among the first three, so nobody looks at what it sent.
            let expected = if liar < 3 { vec![index(u64::try_from(liar).unwrap() + 1)] } else { vec![] };
            assert_eq!(combined.liars, expected, "{how}");
        }
    }
}

#[test]
fn two_liars_among_four_leave_too_few() {
    let validator = Validator::new(2, 3, 4);
    for (how, lie) in lies(&validator, 1) {
        let mut partials = validator.partials(MESSAGE);
        partials[1].1 = lie;
        partials[3].1 = validator.shares[3].sign(b"something else").to_bytes();
        let error = combine_and_verify(&validator.job(MESSAGE, &partials), &mut rng()).unwrap_err();
        assert_eq!(
            error,
            CombineError::TooFew { valid: 2, needed: 3, liars: vec![index(2), index(4)] },
            "{how}"
        );
    }
}

#[test]
fn partials_that_cancel_out_are_harmless() {
    // Two operators shift their partials by opposite amounts, so that a plain sum with equal weights would hide it.
    let validator = Validator::new(3, 3, 4);
    let mut partials = validator.partials(MESSAGE);
    (partials[0].1, partials[1].1) = (partials[1].1, partials[0].1);
    let error = combine_and_verify(&validator.job(MESSAGE, &partials), &mut rng()).unwrap_err();
    assert_eq!(error, CombineError::TooFew { valid: 2, needed: 3, liars: vec![index(1), index(2)] });
}

#[test]
fn strangers_and_repetitions_do_not_count() {
    let validator = Validator::new(4, 3, 4);
    let partials = validator.partials(MESSAGE);
    let stranger = (index(9), partials[3].1);
    let padded = [partials[0], partials[0], stranger, partials[1]];
    let error = combine_and_verify(&validator.job(MESSAGE, &padded), &mut rng()).unwrap_err();
    assert_eq!(error, CombineError::TooFew { valid: 2, needed: 3, liars: vec![] });
    let enough = [partials[0], partials[0], stranger, partials[1], partials[3]];
    assert!(combine_and_verify(&validator.job(MESSAGE, &enough), &mut rng()).is_ok());
}

#[test]
fn the_wrong_group_key_is_told_from_a_liar() {
    let validator = Validator::new(5, 3, 4);
    let other = Validator::new(6, 3, 4);
    let partials = validator.partials(MESSAGE);
    let job = Job { group_key: &other.group_key, ..validator.job(MESSAGE, &partials) };
    assert_eq!(combine_and_verify(&job, &mut rng()), Err(CombineError::WrongGroupKey));
}

#[test]
fn one_bad_validator_of_a_slot_does_not_spoil_the_others() {
    let validators: Vec<_> = (0..8).map(|seed| Validator::new(seed, 3, 4)).collect();
    let messages: Vec<[u8; 32]> = (0..8_u8).map(|number| [number / 4; 32]).collect();
    let mut partials: Vec<_> =
        validators.iter().zip(&messages).map(|(v, message)| v.partials(message)).collect();
    partials[2][1].1 = validators[2].shares[1].sign(b"lie").to_bytes();
    partials[5][1].1 = SignatureBytes::ZERO;
    partials[6].truncate(2);
    let jobs: Vec<_> =
        validators.iter().zip(&messages).zip(&partials).map(|((v, message), p)| v.job(message, p)).collect();
    let combined = Combiner::default().combine(&jobs, Epoch(1), &mut rng());
    assert_eq!(combined.liars, vec![index(2)]);
    for (number, result) in combined.results.iter().enumerate() {
        match (number, result) {
            (6, result) => {
                assert_eq!(*result, Err(CombineError::TooFew { valid: 2, needed: 3, liars: vec![] }));
            }
            (_, result) => {
                let signature = result.as_ref().unwrap();
                verify_bytes(&validators[number].group_key.to_bytes(), &messages[number], signature).unwrap();
            }
        }
    }
}

#[test]
fn no_job_gives_no_result() {
    assert!(Combiner::default().combine(&[], Epoch(1), &mut rng()).results.is_empty());
}

/// A slot of one cluster: the partials of every validator, and what each operator does to its own.
fn slot(validators: &[Validator], message: &[u8]) -> Vec<Vec<(ShareIndex, SignatureBytes)>> {
    validators.iter().map(|validator| validator.partials(message)).collect()
}

fn jobs<'a>(
    validators: &'a [Validator],
    message: &'a [u8],
    partials: &'a [Vec<(ShareIndex, SignatureBytes)>],
) -> Vec<Job<'a>> {
    validators.iter().zip(partials).map(|(validator, partials)| validator.job(message, partials)).collect()
}

#[test]
fn a_liar_is_trusted_last_until_it_was_good_for_an_epoch() {
    let validators: Vec<_> = (0..3).map(|seed| Validator::new(seed, 3, 4)).collect();
    let combiner = Combiner::default();
    let honest = slot(&validators, MESSAGE);
    let mut lying = honest.clone();
    for (validator, partials) in validators.iter().zip(&mut lying) {
        partials[1].1 = validator.shares[1].sign(b"lie").to_bytes();
    }
    let liars = |partials: &[Vec<_>], epoch| {
        let combination = combiner.combine(&jobs(&validators, MESSAGE, partials), Epoch(epoch), &mut rng());
        assert!(combination.results.iter().all(Result::is_ok));
        combination.liars
    };
    assert_eq!(liars(&honest, 1), []);
    assert_eq!(liars(&lying, 1), [index(2)]);
    assert_eq!(combiner.suspects(Epoch(1)), [index(2)]);
    assert_eq!(liars(&lying, 2), [index(2)], "one of its partials is looked at in every slot");
    assert_eq!(liars(&honest, 2), []);
    assert_eq!(combiner.suspects(Epoch(3)), [index(2)]);
    assert_eq!(combiner.suspects(Epoch(4)), []);
    assert_eq!(liars(&lying, 4), [index(2)], "and its next lie is found as the first was");
}

#[test]
fn a_suspect_that_is_needed_is_used_after_a_look() {
    let validators: Vec<_> = (0..5).map(|seed| Validator::new(seed, 3, 4)).collect();
    let combiner = Combiner::default();
    let mut partials = slot(&validators, MESSAGE);
    partials[0][1].1 = SignatureBytes::ZERO;
    let combination = combiner.combine(&jobs(&validators, MESSAGE, &partials), Epoch(1), &mut rng());
    assert_eq!(combination.liars, [index(2)]);
    // Operator 4 is away now, and operator 2 lies about one validator of five.
    let mut partials = slot(&validators, MESSAGE);
    partials[3][1].1 = validators[3].shares[1].sign(b"lie").to_bytes();
    partials.iter_mut().for_each(|partials| partials.truncate(3));
    let combination = combiner.combine(&jobs(&validators, MESSAGE, &partials), Epoch(1), &mut rng());
    assert_eq!(combination.liars, [index(2)]);
    for (number, result) in combination.results.iter().enumerate() {
        match number {
            3 => {
                assert_eq!(*result, Err(CombineError::TooFew { valid: 2, needed: 3, liars: vec![index(2)] }))
            }
            _ => assert!(result.is_ok(), "{number}: {result:?}"),
        }
    }
}

#[test]
fn points_and_messages_known_beforehand_change_nothing() {
    let validators: Vec<_> = (0..2).map(|seed| Validator::new(seed, 3, 4)).collect();
    let partials = slot(&validators, MESSAGE);
    let jobs = jobs(&validators, MESSAGE, &partials);
    let expected = Combiner::default().combine(&jobs, Epoch(1), &mut rng());
    let combiner = Combiner::default();
    combiner.expect_message(MESSAGE);
    combiner.expect_partials(partials.iter().flatten().map(|(_, bytes)| *bytes));
    combiner.expect_partials([SignatureBytes::ZERO]);
    assert_eq!(combiner.combine(&jobs, Epoch(1), &mut rng()), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The optimistic way and the plain way, over whole slots of mixed messages and lies, two calls in a row.
    #[test]
    fn both_ways_agree(
        seed: u64,
        cluster in prop_oneof![Just((2, 3)), Just((3, 4)), Just((5, 7))],
        count in 1_usize..5,
        lies_told in proptest::collection::vec((0_usize..5, 0_usize..7, 0_usize..7), 0..8),
        silent in proptest::collection::vec((0_usize..5, 0_usize..7), 0..6),
    ) {
        let (threshold, total) = cluster;
        let validators: Vec<_> = (0..count)
            .map(|number| Validator::new(seed.wrapping_add(u64::try_from(number).unwrap()), threshold, total))
            .collect();
        let messages: Vec<&[u8]> = (0..count).map(|number| if number % 3 == 2 { b"other" } else { MESSAGE }).collect();
        let combiner = Combiner::default();
        for lies_told in [&lies_told[..], &lies_told[..lies_told.len() / 2]] {
            let mut partials: Vec<_> =
                validators.iter().zip(&messages).map(|(validator, message)| validator.partials(message)).collect();
            for (validator, operator, how) in lies_told {
                let (validator, operator) = (validator % count, operator % total);
                let lie = lies(&validators[validator], operator)[*how].1;
                partials[validator][operator].1 = lie;
            }
            for (validator, operator) in &silent {
                let partials = &mut partials[validator % count];
                if partials.len() > 1 {
                    partials.remove(operator % partials.len());
                }
            }
            let jobs: Vec<_> = validators
                .iter()
                .zip(&messages)
                .zip(&partials)
                .map(|((validator, message), partials)| validator.job(message, partials))
                .collect();
            let combination = combiner.combine(&jobs, Epoch(1), &mut rng());
            let mut truly_wrong = std::collections::BTreeSet::new();
            for (job, result) in jobs.iter().zip(&combination.results) {
                let wrong = |(index, bytes): &&(ShareIndex, SignatureBytes)| {
                    verify_bytes(&job.public_shares[index].to_bytes(), job.message, bytes).is_err()
                };
                let wrong: Vec<_> = job.partials.iter().filter(wrong).map(|(index, _)| *index).collect();
                truly_wrong.extend(wrong.iter().copied());
                match (result, combine_plainly(job)) {
                    (Ok(signature), Ok(plain)) => {
                        prop_assert_eq!(*signature, plain.signature);
                        prop_assert_eq!(plain.liars, wrong);
                    }
                    (Err(CombineError::TooFew { liars, .. }), Err(CombineError::TooFew { liars: plain, .. })) => {
                        prop_assert_eq!(&plain, &wrong);
                        prop_assert!(liars.iter().all(|liar| wrong.contains(liar)));
                        // Enough came, and yet there is no signature: then every lie is known.
                        if job.partials.len() >= job.threshold {
                            prop_assert!(!liars.is_empty());
                        }
                    }
                    (ours, plain) => prop_assert!(false, "{:?} and {:?}", ours, plain),
                }
            }
            prop_assert!(combination.liars.iter().all(|liar| truly_wrong.contains(liar)), "an honest operator is never named");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_are_refused_or_parsed_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Signature::from_slice(&bytes);
        let _ = PublicKey::from_slice(&bytes);
        let _ = SecretKey::from_bytes(&bytes);
    }

    #[test]
    fn a_mutated_partial_never_passes(place in 0_usize..96, change in 1_u8.., liar in 0_usize..3) {
        let validator = Validator::new(8, 3, 3);
        let mut partials = validator.partials(MESSAGE);
        partials[liar].1.0[place] ^= change;
        let error = combine_and_verify(&validator.job(MESSAGE, &partials), &mut rng()).unwrap_err();
        let liars = vec![partials[liar].0];
        prop_assert_eq!(error, CombineError::TooFew { valid: 2, needed: 3, liars });
    }
}
