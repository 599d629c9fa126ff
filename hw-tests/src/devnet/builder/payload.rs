//! What the execution client builds, in the forms of the beacon chain and of the builder API (electra and fulu).

use chain::{
    Bytes32, ExecutionPayload, ExecutionPayloadHeader, ExecutionRequests, KzgCommitment, PublicKeyBytes,
    Uint256, Withdrawal,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ssz::Decode as _;
use ssz_derive::{Decode, Encode};
use ssz_types::VariableList;
use tree_hash::TreeHash as _;
use tree_hash_derive::TreeHash;
use typenum::U4096;

/// `BuilderBid` of builder-specs, electra and fulu.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
pub struct BuilderBid {
    /// What the block would carry.
    pub header: ExecutionPayloadHeader,
    /// Of its blobs.
    pub blob_kzg_commitments: VariableList<KzgCommitment, U4096>,
    /// What it asks of the beacon chain.
    pub execution_requests: ExecutionRequests,
    /// Wei for the proposer.
    pub value: Uint256,
    /// Who offers.
    pub pubkey: PublicKeyBytes,
}

/// `SignedBuilderBid` of builder-specs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode, TreeHash)]
pub struct SignedBuilderBid {
    /// What is offered.
    pub message: BuilderBid,
    /// The builder's signature.
    pub signature: chain::SignatureBytes,
}

/// Blobs with their proofs, one after another as hex; empty on a chain where nobody sends any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct BlobsBundle {
    pub(super) commitments: Vec<KzgCommitment>,
    pub(super) proofs: Vec<String>,
    pub(super) blobs: Vec<String>,
}

/// A payload with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Built {
    pub(super) payload: ExecutionPayload,
    pub(super) blobs: BlobsBundle,
    pub(super) requests: ExecutionRequests,
}

impl Built {
    /// Reads an `ExecutionPayloadEnvelope` of the engine API.
    pub(super) fn read(envelope: &Value) -> Result<Self, String> {
        let payload = consensus_payload(&envelope["executionPayload"])
            .ok_or("the envelope's payload has not the fields of deneb's")?;
        let payload = serde_json::from_value(payload).map_err(|error| format!("payload: {error}"))?;
        let blobs: Option<BlobsBundle> = serde_json::from_value(envelope["blobsBundle"].clone())
            .map_err(|error| format!("blobs: {error}"))?;
        let requests: Option<Vec<String>> = serde_json::from_value(envelope["executionRequests"].clone())
            .map_err(|error| format!("requests: {error}"))?;
        let requests = read_requests(&requests.unwrap_or_default()).ok_or("requests that are not SSZ")?;
        Ok(Self { payload, blobs: blobs.unwrap_or_default(), requests })
    }

    /// The header that stands for the payload in a blinded block.
    pub(super) fn header(&self) -> ExecutionPayloadHeader {
        let payload = &self.payload;
        ExecutionPayloadHeader {
            parent_hash: payload.parent_hash,
            fee_recipient: payload.fee_recipient,
            state_root: payload.state_root,
            receipts_root: payload.receipts_root,
            logs_bloom: payload.logs_bloom,
            prev_randao: payload.prev_randao,
            block_number: payload.block_number,
            gas_limit: payload.gas_limit,
            gas_used: payload.gas_used,
            timestamp: payload.timestamp,
            extra_data: payload.extra_data.clone(),
            base_fee_per_gas: payload.base_fee_per_gas,
            block_hash: payload.block_hash,
            transactions_root: payload.transactions.tree_hash_root().into(),
            withdrawals_root: payload.withdrawals.tree_hash_root().into(),
            blob_gas_used: payload.blob_gas_used,
            excess_blob_gas: payload.excess_blob_gas,
        }
    }

    /// The offer of this payload.
    pub(super) fn bid(&self, value: u64, pubkey: PublicKeyBytes) -> Result<BuilderBid, String> {
        let commitments = VariableList::new(self.blobs.commitments.clone());
        Ok(BuilderBid {
            header: self.header(),
            blob_kzg_commitments: commitments.map_err(|_| "too many blobs".to_owned())?,
            execution_requests: self.requests.clone(),
            value: Uint256::from(value),
            pubkey,
        })
    }

    /// A signed blinded block (JSON) with this payload in the place of its header: what a block publisher takes.
    pub(super) fn unblind(&self, signed_blinded: &Value) -> Option<Value> {
        let mut signed = signed_blinded.clone();
        let body = signed.pointer_mut("/message/body")?.as_object_mut()?;
        body.remove("execution_payload_header")?;
        body.insert("execution_payload".to_owned(), serde_json::to_value(&self.payload).ok()?);
        Some(json!({"signed_block": signed, "kzg_proofs": self.blobs.proofs, "blobs": self.blobs.blobs}))
    }
}

/// The fields of an engine payload under the names and in the number form of the beacon chain.
fn consensus_payload(engine: &Value) -> Option<Value> {
    let decimal = |value: &Value| -> Option<String> {
        let digits = value.as_str()?.strip_prefix("0x")?;
        Some(u128::from_str_radix(digits, 16).ok()?.to_string())
    };
    let withdrawal = |entry: &Value| {
        Some(json!({
            "index": decimal(&entry["index"])?,
            "validator_index": decimal(&entry["validatorIndex"])?,
            "address": entry["address"],
            "amount": decimal(&entry["amount"])?,
        }))
    };
    let withdrawals: Option<Vec<Value>> = engine["withdrawals"].as_array()?.iter().map(withdrawal).collect();
    Some(json!({
        "parent_hash": engine["parentHash"],
        "fee_recipient": engine["feeRecipient"],
        "state_root": engine["stateRoot"],
        "receipts_root": engine["receiptsRoot"],
        "logs_bloom": engine["logsBloom"],
        "prev_randao": engine["prevRandao"],
        "block_number": decimal(&engine["blockNumber"])?,
        "gas_limit": decimal(&engine["gasLimit"])?,
        "gas_used": decimal(&engine["gasUsed"])?,
        "timestamp": decimal(&engine["timestamp"])?,
        "extra_data": engine["extraData"],
        "base_fee_per_gas": decimal(&engine["baseFeePerGas"])?,
        "block_hash": engine["blockHash"],
        "transactions": engine["transactions"],
        "withdrawals": withdrawals?,
        "blob_gas_used": decimal(&engine["blobGasUsed"])?,
        "excess_blob_gas": decimal(&engine["excessBlobGas"])?,
    }))
}

/// Requests as the engine API lists them: a byte for the kind, then the SSZ of its list (EIP-7685).
fn read_requests(listed: &[String]) -> Option<ExecutionRequests> {
    let mut requests = ExecutionRequests::default();
    for text in listed {
        let bytes = hex::decode(text.strip_prefix("0x")?).ok()?;
        let (kind, content) = bytes.split_first()?;
        match kind {
            0 => requests.deposits = VariableList::from_ssz_bytes(content).ok()?,
            1 => requests.withdrawals = VariableList::from_ssz_bytes(content).ok()?,
            2 => requests.consolidations = VariableList::from_ssz_bytes(content).ok()?,
            _ => return None,
        }
    }
    Some(requests)
}

/// What the next payload must be like: a `payload_attributes` event of the beacon node, which exists for builders.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Attributes {
    #[serde(with = "chain::decimal")]
    pub(super) timestamp: u64,
    pub(super) prev_randao: Bytes32,
    pub(super) withdrawals: Vec<Withdrawal>,
    pub(super) parent_beacon_block_root: Bytes32,
}

impl Attributes {
    /// The same for the execution client, paying `fee_recipient`.
    pub(super) fn for_engine(&self, fee_recipient: &str) -> Value {
        let withdrawals: Vec<Value> = self
            .withdrawals
            .iter()
            .map(|withdrawal| {
                json!({
                    "index": format!("{:#x}", withdrawal.index),
                    "validatorIndex": format!("{:#x}", withdrawal.validator_index.0),
                    "address": withdrawal.address,
                    "amount": format!("{:#x}", withdrawal.amount.0),
                })
            })
            .collect();
        json!({
            "timestamp": format!("{:#x}", self.timestamp),
            "prevRandao": self.prev_randao,
            "suggestedFeeRecipient": fee_recipient,
            "withdrawals": withdrawals,
            "parentBeaconBlockRoot": self.parent_beacon_block_root,
        })
    }
}

/// One event: for which slot, on which execution block, by which fork's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) slot: u64,
    pub(super) parent_hash: Bytes32,
    pub(super) version: String,
    pub(super) attributes: Attributes,
}

impl Announced {
    /// Reads the data of a `payload_attributes` event.
    pub(super) fn read(event: &[u8]) -> Option<Self> {
        let event: Value = serde_json::from_slice(event).ok()?;
        Some(Self {
            slot: event.pointer("/data/proposal_slot")?.as_str()?.parse().ok()?,
            parent_hash: event.pointer("/data/parent_block_hash")?.as_str()?.parse().ok()?,
            version: event["version"].as_str()?.to_owned(),
            attributes: serde_json::from_value(event.pointer("/data/payload_attributes")?.clone()).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine_payload() -> Value {
        let hash = |byte: &str| format!("0x{}", byte.repeat(32));
        json!({
            "parentHash": hash("01"), "feeRecipient": format!("0x{}", "02".repeat(20)), "stateRoot": hash("03"),
            "receiptsRoot": hash("04"), "logsBloom": format!("0x{}", "00".repeat(256)), "prevRandao": hash("05"),
            "blockNumber": "0x10", "gasLimit": "0x3938700", "gasUsed": "0x5208", "timestamp": "0x64",
            "extraData": "0x686561727468", "baseFeePerGas": "0x3b9aca00", "blockHash": hash("06"),
            "transactions": ["0xf86c"],
            "withdrawals": [{"index": "0x1", "validatorIndex": "0x2", "address": format!("0x{}", "07".repeat(20)), "amount": "0x3"}],
            "blobGasUsed": "0x0", "excessBlobGas": "0x0",
        })
    }

    #[test]
    fn a_payload_and_its_header_have_the_same_root() {
        let envelope =
            json!({"executionPayload": engine_payload(), "blobsBundle": null, "executionRequests": []});
        let built = Built::read(&envelope).unwrap();
        assert_eq!(built.payload.gas_limit, 60_000_000);
        assert_eq!(built.payload.withdrawals[0].amount.0, 3);
        // Lists and their roots hash alike, which is what lets a header stand for its payload.
        assert_eq!(built.header().tree_hash_root(), built.payload.tree_hash_root());
    }

    #[test]
    fn requests_are_read_by_their_kind_and_strange_ones_refused() {
        let withdrawal = format!("0x01{}{}{}", "aa".repeat(20), "bb".repeat(48), "01".repeat(8));
        let read = read_requests(&[withdrawal]).unwrap();
        assert_eq!((read.withdrawals.len(), read.deposits.len()), (1, 0));
        assert!(read_requests(&["0x07".to_owned()]).is_none());
        assert!(read_requests(&["0x01ff".to_owned()]).is_none());
        assert!(read_requests(&["".to_owned()]).is_none());
    }

    #[test]
    fn an_event_tells_what_the_next_payload_must_be_like() {
        let root = |byte: &str| format!("0x{}", byte.repeat(32));
        let event = json!({"version": "electra", "data": {
        "proposer_index": "3", "proposal_slot": "12", "parent_block_number": "9", "parent_block_root": root("0a"),
        "parent_block_hash": root("0b"),
        "payload_attributes": {
            "timestamp": "1000", "prev_randao": root("0c"), "suggested_fee_recipient": format!("0x{}", "00".repeat(20)),
            "withdrawals": [{"index": "5", "validator_index": "6", "address": format!("0x{}", "07".repeat(20)), "amount": "8"}],
            "parent_beacon_block_root": root("0a"),
        }}});
        let announced = Announced::read(event.to_string().as_bytes()).unwrap();
        assert_eq!((announced.slot, announced.parent_hash), (12, Bytes32([0x0b; 32])));
        let engine = announced.attributes.for_engine("0x00");
        assert_eq!(engine["timestamp"], "0x3e8");
        assert_eq!(engine["withdrawals"][0]["validatorIndex"], "0x6");
        assert!(Announced::read(b"{}").is_none());
    }

    #[test]
    fn a_blinded_block_gets_its_payload_back() {
        let envelope = json!({"executionPayload": engine_payload()});
        let built = Built::read(&envelope).unwrap();
        let blinded = json!({"message": {"slot": "1", "body": {"graffiti": "0x", "execution_payload_header": {}}}, "signature": "0x"});
        let contents = built.unblind(&blinded).unwrap();
        let body = &contents["signed_block"]["message"]["body"];
        assert_eq!(body["execution_payload"]["block_number"], "16");
        assert!(body["execution_payload_header"].is_null() && body["graffiti"] == "0x");
        assert!(built.unblind(&json!({"message": {"body": {}}})).is_none());
    }
}
