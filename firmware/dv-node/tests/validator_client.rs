//! Members that sign in both ways in one cluster: one has a validator client behind its validator API, which the test plays.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

#[path = "../../beacon/tests/fake/mod.rs"]
mod fake;
mod house;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chain::{AttestationData, PublicKeyBytes, Root, SignatureBytes};
use house::{House, eventually};
use ipc::Signing;
use serde_json::{Value, json};

/// The validator client of member 0.
struct Client {
    url: String,
    http: reqwest::Client,
}

impl Client {
    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        read("GET", path, answer).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request =
            self.http.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        let request = request.header("eth-consensus-version", "electra").body(body.to_string());
        read("POST", path, request.send().await.unwrap()).await
    }
}

/// Status and body, which must be as the published API has them.
async fn read(method: &str, path: &str, answer: reqwest::Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let body: Option<Value> = serde_json::from_slice(&answer.bytes().await.unwrap()).ok();
    openapi::expect_answer(openapi::BEACON, method, path, status, body.as_ref());
    (status, body.unwrap_or(Value::Null))
}

/// Member 0 has a client; the others sign by themselves.
async fn house_with_client(validators: usize) -> (House, Client) {
    // Another test of this process may have been first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut house = House::build(4, validators).await;
    let port = house::Port::take();
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], port.number));
    house.members[0].signing = Signing::ValidatorClient { listen };
    // The signer must not be missed.
    house.members[0].signer.lock().unwrap().locked = true;
    house.start().await;
    let client = Client { url: format!("http://{listen}"), http: reqwest::Client::new() };
    eventually("the validator API answers", || async {
        client.http.get(format!("{}/eth/v1/node/version", client.url)).send().await.is_ok()
    })
    .await;
    (house, client)
}

/// The client's signatures under a vote, by public share.
fn sign(house: &House, data: &AttestationData) -> BTreeMap<PublicKeyBytes, SignatureBytes> {
    let chain = house.beacon.inner.lock().unwrap().chain.clone();
    let version = chain::ForkVersion([0x20, 0, 0, 0x94]);
    let domain =
        chain::compute_domain(chain::domain::BEACON_ATTESTER, version, chain.genesis_validators_root);
    let root = chain::domain::signing_root(data, domain);
    house.members[0].signer.lock().unwrap().sign_root(root).into_iter().collect()
}

/// The duties of an epoch by our public shares.
async fn duties(client: &Client, epoch: u64, validators: usize) -> Vec<chain::AttesterDuty> {
    let indices: Vec<String> = (0..validators).map(|index| index.to_string()).collect();
    let (status, answer) =
        client.post(&format!("/eth/v1/validator/duties/attester/{epoch}"), &json!(indices)).await;
    assert_eq!(status, 200, "{answer}");
    serde_json::from_value(answer["data"].clone()).unwrap()
}

/// Attests in every slot with a duty, one request for each validator as Prysm sends them, until so many are published that
/// only this member's signatures can have completed them.
async fn attest(house: &House, client: &Client, validators: usize, wanted: usize) {
    let before = house.published().len();
    let deadline = Instant::now() + Duration::from_secs(100);
    while house.published().len() < before + wanted {
        assert!(Instant::now() < deadline, "no attestation with the client's signatures");
        let (slot, per_epoch) = {
            let inner = house.beacon.inner.lock().unwrap();
            (inner.chain.slot_now(), inner.chain.slots_per_epoch)
        };
        let now: Vec<_> = duties(client, slot / per_epoch, validators).await;
        for duty in now.iter().filter(|duty| duty.slot.0 == slot) {
            let (status, answer) = client
                .get(&format!("/eth/v1/validator/attestation_data?slot={slot}&committee_index=0"))
                .await;
            if status != 200 {
                continue; // A slot that the members did not agree in.
            }
            let data: AttestationData = serde_json::from_value(answer["data"].clone()).unwrap();
            let signature = sign(house, &data)[&duty.pubkey];
            let attestation = json!([{"committee_index": duty.committee_index, "attester_index": duty.validator_index,
                "data": data, "signature": signature}]);
            let (status, answer) = client.post("/eth/v2/beacon/pool/attestations", &attestation).await;
            assert_eq!(status, 200, "{answer}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_validator_client_and_members_without_one_attest_together() {
    let (mut house, client) = house_with_client(2).await;
    let version = client.get("/eth/v1/node/version").await.1;
    assert!(version["data"]["version"].as_str().unwrap().starts_with("obolnetwork/charon/v"), "{version}");
    // With one member gone every signature of the client is needed: the threshold is three of four.
    house.members[3].kill();
    attest(&house, &client, 2, 2).await;
    assert!(house.members[0].signer.lock().unwrap().signed.is_empty(), "the signer was not asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_that_was_not_agreed_on_goes_nowhere() {
    let (mut house, client) = house_with_client(1).await;
    house.members[3].kill();
    attest(&house, &client, 1, 1).await;
    // A slot whose data is agreed on: the client signs something else.
    let mut refused = false;
    let deadline = Instant::now() + Duration::from_secs(200);
    while !refused {
        assert!(Instant::now() < deadline, "in vain: a slot with a duty");
        let (slot, per_epoch) = {
            let inner = house.beacon.inner.lock().unwrap();
            (inner.chain.slot_now(), inner.chain.slots_per_epoch)
        };
        for duty in duties(&client, slot / per_epoch, 1).await.iter().filter(|duty| duty.slot.0 == slot) {
            let (status, answer) =
                client.get(&format!("/eth/v1/validator/attestation_data?slot={slot}")).await;
            if status != 200 {
                continue;
            }
            let mut data: AttestationData = serde_json::from_value(answer["data"].clone()).unwrap();
            data.beacon_block_root = Root([0xbb; 32]);
            let signature = sign(&house, &data)[&duty.pubkey];
            let attestation = json!([{"committee_index": duty.committee_index, "attester_index": duty.validator_index,
                "data": data, "signature": signature}]);
            let (status, answer) = client.post("/eth/v2/beacon/pool/attestations", &attestation).await;
            assert_eq!(status, 400, "{answer}");
            assert!(answer["failures"][0]["message"].as_str().unwrap().contains("agreed"), "{answer}");
            refused = true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(house.published().iter().all(|vote| vote.data.beacon_block_root != Root([0xbb; 32])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_over_is_answered_at_once() {
    let (house, client) = house_with_client(1).await;
    let slot = house.beacon.inner.lock().unwrap().chain.slot_now();
    let start = Instant::now();
    let (status, answer) = client.get(&format!("/eth/v1/validator/attestation_data?slot={}", slot - 5)).await;
    assert_eq!(status, 400, "{answer}");
    let reveal = SignatureBytes([1; 96]);
    let path = format!("/eth/v3/validator/blocks/{}?randao_reveal={reveal}", slot - 5);
    let (status, answer) = client.get(&path).await;
    assert!(status >= 400, "{answer}");
    // What never comes is waited for ten seconds.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}
