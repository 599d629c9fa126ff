//! What the requests of a stock validator client show about the validator API that it talks to.
//!
//! Each finding is one fault that was seen with a middleware on a local chain and must not be seen with ours (decision 0160).
//! Pure: it reads what [`crate::devnet::scribe::Scribe`] wrote down, and the client's own log.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use beacon::validator_api::{Route, route};
use openapi::Verdict;
use serde_json::Value;

use crate::devnet::scribe::{Answer, Exchange};

/// An answer from memory costs no agreement and no pairing; the rest is a busy machine.
const FROM_MEMORY_MS: u64 = 400;
/// What Prysm's client says when the beacon node's events contradict the duties that it was given.
const STALE_ROOT: [&str; 2] =
    ["due to current dependent root change", "due to previous dependent root change"];

/// What was looked for, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// A fact, as a sentence.
    pub what: &'static str,
    /// Whether it is one.
    pub holds: bool,
    /// The numbers.
    pub found: String,
}

/// A selection proof that the client asked the group's for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Selection {
    kind: String,
    slot: String,
    validator: String,
    subcommittee: String,
    proof: String,
}

/// One request with its answer.
struct Selecting<'a> {
    exchange: &'a Exchange,
    asked: BTreeSet<Selection>,
    /// Validator, slot and subcommittee of the group's proofs in the answer.
    answered: BTreeSet<(String, String, String)>,
}

impl Selection {
    fn key(&self) -> (String, String, String) {
        (self.validator.clone(), self.slot.clone(), self.subcommittee.clone())
    }
}

impl Exchange {
    fn is_server_error(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.status >= 500)
    }

    fn said(&self) -> String {
        let said = self.answer.as_ref().map(|answer| {
            let body: String = String::from_utf8_lossy(&answer.body).chars().take(160).collect();
            format!("{} {body}", answer.status)
        });
        format!("{} {}: {}", self.method, self.path, said.as_deref().unwrap_or("no answer"))
    }

    /// For a whole epoch, and the more expensive the more validators there are.
    fn is_committee_selection(&self) -> bool {
        self.method == "POST" && self.path.ends_with("/beacon_committee_selections")
    }

    fn is_selection(&self) -> bool {
        self.method == "POST" && self.path.ends_with("_committee_selections")
    }
}

fn selecting(written: &[Exchange]) -> Vec<Selecting<'_>> {
    let text = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
    let list = |body: &[u8]| -> Vec<Value> { serde_json::from_slice(body).unwrap_or_default() };
    let read = |exchange| {
        let exchange: &Exchange = exchange;
        let selection = |item: &Value| Selection {
            kind: exchange.path.clone(),
            slot: text(item, "slot"),
            validator: text(item, "validator_index"),
            subcommittee: text(item, "subcommittee_index"),
            proof: text(item, "selection_proof"),
        };
        let answer: Value = exchange
            .answer
            .as_ref()
            .and_then(|answer| serde_json::from_slice(&answer.body).ok())
            .unwrap_or_default();
        let answered = answer["data"].as_array().into_iter().flatten();
        Selecting {
            exchange,
            asked: list(&exchange.body).iter().map(selection).collect(),
            answered: answered.map(|item| selection(item).key()).collect(),
        }
    };
    written.iter().filter(|exchange| exchange.is_selection()).map(read).collect()
}

fn within(written: &[Exchange], window: &Range<u64>) -> Vec<Exchange> {
    written.iter().filter(|exchange| window.contains(&exchange.at_ms)).cloned().collect()
}

/// In quiet times: a client that is told what holds asks for the proof of each attester's duty once. Those of sync committees
/// Prysm's client itself asks for twice now and then.
pub fn selections_are_asked_for_once(written: &[Exchange], window: &Range<u64>) -> Finding {
    let quiet = within(written, window);
    let (mut times, mut of_sync) = (BTreeMap::new(), BTreeMap::new());
    for request in selecting(&quiet) {
        let times = if request.exchange.is_committee_selection() { &mut times } else { &mut of_sync };
        for selection in request.asked {
            *times.entry(selection).or_default() += 1;
        }
    }
    let repeated = |times: &BTreeMap<Selection, u64>| times.values().map(|times| times - 1).sum::<u64>();
    Finding {
        what: "the selection proof of each attester's duty is asked for once",
        holds: !times.is_empty() && repeated(&times) == 0,
        found: format!(
            "{} proofs, {} repetitions; of sync committees {} and {}",
            times.len(),
            repeated(&times),
            of_sync.len(),
            repeated(&of_sync)
        ),
    }
}

/// All the time: what was asked for and answered before is answered at once.
pub fn repeated_selections_are_answered_from_memory(written: &[Exchange]) -> Finding {
    let mut known: BTreeSet<(String, (String, String, String), String)> = BTreeSet::new();
    let (mut repeated, mut slowest, mut incomplete) = (0_u64, 0_u64, 0_u64);
    for request in selecting(written) {
        let Some(answer) = &request.exchange.answer else { continue };
        let entry =
            |selection: &Selection| (selection.kind.clone(), selection.key(), selection.proof.clone());
        if !request.asked.is_empty()
            && request.asked.iter().all(|selection| known.contains(&entry(selection)))
        {
            repeated += 1;
            slowest = slowest.max(answer.took_ms);
            let all = request.asked.iter().all(|selection| request.answered.contains(&selection.key()));
            incomplete += u64::from(answer.status != 200 || !all);
        }
        let answered = request.asked.iter().filter(|selection| request.answered.contains(&selection.key()));
        known.extend(answered.map(entry));
    }
    Finding {
        what: "repeated selections are answered from memory",
        holds: repeated > 0 && incomplete == 0 && slowest <= FROM_MEMORY_MS,
        found: format!(
            "{repeated} repeated requests, the slowest took {slowest} ms, {incomplete} incomplete"
        ),
    }
}

/// What the beacon node refuses is not our failure, nor is what the client does wrong.
pub fn no_refusal_became_a_server_error(written: &[Exchange], window: &Range<u64>) -> Finding {
    let quiet = within(written, window);
    let refused = quiet.iter().filter(|exchange| {
        exchange.answer.as_ref().is_some_and(|answer| (400..500).contains(&answer.status))
    });
    let refused = refused.count();
    let wrong: Vec<String> =
        quiet.iter().filter(|exchange| exchange.is_server_error()).map(Exchange::said).collect();
    Finding {
        what: "no refusal is passed on as a server error",
        holds: !quiet.is_empty() && wrong.is_empty(),
        found: match wrong.first() {
            None => format!("{} requests, {refused} refused, no server error", quiet.len()),
            Some(first) => format!("{} server errors, the first: {first}", wrong.len()),
        },
    }
}

/// What our API makes itself, and does not pass on, is as the published API has it.
pub fn answers_are_as_published(written: &[Exchange], published: &openapi::Document) -> Finding {
    let (mut looked_at, mut wrong) = (0_u64, Vec::new());
    for exchange in written {
        let Some(answer) = &exchange.answer else { continue };
        let ours = route(&exchange.method, &exchange.path);
        if matches!(ours, Err(_) | Ok(Route::Proxied | Route::Events | Route::Gone)) {
            continue;
        }
        // What is no JSON is SSZ, which has no schema.
        let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
        if body.is_none() && !answer.body.is_empty() {
            continue;
        }
        match published.answer(&exchange.method, &exchange.path, answer.status, body.as_ref()) {
            Verdict::Fits => looked_at += 1,
            Verdict::Unlisted | Verdict::UnlistedAnswer => {}
            Verdict::Differs(why) => wrong.push(format!("{}: {why}", exchange.said())),
        }
    }
    Finding {
        what: "answers are as the published beacon API has them",
        holds: looked_at > 0 && wrong.is_empty(),
        found: match wrong.first() {
            None => format!("{looked_at} answers looked at"),
            Some(first) => format!("{} differ, the first: {first}", wrong.len()),
        },
    }
}

/// Whatever happens: the client hears something before it gives up and stops all its duties.
pub fn everything_is_answered_in_time(written: &[Exchange], window: &Range<u64>, limit_ms: u64) -> Finding {
    let all = within(written, window);
    let refused =
        all.iter().filter(|exchange| exchange.answer.as_ref().is_some_and(|answer| answer.status >= 400));
    let refused = refused.count();
    let slowest = all
        .iter()
        .filter_map(|exchange| Some((exchange.answer.as_ref()?.took_ms, exchange)))
        .max_by_key(|(took, _)| *took);
    let unanswered: Vec<&Exchange> = all.iter().filter(|exchange| exchange.answer.is_none()).collect();
    let in_time = slowest.as_ref().is_some_and(|(took, _)| *took <= limit_ms);
    let slowest =
        slowest.map(|(took, exchange)| format!("{took} ms for {}", exchange.path)).unwrap_or_default();
    Finding {
        what: "duties that cannot be done any more are answered before the client gives up",
        holds: refused > 0 && unanswered.is_empty() && in_time,
        found: match unanswered.first() {
            None => format!("{} requests, {refused} refused, the slowest answer after {slowest}", all.len()),
            Some(first) => format!("{} never answered, the first: {}", unanswered.len(), first.said()),
        },
    }
}

/// The client lives on: its votes are taken again.
pub fn votes_are_taken(written: &[Exchange], window: &Range<u64>) -> Finding {
    let votes = within(written, window);
    let taken = |exchange: &&Exchange| {
        exchange.path.ends_with("/beacon/pool/attestations")
            && matches!(&exchange.answer, Some(Answer { status: 200, .. }))
    };
    let taken = votes.iter().filter(taken).count();
    Finding {
        what: "the client attests again as soon as the others are back",
        holds: taken > 0,
        found: format!("{taken} votes taken"),
    }
}

/// The duties given to a client are those of the chain that its events tell of.
pub fn duties_are_never_stale(log: &str) -> Finding {
    let asked_again: usize = STALE_ROOT.iter().map(|said| log.matches(said).count()).sum();
    let epochs = log.matches("Schedule for epoch").count();
    Finding {
        what: "no duties are asked for again because of a stale dependent root",
        holds: epochs > 0 && asked_again == 0,
        found: format!("{epochs} schedules, {asked_again} because of a changed root"),
    }
}

/// For whoever looks: a line for each request, with how often it came and how it was answered.
pub fn summary(written: &[Exchange]) -> Vec<String> {
    let mut lines: BTreeMap<(String, String), Vec<&Answer>> = BTreeMap::new();
    for exchange in written {
        let path: Vec<&str> =
            exchange
                .path
                .split('/')
                .map(|part| {
                    if part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty() {
                        "N"
                    } else {
                        part
                    }
                })
                .collect();
        let line = lines.entry((exchange.method.clone(), path.join("/"))).or_default();
        line.extend(exchange.answer.as_ref());
    }
    let told = lines.into_iter().map(|((method, path), answers)| {
        let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
        for answer in &answers {
            *statuses.entry(answer.status).or_default() += 1;
        }
        let slowest = answers.iter().map(|answer| answer.took_ms).max().unwrap_or_default();
        format!("{method} {path}: {statuses:?}, at most {slowest} ms")
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALL: Range<u64> = 0..u64::MAX;

    fn exchange(at_ms: u64, path: &str, body: &Value, status: u16, took_ms: u64, answer: &Value) -> Exchange {
        Exchange {
            at_ms,
            method: "POST".to_owned(),
            path: path.to_owned(),
            query: String::new(),
            body: body.to_string().into(),
            answer: Some(Answer { status, took_ms, body: answer.to_string().into() }),
        }
    }

    fn selection(at_ms: u64, slots: &[u64], took_ms: u64, answered: &[u64]) -> Exchange {
        let list = |slots: &[u64], proof: &str| -> Vec<Value> {
            slots.iter().map(|slot| json!({"validator_index": "7", "slot": slot.to_string(), "selection_proof": proof})).collect()
        };
        let path = "/eth/v1/validator/beacon_committee_selections";
        exchange(
            at_ms,
            path,
            &json!(list(slots, "partial")),
            200,
            took_ms,
            &json!({"data": list(answered, "group")}),
        )
    }

    #[test]
    fn a_proof_that_is_asked_for_twice_is_noticed() {
        let once = [selection(10, &[1, 2], 5, &[1, 2]), selection(20, &[3], 5, &[3])];
        assert!(selections_are_asked_for_once(&once, &ALL).holds);
        let twice = [once[0].clone(), selection(20, &[2, 3], 5, &[2, 3])];
        let finding = selections_are_asked_for_once(&twice, &ALL);
        assert!(!finding.holds && finding.found.starts_with("3 proofs, 1 repetitions"), "{finding:?}");
        assert!(selections_are_asked_for_once(&twice, &(0..15)).holds, "outside of the window");
        assert!(!selections_are_asked_for_once(&[], &ALL).holds, "nothing seen shows nothing");
    }

    #[test]
    fn a_repetition_that_costs_time_or_loses_proofs_is_noticed() {
        let first = selection(10, &[1, 2], 1_900, &[1, 2]);
        let again = |took, answered: &[u64]| [first.clone(), selection(90, &[1, 2], took, answered)];
        assert!(repeated_selections_are_answered_from_memory(&again(3, &[1, 2])).holds);
        assert!(!repeated_selections_are_answered_from_memory(&again(900, &[1, 2])).holds);
        assert!(!repeated_selections_are_answered_from_memory(&again(3, &[1])).holds);
        assert!(
            !repeated_selections_are_answered_from_memory(&again(3, &[1, 2])[..1]).holds,
            "no repetition"
        );
        // What had no answer the first time may take its time.
        let late = [
            selection(10, &[1, 2], 2_000, &[1]),
            selection(90, &[1, 2], 900, &[1, 2]),
            selection(95, &[1, 2], 3, &[1, 2]),
        ];
        assert!(repeated_selections_are_answered_from_memory(&late).holds);
    }

    #[test]
    fn server_errors_and_silence_are_noticed() {
        let answered = |status, took| {
            exchange(5, "/eth/v3/validator/blocks/9", &Value::Null, status, took, &Value::Null)
        };
        let silent = Exchange { answer: None, ..answered(200, 0) };
        let fine = [answered(200, 3), answered(400, 4_000)];
        assert!(no_refusal_became_a_server_error(&fine, &ALL).holds);
        assert!(everything_is_answered_in_time(&fine, &ALL, 5_000).holds);
        assert!(!everything_is_answered_in_time(&fine, &ALL, 3_000).holds);
        assert!(!everything_is_answered_in_time(&fine[..1], &ALL, 5_000).holds, "nothing was refused");
        assert!(!everything_is_answered_in_time(&[fine[1].clone(), silent], &ALL, 5_000).holds);
        assert!(!no_refusal_became_a_server_error(&[answered(500, 3)], &ALL).holds);
        let vote =
            |status| exchange(5, "/eth/v2/beacon/pool/attestations", &Value::Null, status, 1, &Value::Null);
        assert!(
            votes_are_taken(&[vote(400), vote(200)], &ALL).holds
                && !votes_are_taken(&[vote(400)], &ALL).holds
        );
    }

    #[test]
    fn a_client_that_was_given_stale_duties_says_so_in_its_log() {
        let log = "Schedule for epoch 1\nSchedule for epoch 2\n";
        assert!(duties_are_never_stale(log).holds);
        assert!(
            !duties_are_never_stale(&format!("{log}Updated duties due to current dependent root change\n"))
                .holds
        );
        assert!(!duties_are_never_stale("").holds);
    }
}
