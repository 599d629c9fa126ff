//! What beacon nodes answer, and what validator clients ask and sign.

use std::sync::LazyLock;

use beacon::ChainInfo;
use beacon::outside;
use beacon::validator_api::{
    Claimed, Form, KeyMap, Query, Route, accepted, content_form, fork_of, read_aggregates, read_attestations,
    read_block, read_committee_selections, read_contributions, read_exit, read_sync_messages,
    read_sync_selections, route,
};
use chain::{
    AggregateAndProof, ForkName, SignedAggregateAndProof, SignedVoluntaryExit, SingleAttestation,
    ValidatorIndex,
};
use serde_json::json;
use ssz::Encode as _;
use threshold::ShareIndex;

use crate::ssz_forms::{self, KEY, SIGNATURE, SLOT};
use crate::world::{GENESIS_ROOT, public_shares, validators};
use crate::{Target, Verdict, choose, chosen};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "beacon_answers",
        about: "14 kinds of answers of a beacon node, its refusals and its sync state: read or refused, texts short",
        max_bytes: 4096,
        run: answers,
        seeds: answer_seeds,
    },
    Target {
        name: "beacon_chain",
        about: "genesis, parameters and forks of a beacon node: a chain whose slots and domains can be computed",
        max_bytes: 4096,
        run: chain_of_node,
        seeds: chain_seeds,
    },
    Target {
        name: "beacon_events",
        about: "a beacon node's stream of events: the same however it is cut",
        max_bytes: 4096,
        run: events,
        seeds: event_seeds,
    },
    Target {
        name: "client_route",
        about: "a validator client's request line and headers: one route, short refusals",
        max_bytes: 512,
        run: request_line,
        seeds: request_line_seeds,
    },
    Target {
        name: "client_body",
        about: "everything a validator client signs, in JSON and SSZ: bounded, with a root and a signing root",
        max_bytes: 16_384,
        run: body,
        seeds: body_seeds,
    },
    Target {
        name: "client_keys",
        about: "answers passed on to a validator client: our share in place of each key, nothing else changed",
        max_bytes: 2048,
        run: keys,
        seeds: key_seeds,
    },
];

fn answers(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, outside::ANSWERS + 3) else { return Verdict::Refused };
    match choice.checked_sub(outside::ANSWERS) {
        None => Verdict::of(outside::answer(choice, bytes).then_some(())),
        Some(0) => {
            let text = outside::refusal(400, bytes).to_string();
            assert!(text.chars().count() < 2_000, "a refusal of {} letters", text.chars().count());
            Verdict::Taken
        }
        Some(1) => Verdict::of(outside::sync_state(bytes, 8)),
        Some(_) => {
            let Some(block) = outside::produced_block(bytes) else { return Verdict::Refused };
            let _seen = (block.slot(), block.message_root(), block.proposer_index());
            Verdict::Taken
        }
    }
}

fn answer_seeds() -> Vec<Vec<u8>> {
    let root = GENESIS_ROOT.to_string();
    let dependent = |data| json!({"dependent_root": root, "execution_optimistic": false, "data": [data]});
    let data = |data| json!({ "data": data });
    let attester = serde_json::to_value(ssz_forms::attester_duty()).expect("a JSON form");
    let values = [
        data(
            json!({"genesis_time": "1742212800", "genesis_validators_root": root, "genesis_fork_version": "0x10000910"}),
        ),
        data(json!({"SECONDS_PER_SLOT": "12", "SLOTS_PER_EPOCH": 32, "BLOB_SCHEDULE": []})),
        data(json!([{"previous_version": "0x10000910", "current_version": "0x20000910", "epoch": "0"}])),
        data(json!({"version": "Lighthouse/v8.0.0"})),
        data(json!([{"index": "7", "balance": "32000000000", "status": "active_ongoing",
            "validator": {"pubkey": KEY, "activation_epoch": "0", "exit_epoch": "18446744073709551615"}}])),
        dependent(attester),
        dependent(json!({"pubkey": KEY, "validator_index": "7", "slot": "100"})),
        json!({"execution_optimistic": false, "data": [{"pubkey": KEY, "validator_index": "7", "validator_sync_committee_indices": ["1", "511"]}]}),
        json!({"execution_optimistic": false, "data": {"root": root}}),
        data(
            json!({"root": root, "canonical": true, "header": {"message": {"slot": "100"}, "signature": SIGNATURE}}),
        ),
        data(
            json!({"previous_justified": {"epoch": "1", "root": root}, "current_justified": {"epoch": "2", "root": root},
            "finalized": {"epoch": "1", "root": root}}),
        ),
        data(serde_json::to_value(ssz_forms::vote()).expect("a JSON form")),
        data(serde_json::to_value(ssz_forms::attestation()).expect("a JSON form")),
        data(serde_json::to_value(ssz_forms::contribution()).expect("a JSON form")),
        json!({"code": 400, "message": "some failures", "failures": [{"index": 1, "message": "PriorAttestationKnown"}]}),
        data(
            json!({"is_syncing": false, "sync_distance": "0", "is_optimistic": false, "el_offline": false, "head_slot": "9"}),
        ),
        json!({"version": "fulu", "execution_payload_blinded": true, "execution_payload_value": "1",
            "data": ssz_forms::block(true)}),
    ];
    (0..).zip(values).map(|(choice, value)| chosen(choice, value.to_string())).collect()
}

/// Three answers, one a line.
fn chain_of_node(input: &[u8]) -> Verdict {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let Some(chain) = outside::chain_info(line(), line(), line()) else { return Verdict::Refused };
    for slot in [0, 1, 1 << 20, u64::MAX] {
        let slot = chain::Slot(slot);
        let epoch = chain.timing.epoch_of(slot);
        let due = [chain.timing.attestation_due(slot), chain.timing.aggregate_due(slot)];
        assert!(due.iter().all(|due| *due >= chain.timing.start_of(slot)), "due before the slot begins");
        let _fork = (chain.schedule.fork_at(epoch), chain.schedule.fork_name_at(epoch));
    }
    assert!(chain.timing.check().is_ok());
    Verdict::Taken
}

fn chain_lines() -> Vec<u8> {
    let genesis = json!({"data": {"genesis_time": "0", "genesis_validators_root": GENESIS_ROOT, "genesis_fork_version": "0x10000910"}});
    let mut spec = serde_json::Map::new();
    for (key, value) in [
        ("CONFIG_NAME", "hoodi"),
        ("SECONDS_PER_SLOT", "12"),
        ("SLOT_DURATION_MS", "12000"),
        ("SLOTS_PER_EPOCH", "32"),
        ("ALTAIR_FORK_EPOCH", "0"),
        ("ALTAIR_FORK_VERSION", "0x20000910"),
        ("BELLATRIX_FORK_EPOCH", "0"),
        ("BELLATRIX_FORK_VERSION", "0x30000910"),
        ("CAPELLA_FORK_EPOCH", "0"),
        ("CAPELLA_FORK_VERSION", "0x40000910"),
        ("DENEB_FORK_EPOCH", "0"),
        ("DENEB_FORK_VERSION", "0x50000910"),
        ("ELECTRA_FORK_EPOCH", "2048"),
        ("ELECTRA_FORK_VERSION", "0x60000910"),
        ("FULU_FORK_EPOCH", "50688"),
        ("FULU_FORK_VERSION", "0x70000910"),
        ("ATTESTATION_DUE_BPS", "3333"),
    ] {
        spec.insert(key.to_owned(), json!(value));
    }
    let forks: Vec<_> = (1..8).map(|fork| json!({"current_version": format!("0x{fork}0000910")})).collect();
    format!("{genesis}\n{}\n{}", json!({ "data": spec }), json!({ "data": forks })).into_bytes()
}

fn chain_seeds() -> Vec<Vec<u8>> {
    vec![chain_lines()]
}

static CHAIN: LazyLock<Option<ChainInfo>> = LazyLock::new(|| {
    let lines = chain_lines();
    let mut lines = lines.split(|byte| *byte == b'\n');
    outside::chain_info(lines.next()?, lines.next()?, lines.next()?)
});

fn events(input: &[u8]) -> Verdict {
    let Some((step, stream)) = input.split_first() else { return Verdict::Refused };
    let (events, ended) = outside::events(stream, usize::from(*step));
    let (whole, whole_ended) = outside::events(stream, stream.len());
    assert_eq!(ended, whole_ended);
    // What comes before the end of a stream that is cut off may be heard piece by piece.
    assert!(ended || events == whole, "it matters how the stream is cut");
    Verdict::of(events.first())
}

fn event_seeds() -> Vec<Vec<u8>> {
    let root = GENESIS_ROOT;
    let head = json!({"slot": "100", "block": root, "state": root, "epoch_transition": false, "execution_optimistic": false,
        "current_duty_dependent_root": root, "previous_duty_dependent_root": root});
    let reorg = json!({"slot": "100", "depth": "2", "epoch": "3", "old_head_block": root});
    vec![
        chosen(
            7,
            format!(
                ": hello\nevent: head\ndata: {head}\n\nevent: block\r\ndata: {{\"slot\":\"1\",\"block\":\"{root}\"}}\r\n\r\n"
            ),
        ),
        chosen(200, format!("id: 3\nevent:chain_reorg\ndata:{reorg}\n\n")),
    ]
}

/// The input is a request line, `METHOD PATH?QUERY`, and headers, one a line.
fn request_line(input: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines();
    let (method, target) = lines.next().unwrap_or_default().split_once(' ').unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let short = |error: beacon::validator_api::ApiError| {
        assert!(error.body().len() < 1_000, "a refusal of {} bytes", error.body().len());
    };
    let found = route(method, path).map_err(short).ok();
    if let Some(Route::Validator { path: validators, id }) = &found {
        assert_eq!(format!("{validators}/{id}"), path);
    }
    let query = Query(query);
    let _ = query.slot().map_err(short);
    let _ = query.committee().map_err(short);
    let _ = query.subcommittee().map_err(short);
    let _ = query.root("beacon_block_root").map_err(short);
    let _ = query.randao_reveal().map_err(short);
    let _ids = query.all("id").count();
    for header in lines {
        let _form = accepted(Some(header));
        let _ = content_form(Some(header)).map_err(short);
        let _ = fork_of(Some(header)).map_err(short);
    }
    Verdict::of(found.filter(|found| *found != Route::Proxied))
}

fn request_line_seeds() -> Vec<Vec<u8>> {
    let root = GENESIS_ROOT;
    [
        "GET /eth/v1/validator/attestation_data?slot=100&committee_index=0\napplication/json".to_owned(),
        format!("GET /eth/v3/validator/blocks/100?randao_reveal={SIGNATURE}&graffiti={root}\napplication/octet-stream;q=1.0,application/json;q=0.9"),
        format!("GET /eth/v1/validator/sync_committee_contribution?slot=1&subcommittee_index=2&beacon_block_root={root}"),
        format!("GET /eth/v1/beacon/states/head/validators/{KEY}"),
        "GET /eth/v1/beacon/states/head/validators?id=1&id=2".to_owned(),
        "POST /eth/v1/validator/duties/attester/12\napplication/json; charset=utf-8\nfulu".to_owned(),
        "POST /eth/v2/beacon/blinded_blocks\napplication/octet-stream\nelectra".to_owned(),
        "POST /eth/v1/validator/beacon_committee_selections".to_owned(),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect()
}

fn body(input: &[u8]) -> Verdict {
    let Some((choice, bytes)) = choose(input, 18) else { return Verdict::Refused };
    let form = if choice & 1 == 0 { Form::Json } else { Form::Ssz };
    let claimed: Vec<Claimed> = match choice / 2 {
        0 => read_attestations(form, bytes),
        1 => read_aggregates(ForkName::Fulu, form, bytes),
        2 => read_sync_messages(form, bytes),
        3 => read_contributions(form, bytes),
        4 => read_committee_selections(form, bytes),
        5 => read_sync_selections(form, bytes),
        6 => read_exit(form, bytes).map(|one| vec![one]),
        7 => read_block(ForkName::Electra, false, form, bytes).map(|one| vec![one]),
        _ => read_block(ForkName::Fulu, true, form, bytes).map(|one| vec![one]),
    }
    .unwrap_or_default();
    assert!(claimed.len() <= 16_384);
    let chain = CHAIN.as_ref().expect("our own answers are a chain");
    for item in claimed.iter().take(8) {
        let _place = (item.message.slot(32), item.message.subcommittee());
        assert_ne!(item.message.root(), item.message.signing_root(chain), "signed without a domain");
    }
    Verdict::of(claimed.first())
}

fn body_seeds() -> Vec<Vec<u8>> {
    let aggregate = AggregateAndProof {
        aggregator_index: ValidatorIndex(7),
        aggregate: ssz_forms::attestation(),
        selection_proof: SIGNATURE,
    };
    let attestations = vec![
        SingleAttestation {
            data: ssz_forms::vote(),
            signature: SIGNATURE,
            ..SingleAttestation::default()
        };
        2
    ];
    let aggregates = vec![SignedAggregateAndProof { message: aggregate, signature: SIGNATURE }];
    let votes = vec![ssz_forms::sync_message(); 2];
    let contributions = vec![ssz_forms::signed_contribution()];
    let exit = SignedVoluntaryExit { message: ssz_forms::exit(), signature: SIGNATURE };
    let [full, blinded] = [false, true].map(|blinded| ssz_forms::block(blinded).signed(SIGNATURE));
    let selection = |more: &str| {
        format!(
            "[{{\"validator_index\":\"7\",\"slot\":\"{SLOT}\"{more},\"selection_proof\":\"{SIGNATURE}\"}}]"
        )
    };
    fn text(value: &impl serde::Serialize) -> Vec<u8> {
        serde_json::to_vec(value).expect("a JSON form")
    }
    vec![
        chosen(0, text(&attestations)),
        chosen(1, attestations.as_ssz_bytes()),
        chosen(2, text(&aggregates)),
        chosen(3, aggregates.as_ssz_bytes()),
        chosen(4, text(&votes)),
        chosen(5, votes.as_ssz_bytes()),
        chosen(6, text(&contributions)),
        chosen(7, contributions.as_ssz_bytes()),
        chosen(8, selection("")),
        chosen(10, selection(",\"subcommittee_index\":\"3\"")),
        chosen(12, text(&exit)),
        chosen(13, exit.as_ssz_bytes()),
        chosen(14, text(&full)),
        chosen(15, full.to_ssz()),
        chosen(16, text(&blinded)),
        chosen(17, blinded.to_ssz()),
    ]
}

fn key_map() -> &'static KeyMap {
    static MAP: LazyLock<KeyMap> = LazyLock::new(|| {
        let listed = public_shares().iter().map(|(key, group, shares)| (*key, *group, shares));
        KeyMap::new(ShareIndex::new(2).expect("an index"), listed)
    });
    &MAP
}

fn keys(input: &[u8]) -> Verdict {
    let map = key_map();
    let mut shown = input.to_vec();
    map.show_shares(&mut shown);
    assert_eq!(shown.len(), input.len());
    if shown == input {
        return Verdict::Refused;
    }
    // Putting the keys back in place of our shares gives what came.
    let texts: Vec<(String, String)> = validators()
        .iter()
        .filter_map(|key| Some((format!("\"{key}\""), format!("\"{}\"", map.own_share(key)?.to_bytes()))))
        .collect();
    for (at, (was, is)) in input.iter().zip(&shown).enumerate() {
        let covers = |from: usize| {
            texts.iter().any(|(key, share)| {
                let end = from + key.len();
                shown.get(from..end) == Some(share.as_bytes())
                    && input.get(from..end).is_some_and(|text| text.eq_ignore_ascii_case(key.as_bytes()))
            })
        };
        assert!(was == is || (at.saturating_sub(99)..=at).any(covers), "byte {at} is another one");
    }
    Verdict::Taken
}

fn key_seeds() -> Vec<Vec<u8>> {
    let keys = validators();
    vec![
        json!({"data": [{"pubkey": keys[0], "index": "7"}, {"pubkey": keys[1]}, {"pubkey": KEY}]})
            .to_string()
            .into_bytes(),
        format!("\"\"0x\"{}\"", keys[0]).into_bytes(),
        format!("[\"{}\",\"{}\"]", keys[1], keys[0]).into_bytes(),
    ]
}
