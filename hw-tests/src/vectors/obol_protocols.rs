//! `obol/qbft`, `obol/parsigex`, `obol/priority`, `obol/peerinfo`, `obol/encoding` and `obol/duties`: messages between
//! members, their roots and signatures, and the numbers around them.

use super::report::{Report, bytes_of, equal, files, hex_field, label, list, read, read_as, read_json, text};
use cluster::{IdentityKey, PeerId};
use obol::attestation::{VersionedAggregate, VersionedAttestation};
use obol::consensus::{priority_value_of, sign, value_of};
use obol::duty::{Duty, DutyType, SlotLengths, is_attestation_aggregator, is_sync_aggregator};
use obol::peerinfo::Version;
use obol::proposal::{VersionedProposal, VersionedSignedProposal};
use obol::root::{bytes_root, message_root};
use obol::signed::Signed;
use obol::unsigned::{AttesterData, Unsigned, read_set, read_set_key};
use obol::wire::{
    Any, Named as _, ParSigExMsg, PeerInfo, PriorityMsg, PriorityTopicProposal, QbftMsg, StringValue,
    Timestamp, UnsignedDataSet,
};
use obol::{parsigex, priority};
use prost::Message;
use qbft::{Ballot, Digest, Kind, Member};
use serde_json::Value;
use std::path::Path;

type Check = fn(&Value) -> Result<(), String>;

/// Runs every entry of `cases` in every known file of a folder.
fn run(folder: &Path, known: &[(&str, Check)]) -> Report {
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        let Some((_, check)) = known.iter().find(|(known, _)| *known == name) else {
            report.skip(1, "a file of unknown form");
            continue;
        };
        match read_json(&file) {
            Ok(value) => match value.get("cases").and_then(Value::as_array) {
                Some(cases) => {
                    for (index, case) in cases.iter().enumerate() {
                        report.case(format!("{name} case {index}"), check(case));
                    }
                    report_lists(&mut report, &name, &value);
                }
                None => report.case(name, check(&value)),
            },
            Err(why) => report.case(name, Err(why)),
        }
    }
    report
}

/// Version texts that must or must not parse stand beside the cases of one file.
fn report_lists(report: &mut Report, name: &str, value: &Value) {
    for (field, parses) in [("parse_ok", true), ("parse_fail", false)] {
        for text in value.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            report.case(format!("{name} {text:?}"), equal("parses", Version::parse(text).is_some(), parses));
        }
    }
}

/// `obol/qbft`.
pub fn qbft(folder: &Path) -> Report {
    run(
        folder,
        &[
            ("bytes_merkle_root.json", root_case),
            ("value_hash.json", value_case),
            ("msg_sign.json", vote_case),
            ("leader.json", leader_case),
            ("quorum.json", quorum_case),
            ("timer_eager_double_linear.json", timer_case),
        ],
    )
}

fn root_case(case: &Value) -> Result<(), String> {
    equal("root", bytes_root(&hex_field(case, "bytes")?).to_vec(), hex_field(case, "hash")?)
}

fn value_case(case: &Value) -> Result<(), String> {
    let proto = hex_field(case, "proto")?;
    let set = UnsignedDataSet::decode(proto.as_slice()).map_err(|error| error.to_string())?;
    let (digest, encoded) = value_of(&set);
    equal("value hash", digest.0.to_vec(), hex_field(case, "value_hash")?)?;
    equal("encoding", encoded.to_vec(), proto.clone())?;
    equal("type url", set.to_any().type_url.as_str(), text(case, "any_type_url")?)?;
    let read = read_set(DutyType::Attester, &proto).map_err(|error| error.to_string())?;
    for (key, json) in case["entries_json"].as_object().into_iter().flatten() {
        let validator = read_set_key(key).ok_or("a key of the set does not parse")?;
        let data: AttesterData = serde_json::from_value(json.clone()).map_err(|error| error.to_string())?;
        equal("entry", read.get(&validator), Some(&Unsigned::Attester(data)))?;
        equal("entry's SSZ", data.encode(), hex_field(&case["entries_ssz"], key)?)?;
    }
    Ok(())
}

fn key_of(case: &Value) -> Result<IdentityKey, String> {
    IdentityKey::from_file_text(text(case, "private_key_hex")?).map_err(|error| error.to_string())
}

fn duty_of(case: &Value) -> Result<Duty, String> {
    let kind = DutyType::from_wire(read_as(case, "duty_type")?).ok_or("the duty type is unknown")?;
    Ok(Duty::new(read_as(case, "duty_slot")?, kind))
}

fn digest_of(case: &Value, field: &str) -> Result<Digest, String> {
    hex_field(case, field)?.try_into().map(Digest).map_err(|_| format!("`{field}` is not 32 bytes"))
}

fn vote_case(case: &Value) -> Result<(), String> {
    let ballot = Ballot {
        kind: Kind::from_number(read_as(case, "type")?).ok_or("the message type is unknown")?,
        author: Member(read_as(case, "peer_idx")?),
        round: read_as(case, "round")?,
        value: digest_of(case, "value_hash")?,
        prepared_round: read_as(case, "prepared_round")?,
        prepared_value: digest_of(case, "prepared_value_hash")?,
    };
    let signed = sign(duty_of(case)?, &ballot, &key_of(case)?);
    let unsigned = QbftMsg { signature: Vec::new(), ..signed.clone() };
    equal("unsigned", unsigned.encode_to_vec(), hex_field(case, "unsigned_proto")?)?;
    equal("root", message_root(&unsigned).to_vec(), hex_field(case, "hash")?)?;
    equal("signature", signed.signature.clone(), hex_field(case, "signature")?)?;
    equal("signed", signed.encode_to_vec(), hex_field(case, "signed_proto")?)
}

fn leader_case(case: &Value) -> Result<(), String> {
    let kind = DutyType::from_wire(read_as(case, "duty_type")?).ok_or("the duty type is unknown")?;
    let duty = Duty::new(read_as(case, "slot")?, kind);
    equal("leader", duty.leader(read_as(case, "round")?, read_as(case, "nodes")?), read_as(case, "leader")?)
}

fn quorum_case(case: &Value) -> Result<(), String> {
    let nodes: usize = read_as(case, "nodes")?;
    let size = qbft::Size::new(nodes).map_err(|error| error.to_string())?;
    equal("quorum", size.quorum(), read_as(case, "quorum")?)?;
    equal("faulty", size.faulty(), read_as(case, "faulty")?)?;
    equal("default threshold", (2 * nodes).div_ceil(3), read_as(case, "default_threshold")?)
}

fn timer_case(case: &Value) -> Result<(), String> {
    let kind = DutyType::from_wire(read_as(case, "duty_type")?).ok_or("the duty type is unknown")?;
    let slot_ms = read_as::<u64>(case, "slot_seconds")? * 1000;
    let timer = Duty::new(0, kind).round_timer(0, slot_ms);
    let round = read_as(case, "round")?;
    equal("deadline", timer.round_deadline_ms(round), read_as(case, "deadline_ms_after_slot_start")?)?;
    let extended = read_as(case, "extended_deadline_ms_after_slot_start")?;
    equal("extended deadline", timer.extended_deadline_ms(round), extended)
}

/// `obol/parsigex`.
pub fn parsigex(folder: &Path) -> Report {
    run(folder, &[("messages.json", partials_case)])
}

fn partials_case(case: &Value) -> Result<(), String> {
    let duty = duty_of(case)?;
    let validator = read_set_key(text(case, "pubkey")?).ok_or("the public key does not parse")?;
    let data = hex_field(case, "data_hex")?;
    let signed = Signed::decode(duty.kind, &data).map_err(|error| error.to_string())?;
    equal("data", signed.encode(), data)?;
    if let Some(signature) = signed.signature() {
        equal("signature", signature.0.to_vec(), hex_field(case, "signature")?)?;
    }
    let proto = hex_field(case, "proto")?;
    let encoded = parsigex::encode(duty, read_as(case, "share_idx")?, [(&validator, &signed)]);
    equal("message", encoded.clone(), proto.clone())?;
    let decoded = ParSigExMsg::decode(proto.as_slice()).map_err(|error| error.to_string())?;
    equal("decoded", decoded.encode_to_vec(), proto)?;
    let mut frame = Vec::new();
    prost::encoding::encode_varint(u64::try_from(encoded.len()).unwrap_or(u64::MAX), &mut frame);
    frame.extend(encoded);
    equal("frame", frame, hex_field(case, "frame")?)
}

/// `obol/priority`.
pub fn priority(folder: &Path) -> Report {
    run(folder, &[("messages.json", wishes_case), ("scoring.json", scoring_case)])
}

fn wishes_case(case: &Value) -> Result<(), String> {
    let key = key_of(case)?;
    let plain = |hex: &str| {
        let any = Any { type_url: StringValue::any("").type_url, value: bytes_of(hex)? };
        StringValue::text(&any).ok_or_else(|| format!("`{hex}` is no string value"))
    };
    let mut topics = Vec::new();
    for topic in list(case, "topics")? {
        let priorities = list(topic, "priorities")?.iter().filter_map(Value::as_str).map(plain);
        topics.push((plain(text(topic, "topic")?)?, priorities.collect::<Result<Vec<_>, _>>()?));
    }
    let borrowed: Vec<_> =
        topics.iter().map(|(topic, priorities)| (topic.as_str(), priorities.clone())).collect();
    let signed = priority::sign(Duty::new(read_as(case, "duty_slot")?, DutyType::InfoSync), &borrowed, &key);
    let unsigned = PriorityMsg { signature: Vec::new(), ..signed.clone() };
    equal("peer id", signed.peer_id.as_str(), text(case, "peer_id")?)?;
    equal(
        "own peer id",
        PeerId::from_public_key(&key.public_key()).to_string().as_str(),
        text(case, "peer_id")?,
    )?;
    equal("unsigned", unsigned.encode_to_vec(), hex_field(case, "unsigned_proto")?)?;
    equal("root", message_root(&unsigned).to_vec(), hex_field(case, "hash")?)?;
    equal("signature", signed.signature.clone(), hex_field(case, "signature")?)?;
    equal("signed", signed.encode_to_vec(), hex_field(case, "signed_proto")?)
}

fn scoring_case(case: &Value) -> Result<(), String> {
    let peers = list(case, "peer_priorities_in_peer_id_order")?;
    let messages: Vec<PriorityMsg> = peers
        .iter()
        .enumerate()
        .map(|(index, priorities)| PriorityMsg {
            duty: Some(Duty::new(31, DutyType::InfoSync).to_wire()),
            topics: vec![PriorityTopicProposal {
                topic: Some(StringValue::any("topic")),
                priorities: priorities
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(StringValue::any)
                    .collect(),
            }],
            peer_id: format!("{index:04}"),
            signature: Vec::new(),
        })
        .rev() // The order of arrival must not matter.
        .collect();
    let result =
        priority::calculate(&messages, read_as(case, "min_required")?).map_err(|error| error.to_string())?;
    let (_, encoded) = priority_value_of(&result);
    equal("encoding", encoded.to_vec(), result.encode_to_vec())?;
    let scored = result.topics.first().map(|topic| topic.priorities.as_slice()).unwrap_or_default();
    let names: Vec<_> =
        scored.iter().filter_map(|scored| StringValue::text(scored.priority.as_ref()?)).collect();
    equal("order", names, read_as(case, "result")?)?;
    equal("scores", scored.iter().map(|scored| scored.score).collect::<Vec<_>>(), read_as(case, "scores")?)
}

/// `obol/peerinfo`.
pub fn peerinfo(folder: &Path) -> Report {
    run(folder, &[("messages.json", info_case), ("semver.json", version_case)])
}

fn info_case(case: &Value) -> Result<(), String> {
    let time = |field: &str| {
        let (seconds, nanos) = read_as(case, field)?;
        Ok::<_, String>(Some(Timestamp { seconds, nanos }))
    };
    let info = PeerInfo {
        charon_version: read_as(case, "charon_version")?,
        lock_hash: hex_field(case, "lock_hash")?,
        sent_at: time("sent_at")?,
        git_hash: read_as(case, "git_hash")?,
        started_at: time("started_at")?,
        builder_api_enabled: read_as(case, "builder_api_enabled")?,
        nickname: read_as(case, "nickname")?,
        dv_client: read_as(case, "dv_client")?,
    };
    let proto = hex_field(case, "proto")?;
    equal("message", info.encode_to_vec(), proto.clone())?;
    equal("decoded", PeerInfo::decode(proto.as_slice()).map_err(|error| error.to_string())?, info)
}

fn version_case(case: &Value) -> Result<(), String> {
    let version =
        |field: &str| Version::parse(text(case, field)?).ok_or_else(|| format!("`{field}` does not parse"));
    let expected: i32 = read_as(case, "cmp")?;
    equal("order", version("a")?.compare(version("b")?), expected.cmp(&0))
}

/// `obol/duties`.
pub fn duties(folder: &Path) -> Report {
    run(folder, &[("deadlines.json", deadline_case), ("aggregator_selection.json", selection_case)])
}

fn deadline_case(case: &Value) -> Result<(), String> {
    let kind = DutyType::from_wire(read_as(case, "duty_type")?).ok_or("the duty type is unknown")?;
    equal("name", kind.name(), text(case, "name")?)?;
    let slot_ns = read_as::<u64>(case, "slot_seconds")? * 1_000_000_000;
    let lengths = SlotLengths { slot_ns, slots_per_epoch: read_as(case, "slots_per_epoch")? };
    equal("deadline", lengths.deadline_ns(kind), read_as(case, "deadline_ns_after_slot_start")?)
}

fn selection_case(case: &Value) -> Result<(), String> {
    let proof = hex_field(case, "selection_proof")?;
    let selected = match text(case, "kind")? {
        "sync_committee" => is_sync_aggregator(&proof),
        "attestation" => is_attestation_aggregator(&proof, read_as(case, "committee_length")?),
        other => return Err(format!("kind `{other}` is unknown")),
    };
    equal("selected", selected, read_as(case, "is_aggregator")?)
}

/// `obol/encoding`: every file by itself, and the two forms of one value against each other.
pub fn encoding(folder: &Path) -> Report {
    let mut report = Report::default();
    for extension in ["json", "ssz"] {
        for file in files(folder, extension) {
            let name = label(folder, &file);
            let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let Some(codec) = CODECS.iter().find(|codec| codec.name == stem) else {
                report.skip(1, &format!("{name} is of unknown form"));
                continue;
            };
            let other = folder.join("ssz").join(format!("{stem}.ssz"));
            let other = (extension == "json" && other.is_file()).then(|| read(&other)).transpose();
            let result =
                read(&file).and_then(|bytes| (codec.check)(&bytes, extension == "json", other?.as_deref()));
            report.case(name, result);
        }
    }
    report
}

/// Checks the bytes of a file, whether it is the JSON form, and the SSZ form of the same value if there is one.
type CheckForms = fn(&[u8], bool, Option<&[u8]>) -> Result<(), String>;

/// How one type is read and written.
struct Codec {
    name: &'static str,
    check: CheckForms,
}

/// Reads `bytes`, writes them back the same way, and compares with the other form of the same value.
fn both_forms<T: PartialEq + std::fmt::Debug>(
    (bytes, is_json, other): (&[u8], bool, Option<&[u8]>),
    decode: impl Fn(&[u8]) -> Result<T, String>,
    to_ssz: impl Fn(&T) -> Option<Vec<u8>>,
    to_json: impl Fn(&T) -> Option<Vec<u8>>,
) -> Result<(), String> {
    let value = decode(bytes)?;
    if is_json {
        if let Some(json) = to_json(&value) {
            let parse =
                |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string());
            // Blocks are large: say only that they differ.
            equal("JSON is equal", lower_hex(parse(&json)?) == lower_hex(parse(bytes)?), true)?;
        }
        if let Some(other) = other {
            equal("SSZ file is the same value", decode(other)? == value, true)?;
        }
    } else if let Some(ssz) = to_ssz(&value) {
        equal("SSZ is equal", ssz == bytes, true)?;
    }
    Ok(())
}

/// Addresses may be written with a checksum in the case of their digits; the value is the same.
fn lower_hex(value: Value) -> Value {
    match value {
        Value::String(text) if text.starts_with("0x") => Value::String(text.to_ascii_lowercase()),
        Value::Array(items) => items.into_iter().map(lower_hex).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, lower_hex(value))).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

fn signed_case(
    kind: DutyType,
    input: (&[u8], bool, Option<&[u8]>),
    written_as_json: bool,
) -> Result<(), String> {
    both_forms(
        input,
        |bytes| Signed::decode(kind, bytes).map_err(|error| error.to_string()),
        |signed| (!written_as_json).then(|| signed.encode()),
        |signed| written_as_json.then(|| signed.encode()),
    )
}

const CODECS: &[Codec] = &[
    Codec {
        name: "AttestationData",
        check: |bytes, json, other| {
            both_forms(
                (bytes, json, other),
                |bytes| AttesterData::decode(bytes).map_err(|error| error.to_string()),
                |data| Some(data.encode()),
                |data| Some(data.to_json()),
            )
        },
    },
    Codec {
        name: "VersionedAttestation",
        check: |bytes, json, other| {
            both_forms(
                (bytes, json, other),
                |bytes| VersionedAttestation::decode(bytes).map_err(|error| error.to_string()),
                |attestation| Some(attestation.encode()),
                |attestation| Some(attestation.to_json()),
            )
        },
    },
    Codec {
        name: "VersionedAggregatedAttestation",
        check: |bytes, json, other| {
            both_forms(
                (bytes, json, other),
                |bytes| VersionedAttestation::decode_aggregated(bytes).map_err(|error| error.to_string()),
                |attestation| Some(attestation.encode()),
                |attestation| Some(attestation.to_json()),
            )
        },
    },
    Codec {
        name: "VersionedSignedAggregateAndProof",
        check: |bytes, json, other| {
            both_forms(
                (bytes, json, other),
                |bytes| VersionedAggregate::decode(bytes).map_err(|error| error.to_string()),
                |aggregate| Some(aggregate.encode()),
                |_| None,
            )
        },
    },
    Codec {
        name: "VersionedProposal",
        check: |bytes, json, other| {
            both_forms(
                (bytes, json, other),
                |bytes| VersionedProposal::decode(bytes).map_err(|error| error.to_string()),
                |proposal| Some(proposal.encode()),
                |proposal| Some(proposal.to_json()),
            )
        },
    },
    Codec {
        name: "VersionedSignedProposal",
        check: |bytes, json, other| {
            both_forms(
                (bytes, json, other),
                |bytes| VersionedSignedProposal::decode(bytes).map_err(|error| error.to_string()),
                |proposal| Some(proposal.encode()),
                |proposal| Some(proposal.to_json()),
            )
        },
    },
    Codec {
        name: "SyncContribution",
        check: |bytes, json, other| {
            both_forms(
                (bytes, json, other),
                |bytes| {
                    Unsigned::decode(DutyType::SyncContribution, bytes).map_err(|error| error.to_string())
                },
                |unsigned| Some(unsigned.encode()),
                |unsigned| match unsigned {
                    Unsigned::Contributions(several) => {
                        several.first().and_then(|one| serde_json::to_vec(one).ok())
                    }
                    Unsigned::Attester(_) | Unsigned::Proposal(_) | Unsigned::Aggregate(_) => None,
                },
            )
        },
    },
    Codec {
        name: "SyncContributionAndProof",
        check: |bytes, json, other| {
            both_forms(
                (bytes, json, other),
                |bytes| {
                    <chain::ContributionAndProof as ssz::Decode>::from_ssz_bytes(bytes)
                        .or_else(|_| serde_json::from_slice(bytes))
                        .map_err(|error| error.to_string())
                },
                |contribution: &chain::ContributionAndProof| Some(ssz::Encode::as_ssz_bytes(contribution)),
                |contribution| serde_json::to_vec(contribution).ok(),
            )
        },
    },
    Codec {
        name: "SignedSyncMessage",
        check: |bytes, json, other| {
            both_forms(
                (bytes, json, other),
                |bytes| Signed::decode(DutyType::SyncMessage, bytes).map_err(|error| error.to_string()),
                |signed| Some(signed.encode()),
                |signed| {
                    let Signed::SyncMessage(message) = signed else { return None };
                    serde_json::to_vec(message).ok()
                },
            )
        },
    },
    Codec {
        name: "SignedVoluntaryExit",
        check: |bytes, json, other| signed_case(DutyType::Exit, (bytes, json, other), true),
    },
    Codec {
        name: "SignedRandao",
        check: |bytes, json, other| signed_case(DutyType::Randao, (bytes, json, other), true),
    },
    Codec {
        name: "BeaconCommitteeSelection",
        check: |bytes, json, other| signed_case(DutyType::PrepareAggregator, (bytes, json, other), true),
    },
    Codec {
        name: "SyncCommitteeSelection",
        check: |bytes, json, other| {
            signed_case(DutyType::PrepareSyncContribution, (bytes, json, other), true)
        },
    },
    Codec {
        name: "Signature",
        check: |bytes, json, other| signed_case(DutyType::Signature, (bytes, json, other), true),
    },
];
