//! The rules of the protocol, one fact per test, seen through the public interface only.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, as tests do")]

use std::collections::VecDeque;

use qbft::{
    Ballot, Config, Digest, Event, Instance, Journal, Kind, MAX_DECIDED_ANSWERS, MAX_ROUND, Member, Message,
    Output, Prepared, Refusal, RoundTimer, Size, Vote,
};

type Seal = u8;
const A: Digest = Digest([0xaa; 32]);
const B: Digest = Digest([0xbb; 32]);

fn config(members: usize, me: u8) -> Config {
    Config {
        size: Size::new(members).unwrap(),
        me: Member(me),
        leader_offset: 0, // Member 1 leads round 1, member 2 round 2, and so on.
        timer: RoundTimer::eager(10_000),
    }
}

fn started(members: usize, me: u8) -> Instance<Seal> {
    let mut instance = Instance::new(config(members, me));
    instance.step(Event::Start, &mut Vec::new()).unwrap();
    instance
}

fn vote(ballot: Ballot) -> Vote<Seal> {
    Vote { ballot, seal: Some(ballot.author.0) }
}

fn plain(ballot: Ballot) -> Message<Seal> {
    Message { vote: vote(ballot), justification: Vec::new() }
}

fn says(kind: Kind, author: u8, round: u64, value: Digest) -> Ballot {
    Ballot::for_value(kind, Member(author), round, value)
}

fn all(kind: Kind, authors: &[u8], round: u64, value: Digest) -> Vec<Vote<Seal>> {
    authors.iter().map(|author| vote(says(kind, *author, round, value))).collect()
}

fn unprepared(authors: &[u8], round: u64) -> Vec<Vote<Seal>> {
    authors.iter().map(|author| vote(Ballot::round_change(Member(*author), round, None))).collect()
}

/// Steps and returns what the instance wants to say.
fn hear(instance: &mut Instance<Seal>, message: Message<Seal>) -> Vec<Message<Seal>> {
    let mut out = Vec::new();
    instance.step(Event::Message(message), &mut out).unwrap();
    said(out)
}

fn said(out: Vec<Output<Seal>>) -> Vec<Message<Seal>> {
    let message = |output| if let Output::Broadcast(message) = output { Some(message) } else { None };
    out.into_iter().filter_map(message).collect()
}

fn kinds(messages: &[Message<Seal>]) -> Vec<Kind> {
    messages.iter().map(|message| message.vote.ballot.kind).collect()
}

fn refusal(instance: &mut Instance<Seal>, message: Message<Seal>) -> Refusal {
    let mut out = Vec::new();
    let refusal = instance.step(Event::Message(message), &mut out).unwrap_err();
    assert!(out.is_empty(), "a refused message has no effect");
    refusal
}

/// A whole cluster whose messages arrive at once, in order. `down` members do nothing.
struct Cluster {
    instances: Vec<Option<Instance<Seal>>>,
    post: VecDeque<(Member, Message<Seal>)>,
    decided: Vec<Option<(u64, Digest)>>,
}

impl Cluster {
    fn new(members: u8, down: &[u8]) -> Self {
        let make = |me| (!down.contains(&me)).then(|| Instance::new(config(usize::from(members), me)));
        let mut cluster = Cluster {
            instances: (0..members).map(make).collect(),
            post: VecDeque::new(),
            decided: vec![None; usize::from(members)],
        };
        cluster.everybody(|me| vec![Event::Input(Digest([me + 1; 32])), Event::Start]);
        cluster
    }

    fn everybody(&mut self, events: impl Fn(u8) -> Vec<Event<Seal>>) {
        for me in 0..u8::try_from(self.instances.len()).unwrap() {
            for event in events(me) {
                self.give(Member(me), event);
            }
        }
        while let Some((from, mut message)) = self.post.pop_front() {
            for vote in std::iter::once(&mut message.vote).chain(&mut message.justification) {
                vote.seal.get_or_insert(from.0);
            }
            for to in 0..u8::try_from(self.instances.len()).unwrap() {
                if to != from.0 {
                    self.give(Member(to), Event::Message(message.clone()));
                }
            }
        }
    }

    fn time_out(&mut self, round: u64) {
        self.everybody(|_| vec![Event::RoundTimeout(round)]);
    }

    fn give(&mut self, to: Member, event: Event<Seal>) {
        let Some(instance) = &mut self.instances[usize::from(to.0)] else { return };
        let mut out = Vec::new();
        let _may_be_refused = instance.step(event, &mut out);
        for output in out {
            match output {
                Output::Broadcast(message) => self.post.push_back((to, message)),
                Output::Decided(decision) => {
                    self.decided[usize::from(to.0)] = Some((decision.round, decision.value));
                }
                Output::Persist(_) | Output::SetTimer { .. } | Output::StopTimer => {}
            }
        }
    }
}

#[test]
fn with_any_follower_down_the_leader_wins_in_round_one() {
    for down in [0, 2, 3] {
        let cluster = Cluster::new(4, &[down]);
        for (member, decided) in (0..).zip(&cluster.decided) {
            let expected = (member != down).then_some((1, Digest([2; 32])));
            assert_eq!(*decided, expected, "member {member}, {down} is down");
        }
    }
}

#[test]
fn with_the_leader_down_the_next_one_wins_in_round_two() {
    let mut cluster = Cluster::new(4, &[1]);
    assert_eq!(cluster.decided, [None; 4]);
    cluster.time_out(1);
    let won = Some((2, Digest([3; 32])));
    assert_eq!(cluster.decided, [won, None, won, won]);
}

#[test]
fn two_dead_leaders_cost_two_rounds() {
    let mut cluster = Cluster::new(7, &[1, 2]);
    cluster.time_out(1);
    cluster.time_out(2);
    assert_eq!(cluster.decided[0], Some((3, Digest([4; 32]))));
}

#[test]
fn too_few_members_never_decide() {
    let mut cluster = Cluster::new(4, &[1, 2]);
    (1..20).for_each(|round| cluster.time_out(round));
    assert_eq!(cluster.decided, [None; 4]);
}

#[test]
fn a_lone_member_agrees_with_itself() {
    assert_eq!(Cluster::new(1, &[]).decided, [Some((1, Digest([1; 32])))]);
}

#[test]
fn a_leader_proposes_as_soon_as_it_knows_its_value() {
    let mut leader = started(4, 1);
    let mut out = Vec::new();
    leader.step(Event::Input(A), &mut out).unwrap();
    assert_eq!(kinds(&said(out)), [Kind::PrePrepare, Kind::Prepare]);
    let mut follower = started(4, 0);
    let mut out = Vec::new();
    follower.step(Event::Input(A), &mut out).unwrap();
    assert!(out.is_empty());
}

#[test]
fn a_leader_without_a_value_loses_its_turn_when_the_round_ends() {
    let mut leader = started(4, 1);
    let mut out = Vec::new();
    leader.step(Event::RoundTimeout(1), &mut out).unwrap();
    leader.step(Event::Input(A), &mut out).unwrap();
    assert_eq!(kinds(&said(out)), [Kind::RoundChange]);
}

#[test]
fn no_value_is_no_input() {
    assert_eq!(started(4, 1).step(Event::Input(Digest::ZERO), &mut Vec::new()), Err(Refusal::NoValue));
}

#[test]
fn a_proposal_is_prepared_and_its_round_gets_more_time() {
    let mut instance = started(4, 0);
    let mut out = Vec::new();
    instance.step(Event::Message(plain(says(Kind::PrePrepare, 1, 1, A))), &mut out).unwrap();
    assert!(matches!(out[0], Output::SetTimer { round: 1, at_ms: 12_000 }), "{out:?}");
    assert!(matches!(&out[1], Output::Persist(journal) if journal.voted == Some(A)));
    assert!(matches!(&out[2], Output::Broadcast(m) if m.vote.ballot == says(Kind::Prepare, 0, 1, A)));
    assert_eq!(out.len(), 3);
}

#[test]
fn an_equivocating_leader_gets_one_vote() {
    let mut instance = started(4, 0);
    assert_eq!(hear(&mut instance, plain(says(Kind::PrePrepare, 1, 1, A))).len(), 1);
    assert!(hear(&mut instance, plain(says(Kind::PrePrepare, 1, 1, B))).is_empty());
    // Also when the proposal itself has moved us to the round.
    let later = |value| Message {
        vote: vote(says(Kind::PrePrepare, 2, 2, value)),
        justification: unprepared(&[1, 2, 3], 2),
    };
    assert_eq!(kinds(&hear(&mut instance, later(A))), [Kind::Prepare]);
    assert!(hear(&mut instance, later(B)).is_empty());
}

#[test]
fn what_is_committed_is_durable_first() {
    let mut instance = started(4, 0);
    hear(&mut instance, plain(says(Kind::PrePrepare, 1, 1, A)));
    hear(&mut instance, plain(says(Kind::Prepare, 1, 1, A)));
    let mut out = Vec::new();
    instance.step(Event::Message(plain(says(Kind::Prepare, 2, 1, A))), &mut out).unwrap();
    let Output::Persist(journal) = &out[0] else { panic!("{out:?}") };
    assert_eq!(journal.prepared.as_ref().map(|p| (p.round, p.value, p.prepares.len())), Some((1, A, 3)));
    assert!(matches!(&out[1], Output::Broadcast(m) if m.vote.ballot == says(Kind::Commit, 0, 1, A)));
}

#[test]
fn a_quorum_of_commits_decides_once() {
    let mut instance = started(4, 0);
    let mut out = Vec::new();
    for author in [1, 2, 3] {
        let _late = instance.step(Event::Message(plain(says(Kind::Commit, author, 1, A))), &mut out);
    }
    let decisions: Vec<_> = out.iter().filter(|o| matches!(o, Output::Decided(_))).collect();
    assert_eq!(decisions.len(), 1);
    assert_eq!(instance.decision().map(|d| (d.round, d.value, d.commits.len())), Some((1, A, 3)));
}

#[test]
fn votes_for_different_values_do_not_add_up() {
    let mut instance = started(4, 0);
    for (author, value) in [(1, A), (2, B), (3, A), (1, A), (3, A)] {
        assert!(hear(&mut instance, plain(says(Kind::Prepare, author, 1, value))).is_empty());
    }
}

#[test]
fn votes_of_other_rounds_trigger_nothing() {
    let mut instance = started(4, 0);
    for author in [1, 2, 3] {
        assert!(hear(&mut instance, plain(says(Kind::Prepare, author, 2, A))).is_empty());
        assert!(hear(&mut instance, plain(says(Kind::Commit, author, 2, A))).is_empty());
    }
    assert_eq!(instance.round(), 1);
}

#[test]
fn f_plus_one_members_ahead_pull_us_to_the_hindmost_of_them() {
    let mut instance = started(7, 0);
    for (author, round) in [(1, 9), (2, 5)] {
        assert!(hear(&mut instance, plain(Ballot::round_change(Member(author), round, None))).is_empty());
    }
    let said = hear(&mut instance, plain(Ballot::round_change(Member(3), 7, None)));
    assert_eq!(said[0].vote.ballot, Ballot::round_change(Member(0), 5, None));
    assert_eq!(instance.round(), 5);
}

#[test]
fn an_unprepared_quorum_lets_the_new_leader_choose() {
    let mut leader = started(4, 2);
    leader.step(Event::Input(B), &mut Vec::new()).unwrap();
    leader.step(Event::RoundTimeout(1), &mut Vec::new()).unwrap();
    assert!(hear(&mut leader, plain(Ballot::round_change(Member(0), 2, None))).is_empty());
    let said = hear(&mut leader, plain(Ballot::round_change(Member(3), 2, None)));
    assert_eq!(said[0].vote.ballot, says(Kind::PrePrepare, 2, 2, B));
    assert_eq!(said[0].justification.len(), 3);
    // Everybody else accepts the proof.
    assert_eq!(kinds(&hear(&mut started(4, 0), said[0].clone())), [Kind::Prepare]);
}

#[test]
fn a_prepared_value_binds_the_new_leader() {
    let mut leader = started(4, 2);
    leader.step(Event::Input(B), &mut Vec::new()).unwrap();
    leader.step(Event::RoundTimeout(1), &mut Vec::new()).unwrap();
    hear(&mut leader, plain(Ballot::round_change(Member(0), 2, None)));
    let prepared = Message {
        vote: vote(Ballot::round_change(Member(3), 2, Some((1, A)))),
        justification: all(Kind::Prepare, &[0, 1, 3], 1, A),
    };
    let said = hear(&mut leader, prepared);
    assert_eq!(said[0].vote.ballot, says(Kind::PrePrepare, 2, 2, A));
    assert_eq!(said[0].justification.len(), 6);
    assert_eq!(kinds(&hear(&mut started(4, 0), said[0].clone())), [Kind::Prepare]);
}

#[test]
fn a_leader_that_learns_its_value_late_proposes_with_the_proof_it_had() {
    let mut leader = started(4, 2);
    leader.step(Event::RoundTimeout(1), &mut Vec::new()).unwrap();
    hear(&mut leader, plain(Ballot::round_change(Member(0), 2, None)));
    assert!(hear(&mut leader, plain(Ballot::round_change(Member(3), 2, None))).is_empty());
    let mut out = Vec::new();
    leader.step(Event::Input(A), &mut out).unwrap();
    let said = said(out);
    assert_eq!((said[0].vote.ballot, said[0].justification.len()), (says(Kind::PrePrepare, 2, 2, A), 3));
}

#[test]
fn proposals_need_these_proofs() {
    let pair = |mut changes: Vec<Vote<Seal>>, more: Vec<Vote<Seal>>| {
        changes.extend(more);
        changes
    };
    let with_prepared = |round, value| {
        let mut changes = unprepared(&[0, 1], 2);
        changes.push(vote(Ballot::round_change(Member(3), 2, Some((round, value)))));
        changes
    };
    let stray = vote(says(Kind::Prepare, 2, 1, B));
    // (what, justification of member 2's proposal of A in round 2, accepted)
    let table = [
        ("no proof", vec![], false),
        ("J1", unprepared(&[0, 1, 3], 2), true),
        ("too few", unprepared(&[0, 1], 2), false),
        ("one member twice", unprepared(&[0, 1, 1], 2), false),
        ("changes to another round", unprepared(&[0, 1, 3], 3), false),
        ("prepared without proof", with_prepared(1, A), false),
        ("J2", pair(with_prepared(1, A), all(Kind::Prepare, &[0, 1, 3], 1, A)), true),
        ("proof of another value", pair(with_prepared(1, B), all(Kind::Prepare, &[0, 1, 3], 1, B)), false),
        (
            "nobody claims what is proven",
            pair(with_prepared(1, B), all(Kind::Prepare, &[0, 1, 3], 1, A)),
            false,
        ),
        ("somebody prepared later", pair(with_prepared(2, A), all(Kind::Prepare, &[0, 1, 3], 1, A)), false),
        ("too few prepares", pair(with_prepared(1, A), all(Kind::Prepare, &[0, 1], 1, A)), false),
        ("one prepare twice", pair(with_prepared(1, A), all(Kind::Prepare, &[0, 1, 3, 3], 1, A)), false),
        (
            "a stray prepare",
            pair(pair(with_prepared(1, A), all(Kind::Prepare, &[0, 1, 3], 1, A)), vec![stray]),
            false,
        ),
    ];
    for (what, justification, accepted) in table {
        let message = Message { vote: vote(says(Kind::PrePrepare, 2, 2, A)), justification };
        let result = started(4, 0).step(Event::Message(message), &mut Vec::new());
        assert_eq!(result, if accepted { Ok(()) } else { Err(Refusal::Unjustified) }, "{what}");
    }
}

#[test]
fn round_changes_and_decisions_need_these_proofs() {
    let change = |prepared, justification| Message {
        vote: vote(Ballot::round_change(Member(3), 2, prepared)),
        justification,
    };
    let decided = |justification| Message { vote: vote(says(Kind::Decided, 3, 5, A)), justification };
    let commits = |authors: &[u8], round, value| all(Kind::Commit, authors, round, value);
    let prepares = |authors: &[u8], round, value| all(Kind::Prepare, authors, round, value);
    let table = [
        ("unprepared", change(None, vec![]), true),
        ("claims without proof", change(Some((1, A)), vec![]), false),
        ("proven", change(Some((1, A)), prepares(&[0, 1, 3], 1, A)), true),
        ("too few", change(Some((1, A)), prepares(&[0, 1], 1, A)), false),
        ("twice the same", change(Some((1, A)), prepares(&[0, 1, 1], 1, A)), false),
        ("another value", change(Some((1, A)), prepares(&[0, 1, 3], 1, B)), false),
        ("another round", change(Some((1, A)), prepares(&[0, 1, 3], 2, A)), false),
        ("commits instead", change(Some((1, A)), commits(&[0, 1, 3], 1, A)), false),
        ("decided", decided(commits(&[0, 1, 3], 5, A)), true),
        ("decided, with strays", decided([commits(&[0, 1, 3], 5, A), commits(&[2], 4, B)].concat()), true),
        ("decided by too few", decided(commits(&[0, 1], 5, A)), false),
        ("decided in another round", decided(commits(&[0, 1, 3], 4, A)), false),
        ("decided by one", decided(commits(&[0, 0, 0], 5, A)), false),
    ];
    for (what, message, accepted) in table {
        let result = started(4, 0).step(Event::Message(message), &mut Vec::new());
        assert_eq!(result, if accepted { Ok(()) } else { Err(Refusal::Unjustified) }, "{what}");
    }
}

#[test]
fn these_messages_are_refused() {
    let mut many = plain(says(Kind::Prepare, 1, 1, A));
    many.justification = all(Kind::Prepare, &[1; 9], 1, A);
    let mut stranger_inside = plain(says(Kind::Prepare, 1, 1, A));
    stranger_inside.justification = all(Kind::Prepare, &[4], 1, A);
    let table = [
        (plain(says(Kind::PrePrepare, 1, 1, Digest::ZERO)), Refusal::NoValue),
        (plain(says(Kind::Decided, 1, 1, Digest::ZERO)), Refusal::NoValue),
        (plain(says(Kind::PrePrepare, 2, 1, A)), Refusal::NotTheLeader { author: Member(2), round: 1 }),
        (plain(says(Kind::Prepare, 4, 1, A)), Refusal::UnknownMember(Member(4))),
        (stranger_inside, Refusal::UnknownMember(Member(4))),
        (plain(says(Kind::Prepare, 1, 0, A)), Refusal::BadRound(0)),
        (plain(says(Kind::Prepare, 1, MAX_ROUND + 1, A)), Refusal::BadRound(MAX_ROUND + 1)),
        (many, Refusal::TooManyJustifications(9)),
    ];
    for (message, expected) in table {
        assert_eq!(refusal(&mut started(4, 0), message), expected);
    }
    let mut early: Instance<Seal> = Instance::new(config(4, 0));
    assert_eq!(refusal(&mut early, plain(says(Kind::Prepare, 1, 1, A))), Refusal::NotStarted);
}

#[test]
fn ballots_inside_justifications_count() {
    let mut instance = started(4, 0);
    // Members 1 and 2 were only heard through member 3's proof; our own PREPARE was the last one needed.
    let proof = Message {
        vote: vote(Ballot::round_change(Member(3), 2, Some((1, A)))),
        justification: all(Kind::Prepare, &[1, 2, 3], 1, A),
    };
    assert!(hear(&mut instance, proof).is_empty());
    let said = hear(&mut instance, plain(says(Kind::PrePrepare, 1, 1, A)));
    assert_eq!(kinds(&said), [Kind::Prepare, Kind::Commit]);
}

#[test]
fn a_flood_only_pushes_out_its_authors_own_words() {
    let mut instance = started(4, 0);
    hear(&mut instance, plain(says(Kind::Commit, 2, 1, A)));
    hear(&mut instance, plain(says(Kind::Commit, 3, 1, A)));
    for round in 0..100 {
        hear(&mut instance, plain(says(Kind::Prepare, 3, 50 + round, B)));
    }
    hear(&mut instance, plain(says(Kind::Commit, 1, 1, A)));
    assert!(instance.decision().is_none(), "member 3 flooded away its own commit");
    hear(&mut instance, plain(says(Kind::Commit, 3, 1, A)));
    assert!(instance.decision().is_some(), "the others' commits are still there");
}

#[test]
fn laggards_are_told_the_decision_a_bounded_number_of_times() {
    let mut instance = started(4, 0);
    let decided = Message {
        vote: vote(says(Kind::Decided, 3, 5, A)),
        justification: all(Kind::Commit, &[1, 2, 3], 5, A),
    };
    hear(&mut instance, decided);
    assert_eq!(instance.round(), 5);
    let late = |round| plain(Ballot::round_change(Member(2), round, None));
    let answer = hear(&mut instance, late(2)).remove(0);
    assert_eq!(answer.vote.ballot, says(Kind::Decided, 0, 5, A));
    assert_eq!(answer.justification.len(), 3);
    assert_eq!(refusal(&mut instance, late(2)), Refusal::AlreadyDecided, "same round");
    let answers =
        (3..100).filter(|round| instance.step(Event::Message(late(*round)), &mut vec![]).is_ok()).count();
    assert_eq!(answers + 1, usize::from(MAX_DECIDED_ANSWERS));
    assert_eq!(
        hear(&mut instance, plain(Ballot::round_change(Member(1), 9, None))).len(),
        1,
        "others have their own"
    );
    assert_eq!(refusal(&mut instance, plain(says(Kind::Commit, 1, 5, A))), Refusal::AlreadyDecided);
    let mut out = Vec::new();
    instance.step(Event::RoundTimeout(5), &mut out).unwrap();
    assert!(out.is_empty());
}

#[test]
fn timers_of_left_rounds_are_ignored() {
    let mut instance = started(4, 0);
    let mut out = Vec::new();
    instance.step(Event::RoundTimeout(1), &mut out).unwrap();
    assert!(matches!(out[0], Output::SetTimer { round: 2, at_ms: 12_000 }));
    out.clear();
    instance.step(Event::RoundTimeout(1), &mut out).unwrap();
    assert!(out.is_empty());
}

/// The last journal in a list of outputs.
fn journal(out: &[Output<Seal>]) -> Journal<Seal> {
    let saved = |output: &Output<Seal>| if let Output::Persist(j) = output { Some(j.clone()) } else { None };
    out.iter().rev().find_map(saved).unwrap()
}

#[test]
fn a_restarted_member_repeats_itself_and_never_contradicts() {
    let mut before = started(4, 0);
    let mut out = Vec::new();
    before.step(Event::Message(plain(says(Kind::PrePrepare, 1, 1, A))), &mut out).unwrap();
    let text = serde_json::to_string(&journal(&out)).unwrap();

    let mut after = Instance::restore(config(4, 0), serde_json::from_str(&text).unwrap());
    let mut out = Vec::new();
    after.step(Event::Start, &mut out).unwrap();
    assert_eq!(said(out)[0].vote.ballot, says(Kind::Prepare, 0, 1, A), "it may not have left the box");
    assert!(hear(&mut after, plain(says(Kind::PrePrepare, 1, 1, B))).is_empty());
}

#[test]
fn a_restarted_leader_repeats_its_proposal_whatever_its_input_is_now() {
    let mut journal = journal(&{
        let mut out = Vec::new();
        let mut leader = started(4, 1);
        leader.step(Event::Input(A), &mut out).unwrap();
        out
    });
    assert_eq!((journal.proposed, journal.voted), (Some(A), Some(A)));
    journal.voted = None; // The crash came between the two.
    for input in [None, Some(A), Some(B)] {
        let mut leader = Instance::restore(config(4, 1), journal.clone());
        let mut out = Vec::new();
        if let Some(input) = input {
            leader.step(Event::Input(input), &mut out).unwrap();
        }
        leader.step(Event::Start, &mut out).unwrap();
        let ballots: Vec<Ballot> = said(out).into_iter().map(|message| message.vote.ballot).collect();
        assert_eq!(ballots, [says(Kind::PrePrepare, 1, 1, A), says(Kind::Prepare, 1, 1, A)], "{input:?}");
    }
}

#[test]
fn a_restarted_member_still_knows_what_it_prepared_and_decided() {
    let prepares = all(Kind::Prepare, &[1, 2, 3], 1, A);
    let prepared = Prepared { round: 1, value: A, prepares: prepares.clone() };
    let journal = Journal { round: 3, proposed: None, voted: None, prepared: Some(prepared), decided: None };
    let mut out = Vec::new();
    let mut after = Instance::restore(config(4, 0), journal.clone());
    after.step(Event::Start, &mut out).unwrap();
    let said = said(out);
    assert_eq!(said[0].vote.ballot, Ballot::round_change(Member(0), 3, Some((1, A))));
    assert_eq!(said[0].justification, prepares);

    let decision = qbft::Decision { round: 3, value: A, commits: all(Kind::Commit, &[1, 2, 3], 3, A) };
    let mut after = Instance::restore(config(4, 0), Journal { decided: Some(decision.clone()), ..journal });
    let mut out = Vec::new();
    after.step(Event::Start, &mut out).unwrap();
    assert_eq!(out, [Output::Decided(decision)]);
}
