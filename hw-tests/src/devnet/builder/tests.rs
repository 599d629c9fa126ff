//! The builder against a stand-in for geth and the beacon node: what it takes, offers and shows. The real ones are in
//! `./hearth run --fast --builder`.

use axum::extract::Request;

use super::*;

/// Answers geth's two questions with a fixed payload, and takes blocks.
async fn stand_in(published: Arc<Mutex<Vec<Value>>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let hash = |byte: &str| format!("0x{}", byte.repeat(32));
    if path == "/eth/v2/beacon/blocks" {
        locked(&published).push(body);
        return StatusCode::OK.into_response();
    }
    let result = match body["method"].as_str() {
        Some("eth_getTransactionCount") => json!("0x3"),
        Some("testing_buildBlockV1") => json!({"executionPayload": {
            "parentHash": body["params"][0], "feeRecipient": body["params"][1]["suggestedFeeRecipient"],
            "stateRoot": hash("03"), "receiptsRoot": hash("04"), "logsBloom": format!("0x{}", "00".repeat(256)),
            "prevRandao": body["params"][1]["prevRandao"], "blockNumber": "0x1", "gasLimit": "0x3938700",
            "gasUsed": "0x5208", "timestamp": body["params"][1]["timestamp"], "extraData": body["params"][3],
            "baseFeePerGas": "0x7", "blockHash": hash("06"), "transactions": body["params"][2], "withdrawals": [],
            "blobGasUsed": "0x0", "excessBlobGas": "0x0",
        }, "blobsBundle": {"commitments": [], "proofs": [], "blobs": []}, "executionRequests": []}),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    axum::Json(json!({"jsonrpc": "2.0", "id": 1, "result": result})).into_response()
}

struct World {
    works: Arc<Works>,
    published: Arc<Mutex<Vec<Value>>>,
}

fn world() -> World {
    let published = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&published);
    let router = Router::new().fallback(move |request| stand_in(Arc::clone(&shared), request));
    let listener = wait(async { tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await }).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    spawn(async move {
        let _ = axum::serve(listener, router).await;
    });
    let _ = rustls::crypto::ring::default_provider().install_default();
    let works = Arc::new(Works {
        node: url.clone(),
        execution: url,
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
        key: SecretKey::random(&mut rand::rng()),
        purse: purse(),
        seen: Arc::default(),
        announced: Mutex::default(),
        offers: tokio::sync::Mutex::default(),
    });
    World { works, published }
}

fn registered(key: &SecretKey, gas_limit: u64) -> SignedValidatorRegistration {
    let message = ValidatorRegistration {
        fee_recipient: chain::ExecutionAddress([9; 20]),
        gas_limit,
        timestamp: 1,
        pubkey: key.public_key().to_bytes(),
    };
    let root = registration_signing_root(&message, GENESIS_FORK_VERSION);
    SignedValidatorRegistration { message, signature: key.sign(&root.0).to_bytes() }
}

fn announce(works: &Works, slot: u64) {
    let root = |byte: &str| format!("0x{}", byte.repeat(32));
    let event = json!({"version": "electra", "data": {
        "proposal_slot": slot.to_string(), "parent_block_hash": root("0b"),
        "payload_attributes": {"timestamp": "100", "prev_randao": root("0c"), "withdrawals": [], "parent_beacon_block_root": root("0a")},
    }});
    works.hear(format!("data: {event}").as_bytes());
}

const PARENT: Bytes32 = Bytes32([0x0b; 32]);

#[test]
fn a_registration_counts_only_when_the_validator_signed_it() {
    let World { works, .. } = world();
    let (own, other) = (SecretKey::random(&mut rand::rng()), SecretKey::random(&mut rand::rng()));
    let good = registered(&own, GAS_LIMIT);
    let forged = SignedValidatorRegistration { signature: registered(&other, GAS_LIMIT).signature, ..good };
    assert!(works.take(&forged).is_err());
    assert!(locked(&works.seen).registrations.is_empty());
    assert!(works.take(&good).is_ok());
    let seen = locked(&works.seen).clone();
    assert_eq!((seen.registrations.len(), seen.registrations_refused), (1, 1));
}

#[test]
fn an_offer_is_signed_names_the_builder_and_is_the_same_for_everybody() {
    let World { works, .. } = world();
    let key = SecretKey::random(&mut rand::rng());
    let validator = key.public_key().to_bytes();
    announce(&works, 5);
    let ask = |slot| {
        let works = Arc::clone(&works);
        wait(async move { works.offer(slot, PARENT, validator).await })
    };
    assert!(ask(5).unwrap_err().contains("not registered"));
    works.take(&registered(&key, GAS_LIMIT)).unwrap();
    assert!(ask(8).unwrap_err().contains("not announced"));
    let answer = ask(5).unwrap();
    assert_eq!(answer, ask(5).unwrap());
    assert_eq!(locked(&works.seen).offers, 1);

    let signed: SignedBuilderBid = serde_json::from_value(answer["data"].clone()).unwrap();
    assert_eq!(signed.message.header.extra_data.to_vec(), MARK.as_bytes());
    let domain = domain::genesis_domain(domain::APPLICATION_BUILDER, GENESIS_FORK_VERSION);
    let root = domain::signing_root(&signed.message, domain);
    threshold::verify_bytes(&signed.message.pubkey, &root.0, &signed.signature).unwrap();

    announce(&works, 9);
    assert_eq!(ask(9).unwrap_err(), RESTS);
    assert!(!offers_in(Slot(9)) && offers_in(Slot(5)));

    // The beacon node would refuse it anyway; said here, where the reason is known.
    let picky = SecretKey::random(&mut rand::rng());
    works.take(&registered(&picky, 30_000_000)).unwrap();
    announce(&works, 7);
    let shared = Arc::clone(&works);
    let picky = picky.public_key().to_bytes();
    let refused = wait(async move { shared.offer(7, PARENT, picky).await });
    assert!(refused.unwrap_err().contains("gas limit"));
}

#[test]
fn a_payload_is_shown_for_its_own_header_only_and_published_once_from_fulu_on() {
    let World { works, published } = world();
    let key = SecretKey::random(&mut rand::rng());
    works.take(&registered(&key, GAS_LIMIT)).unwrap();
    announce(&works, 5);
    let validator = key.public_key().to_bytes();
    let shared = Arc::clone(&works);
    let answer = wait(async move { shared.offer(5, PARENT, validator).await }).unwrap();
    let header = answer.pointer("/data/message/header").unwrap().clone();
    let block = |header: &Value| {
        json!({"signature": format!("0x{}", "00".repeat(96)), "message": {
        "slot": "5", "proposer_index": "1", "parent_root": PARENT, "state_root": PARENT, "body": {
            "randao_reveal": format!("0x{}", "00".repeat(96)),
            "eth1_data": {"deposit_root": PARENT, "deposit_count": "0", "block_hash": PARENT},
            "graffiti": PARENT, "proposer_slashings": [], "attester_slashings": [], "attestations": [],
            "deposits": [], "voluntary_exits": [], "bls_to_execution_changes": [], "blob_kzg_commitments": [],
            "sync_aggregate": {"sync_committee_bits": format!("0x{}", "00".repeat(64)), "sync_committee_signature": format!("0x{}", "00".repeat(96))},
            "execution_requests": {"deposits": [], "withdrawals": [], "consolidations": []},
            "execution_payload_header": header,
        }}})
    };
    let hand_in = |block: &Value| {
        let (shared, body) = (Arc::clone(&works), Bytes::from(block.to_string()));
        wait(async move { publish(State(shared), HeaderMap::new(), body).await.status() })
    };
    let mut other = header.clone();
    other["gas_used"] = json!("1");
    assert_eq!(hand_in(&block(&other)), StatusCode::BAD_REQUEST);
    assert_eq!(hand_in(&json!({})), StatusCode::BAD_REQUEST);
    assert_eq!(hand_in(&block(&header)), StatusCode::ACCEPTED);
    assert_eq!(hand_in(&block(&header)), StatusCode::ACCEPTED);
    let shared = Arc::clone(&works);
    let body = Bytes::from(block(&header).to_string());
    assert_eq!(wait(async move { reveal(State(shared), body).await.status() }), StatusCode::OK);
    assert_eq!(locked(&works.seen).revealed, 1);
    let deadline = std::time::Instant::now() + TIMEOUT;
    while locked(&published).is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let blocks = locked(&published).clone();
    assert_eq!(blocks.len(), 1);
    let payload = &blocks[0]["signed_block"]["message"]["body"]["execution_payload"];
    assert_eq!(payload["block_hash"], header["block_hash"]);
}
