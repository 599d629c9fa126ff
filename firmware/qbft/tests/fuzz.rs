//! Whatever members say, an instance neither panics nor contradicts itself, and what it says is durable first.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, as tests do")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use qbft::{Ballot, Config, Digest, Event, Instance, Kind, Member, Message, Output, RoundTimer, Size, Vote};

fn digest() -> impl Strategy<Value = Digest> {
    prop_oneof![Just(Digest::ZERO), (1..4u8).prop_map(|byte| Digest([byte; 32]))]
}

fn ballot() -> impl Strategy<Value = Ballot> {
    let round = prop_oneof![9 => 0..6u64, 1 => any::<u64>()];
    let kind = (1..=5i64).prop_map(|number| Kind::from_number(number).unwrap());
    (kind, 0..6u8, round.clone(), digest(), round, digest()).prop_map(
        |(kind, author, round, value, prepared_round, prepared_value)| Ballot {
            kind,
            author: Member(author),
            round,
            value,
            prepared_round,
            prepared_value,
        },
    )
}

fn event() -> impl Strategy<Value = Event<u8>> {
    let vote = || ballot().prop_map(|ballot| Vote { ballot, seal: Some(0) });
    let message = (vote(), prop::collection::vec(vote(), 0..10))
        .prop_map(|(vote, justification)| Event::Message(Message { vote, justification }));
    prop_oneof![
        1 => Just(Event::Start),
        1 => digest().prop_map(Event::Input),
        2 => (0..6u64).prop_map(Event::RoundTimeout),
        20 => message,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nonsense_is_survived(me in 0..4u8, events in prop::collection::vec(event(), 0..120)) {
        let size = Size::new(4).unwrap();
        let config = Config { size, me: Member(me), leader_offset: 3, timer: RoundTimer::eager(0) };
        let mut instance = Instance::new(config);
        let mut saved = None;
        let mut said: BTreeMap<(u64, Kind), Digest> = BTreeMap::new();
        let mut out = Vec::new();
        for event in std::iter::once(Event::Start).chain(events) {
            let _refused = instance.step(event, &mut out);
            for output in out.drain(..) {
                match output {
                    Output::Persist(journal) => saved = Some(journal),
                    Output::Broadcast(message) => {
                        let ballot = message.vote.ballot;
                        let journal = saved.as_ref().expect("durable before spoken");
                        prop_assert_eq!(ballot.author, Member(me));
                        prop_assert!(ballot.kind == Kind::Decided || journal.round == ballot.round);
                        if ballot.kind == Kind::Prepare {
                            prop_assert_eq!(journal.voted, Some(ballot.value));
                        }
                        let before = *said.entry((ballot.round, ballot.kind)).or_insert(ballot.value);
                        prop_assert_eq!(before, ballot.value);
                    }
                    Output::SetTimer { .. } | Output::StopTimer | Output::Decided(_) => {}
                }
            }
        }
    }
}
