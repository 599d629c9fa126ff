//! Exits as members hand them on: in files, through the Obol API's forms, and as they wait on the disk.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use chain::{Epoch, PublicKeyBytes, SignedVoluntaryExit, ValidatorIndex, VoluntaryExit};
use cluster::exit::{self, ExitBlob, FullExitAnswer, PartialExits};
use cluster::exit_pool::ExitPool;
use threshold::{PublicKey, Signature};

use crate::world::{created, exit_domain, validators};
use crate::{Target, Verdict};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "partial_exits",
        about: "a member's file of partial exits, also signed anew: verified ones are right, and make no wrong exit whole",
        max_bytes: 4096,
        run: partial_exits,
        seeds: partial_seeds,
    },
    Target {
        name: "exit_file",
        about: "a whole exit in a file: nothing but the validator's own signature passes",
        max_bytes: 4096,
        run: exit_file,
        seeds: exit_file_seeds,
    },
    Target {
        name: "obol_api_exit",
        about: "the Obol API's answer: each signature is its share's or is named, one that is wrong takes no other with it",
        max_bytes: 4096,
        run: obol_api_exit,
        seeds: obol_api_exit_seeds,
    },
    Target {
        name: "exit_pool",
        about: "partial exits on the disk: what is kept is right, written and read the same",
        max_bytes: 4096,
        run: exit_pool,
        seeds: exit_pool_seeds,
    },
];

const EPOCH: u64 = 7;

fn message(validator: usize, epoch: u64) -> VoluntaryExit {
    let index = if validator == 0 { 100 } else { 99 };
    VoluntaryExit { epoch: Epoch(epoch), validator_index: ValidatorIndex(index) }
}

fn signed(node: usize, validator: usize) -> SignedVoluntaryExit {
    let message = message(validator, EPOCH);
    let root = chain::signing_root(&message, exit_domain());
    let signature = created().nodes[node].shares[validator].sign(&root.0).to_bytes();
    SignedVoluntaryExit { message, signature }
}

pub(crate) fn handed_in(node: usize) -> PartialExits {
    let blob = |validator: usize| ExitBlob {
        public_key: validators()[validator],
        signed_exit_message: signed(node, validator),
    };
    let share = u8::try_from(node + 1).expect("one of four");
    PartialExits::sign(vec![blob(0), blob(1)], share, &created().nodes[node].identity).expect("our own exits")
}

/// Independent of the code that is tried: one key, one message, one signature.
fn is_right(key: &PublicKeyBytes, exit: &SignedVoluntaryExit) -> bool {
    let root = chain::signing_root(&exit.message, exit_domain());
    let (Ok(key), Ok(signature)) = (PublicKey::parse(key), Signature::parse(&exit.signature)) else {
        return false;
    };
    threshold::verify(&key, &root.0, &signature)
}

fn partial_exits(input: &[u8]) -> Verdict {
    let Ok(read) = PartialExits::from_json(input) else { return Verdict::Refused };
    assert_eq!(PartialExits::from_json(&read.to_json()).ok().as_ref(), Some(&read));
    let mut verdict = check_partials(&read);
    // Only a member can sign, and a member may lie about what it signs.
    let node = usize::try_from(read.share_idx).unwrap_or(0) % created().nodes.len();
    let share = u8::try_from(node + 1).expect("one of four");
    if let Ok(again) = PartialExits::sign(read.partial_exits, share, &created().nodes[node].identity) {
        verdict = verdict.or(check_partials(&again));
    }
    verdict
}

fn check_partials(read: &PartialExits) -> Verdict {
    let view = &created().view;
    let Ok(verified) = read.verify(view, exit_domain()) else { return Verdict::Refused };
    let place = usize::try_from(verified.share_index()).expect("a small index") - 1;
    for exit in verified.exits() {
        let validator = view.validators.iter().find(|known| known.group_public_key == exit.public_key);
        let share = validator.expect("a validator of this cluster").public_shares[place];
        assert!(is_right(&share, &exit.signed_exit_message), "a wrong partial exit was verified");
    }
    // With the honest members' it makes whole exits or none.
    let mut members = vec![verified];
    members.extend(HONEST.iter().cloned());
    for validator in validators() {
        if let Ok(exit) = exit::combine(view, &validator, &members, exit_domain()) {
            assert!(is_right(&validator, &exit), "a wrong exit was made whole");
        }
    }
    Verdict::Taken
}

static HONEST: LazyLock<Vec<exit::VerifiedPartialExits>> = LazyLock::new(|| {
    let verified = |node| handed_in(node).verify(&created().view, exit_domain()).expect("our own exits");
    (0..3).map(verified).collect()
});

fn partial_seeds() -> Vec<Vec<u8>> {
    vec![handed_in(0).to_json(), handed_in(3).to_json()]
}

fn exit_file(input: &[u8]) -> Verdict {
    let validator = validators()[0];
    let mut verdict = Verdict::Refused;
    if let Ok(exit) = exit::parse_file(input, &validator, exit_domain()) {
        assert!(is_right(&validator, &exit));
        let again = exit::parse_file(&exit::file_content(&exit), &validator, exit_domain());
        assert_eq!(again.ok(), Some(exit));
        verdict = Verdict::Taken;
    }
    verdict
}

fn exit_file_seeds() -> Vec<Vec<u8>> {
    let whole =
        exit::combine(&created().view, &validators()[0], &HONEST, exit_domain()).expect("three of four");
    vec![exit::file_content(&whole)]
}

fn obol_api_exit(input: &[u8]) -> Verdict {
    let Ok(mut answer) = serde_json::from_slice::<FullExitAnswer>(input) else { return Verdict::Refused };
    let (view, validator) = (&created().view, validators()[0]);
    check_answer(&answer);
    // The same with a right signature put in: whatever else is in it, that one counts.
    let right = signed(2, 0);
    if answer.message() == right.message && answer.signatures.len() == 4 {
        answer.signatures[2] = right.signature.to_string();
        check_answer(&answer);
        let partials = answer.partials(view, &validator, exit_domain()).expect("as many as members");
        assert!(partials.right.contains(&(3, right.signature)));
    }
    Verdict::Taken
}

fn check_answer(answer: &FullExitAnswer) {
    let (view, validator) = (&created().view, validators()[0]);
    if let Ok(partials) = answer.partials(view, &validator, exit_domain()) {
        let known = view.validators.iter().find(|known| known.group_public_key == validator);
        let shares = &known.expect("a validator of this cluster").public_shares;
        for (share, signature) in &partials.right {
            let exit = SignedVoluntaryExit { message: answer.message(), signature: *signature };
            let place = usize::try_from(share - 1).expect("a small index");
            assert!(is_right(&shares[place], &exit), "a wrong partial exit was taken");
        }
        let places = answer.signatures.iter().filter(|text| !text.is_empty()).count();
        assert!(partials.right.len() + partials.wrong.len() <= places, "more than there are");
    }
    if let Ok(exit) = answer.combine(view, &validator, exit_domain()) {
        assert!(is_right(&validator, &exit));
    }
}

fn obol_api_exit_seeds() -> Vec<Vec<u8>> {
    let signature = |node: usize| signed(node, 0).signature.to_string();
    let answer = |signatures: Vec<String>| {
        let answer = serde_json::json!({"epoch": EPOCH.to_string(), "validator_index": "100", "signatures": signatures});
        answer.to_string().into_bytes()
    };
    let foreign = signed(1, 1).signature.to_string();
    vec![
        answer((0..3).map(signature).collect()),
        answer(vec![String::new(), signature(1)]),
        answer(vec![signature(3), foreign, "0x01".to_owned(), signature(0)]),
    ]
}

fn exit_pool(input: &[u8]) -> Verdict {
    let view = &created().view;
    let Some(pool) = ExitPool::from_json(input, view, exit_domain()) else { return Verdict::Refused };
    let mut seen = BTreeSet::new();
    for pending in pool.pending() {
        let message = pending.message;
        assert!(seen.insert((pending.validator, message.epoch, message.validator_index)), "kept twice");
        let validator = view.validators.iter().find(|known| known.group_public_key == pending.validator);
        let shares = &validator.expect("a validator of this cluster").public_shares;
        for (share, signature) in &pending.partials {
            let exit = SignedVoluntaryExit { message, signature: *signature };
            assert!(is_right(&shares[usize::from(*share) - 1], &exit), "a wrong partial exit is kept");
        }
    }
    let again = ExitPool::from_json(&pool.to_json(), view, exit_domain()).expect("what is kept is readable");
    assert_eq!(again.pending(), pool.pending());
    for (validator, exit) in pool.to_publish(view, exit_domain(), |_| true) {
        if let Ok(exit) = exit {
            assert!(is_right(&validator, &exit), "a wrong exit would be published");
        }
    }
    Verdict::Taken
}

fn exit_pool_seeds() -> Vec<Vec<u8>> {
    let view = &created().view;
    let mut pool = ExitPool::default();
    let mut seeds = vec![pool.to_json()];
    for node in 0..3 {
        for (validator, key) in validators().iter().enumerate() {
            let share = u8::try_from(node + 1).expect("one of four");
            pool.take(view, exit_domain(), share, key, signed(node, validator)).expect("our own exit");
        }
        seeds.push(pool.to_json());
    }
    pool.set_published(&validators()[0], message(0, EPOCH));
    seeds.push(pool.to_json());
    seeds
}
