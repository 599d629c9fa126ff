//! One engine, driven by hand: what it wants, in which order, and how each duty ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, as tests do")]

use std::collections::BTreeMap;

use chain::{Checkpoint, Epoch, PublicKeyBytes, Root, SignatureBytes, Slot, SlotTiming, UnixMillis};
use duty::{
    Clock, Component, Digest, Duty, DutyKind, Engine, Event, FetchError, Input, Known,
    MAX_BLOCK_BYTES_PER_MEMBER, MAX_PARTIAL_BYTES_PER_MEMBER, MAX_UNSCHEDULED_PARTIALS_PER_MEMBER,
    MAX_UNSCHEDULED_PER_MEMBER, MAX_VALUE_BYTES_PER_MEMBER, MAX_VALUE_BYTES_PER_MEMBER_IN_ALL, Member,
    Network, Outcome, Output, Partial, Payload, PublishError, Reason, Record, Refusal, Saved, Settings,
    SignError, Task, TaskId, UnknownView, Unreadable, Value, Vote,
};
use qbft::{Ballot, Kind, Message, Size};

const SLOT: Slot = Slot(100);
const DUE: u64 = 100 * 12_000 + 4_000;
const DEADLINE: u64 = 100 * 12_000 + 32 * 12_000 + 1_000;
const KEY: PublicKeyBytes = PublicKeyBytes([1; 48]);
const OTHER_KEY: PublicKeyBytes = PublicKeyBytes([2; 48]);

/// Values are one byte: the target root of the vote. Byte 99 cannot be read. A second byte is that of another validator.
struct Simple;

impl Network for Simple {
    type Seal = u8;

    fn read(&self, duty: Duty, value: &[u8], known: &Known<'_>) -> Result<Vec<Task>, Unreadable> {
        if duty.kind.row().input == Input::TheDutyItself {
            let task = |validator: &PublicKeyBytes| Task {
                id: TaskId::from(*validator),
                message_root: Root([8; 32]),
                vote: None,
                data: Payload::from([8]),
            };
            return Ok(known.validators.keys().map(task).collect());
        }
        if !(1..=2).contains(&value.len()) {
            return Err(Unreadable("one byte or two expected".to_owned()));
        }
        if value.contains(&99) {
            return Err(Unreadable("nonsense".to_owned()));
        }
        let checkpoint = |epoch, byte| Checkpoint { epoch: Epoch(epoch), root: Root([byte; 32]) };
        let task = |(validator, byte): (PublicKeyBytes, &u8)| {
            let vote = Vote { source: checkpoint(2, 7), target: checkpoint(3, *byte) };
            let vote = (duty.kind == DutyKind::Attester).then_some(vote);
            let (message_root, data) = (Root([*byte; 32]), Payload::from([*byte]));
            Task { id: TaskId::from(validator), message_root, vote, data }
        };
        Ok([KEY, OTHER_KEY].into_iter().zip(value).map(task).collect())
    }
}

fn value(byte: u8) -> Value {
    Value { digest: Digest([byte; 32]), bytes: Payload::from([byte]) }
}

fn attester() -> Duty {
    Duty::new(SLOT, DutyKind::Attester)
}

/// An engine with a clock and a list of everything it wanted.
struct Bench {
    engine: Engine<Simple>,
    now: u64,
    wants: Vec<Output<u8>>,
}

impl Bench {
    fn new(members: usize) -> Self {
        Bench::restored(members, BTreeMap::new())
    }

    fn restored(members: usize, saved: BTreeMap<Duty, Saved<u8>>) -> Self {
        Bench::with_policy(members, saved, UnknownView::Sign)
    }

    fn with_policy(members: usize, saved: BTreeMap<Duty, Saved<u8>>, unknown_view: UnknownView) -> Self {
        let settings = Settings {
            timing: SlotTiming::new(0, 12_000, 32).unwrap(),
            size: Size::new(members).unwrap(),
            me: Member(0),
            threshold: (2 * members).div_ceil(3),
            unknown_view,
            view_patience_ms: 500,
        };
        let mut bench =
            Bench { engine: Engine::new(settings, Simple, saved), now: DUE - 10_000, wants: vec![] };
        bench.tell(Event::Clock(Clock::Trusted)).unwrap();
        bench
    }

    fn with_duty(members: usize) -> Self {
        let mut bench = Bench::new(members);
        bench.schedule(attester()).unwrap();
        bench.wait_until(DUE);
        bench
    }

    fn tell(&mut self, event: Event<u8>) -> Result<(), Refusal> {
        self.engine.step(UnixMillis(self.now), event, &mut self.wants)
    }

    fn schedule(&mut self, duty: Duty) -> Result<(), Refusal> {
        let validators = BTreeMap::from([(KEY, Payload::from([]))]);
        self.tell(Event::Schedule { duty, validators })
    }

    /// Lets time pass, waking the engine whenever it asks for it.
    fn wait_until(&mut self, until: u64) {
        for _ in 0..10_000 {
            match self.engine.next_wake().filter(|wake| wake.0 <= until) {
                Some(wake) => self.now = self.now.max(wake.0),
                None => break,
            }
            self.tell(Event::Tick).unwrap();
        }
        self.now = until;
        self.tell(Event::Tick).unwrap();
    }

    fn fetched(&mut self, byte: u8) {
        self.tell(Event::Fetched { duty: attester(), result: Ok(value(byte)) }).unwrap();
    }

    /// The others have agreed, and prove it.
    fn decided(&mut self, byte: u8) {
        self.decided_on(value(byte));
    }

    fn decided_on(&mut self, value: Value) {
        self.told_of_a_decision(value).unwrap();
    }

    fn told_of_a_decision(&mut self, value: Value) -> Result<(), Refusal> {
        let ballot = |kind, author| Ballot::for_value(kind, Member(author), 1, value.digest);
        let vote = |ballot: Ballot| qbft::Vote { ballot, seal: Some(ballot.author.0) };
        let message = Message {
            vote: vote(ballot(Kind::Decided, 1)),
            justification: (1..4).map(|author| vote(ballot(Kind::Commit, author))).collect(),
        };
        self.tell(Event::Agreement { duty: attester(), message, values: vec![value] })
    }

    fn signed(&mut self, result: Result<u8, SignError>) {
        let result = result.map(|byte| SignatureBytes([byte; 96]));
        self.tell(Event::Signed { duty: attester(), results: vec![(TaskId::from(KEY), result)] }).unwrap();
    }

    fn partial(&mut self, from: u8, byte: u8) -> Result<(), Refusal> {
        let partial = Partial {
            id: TaskId::from(KEY),
            message_root: Root([byte; 32]),
            signature: SignatureBytes([from; 96]),
            data: Payload::from([byte]),
        };
        self.tell(Event::Partials { duty: attester(), sender: Member(from), set: vec![partial] })
    }

    fn combined(&mut self, result: Result<u8, Vec<u8>>) {
        let signature = |byte| SignatureBytes([byte; 96]);
        let members = |liars: Vec<u8>| liars.into_iter().map(Member).collect();
        let result = result.map(signature).map_err(members);
        self.tell(Event::Combined { duty: attester(), results: vec![(TaskId::from(KEY), result)] }).unwrap();
    }

    fn published(&mut self, result: Result<(), PublishError>) {
        self.tell(Event::Published { duty: attester(), result }).unwrap();
    }

    /// Names of what it wanted since the last look.
    fn names(&mut self) -> Vec<&'static str> {
        self.wants.drain(..).map(|output| name(&output)).collect()
    }

    fn count(&self, wanted: &str) -> usize {
        self.wants.iter().filter(|output| name(output) == wanted).count()
    }

    /// The one record, once the duty is over.
    fn record(&mut self) -> Record {
        self.wait_until(DEADLINE);
        let record =
            |output: &Output<u8>| if let Output::Outcome(r) = output { Some(r.clone()) } else { None };
        let mut records: Vec<Record> = self.wants.iter().filter_map(record).collect();
        assert_eq!(records.len(), 1, "exactly one outcome");
        assert_eq!(self.engine.remembered(), 0, "everything is forgotten");
        records.remove(0)
    }

    fn missed(&mut self) -> Reason {
        match self.record().outcome {
            Outcome::Missed(reason) => reason,
            other @ (Outcome::Done | Outcome::NotNeeded) => panic!("{other:?}"),
        }
    }
}

fn name(output: &Output<u8>) -> &'static str {
    match output {
        Output::Persist { .. } => "persist",
        Output::Forget { .. } => "forget",
        Output::Fetch { .. } => "fetch",
        Output::Broadcast { .. } => "broadcast",
        Output::Agreed { .. } => "agreed",
        Output::Sign { .. } => "sign",
        Output::SendPartials { .. } => "send",
        Output::Combine { .. } => "combine",
        Output::Publish { .. } => "publish",
        Output::Provide { .. } => "provide",
        Output::Outcome(_) => "outcome",
    }
}

#[test]
fn one_attestation_from_schedule_to_done() {
    let mut bench = Bench::with_duty(4);
    assert_eq!(bench.names(), ["fetch"]);
    bench.fetched(5);
    assert!(bench.names().is_empty(), "member 2 leads, not we");
    bench.decided(5);
    assert_eq!(bench.names(), ["persist", "agreed", "sign"]);
    bench.signed(Ok(0));
    assert_eq!(bench.names(), ["send"]);
    bench.partial(3, 5).unwrap();
    assert!(bench.names().is_empty());
    bench.partial(1, 5).unwrap();
    assert_eq!(bench.names(), ["combine"]);
    bench.partial(2, 5).unwrap();
    assert!(bench.names().is_empty(), "the threshold fires once");
    bench.combined(Ok(9));
    assert_eq!(bench.names(), ["publish"]);
    bench.now += 100;
    bench.published(Ok(()));
    let record = bench.record();
    assert_eq!(record.outcome, Outcome::Done);
    assert_eq!((record.decided_round, record.leader), (Some(1), Some(Member(3))));
    assert_eq!(record.partials_from, [Member(0), Member(1), Member(3)]);
    assert_eq!((record.expected, record.published, record.published_ms_into_slot), (1, 1, Some(4_100)));
    assert_eq!(record.withheld, None);
}

#[test]
fn a_box_alone_does_everything_itself() {
    let mut bench = Bench::with_duty(1);
    bench.fetched(5);
    let names = bench.names();
    assert_eq!(names.first(), Some(&"fetch"));
    assert_eq!(names[names.len() - 2..], ["agreed", "sign"]);
    for pair in names.windows(2).filter(|pair| pair[1] == "agreed") {
        assert_eq!(pair[0], "persist", "the decision is durable before it is used");
    }
    bench.signed(Ok(0));
    bench.combined(Ok(9));
    bench.published(Ok(()));
    assert_eq!(bench.record().outcome, Outcome::Done);
}

#[test]
fn every_way_to_miss_has_its_own_reason() {
    type Story = fn(&mut Bench);
    let fetch_fails: Story = |bench| {
        let result = Err(FetchError::Temporary("refused".to_owned()));
        bench.tell(Event::Fetched { duty: attester(), result }).unwrap();
    };
    let table: [(&str, Component, usize, Story); 15] = [
        ("members_silent", Component::Members, 4, |bench| bench.fetched(5)),
        ("no_data", Component::BeaconNode, 1, fetch_fails),
        ("no_answer", Component::BeaconNode, 1, |_| {}),
        ("decision_unusable", Component::Members, 4, |bench| bench.decided(99)),
        ("views_differ", Component::BeaconNode, 4, |bench| {
            bench.fetched(6);
            bench.decided(5);
        }),
        ("clock_untrusted", Component::Clock, 4, |bench| {
            bench.tell(Event::Clock(Clock::Untrusted)).unwrap();
            bench.fetched(5);
            bench.decided(5);
        }),
        ("signer_refused", Component::Signer, 4, |bench| {
            bench.fetched(5);
            bench.decided(5);
            bench.signed(Err(SignError::Refused("double vote".to_owned())));
        }),
        ("not_asked", Component::Ourselves, 4, |bench| {
            bench.fetched(5);
            bench.decided(5);
            bench.signed(Err(SignError::Withheld("before its first vote".to_owned())));
        }),
        ("not_asked", Component::Ourselves, 4, |bench| {
            bench.fetched(5);
            bench.decided(5);
            bench.signed(Err(SignError::HeldBack("another is being signed".to_owned())));
        }),
        ("signer_unavailable", Component::Signer, 4, |bench| {
            bench.fetched(5);
            bench.decided(5);
            bench.signed(Err(SignError::Unavailable("locked".to_owned())));
        }),
        ("signer_silent", Component::Signer, 4, |bench| {
            bench.fetched(5);
            bench.decided(5);
        }),
        ("partials_missing", Component::Members, 4, |bench| {
            bench.fetched(5);
            bench.decided(5);
            bench.signed(Ok(0));
            bench.partial(1, 5).unwrap();
        }),
        ("partials_differ", Component::Members, 4, |bench| {
            bench.fetched(5);
            bench.decided(5);
            bench.signed(Ok(0));
            bench.partial(1, 5).unwrap();
            bench.partial(2, 6).unwrap();
        }),
        ("partials_wrong", Component::Members, 4, |bench| {
            bench.fetched(5);
            bench.decided(5);
            bench.signed(Ok(0));
            bench.partial(1, 5).unwrap();
            bench.partial(2, 5).unwrap();
            bench.combined(Err(vec![2]));
        }),
        ("publish_failed", Component::BeaconNode, 4, |bench| {
            bench.fetched(5);
            bench.decided(5);
            bench.signed(Ok(0));
            bench.partial(1, 5).unwrap();
            bench.partial(2, 5).unwrap();
            bench.combined(Ok(9));
            bench.published(Err(PublishError::Permanent("bad".to_owned())));
        }),
    ];
    for (code, component, members, story) in table {
        let mut bench = Bench::with_duty(members);
        story(&mut bench);
        let reason = bench.missed();
        assert_eq!((reason.code(), reason.component()), (code, component));
    }
}

#[test]
fn the_others_can_finish_what_we_refuse_to_sign() {
    let mut bench = Bench::with_duty(4);
    bench.fetched(6);
    bench.decided(5);
    (1..4).for_each(|from| bench.partial(from, 5).unwrap());
    bench.combined(Ok(9));
    bench.published(Ok(()));
    let record = bench.record();
    assert_eq!((record.outcome, record.withheld), (Outcome::Done, Some(Reason::ViewsDiffer)));
    assert_eq!(bench.count("sign"), 0);
}

#[test]
fn a_late_beacon_node_is_asked_again_and_may_come_round() {
    let mut bench = Bench::with_duty(4);
    bench.fetched(6);
    bench.decided(5);
    assert_eq!(bench.count("sign"), 0);
    bench.wants.clear();
    bench.wait_until(DUE + 300);
    assert_eq!(bench.count("fetch"), 1);
    bench.fetched(5);
    assert_eq!(bench.count("sign"), 1);
}

#[test]
fn the_votes_of_validators_that_come_later_are_judged_too() {
    let asked = |bench: &Bench| {
        let tasks = |output: &Output<u8>| {
            let Output::Sign { tasks, .. } = output else { return vec![] };
            tasks.iter().map(|task| task.id.validator).collect()
        };
        bench.wants.iter().flat_map(tasks).collect::<Vec<_>>()
    };
    for (theirs, signed) in [(5, vec![KEY, OTHER_KEY]), (6, vec![KEY])] {
        let mut bench = Bench::with_duty(4);
        bench.fetched(5);
        bench.decided_on(Value { digest: Digest([56; 32]), bytes: Payload::from([5, theirs]) });
        bench.signed(Ok(0));
        assert_eq!(asked(&bench), [KEY]);
        let validators = BTreeMap::from([(OTHER_KEY, Payload::from([]))]);
        bench.tell(Event::Schedule { duty: attester(), validators }).unwrap();
        bench.wait_until(DUE + 60_000);
        assert_eq!(asked(&bench), signed, "voting for {theirs}");
        let withheld = (theirs == 6).then_some(Reason::ViewsDiffer);
        assert!(withheld.is_none() || bench.missed() == Reason::ViewsDiffer);
    }
}

#[test]
fn votes_are_judged_although_nobody_had_any_to_sign_at_first() {
    let mut bench = Bench::new(4);
    let validators = BTreeMap::from([(PublicKeyBytes([3; 48]), Payload::from([]))]);
    bench.tell(Event::Schedule { duty: attester(), validators }).unwrap();
    bench.wait_until(DUE);
    bench.fetched(6);
    bench.decided(5);
    bench.schedule(attester()).unwrap();
    bench.wait_until(DUE + 60_000);
    assert_eq!(bench.count("sign"), 0);
}

#[test]
fn without_a_view_of_our_own_the_cluster_is_trusted_after_a_while() {
    let mut bench = Bench::with_duty(4);
    bench.decided(5);
    bench.wait_until(DUE + 499);
    assert_eq!(bench.count("sign"), 0);
    bench.wait_until(DUE + 500);
    assert_eq!(bench.count("sign"), 1);
}

#[test]
fn a_busy_signer_is_asked_again_and_a_refusal_is_final() {
    for (for_now, for_good) in [
        (SignError::Unavailable("starting".to_owned()), SignError::Refused("no".to_owned())),
        (SignError::HeldBack("not yet".to_owned()), SignError::Withheld("never".to_owned())),
    ] {
        let mut bench = Bench::with_duty(4);
        bench.fetched(5);
        bench.decided(5);
        bench.signed(Err(for_now));
        bench.wait_until(DUE + 250);
        assert_eq!(bench.count("sign"), 2);
        bench.signed(Err(for_good));
        bench.wait_until(DUE + 60_000);
        assert_eq!(bench.count("sign"), 2);
    }
}

#[test]
fn failed_questions_to_the_beacon_node_are_repeated_until_the_deadline_and_not_beyond() {
    let mut bench = Bench::with_duty(1);
    let fail = || Event::Fetched { duty: attester(), result: Err(FetchError::Temporary("down".to_owned())) };
    let mut asked = Vec::new();
    while bench.now < DEADLINE {
        if bench.count("fetch") > 0 {
            asked.push(bench.now - DUE);
            bench.wants.retain(|output| name(output) != "fetch");
            bench.tell(fail()).unwrap();
        }
        let next = bench.engine.next_wake().unwrap().0;
        bench.wait_until(next);
    }
    assert_eq!(asked[..4], [0, 250, 650, 1_290]);
    assert!(asked.len() > 30 && *asked.last().unwrap() < DEADLINE - DUE);
    assert_eq!(bench.engine.next_wake(), None);
}

#[test]
fn a_liar_is_named_and_replaced() {
    let mut bench = Bench::with_duty(4);
    bench.fetched(5);
    bench.decided(5);
    bench.signed(Ok(0));
    bench.partial(1, 5).unwrap();
    bench.partial(2, 5).unwrap();
    bench.wants.clear();
    bench.combined(Err(vec![1]));
    assert!(bench.names().is_empty());
    assert_eq!(bench.partial(1, 5), Err(Refusal::KnownLiar(Member(1))));
    bench.partial(3, 5).unwrap();
    assert_eq!(bench.names(), ["combine"]);
    bench.combined(Ok(9));
    bench.published(Ok(()));
    let record = bench.record();
    assert_eq!((record.outcome, record.liars), (Outcome::Done, vec![Member(1)]));
    assert_eq!(record.partials_from, [Member(0), Member(2), Member(3)]);
}

#[test]
fn the_gate_refuses_these() {
    let mut bench = Bench::new(4);
    let ahead = Duty::new(Slot(32 * 6), DutyKind::Attester); // Now is epoch 3.
    let allowed = Duty::new(Slot(32 * 6 - 1), DutyKind::Attester);
    let old = Duty::new(Slot(60), DutyKind::Attester);
    assert_eq!(bench.schedule(ahead), Err(Refusal::TooFarAhead(ahead)));
    assert_eq!(bench.schedule(allowed), Ok(()));
    assert_eq!(bench.schedule(old), Err(Refusal::Expired(old)));
    assert_eq!(bench.partial(0, 5), Err(Refusal::NotAPeer(Member(0))));
    assert_eq!(bench.partial(4, 5), Err(Refusal::NotAPeer(Member(4))));
    let unknown = Event::Fetched { duty: attester(), result: Ok(value(1)) };
    assert_eq!(bench.tell(unknown), Err(Refusal::Unknown(attester())));
    let duty = Duty::new(SLOT, DutyKind::Randao);
    let vote = qbft::Vote { ballot: Ballot::round_change(Member(1), 2, None), seal: Some(1) };
    let message = Message { vote, justification: vec![] };
    let event = Event::Agreement { duty, message, values: vec![] };
    assert_eq!(bench.tell(event), Err(Refusal::NoAgreement(duty)));
}

#[test]
fn answers_nobody_asked_for_change_nothing() {
    let mut bench = Bench::with_duty(4);
    bench.fetched(5);
    let again = Event::Fetched { duty: attester(), result: Ok(value(6)) };
    assert_eq!(bench.tell(again), Err(Refusal::NotAsked));
    let signed = Event::Signed { duty: attester(), results: vec![] };
    assert_eq!(bench.tell(signed), Err(Refusal::NotAsked));
    let published = Event::Published { duty: attester(), result: Ok(()) };
    assert_eq!(bench.tell(published), Err(Refusal::NotAsked));
}

#[test]
fn what_peers_say_before_the_duty_begins_is_kept_in_bounds() {
    let mut bench = Bench::new(4);
    let prepare = |round| {
        let ballot = Ballot::for_value(Kind::Prepare, Member(1), round, Digest([5; 32]));
        let message = Message { vote: qbft::Vote { ballot, seal: Some(1) }, justification: vec![] };
        Event::Agreement { duty: attester(), message, values: vec![value(5)] }
    };
    bench.decided(5);
    (1..25).for_each(|round| bench.tell(prepare(round)).unwrap());
    assert_eq!(bench.tell(prepare(25)), Err(Refusal::TooManyWaiting(attester())));
    assert!(bench.wants.is_empty());
    bench.schedule(attester()).unwrap();
    bench.wait_until(DUE);
    assert_eq!(bench.count("agreed"), 1, "what waited is heard when the duty begins");
}

#[test]
fn a_peer_cannot_speak_of_endless_duties() {
    let mut bench = Bench::new(4);
    let speak = |slot| Event::Partials {
        duty: Duty::new(Slot(slot), DutyKind::Attester),
        sender: Member(1),
        set: vec![Partial {
            id: TaskId::from(KEY),
            message_root: Root::ZERO,
            signature: SignatureBytes::ZERO,
            data: Payload::from([]),
        }],
    };
    let accepted = (80..190).filter(|slot| bench.tell(speak(*slot)).is_ok()).count();
    assert_eq!(accepted, MAX_UNSCHEDULED_PER_MEMBER);
    bench.wait_until(DEADLINE + 2 * 32 * 12_000);
    assert_eq!(bench.engine.remembered(), 0);
    assert_eq!(bench.count("outcome"), 0, "nobody scheduled them");
}

#[test]
fn a_value_must_come_with_its_digest() {
    let mut bench = Bench::with_duty(4);
    let ballot = Ballot::for_value(Kind::Prepare, Member(1), 1, Digest([5; 32]));
    let message = Message { vote: qbft::Vote { ballot, seal: Some(1) }, justification: vec![] };
    let without = Event::Agreement { duty: attester(), message: message.clone(), values: vec![] };
    assert_eq!(bench.tell(without), Err(Refusal::ValueMissing(Member(1))));
    let with = Event::Agreement { duty: attester(), message, values: vec![value(5)] };
    assert_eq!(bench.tell(with), Ok(()));
}

#[test]
fn a_member_cannot_propose_endlessly() {
    let mut bench = Bench::with_duty(4);
    let prepare = |byte: u8| {
        let ballot = Ballot::for_value(Kind::Prepare, Member(1), 1, Digest([byte; 32]));
        let message = Message { vote: qbft::Vote { ballot, seal: Some(1) }, justification: vec![] };
        Event::Agreement { duty: attester(), message, values: vec![value(byte)] }
    };
    let accepted = (1..90).filter(|byte| bench.tell(prepare(*byte)).is_ok()).count();
    assert_eq!(accepted, duty::MAX_VALUES_PER_MEMBER);
}

#[test]
fn after_a_restart_the_decision_and_its_value_are_still_there() {
    let mut bench = Bench::with_duty(4);
    bench.fetched(5);
    bench.decided(5);
    let saved = |output: &Output<u8>| {
        if let Output::Persist { saved, .. } = output { Some(saved.clone()) } else { None }
    };
    let saved = bench.wants.iter().rev().find_map(saved).unwrap();
    let text = serde_json::to_string(&saved).unwrap();
    let saved: Saved<u8> = serde_json::from_str(&text).unwrap();

    let mut bench = Bench::restored(4, BTreeMap::from([(attester(), saved.clone())]));
    bench.schedule(attester()).unwrap();
    bench.wait_until(DUE + 1_000);
    assert_eq!(bench.names(), ["fetch", "agreed", "sign"]);
    bench.wait_until(DEADLINE);
    assert_eq!(bench.count("forget"), 1);

    let mut never_scheduled = Bench::restored(4, BTreeMap::from([(attester(), saved)]));
    never_scheduled.wait_until(DEADLINE);
    assert_eq!(never_scheduled.names(), ["forget"]);
}

#[test]
fn a_box_that_signs_nothing_without_a_view_of_its_own_waits_for_one() {
    let mut bench = Bench::with_policy(4, BTreeMap::new(), UnknownView::Refuse);
    bench.schedule(attester()).unwrap();
    bench.wait_until(DUE);
    bench.decided(5);
    bench.wait_until(DUE + 60_000);
    assert_eq!(bench.count("sign"), 0);
    bench.fetched(5);
    assert_eq!(bench.count("sign"), 1, "its node has come round");
}

#[test]
fn duties_without_agreement_are_signed_at_once_and_given_to_those_that_need_them() {
    let mut bench = Bench::new(1);
    let (proposer, randao) = (Duty::new(SLOT, DutyKind::Proposer), Duty::new(SLOT, DutyKind::Randao));
    bench.schedule(proposer).unwrap();
    bench.wait_until(100 * 12_000);
    assert!(!bench.names().contains(&"fetch"), "a block needs the randao reveal first");
    bench.schedule(randao).unwrap();
    assert_eq!(bench.names(), ["sign"], "the duty itself says what to sign");
    let signature = SignatureBytes([1; 96]);
    let signed = Event::Signed { duty: randao, results: vec![(TaskId::from(KEY), Ok(signature))] };
    bench.tell(signed.clone()).unwrap();
    assert_eq!(bench.names(), ["send", "combine"]);
    assert_eq!(bench.tell(signed), Err(Refusal::NotAsked), "a repeated signature is not sent again");
    bench.tell(Event::Combined { duty: randao, results: vec![(TaskId::from(KEY), Ok(signature))] }).unwrap();
    let of_block = |output: &Output<u8>| {
        if let Output::Fetch { given, .. } = output { Some(given.clone()) } else { None }
    };
    let given = bench.wants.iter().find_map(of_block).expect("the block is asked for");
    assert_eq!(given[&(DutyKind::Randao, TaskId::from(KEY))].signature, signature);
    assert!(bench.names().contains(&"provide"));
    assert_eq!(bench.engine.pending().collect::<Vec<_>>(), [proposer]);
}

#[test]
fn a_vote_may_begin_when_its_block_is_here_but_not_before_its_slot() {
    let start = 100 * 12_000;
    let mut bench = Bench::new(4);
    let aggregator = Duty::new(SLOT, DutyKind::Aggregator);
    let may_begin = |duty| Event::MayBegin { duty };
    assert_eq!(bench.tell(may_begin(attester())), Err(Refusal::Unknown(attester())));
    bench.schedule(attester()).unwrap();
    bench.schedule(aggregator).unwrap();
    bench.wait_until(start - 1);
    assert_eq!(bench.tell(may_begin(attester())), Err(Refusal::NotAsked));
    bench.wait_until(start + 600);
    assert_eq!(bench.tell(may_begin(aggregator)), Err(Refusal::NotAsked), "it votes for no block");
    assert!(bench.names().is_empty());
    bench.tell(may_begin(attester())).unwrap();
    assert_eq!(bench.names(), ["fetch"]);
    bench.fetched(5);
    bench.decided(5);
    assert_eq!(bench.names(), ["persist", "agreed", "sign"]);
    bench.signed(Ok(0));
    assert_eq!(bench.names(), ["send"]);
    bench.wait_until(DUE + 3_000);
    assert!(bench.names().is_empty(), "the third finds nothing to begin");
}

#[test]
fn an_early_vote_that_our_own_beacon_node_does_not_confirm_is_not_signed_until_it_does() {
    // It says nothing, or another target.
    for own in [None, Some(6)] {
        let mut bench = Bench::with_policy(4, BTreeMap::new(), UnknownView::Refuse);
        bench.schedule(attester()).unwrap();
        bench.wait_until(100 * 12_000 + 600);
        bench.tell(Event::MayBegin { duty: attester() }).unwrap();
        if let Some(byte) = own {
            bench.fetched(byte);
        }
        bench.decided(5);
        bench.wait_until(DUE + 60_000);
        assert_eq!(bench.count("sign"), 0, "{own:?}");
        bench.fetched(5);
        assert_eq!(bench.count("sign"), 1, "its node has come round");
    }
}

#[test]
fn a_clock_set_back_within_a_slot_that_began_early_signs_nothing_before_the_slot_is_there_again_and_then_once()
 {
    let start = 100 * 12_000;
    let mut bench = Bench::new(4);
    bench.schedule(attester()).unwrap();
    bench.wait_until(start + 600);
    bench.tell(Event::MayBegin { duty: attester() }).unwrap();
    bench.fetched(5);
    // Set back to before the slot. Nobody vouches for it at first, then another clock does.
    bench.tell(Event::Clock(Clock::Untrusted)).unwrap();
    bench.now = start - 1_400;
    bench.decided(5);
    assert_eq!(bench.count("sign"), 0);
    bench.tell(Event::Clock(Clock::Trusted)).unwrap();
    bench.wait_until(start - 1);
    assert_eq!(bench.count("sign"), 0, "the slot is not there");
    bench.now = start + 10;
    bench.tell(Event::Clock(Clock::Trusted)).unwrap();
    assert_eq!(bench.count("sign"), 1);
    bench.signed(Ok(0));
    // Set back once more: what was said is said.
    bench.now = start - 1_400;
    for now in [start - 1_400, start + 20, DUE, DUE + 3_000] {
        bench.wait_until(now);
        let _known = bench.tell(Event::MayBegin { duty: attester() });
        let _known = bench.told_of_a_decision(value(5));
    }
    assert_eq!((bench.count("sign"), bench.count("send"), bench.count("fetch")), (1, 1, 1));
}

#[test]
fn rounds_of_a_vote_that_began_early_end_with_those_of_the_others() {
    let mut bench = Bench::new(4);
    bench.schedule(attester()).unwrap();
    bench.wait_until(100 * 12_000 + 600);
    bench.tell(Event::MayBegin { duty: attester() }).unwrap();
    bench.fetched(5);
    bench.wait_until(DUE + 999);
    assert_eq!(bench.count("broadcast"), 0, "somebody else leads, and may begin at the third");
    bench.wait_until(DUE + 1_000);
    assert_eq!(bench.count("broadcast"), 1);
}

#[test]
fn what_becomes_complete_while_a_combination_is_under_way_goes_together_after_it() {
    let mut bench = Bench::new(4);
    let randao = Duty::new(SLOT, DutyKind::Randao);
    let validators = (1..=3).map(|byte| (PublicKeyBytes([byte; 48]), Payload::from([])));
    bench.wait_until(100 * 12_000);
    bench.tell(Event::Schedule { duty: randao, validators: validators.collect() }).unwrap();
    let jobs = |bench: &mut Bench| -> Vec<usize> {
        let count = |output| if let Output::Combine { jobs, .. } = output { Some(jobs.len()) } else { None };
        bench.wants.drain(..).filter_map(count).collect()
    };
    let complete = |bench: &mut Bench, byte: u8| {
        for from in 1..4 {
            let partial = Partial {
                id: TaskId::from(PublicKeyBytes([byte; 48])),
                message_root: Root([8; 32]),
                signature: SignatureBytes([from; 96]),
                data: Payload::from([8]),
            };
            let event = Event::Partials { duty: randao, sender: Member(from), set: vec![partial] };
            bench.tell(event).unwrap();
        }
        jobs(bench)
    };
    assert_eq!(complete(&mut bench, 1), [1], "at once");
    assert!(complete(&mut bench, 2).is_empty() && complete(&mut bench, 3).is_empty());
    let results = vec![(TaskId::from(PublicKeyBytes([1; 48])), Ok(SignatureBytes([9; 96])))];
    bench.tell(Event::Combined { duty: randao, results }).unwrap();
    assert_eq!(jobs(&mut bench), [2]);
}

#[test]
fn a_list_of_which_a_part_is_refused_counts_as_published_for_the_rest() {
    let duty = Duty::new(SLOT, DutyKind::SyncMessage);
    let id = |byte: u8| TaskId::from(PublicKeyBytes([byte; 48]));
    let outcome = |refused: &[u8]| {
        let mut bench = Bench::new(4);
        let validators = (1..=3).map(|byte| (PublicKeyBytes([byte; 48]), Payload::from([])));
        bench.wait_until(100 * 12_000 + 4_000);
        bench.tell(Event::Schedule { duty, validators: validators.collect() }).unwrap();
        for from in 1..4 {
            let partial = |byte: u8| Partial {
                id: id(byte),
                message_root: Root([8; 32]),
                signature: SignatureBytes([from; 96]),
                data: Payload::from([8]),
            };
            let set = (1..=3).map(partial).collect();
            bench.tell(Event::Partials { duty, sender: Member(from), set }).unwrap();
        }
        let results = (1..=3).map(|byte| (id(byte), Ok(SignatureBytes([9; 96])))).collect();
        bench.tell(Event::Combined { duty, results }).unwrap();
        let refused: BTreeMap<_, _> = refused.iter().map(|byte| (id(*byte), "too old".to_owned())).collect();
        bench.tell(Event::Published { duty, result: Err(PublishError::Partly(refused)) }).unwrap();
        bench.wait_until(DEADLINE);
        assert_eq!(bench.count("publish"), 1, "neither the one nor the other goes out again");
        let record = bench.record();
        (record.published, record.outcome)
    };
    let failed = Outcome::Missed(Reason::PublishFailed("too old".to_owned()));
    assert_eq!(outcome(&[2]), (2, failed.clone()));
    assert_eq!(outcome(&[1, 3]), (1, failed.clone()));
    assert_eq!(outcome(&[1, 2, 3]), (0, failed));
}

/// Two validators aggregate in one slot; selections arrive from the other members.
fn selections(given: &[u8]) -> Bench {
    let mut bench = Bench::new(4);
    let selection = Duty::new(SLOT, DutyKind::PrepareAggregator);
    for duty in [selection, Duty::new(SLOT, DutyKind::Aggregator)] {
        let validators = [1, 2].map(|byte| (PublicKeyBytes([byte; 48]), Payload::from([])));
        bench.tell(Event::Schedule { duty, validators: BTreeMap::from(validators) }).unwrap();
    }
    for byte in given {
        let id = TaskId::from(PublicKeyBytes([*byte; 48]));
        for from in 1..4 {
            let partial = Partial {
                id,
                message_root: Root([8; 32]),
                signature: SignatureBytes([from; 96]),
                data: Payload::from([8]),
            };
            let event = Event::Partials { duty: selection, sender: Member(from), set: vec![partial] };
            bench.tell(event).unwrap();
        }
        let results = vec![(id, Ok(SignatureBytes([9; 96])))];
        bench.tell(Event::Combined { duty: selection, results }).unwrap();
    }
    bench
}

fn fetched_for(bench: &Bench) -> Vec<usize> {
    let count = |output: &Output<u8>| {
        if let Output::Fetch { validators, .. } = output { Some(validators.len()) } else { None }
    };
    bench.wants.iter().filter_map(count).collect()
}

const AGGREGATES_DUE: u64 = 100 * 12_000 + 8_000;

#[test]
fn an_aggregator_goes_on_although_anothers_selection_is_missing() {
    let mut both = selections(&[1, 2]);
    both.wait_until(AGGREGATES_DUE);
    assert_eq!(fetched_for(&both), [2]);

    let mut none = selections(&[]);
    none.wait_until(AGGREGATES_DUE + 3_000);
    assert!(fetched_for(&none).is_empty());

    let mut one = selections(&[2]);
    one.wait_until(AGGREGATES_DUE + 499);
    assert!(fetched_for(&one).is_empty(), "the other one may be on its way");
    one.wait_until(AGGREGATES_DUE + 500);
    assert_eq!(fetched_for(&one), [1]);
}

#[test]
fn nothing_to_do_for_some_says_nothing_of_the_others() {
    let mut bench = selections(&[1]);
    bench.wait_until(AGGREGATES_DUE + 500);
    let aggregator = Duty::new(SLOT, DutyKind::Aggregator);
    let nothing = || Event::Fetched { duty: aggregator, result: Err(FetchError::NothingToDo) };
    bench.tell(nothing()).unwrap();
    bench.wait_until(AGGREGATES_DUE + 1_500);
    assert_eq!((fetched_for(&bench).len(), bench.count("outcome")), (1, 0));

    let mut bench = selections(&[1, 2]);
    bench.wait_until(AGGREGATES_DUE);
    bench.wants.clear();
    bench.tell(nothing()).unwrap();
    assert_eq!(bench.names(), ["outcome"]);
}

#[test]
fn a_missing_selection_is_the_reason() {
    let bench = &mut selections(&[]);
    bench.wait_until(AGGREGATES_DUE + 33 * 12_000);
    let record = |output: &Output<u8>| if let Output::Outcome(r) = output { Some(r.clone()) } else { None };
    let mut records = bench.wants.iter().filter_map(record);
    let record = records.find(|record| record.duty.kind == DutyKind::Aggregator).unwrap();
    assert_eq!(record.outcome, Outcome::Missed(Reason::NeedsMissing));
}

#[test]
fn a_whole_epoch_of_selections_may_come_before_we_schedule_any() {
    let mut bench = Bench::new(4);
    let speak = |slot: u64, count: usize| Event::Partials {
        duty: Duty::new(Slot(slot), DutyKind::PrepareAggregator),
        sender: Member(1),
        set: (0..count)
            .map(|number| Partial {
                id: TaskId { validator: KEY, subcommittee: u64::try_from(number).unwrap() },
                message_root: Root::ZERO,
                signature: SignatureBytes::ZERO,
                data: Payload::from([]),
            })
            .collect(),
    };
    for slot in 96..160 {
        bench.tell(speak(slot, 40)).unwrap();
        bench.tell(speak(slot, 40)).unwrap(); // Said twice: kept once.
    }
    let held = 64 * 40;
    let more = MAX_UNSCHEDULED_PARTIALS_PER_MEMBER - held;
    let duty = Duty::new(Slot(160), DutyKind::PrepareAggregator);
    assert_eq!(bench.tell(speak(160, more / 2)), Ok(()));
    assert_eq!(bench.tell(speak(161, more / 2 + 1)), Err(Refusal::TooManyPartials(Member(1))));
    let validators = BTreeMap::from([(KEY, Payload::from([]))]);
    bench.tell(Event::Schedule { duty, validators }).unwrap();
    assert_eq!(bench.tell(speak(161, more / 2 + 1)), Ok(()), "what is scheduled does not count");
}

#[test]
fn a_member_cannot_fill_memory_with_partial_signatures() {
    let mut bench = Bench::new(4);
    let slots = 100..140;
    slots.clone().for_each(|slot| bench.schedule(Duty::new(Slot(slot), DutyKind::Attester)).unwrap());
    // As large as no message of a validator but a block.
    let speak = |from: u8, slot: u64, first: u8| {
        let mut data = vec![0; 1 << 20];
        data[0] = first;
        let partial = Partial {
            id: TaskId::from(KEY),
            message_root: Root::ZERO,
            signature: SignatureBytes([from; 96]),
            data: Payload::from(data),
        };
        let duty = Duty::new(Slot(slot), DutyKind::Attester);
        Event::Partials { duty, sender: Member(from), set: vec![partial] }
    };
    let fits = u64::try_from(MAX_PARTIAL_BYTES_PER_MEMBER >> 20).unwrap() - 1;
    for slot in slots.clone() {
        let expected = if slot < 100 + fits { Ok(()) } else { Err(Refusal::TooManyPartials(Member(1))) };
        assert_eq!(bench.tell(speak(1, slot, 1)), expected, "slot {slot}");
    }
    assert_eq!(bench.tell(speak(1, 100, 1)), Ok(()), "saying it again costs nothing");
    for slot in 100..100 + fits {
        bench.tell(speak(2, slot, 1)).unwrap(); // The same messages: kept and counted once.
    }
    for slot in 100..100 + fits {
        bench.tell(speak(3, slot, 2)).unwrap(); // Others: a budget of its own.
    }
    for slot in 100 + fits..140 {
        bench.tell(speak(2, slot, 1)).unwrap();
    }
    assert_eq!(bench.tell(speak(3, 139, 2)), Err(Refusal::TooManyPartials(Member(3))));
    bench.wait_until(DEADLINE + 12_000);
    assert_eq!(bench.tell(speak(3, 139, 2)), Ok(()), "duties that are over make room");
}

/// A message of member 1 that names a value of this length.
fn naming(duty: Duty, length: usize, round: u64) -> Event<u8> {
    let digest = Digest([u8::try_from(round).unwrap(); 32]);
    let ballot = Ballot::for_value(Kind::Prepare, Member(1), round, digest);
    let message = Message { vote: qbft::Vote { ballot, seal: Some(1) }, justification: vec![] };
    Event::Agreement { duty, message, values: vec![Value { digest, bytes: vec![0; length].into() }] }
}

#[test]
fn a_block_with_all_its_blobs_may_be_proposed_and_larger_values_may_not() {
    let mut bench = Bench::new(4);
    let too_much = Err(Refusal::TooManyValues(Member(1)));
    let proposer = Duty::new(SLOT, DutyKind::Proposer);
    // A full block as hex; then another one, as in a second round.
    assert_eq!(bench.tell(naming(proposer, 7 << 20, 1)), Ok(()));
    assert_eq!(bench.tell(naming(proposer, 7 << 20, 2)), Ok(()));
    assert_eq!(bench.tell(naming(proposer, MAX_BLOCK_BYTES_PER_MEMBER - (14 << 20) + 1, 3)), too_much);
    assert_eq!(bench.tell(naming(attester(), MAX_VALUE_BYTES_PER_MEMBER + 1, 1)), too_much);
    assert_eq!(bench.tell(naming(attester(), MAX_VALUE_BYTES_PER_MEMBER, 2)), Ok(()));
}

#[test]
fn a_member_cannot_fill_memory_with_values_of_many_duties() {
    let mut bench = Bench::new(4);
    let proposer = |slot| Duty::new(Slot(slot), DutyKind::Proposer);
    let whole = MAX_BLOCK_BYTES_PER_MEMBER;
    let fits = u64::try_from(MAX_VALUE_BYTES_PER_MEMBER_IN_ALL / whole).unwrap();
    for slot in 100..100 + fits {
        bench.tell(naming(proposer(slot), whole, 1)).unwrap();
    }
    let more = || naming(proposer(120), 1, 1);
    assert_eq!(bench.tell(more()), Err(Refusal::TooManyValues(Member(1))));
    assert_eq!(bench.tell(naming(proposer(100), whole, 1)), Ok(()), "what is known may be named");
    bench.wait_until(102 * 12_000);
    assert_eq!(bench.tell(more()), Ok(()), "duties that are over make room");
}

#[test]
fn what_nobody_would_listen_to_is_not_proposed() {
    let mut bench = Bench::with_duty(4);
    let bytes = Payload::from(vec![0; MAX_VALUE_BYTES_PER_MEMBER + 1]);
    let result = Ok(Value { digest: Digest([5; 32]), bytes });
    bench.tell(Event::Fetched { duty: attester(), result }).unwrap();
    bench.wants.clear();
    bench.wait_until(DUE + 250);
    assert_eq!(bench.count("fetch"), 1);
    bench.wait_until(DUE + 60_000);
    let named = |output: &Output<u8>| {
        if let Output::Broadcast { values, .. } = output { values.len() } else { 0 }
    };
    assert!(bench.count("broadcast") > 0);
    assert_eq!(bench.wants.iter().map(named).sum::<usize>(), 0);
}

#[test]
fn signatures_may_come_one_by_one_and_late() {
    let mut bench = Bench::new(4);
    let selection = Duty::new(SLOT, DutyKind::PrepareAggregator);
    let ids = [1, 2].map(|byte| TaskId::from(PublicKeyBytes([byte; 48])));
    let validators = ids.map(|id| (id.validator, Payload::from([])));
    bench.tell(Event::Schedule { duty: selection, validators: BTreeMap::from(validators) }).unwrap();
    for id in ids {
        let results = vec![(id, Ok(SignatureBytes([1; 96])))];
        bench.tell(Event::Signed { duty: selection, results: results.clone() }).unwrap();
        assert_eq!(bench.tell(Event::Signed { duty: selection, results }), Err(Refusal::NotAsked));
    }
    assert_eq!(bench.count("send"), 2);
}

#[test]
fn duties_that_never_expire_make_room_for_newer_ones() {
    let mut bench = Bench::new(4);
    (90..100).for_each(|slot| bench.schedule(Duty::new(Slot(slot), DutyKind::Exit)).unwrap());
    assert_eq!(bench.count("outcome"), 0);
    bench.schedule(Duty::new(Slot(100), DutyKind::Exit)).unwrap();
    assert_eq!(bench.count("outcome"), 1);
    assert_eq!(bench.engine.remembered(), duty::MAX_WITHOUT_DEADLINE);
}
