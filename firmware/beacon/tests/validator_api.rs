//! A validator client's requests against the validator API, with a member that is told what to say.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

mod fake;
mod setting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use beacon::validator_api::{AgreedBlock, Message, Patience, Unavailable};
use chain::{
    AttestationData, CommitteeIndex, Epoch, ForkName, PublicKeyBytes, Root, SignatureBytes,
    SingleAttestation, Slot, SyncCommitteeMessage, ValidatorIndex, VoluntaryExit,
};
use fake::Fault;
use serde_json::{Value, json};
use setting::Setting;
use ssz::Encode as _;

const SELECTIONS: &str = "/eth/v1/validator/beacon_committee_selections";
const ATTESTATIONS: &str = "/eth/v2/beacon/pool/attestations";

fn attestation(validator: u64, data: AttestationData, signature: SignatureBytes) -> Value {
    json!(SingleAttestation {
        committee_index: CommitteeIndex(1),
        attester_index: ValidatorIndex(validator),
        data,
        signature,
    })
}

fn selections(all: &Setting, slots: impl IntoIterator<Item = u64>) -> Value {
    let item = |offset: u64| {
        let slot = all.slot.saturating_add(offset);
        let proof = all.sign(1, &Message::CommitteeSelection { slot });
        json!({"validator_index": "1", "slot": slot, "selection_proof": proof})
    };
    slots.into_iter().map(item).collect()
}

#[tokio::test]
async fn duties_name_our_public_shares_and_leave_strangers_alone() {
    let all = Setting::new().await;
    let (status, answer) = all.post("/eth/v1/validator/duties/attester/3", &json!(["0", 1])).await;
    assert_eq!(status, 200);
    assert_eq!(answer["data"][0]["pubkey"], all.own(0).to_string());
    assert_eq!(answer["data"][1]["pubkey"], all.own(1).to_string());
    assert_eq!(answer["dependent_root"], Root([3; 32]).to_string());
    let (_, answer) = all.post("/eth/v1/validator/duties/sync/3", &json!(["1"])).await;
    assert_eq!(answer["data"][0]["pubkey"], all.own(1).to_string());
    let (_, answer) = all.get("/eth/v1/validator/duties/proposer/3").await;
    assert_eq!(answer["data"][1]["pubkey"], all.own(1).to_string());
    assert_eq!(answer["data"][2]["pubkey"], PublicKeyBytes([0xee; 48]).to_string());
}

#[tokio::test]
async fn proposer_duties_of_the_next_epoch_have_the_newest_dependent_root() {
    let all = Setting::new().await;
    for head in [5, 6, 7] {
        all.node.inner.lock().unwrap().head = head;
        let (_, answer) = all.get("/eth/v1/validator/duties/proposer/4").await;
        assert_eq!(answer["dependent_root"], Root([u8::try_from(head).unwrap(); 32]).to_string());
    }
}

#[tokio::test]
async fn validators_are_asked_for_by_share_and_told_by_share() {
    let all = Setting::new().await;
    let path = "/eth/v1/beacon/states/head/validators";
    let unknown = PublicKeyBytes([0xaa; 48]);
    let by_post =
        all.post(path, &json!({"ids": [all.own(1), unknown], "statuses": ["active_ongoing"]})).await;
    let by_get = all.get(&format!("{path}?id={},{unknown}", all.own(1))).await;
    assert_eq!(by_get, by_post);
    for comma in ["%2C", "%2c"] {
        assert_eq!(all.get(&format!("{path}?id={}{comma}{unknown}", all.own(1))).await, by_get, "{comma}");
    }
    assert_eq!(by_get.1["data"].as_array().unwrap().len(), 1);
    assert_eq!(by_get.1["data"][0]["validator"]["pubkey"], all.own(1).to_string());
    // Nobody known is nobody, not everybody.
    let nobody = all.get(&format!("{path}?id={unknown}")).await;
    assert_eq!((nobody.0, &nobody.1["data"]), (200, &json!([])));
    assert_eq!(all.get(&format!("{path}/{unknown}")).await.0, 404);
    let (status, answer) = all.get(&format!("{path}?id={}", all.keys.foreign)).await;
    assert_eq!(status, 500);
    assert!(answer["message"].as_str().unwrap().starts_with("mismatching validator client key share index"));
    assert_eq!(all.get(&format!("{path}?id=nonsense")).await.0, 400);
}

#[tokio::test]
async fn a_refusal_of_the_beacon_node_stays_what_it_is() {
    let all = Setting::new().await;
    let refusal = br#"{"message":"Request epoch 13 can not be greater than next epoch 12","code":400}"#;
    all.node.fault("duties/attester", Fault::Says(400, refusal.to_vec()));
    let (status, answer) = all.post("/eth/v1/validator/duties/attester/13", &json!(["0"])).await;
    assert_eq!((status, answer), (400, serde_json::from_slice(refusal).unwrap()));
    all.node.fault("validators", Fault::Says(404, b"404 page not found".to_vec()));
    assert_eq!(all.post("/eth/v1/beacon/states/head/validators", &json!({"ids": ["1"]})).await.0, 404);
    all.node.fault("node/peers", Fault::Says(406, b"Not Acceptable".to_vec()));
    assert_eq!(all.get("/eth/v1/node/peers").await.0, 406);
    all.node.fault("some/where", Fault::Says(503, b"syncing".to_vec()));
    assert_eq!(all.get("/some/where").await.0, 503);
}

#[tokio::test]
async fn unknown_paths_go_to_the_beacon_node_and_back() {
    let all = Setting::new().await;
    assert_eq!(all.get("/eth/v1/node/syncing").await.1["data"]["sync_distance"], "0");
    let subscription = json!([{"validator_index": "1", "sync_committee_indices": ["3"], "until_epoch": "8"}]);
    let path = "/eth/v1/validator/sync_committee_subscriptions";
    assert_eq!(all.post(path, &subscription).await.0, 200);
    assert_eq!(all.node.submitted(), [(path.to_owned(), subscription)]);
    all.node.stop();
    // Without a beacon node there is an answer too.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let version = all.get("/eth/v1/node/version").await;
    assert_eq!(version.1["data"]["version"], "obolnetwork/x", "our own, not the beacon node's");
}

#[tokio::test]
async fn events_are_streamed_through() {
    let all = Setting::new().await;
    let mut stream = all.http.get(format!("{}/eth/v1/events?topics=head", all.url)).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    all.node.emit("head", &json!({"slot": "5"}));
    let chunk = stream.chunk().await.unwrap().unwrap();
    assert_eq!(&chunk[..], b"event: head\ndata: {\"slot\":\"5\"}\n\n");
}

#[tokio::test]
async fn agreed_attestation_data_comes_in_json_and_ssz() {
    let all = Setting::new().await;
    let data = AttestationData { slot: all.slot, ..AttestationData::default() };
    all.member.0.lock().unwrap().data = Some(Ok(data));
    let path = format!("/eth/v1/validator/attestation_data?slot={}&committee_index=1", all.slot);
    assert_eq!(all.get(&path).await, (200, json!({ "data": data })));
    let request = all.http.get(format!("{}{path}", all.url));
    let answer =
        request.header("accept", "application/octet-stream;q=1,application/json;q=0.9").send().await.unwrap();
    assert_eq!(answer.headers()["eth-consensus-version"], "electra");
    assert_eq!(answer.bytes().await.unwrap(), data.as_ssz_bytes());
    assert_eq!(all.get("/eth/v1/validator/attestation_data").await.0, 400, "the slot is missing");
}

#[tokio::test]
async fn a_duty_that_is_over_is_answered_at_once() {
    let all = Setting::new().await;
    all.member.0.lock().unwrap().data = Some(Err(Unavailable::TooLate("slot 1".to_owned())));
    // What is waited for in vain ends as 408.
    let (status, answer) = all.get("/eth/v1/validator/attestation_data?slot=1&committee_index=0").await;
    assert_eq!(status, 400);
    assert!(answer["message"].as_str().unwrap().contains("deadline"), "{answer}");
    all.member.0.lock().unwrap().data = Some(Err(Unavailable::Failed("no agreement".to_owned())));
    assert_eq!(all.get("/eth/v1/validator/attestation_data?slot=1").await.0, 500);
    // The block of a slot whose deadline passed, asked for with a good reveal.
    let slot = Slot(all.slot.0 / 4 * 4);
    let reveal = all.sign(0, &Message::Randao { slot, epoch: Epoch(slot.0 / 8) });
    assert_eq!(all.get(&format!("/eth/v3/validator/blocks/{slot}?randao_reveal={reveal}")).await.0, 400);
    assert_eq!(
        all.get(&format!("/eth/v3/validator/blocks/{}?randao_reveal={reveal}", slot.0 + 3)).await.0,
        404,
        "another's slot"
    );
}

#[tokio::test]
async fn what_never_comes_ends_with_408() {
    let all = Setting::new().await;
    let (status, answer) = all.get("/eth/v1/validator/attestation_data?slot=1&committee_index=0").await;
    assert_eq!((status, &answer["code"]), (408, &json!(408)));
}

#[tokio::test]
async fn attestations_are_verified_together_and_handed_over_together() {
    let all = Setting::new().await;
    let data = AttestationData { slot: all.slot, ..AttestationData::default() };
    let message = Message::Attestation { committee: CommitteeIndex(1), data };
    let (good, bad) = (all.sign(0, &message), all.sign(1, &message));
    let body = json!([attestation(0, data, good), attestation(1, data, bad)]);
    assert_eq!(all.post(ATTESTATIONS, &body).await, (200, Value::Null));
    let taken = all.taken();
    assert_eq!((taken.len(), taken[0].len()), (1, 2), "one hand-over for one request");
    assert_eq!(taken[0][0].message, message);
    // One wrong signature and one stranger spoil nothing for the third.
    let body = json!([attestation(0, data, bad), attestation(3, data, good), attestation(1, data, bad)]);
    let (status, answer) = all.post(ATTESTATIONS, &body).await;
    assert_eq!(status, 400);
    let failures = answer["failures"].as_array().unwrap();
    assert_eq!((&failures[0]["index"], &failures[1]["index"], failures.len()), (&json!(0), &json!(1), 2));
    assert_eq!(all.taken()[1].len(), 1);
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused_by_kind() {
    let all = Setting::new().await;
    let send = |kind: &'static str, version: Option<&'static str>, body: &'static [u8]| {
        let mut request =
            all.http.post(format!("{}{ATTESTATIONS}", all.url)).header("content-type", kind).body(body);
        if let Some(version) = version {
            request = request.header("eth-consensus-version", version);
        }
        async { request.send().await.unwrap().status().as_u16() }
    };
    for (kind, version, body, expected) in [
        ("application/json", Some("electra"), &b""[..], 400),
        ("application/json", Some("electra"), b"{", 400),
        ("application/json", Some("electra"), b"[]", 200),
        ("application/json", None, b"[{}]", 400),
        ("application/json", Some("deneb"), b"[{}]", 400),
        ("application/json", Some("nonsense"), b"[{}]", 400),
        ("application/octet-stream", Some("electra"), b"xxx", 415),
        ("text/plain", Some("electra"), b"xxx", 415),
    ] {
        assert_eq!(send(kind, version, body).await, expected, "{kind} {version:?} {body:?}");
    }
    let gone = ["/eth/v1/beacon/pool/attestations", "/eth/v1/validator/aggregate_and_proofs"];
    for path in gone {
        assert_eq!(all.post(path, &json!([])).await.0, 404, "{path}");
    }
    for path in ["/eth/v1/validator/register_validator", "/eth/v1/validator/prepare_beacon_proposer"] {
        assert_eq!(all.post(path, &json!([{}])).await.0, 200);
    }
    assert!(all.node.submitted().is_empty(), "what is swallowed goes nowhere");
}

/// obol.md 9.1 and 9.2: what is answered on purpose, path by path, without a beacon node or the cluster being asked.
#[tokio::test]
async fn every_path_has_its_deliberate_answer() {
    let all = Setting::new().await;
    let asked_before = all.node.hits("");
    for path in [
        "/eth/v2/validator/blocks/5",
        "/eth/v1/validator/blinded_blocks/5",
        "/eth/v1/validator/aggregate_attestation",
        "/teku_proposer_config",
        "/proposer_config",
    ] {
        let (status, answer) = all.get(path).await;
        assert_eq!((status, answer), (404, json!({"code": 404, "message": "NotFound"})), "{path}");
    }
    for path in [
        "/eth/v1/validator/attestation_data?committee_index=0",
        "/eth/v1/validator/attestation_data?slot=x",
        "/eth/v1/validator/sync_committee_contribution?slot=1&subcommittee_index=0",
        "/eth/v2/validator/aggregate_attestation?slot=1",
        "/eth/v3/validator/blocks/5",
        "/eth/v3/validator/blocks/x?randao_reveal=0x00",
        "/eth/v1/validator/duties/proposer/x",
    ] {
        let (status, answer) = all.get(path).await;
        assert_eq!((status, &answer["code"]), (400, &json!(400)), "{path}: {answer}");
    }
    // No path takes a body of another kind; those that have no SSZ form do not take that either.
    let posted = [
        ("/eth/v1/validator/duties/attester/1", false),
        ("/eth/v1/validator/duties/sync/1", false),
        ("/eth/v1/beacon/states/head/validators", false),
        ("/eth/v2/beacon/pool/attestations", true),
        ("/eth/v2/beacon/blocks", true),
        ("/eth/v2/beacon/blinded_blocks", true),
        ("/eth/v1/beacon/pool/voluntary_exits", false),
        ("/eth/v1/validator/beacon_committee_selections", false),
        ("/eth/v1/validator/sync_committee_selections", false),
        ("/eth/v2/validator/aggregate_and_proofs", true),
        ("/eth/v1/beacon/pool/sync_committees", true),
        ("/eth/v1/validator/contribution_and_proofs", true),
    ];
    for (path, has_ssz) in posted {
        let send = |kind: &'static str, body: &'static str| {
            let request = all.http.post(format!("{}{path}", all.url)).header("content-type", kind).body(body);
            let request = request.header("eth-consensus-version", "electra");
            async { request.send().await.unwrap().status().as_u16() }
        };
        assert_eq!(send("text/plain", "[]").await, 415, "{path}");
        assert_eq!(send("application/json", "").await, 400, "{path}: no body");
        assert_eq!(send("application/json", "{").await, 400, "{path}: no JSON");
        let ssz = send("application/octet-stream", "no such bytes").await;
        assert_eq!(ssz, 415, "{path}, which {} SSZ", if has_ssz { "reads" } else { "has no" });
    }
    // A list of nothing asks for nothing: that is no mistake.
    for (path, answer) in [
        ("/eth/v2/beacon/pool/attestations", None),
        ("/eth/v1/beacon/pool/sync_committees", None),
        ("/eth/v2/validator/aggregate_and_proofs", None),
        ("/eth/v1/validator/contribution_and_proofs", None),
        ("/eth/v1/validator/beacon_committee_selections", Some(json!({"data": []}))),
        ("/eth/v1/validator/sync_committee_selections", Some(json!({"data": []}))),
    ] {
        let request = all.http.post(format!("{}{path}", all.url)).header("content-type", "application/json");
        let response = request.header("eth-consensus-version", "electra").body("[]").send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}");
        let text = response.text().await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).ok(), answer, "{path}");
    }
    assert_eq!(all.node.hits(""), asked_before, "the beacon node was asked");
    assert!(all.taken().is_empty());
    assert_eq!(Patience::default().whole, Duration::from_secs(10), "after which 408 is said");
}

#[tokio::test]
async fn repeated_selections_are_answered_from_memory() {
    let all = Setting::new().await;
    let proof = SignatureBytes([0x55; 96]);
    all.member.0.lock().unwrap().selection = Some(proof);
    let even = all.slot.0 % 2;
    let body = selections(&all, [even, even + 2]);
    let first = all.post(SELECTIONS, &body).await;
    assert_eq!(first.0, 200);
    assert_eq!(first.1["data"].as_array().unwrap().len(), 2);
    assert_eq!(first.1["data"][0]["selection_proof"], proof.to_string());
    for _ in 0..5 {
        assert_eq!(all.post(SELECTIONS, &body).await, first);
    }
    assert_eq!(all.taken().len(), 1, "nothing is passed on again");
    assert_eq!(all.member.0.lock().unwrap().asked_selections, 2, "nothing is waited for again");
}

#[tokio::test]
async fn selections_that_are_late_do_not_hold_up_the_others() {
    let all = Setting::new().await;
    all.member.0.lock().unwrap().selection = Some(SignatureBytes([0x55; 96]));
    let even = all.slot.0 % 2;
    let start = Instant::now();
    let (status, answer) = all.post(SELECTIONS, &selections(&all, [even, even + 1])).await;
    assert_eq!((status, answer["data"].as_array().unwrap().len()), (200, 1));
    assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
    let (status, _) = all.post(SELECTIONS, &selections(&all, [even + 1])).await;
    assert_eq!(status, 408, "with none at all the client may ask again");
    assert_eq!(all.taken().len(), 1, "the late one was passed on before");
    let wrong =
        json!([{"validator_index": "0", "slot": all.slot, "selection_proof": SignatureBytes([1; 96])}]);
    assert_eq!(all.post(SELECTIONS, &wrong).await.0, 400);
}

#[tokio::test]
async fn sync_selections_keep_the_order_of_the_request() {
    let all = Setting::new().await;
    all.member.0.lock().unwrap().selection = Some(SignatureBytes([0x55; 96]));
    let slot = Slot(all.slot.0 / 2 * 2);
    let item = |subcommittee: u64| {
        let proof = all.sign(1, &Message::SyncSelection { slot, subcommittee });
        json!({"validator_index": "1", "slot": slot, "subcommittee_index": subcommittee.to_string(), "selection_proof": proof})
    };
    let body = json!([item(3), item(0), item(2)]);
    let (status, answer) = all.post("/eth/v1/validator/sync_committee_selections", &body).await;
    assert_eq!(status, 200);
    let order: Vec<_> =
        answer["data"].as_array().unwrap().iter().map(|item| item["subcommittee_index"].clone()).collect();
    assert_eq!(order, ["3", "0", "2"]);
}

#[tokio::test]
async fn a_block_is_served_and_taken_as_agreed_and_not_otherwise() {
    let all = Setting::new().await;
    let slot = Slot(all.slot.0 / 4 * 4 + 1);
    let message = Message::Randao { slot, epoch: Epoch(slot.0 / 8) };
    let reveal = all.sign(1, &message);
    let block = fake::members::block(slot, 1, reveal, false);
    let agreed = AgreedBlock { fork: ForkName::Electra, block: block.clone() };
    all.member.0.lock().unwrap().block = Some(Arc::new(agreed));

    let path = format!("/eth/v3/validator/blocks/{slot}?randao_reveal={reveal}&graffiti=0x00&strict=1");
    let (status, answer) = all.get(&path).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&answer["execution_payload_value"], &answer["consensus_block_value"]),
        (&json!("1"), &json!("1"))
    );
    assert_eq!(answer["data"], json!(block));
    assert_eq!(all.taken()[0][0].message, message);
    let ssz = all
        .http
        .get(format!("{}{path}", all.url))
        .header("accept", "application/octet-stream")
        .send()
        .await
        .unwrap();
    for (name, value) in [
        ("eth-consensus-version", "electra"),
        ("eth-execution-payload-blinded", "false"),
        ("eth-execution-payload-value", "1"),
        ("eth-consensus-block-value", "1"),
    ] {
        assert_eq!(ssz.headers()[name], value);
    }
    assert_eq!(ssz.bytes().await.unwrap(), block.to_ssz());
    let foreign = all.sign(0, &message);
    let wrong = all.get(&format!("/eth/v3/validator/blocks/{slot}?randao_reveal={foreign}")).await;
    assert_eq!(wrong.0, 400, "another validator's reveal");

    let sign = |block: &chain::UnsignedBlock| {
        let unsigned = Arc::new(block.clone().signed(SignatureBytes([0; 96])));
        let signature = all.sign(1, &Message::Block { fork: ForkName::Electra, block: unsigned });
        block.clone().signed(signature)
    };
    let good = sign(&block);
    assert_eq!(all.post("/eth/v2/beacon/blocks", &json!(good)).await, (200, Value::Null));
    let request = all.http.post(format!("{}/eth/v2/beacon/blocks?broadcast_validation=gossip", all.url));
    let request =
        request.header("content-type", "application/octet-stream").header("eth-consensus-version", "electra");
    assert_eq!(request.body(good.to_ssz()).send().await.unwrap().status(), 200);
    let before = all.taken().len();
    let blinded = fake::members::block(slot, 1, reveal, true);
    let altered = fake::members::block(slot, 1, SignatureBytes([9; 96]), false);
    let of_another = fake::members::block(slot, 0, reveal, false);
    for (path, block, what) in [
        ("/eth/v2/beacon/blocks", &altered, "content"),
        ("/eth/v2/beacon/blocks", &of_another, "proposer"),
        ("/eth/v2/beacon/blinded_blocks", &blinded, "blinded"),
    ] {
        let (status, answer) = all.post(path, &json!(sign(block))).await;
        assert_eq!(status, 400);
        assert!(answer["message"].as_str().unwrap().contains(what), "{answer}");
    }
    let request =
        all.http.post(format!("{}/eth/v2/beacon/blocks", all.url)).header("eth-consensus-version", "fulu");
    let answer = request
        .header("content-type", "application/json")
        .body(json!(good).to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400, "another version");
    assert_eq!(all.taken().len(), before, "nothing of this was passed on");
}

#[tokio::test]
async fn sync_votes_and_exits_are_taken() {
    let all = Setting::new().await;
    let vote = Message::SyncVote { slot: all.slot, block: Root([4; 32]) };
    let message = SyncCommitteeMessage {
        slot: all.slot,
        beacon_block_root: Root([4; 32]),
        validator_index: ValidatorIndex(0),
        signature: all.sign(0, &vote),
    };
    assert_eq!(all.post("/eth/v1/beacon/pool/sync_committees", &json!([message])).await.0, 200);
    let exit = VoluntaryExit { epoch: Epoch(300), validator_index: ValidatorIndex(1) };
    let signed = json!({"message": exit, "signature": all.sign(1, &Message::Exit(exit))});
    assert_eq!(all.post("/eth/v1/beacon/pool/voluntary_exits", &signed).await.0, 200);
    let taken = all.taken();
    assert_eq!((&taken[0][0].message, &taken[1][0].message), (&vote, &Message::Exit(exit)));
    let stranger =
        json!({"message": {"epoch": "1", "validator_index": "3"}, "signature": SignatureBytes([1; 96])});
    assert_eq!(all.post("/eth/v1/beacon/pool/voluntary_exits", &stranger).await.0, 400);
}

#[tokio::test]
async fn messages_of_the_far_future_are_refused() {
    let all = Setting::new().await;
    let slot = all.slot.saturating_add(100 * 8);
    let proof = all.sign(1, &Message::CommitteeSelection { slot });
    let body = json!([{"validator_index": "1", "slot": slot, "selection_proof": proof}]);
    let (status, answer) = all.post(SELECTIONS, &body).await;
    assert_eq!(status, 400);
    assert!(answer["failures"][0]["message"].as_str().unwrap().contains("future"), "{answer}");
}
