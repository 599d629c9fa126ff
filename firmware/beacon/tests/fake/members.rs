//! What the made-up beacon node answers for the duties beyond attesting.

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use chain::{
    AnyBlock, BeaconBlock, BeaconBlockBody, BlindedBeaconBlock, BlindedBeaconBlockBody, BlockContents,
    Bytes32, Eth1Data, ExecutionAddress, ExecutionPayload, ExecutionPayloadHeader, ExecutionRequests,
    LogsBloom, Root, SignatureBytes, Slot, SyncAggregate, Uint256, UnsignedBlock, ValidatorIndex,
};
use serde_json::{Value, json};

use super::{FakeNode, error};

/// A block of nothing, as a node that follows the rules would not make it; nobody here executes it.
pub fn block(slot: Slot, proposer: u64, randao_reveal: SignatureBytes, blinded: bool) -> UnsignedBlock {
    let eth1_data = Eth1Data { deposit_root: Root([1; 32]), deposit_count: 0, block_hash: Bytes32([2; 32]) };
    let sync_aggregate = SyncAggregate {
        sync_committee_bits: Default::default(),
        sync_committee_signature: SignatureBytes([0; 96]),
    };
    let (hash, fee_recipient) = (Bytes32([3; 32]), ExecutionAddress([4; 20]));
    let (proposer_index, parent_root, state_root) = (ValidatorIndex(proposer), Root([5; 32]), Root([6; 32]));
    macro_rules! body {
        ($body:ident, $payload_field:ident, $payload:expr) => {
            $body {
                randao_reveal,
                eth1_data,
                graffiti: Bytes32([7; 32]),
                proposer_slashings: Default::default(),
                attester_slashings: Default::default(),
                attestations: Default::default(),
                deposits: Default::default(),
                voluntary_exits: Default::default(),
                sync_aggregate,
                $payload_field: $payload,
                bls_to_execution_changes: Default::default(),
                blob_kzg_commitments: Default::default(),
                execution_requests: ExecutionRequests::default(),
            }
        };
    }
    if blinded {
        let header = ExecutionPayloadHeader {
            parent_hash: hash,
            fee_recipient,
            state_root: hash,
            receipts_root: hash,
            logs_bloom: LogsBloom([0; 256]),
            prev_randao: hash,
            block_number: 1,
            gas_limit: 30_000_000,
            gas_used: 0,
            timestamp: 1,
            extra_data: Default::default(),
            base_fee_per_gas: Uint256::from(7),
            block_hash: hash,
            transactions_root: Root([8; 32]),
            withdrawals_root: Root([9; 32]),
            blob_gas_used: 0,
            excess_blob_gas: 0,
        };
        let body = body!(BlindedBeaconBlockBody, execution_payload_header, header);
        return AnyBlock::Blinded(Box::new(BlindedBeaconBlock {
            slot,
            proposer_index,
            parent_root,
            state_root,
            body,
        }));
    }
    let payload = ExecutionPayload {
        parent_hash: hash,
        fee_recipient,
        state_root: hash,
        receipts_root: hash,
        logs_bloom: LogsBloom([0; 256]),
        prev_randao: hash,
        block_number: 1,
        gas_limit: 30_000_000,
        gas_used: 0,
        timestamp: 1,
        extra_data: Default::default(),
        base_fee_per_gas: Uint256::from(7),
        block_hash: hash,
        transactions: Default::default(),
        withdrawals: Default::default(),
        blob_gas_used: 0,
        excess_blob_gas: 0,
    };
    let body = body!(BeaconBlockBody, execution_payload, payload);
    AnyBlock::Full(Box::new(BlockContents {
        block: BeaconBlock { slot, proposer_index, parent_root, state_root, body },
        kzg_proofs: vec![1; 48],
        blobs: vec![2; 131_072],
    }))
}

fn query<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    let text = parts.uri.query().unwrap_or_default();
    text.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// `None` when the path is none of these.
pub(super) fn answer(node: &FakeNode, parts: &Parts, path: &str, body: &Bytes) -> Option<Response> {
    let mut inner = node.inner.lock().unwrap();
    let chain = inner.chain.clone();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let last = path.rsplit('/').next().unwrap_or_default();
    let root = |byte: u8| Root([byte; 32]);
    let validators = u64::try_from(chain.validators.len()).unwrap();
    let key = |index: u64| chain.validators[usize::try_from(index).unwrap()];
    if path.contains("/validator/duties/proposer/") {
        let epoch: u64 = last.parse().unwrap();
        let duty = |offset: u64| {
            let index = offset % validators;
            let slot = epoch * chain.slots_per_epoch + offset;
            json!({"pubkey": key(index), "validator_index": index.to_string(), "slot": slot.to_string()})
        };
        let duties: Vec<Value> = (0..chain.slots_per_epoch).map(duty).collect();
        // Before fulu the next epoch's root is the newest block's.
        let dependent = root(u8::try_from(inner.head % 256).unwrap());
        let answer = json!({"dependent_root": dependent, "execution_optimistic": false, "data": duties});
        return Some(answer.to_string().into_response());
    }
    if path.starts_with("/eth/v1/validator/duties/sync/") {
        let indices: Vec<String> = serde_json::from_slice(body).unwrap_or_default();
        if indices.is_empty() {
            return Some(error(400, "No data submitted"));
        }
        let duty = |text: &String| {
            let index: u64 = text.parse().unwrap();
            json!({"pubkey": key(index), "validator_index": text,
                "validator_sync_committee_indices": [index.to_string(), (index + 200).to_string()]})
        };
        let duties: Vec<Value> = indices.iter().map(duty).collect();
        return Some(json!({"execution_optimistic": false, "data": duties}).to_string().into_response());
    }
    if path.starts_with("/eth/v3/validator/blocks/") {
        let slot = Slot(last.parse().unwrap());
        let reveal = query(parts, "randao_reveal").unwrap().parse().unwrap();
        inner.blocks_asked.push((slot.0, parts.uri.query().unwrap_or_default().to_owned()));
        let block = block(slot, slot.0 % validators, reveal, inner.blinded);
        let blinded = inner.blinded.to_string();
        let headers = [
            ("eth-consensus-version", "electra"),
            ("eth-execution-payload-blinded", blinded.as_str()),
            ("eth-execution-payload-value", "12345"),
            ("eth-consensus-block-value", "678"),
        ];
        if header("accept").starts_with("application/octet-stream") && !inner.only_json {
            let ssz = ("content-type", "application/octet-stream");
            return Some((headers, [ssz], block.to_ssz()).into_response());
        }
        let answer = json!({"version": "electra", "execution_payload_blinded": inner.blinded,
            "execution_payload_value": "12345", "consensus_block_value": "678", "data": block});
        return Some((headers, [("content-type", "application/json")], answer.to_string()).into_response());
    }
    if path == "/eth/v2/beacon/blocks" || path == "/eth/v2/beacon/blinded_blocks" {
        if header("eth-consensus-version") != "electra" {
            return Some(error(400, "Eth-Consensus-Version header is required"));
        }
        let submitted = match header("content-type") {
            "application/octet-stream" if inner.only_json => {
                return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type").into_response());
            }
            "application/octet-stream" => json!(body.to_vec()),
            _ => serde_json::from_slice(body).unwrap(),
        };
        inner.submitted.push((path.to_owned(), submitted));
        return Some(StatusCode::OK.into_response());
    }
    if path == "/eth/v1/beacon/blocks/head/root" {
        return Some(
            json!({"execution_optimistic": false, "data": {"root": root(9)}}).to_string().into_response(),
        );
    }
    if path == "/eth/v2/validator/aggregate_attestation" {
        let made = inner.makes_aggregates.then(|| {
            let slot: u64 = query(parts, "slot").unwrap().parse().unwrap();
            let epoch = slot / chain.slots_per_epoch;
            json!({"aggregation_bits": "0x13", "committee_bits": "0x0100000000000000",
                "signature": format!("0xc0{}", "00".repeat(95)),
                "data": {"slot": slot.to_string(), "index": "0", "beacon_block_root": root(9),
                    "source": {"epoch": epoch.saturating_sub(1).to_string(), "root": inner.source_root},
                    "target": {"epoch": epoch.to_string(), "root": root(2)}}})
        });
        let Some(found) = inner.aggregate.clone().or(made) else {
            return Some(error(404, "No matching attestations"));
        };
        return Some(json!({"version": "electra", "data": found}).to_string().into_response());
    }
    if path == "/eth/v1/validator/sync_committee_contribution" {
        // Prysm's way of saying 'nothing'.
        let bits = if query(parts, "beacon_block_root") == Some(&root(9).to_string()) { "01" } else { "00" };
        let data = json!({"slot": query(parts, "slot"), "beacon_block_root": query(parts, "beacon_block_root"),
            "subcommittee_index": query(parts, "subcommittee_index"),
            "aggregation_bits": format!("0x{bits}{}", "00".repeat(15)), "signature": format!("0xc0{}", "00".repeat(95))});
        return Some(json!({ "data": data }).to_string().into_response());
    }
    if path == "/eth/v1/validator/register_validator" && !inner.has_builder {
        return Some(error(400, "Could not register block builder: builder endpoint not configured"));
    }
    let list = [
        "/eth/v1/validator/sync_committee_subscriptions",
        "/eth/v1/validator/beacon_committee_subscriptions",
        "/eth/v1/validator/prepare_beacon_proposer",
        "/eth/v1/validator/register_validator",
        "/eth/v1/validator/contribution_and_proofs",
        "/eth/v2/validator/aggregate_and_proofs",
        "/eth/v1/beacon/pool/sync_committees",
        "/eth/v1/beacon/pool/voluntary_exits",
    ];
    if list.contains(&path) {
        if path.contains("v2") && header("eth-consensus-version") != "electra" {
            return Some(error(400, "Eth-Consensus-Version header is required"));
        }
        let posted: Value = serde_json::from_slice(body).unwrap();
        if posted.as_array().is_some_and(Vec::is_empty) {
            return Some(error(400, "No data submitted"));
        }
        inner.submitted.push((path.to_owned(), posted));
        return Some(StatusCode::OK.into_response());
    }
    None
}
