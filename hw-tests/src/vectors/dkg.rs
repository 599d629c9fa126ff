//! `obol/dkg`: key generation. Transcripts of FROST, the challenge hash, reliable broadcast and sync messages.

use super::report::{Report, bytes_of, equal, files, hex_field, label, list, read_as, read_json, text};
use chain::{PublicKeyBytes, SignatureBytes};
use cluster::{IdentityKey, IdentityPublicKey};
use obol::dkg::bcast::{BroadcastVersion, Session};
use obol::dkg::sync;
use obol::dkg::wire::{
    BCastMessage, BCastSigRequest, FrostMsgKey, FrostRound1Cast, FrostRound1Casts, FrostRound1P2P,
    FrostRound1ShamirShare, FrostRound2Cast, FrostRound2Casts, MsgSync,
};
use obol::wire::{Any, Timestamp};
use prost::Message;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use threshold::frost::{Dealing, Dealt, Proof, hash_to_scalar, sum_commitments, sum_shares};
use threshold::{Polynomial, PublicKey, SecretKey, ShareIndex};

type Check = fn(&Value) -> Result<(), String>;

/// Runs all cases.
pub fn run(folder: &Path) -> Report {
    let known: [(&str, Check); 4] = [
        ("frost.json", frost),
        ("frost_hash_to_scalar.json", challenge_hash),
        ("bcast.json", broadcast),
        ("sync.json", sync_message),
    ];
    let mut report = Report::default();
    for file in files(folder, "json") {
        let name = label(folder, &file);
        let Some((_, check)) = known.iter().find(|(known, _)| *known == name) else {
            report.skip(1, "a file of unknown form");
            continue;
        };
        match read_json(&file).and_then(|value| Ok(list(&value, "cases")?.to_vec())) {
            Ok(cases) => {
                for (index, case) in cases.iter().enumerate() {
                    report.case(format!("{name} case {index}"), check(case));
                }
            }
            Err(why) => report.case(name, Err(why)),
        }
    }
    report
}

fn challenge_hash(case: &Value) -> Result<(), String> {
    equal(
        "the scalar",
        hex::encode(hash_to_scalar(&hex_field(case, "msg")?)),
        text(case, "scalar")?.to_owned(),
    )
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn index(number: u64) -> Result<ShareIndex, String> {
    ShareIndex::new(number).map_err(shown)
}

fn secret(text: &str) -> Result<SecretKey, String> {
    SecretKey::from_bytes(&bytes_of(text)?).map_err(shown)
}

fn key(number: u64, target: u64) -> Option<FrostMsgKey> {
    Some(FrostMsgKey {
        val_idx: 0,
        source_id: u32::try_from(number).ok()?,
        target_id: u32::try_from(target).ok()?,
    })
}

/// Every value of a transcript, made again from the coefficients and the nonce.
fn frost(case: &Value) -> Result<(), String> {
    let threshold = read_as::<usize>(case, "threshold")?;
    let participants = list(case, "participants")?;
    let mut dealings = Vec::new();
    let mut dealt = Vec::new();
    for participant in participants {
        let id = read_as::<u64>(participant, "id")?;
        let coefficients = list(participant, "coefficients")?.iter();
        let coefficients = coefficients.map(|text| secret(text.as_str().unwrap_or_default()));
        let polynomial = Polynomial::from_coefficients(coefficients.collect::<Result<_, _>>()?);
        let dealing = Dealing::new(polynomial.map_err(shown)?, secret(text(participant, "nonce")?)?);
        let commitments = dealing.commitments().to_bytes();
        let proof = dealing.prove(index(id)?).map_err(shown)?;
        check_round_1(participant, id, &commitments, &proof)?;
        let checked = Dealt::verify(index(id)?, threshold, &commitments, &proof).map_err(shown)?;
        equal("R", hex::encode(checked.nonce_point().0), text(participant, "R")?.to_owned())?;
        dealt.push(checked);
        dealings.push((id, dealing));
    }
    let whole = sum_commitments(dealt.iter().map(Dealt::commitments)).map_err(shown)?;
    equal(
        "the verification key",
        hex::encode(whole.group_key().to_bytes().0),
        text(case, "verification_key")?.to_owned(),
    )?;
    let mut partials = Vec::new();
    for participant in participants {
        let id = read_as::<u64>(participant, "id")?;
        let mut to_it = Vec::new();
        for ((dealer, dealing), dealt) in dealings.iter().zip(&dealt) {
            let bytes = dealing.share(index(id)?).map_err(shown)?.key().expose_bytes();
            check_share(&participants[to_it.len()], *dealer, id, bytes.as_slice())?;
            to_it.push(dealt.check_share(index(id)?, bytes.as_slice()).map_err(shown)?);
        }
        let share = sum_shares(index(id)?, &to_it).map_err(shown)?;
        let found = hex::encode(share.key().expose_bytes().as_slice());
        equal("the secret share", found, text(participant, "secret_share")?.to_owned())?;
        let public = whole.public_share(index(id)?).map_err(shown)?.key;
        equal("the public share", public, share.public_share().key)?;
        let expected = case.get("public_shares").ok_or("no public shares")?;
        equal(
            "the public share",
            hex::encode(public.to_bytes().0),
            text(expected, &id.to_string())?.to_owned(),
        )?;
        check_round_2(participant, id, &whole.group_key(), &public)?;
        partials.push((id, share));
    }
    let test = case.get("sign_test").ok_or("no sign_test")?;
    let message = hex_field(test, "message")?;
    let expected = test.get("partial_signatures").ok_or("no partial signatures")?;
    let mut made = Vec::new();
    for (id, share) in &partials {
        let signature = share.sign(&message).to_bytes();
        equal("a partial signature", hex::encode(signature.0), text(expected, &id.to_string())?.to_owned())?;
        made.push((index(*id)?, signature));
    }
    // From the front and from the back: any subset will do.
    for subset in [&made[..threshold], &made[made.len() - threshold..]] {
        let signature: SignatureBytes = threshold::combine(subset).map_err(shown)?;
        equal("the signature", hex::encode(signature.0), text(test, "group_signature")?.to_owned())?;
    }
    Ok(())
}

fn check_round_1(
    participant: &Value,
    id: u64,
    commitments: &[PublicKeyBytes],
    proof: &Proof,
) -> Result<(), String> {
    let expected = list(participant, "commitments")?;
    let found: Vec<Value> = commitments.iter().map(|point| hex::encode(point.0).into()).collect();
    equal("the commitments", found.as_slice(), expected)?;
    equal("ci", hex::encode(proof.challenge), text(participant, "ci")?.to_owned())?;
    equal("wi", hex::encode(proof.response), text(participant, "wi")?.to_owned())?;
    let cast = FrostRound1Cast {
        key: key(id, 0),
        wi: proof.response.to_vec(),
        ci: proof.challenge.to_vec(),
        commitments: commitments.iter().map(|point| point.0.to_vec()).collect(),
    };
    let message = FrostRound1Casts { casts: vec![cast] }.encode_to_vec();
    equal("the cast", hex::encode(message), text(participant, "round1_casts_proto")?.to_owned())
}

fn check_share(dealer: &Value, from: u64, to: u64, value: &[u8]) -> Result<(), String> {
    let shares = dealer.get("shares").ok_or("no shares")?;
    equal("a share", hex::encode(value), text(shares, &to.to_string())?.to_owned())?;
    if from == to {
        return Ok(());
    }
    let id = u32::try_from(to).map_err(shown)?;
    let share = FrostRound1ShamirShare { key: key(from, to), id, value: value.to_vec() };
    let message = FrostRound1P2P { shares: vec![share], ..FrostRound1P2P::default() }.encode_to_vec();
    let expected = dealer.get("round1_p2p_proto").ok_or("no p2p messages")?;
    equal("the message to a member", hex::encode(message), text(expected, &to.to_string())?.to_owned())
}

fn check_round_2(participant: &Value, id: u64, group: &PublicKey, share: &PublicKey) -> Result<(), String> {
    let cast = FrostRound2Cast {
        key: key(id, 0),
        verification_key: group.to_bytes().0.to_vec(),
        vk_share: share.to_bytes().0.to_vec(),
    };
    let message = FrostRound2Casts { casts: vec![cast] }.encode_to_vec();
    equal("the second cast", hex::encode(message), text(participant, "round2_casts_proto")?.to_owned())
}

fn identity(text: &str) -> Result<IdentityKey, String> {
    IdentityKey::from_file_text(text).map_err(shown)
}

fn hash_field(case: &Value, field: &str) -> Result<[u8; 32], String> {
    hex_field(case, field)?.try_into().map_err(|_| format!("field `{field}` is not 32 bytes"))
}

fn broadcast(case: &Value) -> Result<(), String> {
    let id = text(case, "msg_id")?;
    let message =
        Any { type_url: text(case, "any_type_url")?.to_owned(), value: hex_field(case, "any_value")? };
    let request = BCastSigRequest { id: id.to_owned(), message: Some(message.clone()) }.encode_to_vec();
    equal("the request", hex::encode(request), text(case, "sig_request_proto")?.to_owned())?;
    let keys = list(case, "private_keys_hex")?.iter();
    let keys = keys.map(|text| identity(text.as_str().unwrap_or_default())).collect::<Result<Vec<_>, _>>()?;
    let members: Vec<IdentityPublicKey> = keys.iter().map(IdentityKey::public_key).collect();
    for (version, name) in [(BroadcastVersion::V1, "1_0_0"), (BroadcastVersion::V2, "2_0_0")] {
        let session = Session { version, hash: hash_field(case, "session_hash")? };
        let hash = session.hash_of(id, &message);
        equal("the hash", hex::encode(hash), text(case, &format!("hash_bcast_{name}"))?.to_owned())?;
        let signatures: Vec<Vec<u8>> = keys.iter().map(|key| key.sign(&hash).to_vec()).collect();
        let found: Vec<Value> = signatures.iter().map(|signature| hex::encode(signature).into()).collect();
        equal("the signatures", found.as_slice(), list(case, &format!("signatures_{name}"))?)?;
        session.check(&members, id, &message, &signatures).map_err(shown)?;
        if version == BroadcastVersion::V2 {
            let whole = BCastMessage { id: id.to_owned(), message: Some(message.clone()), signatures };
            let found = hex::encode(whole.encode_to_vec());
            equal("the message", found, text(case, "message_proto_2_0_0")?.to_owned())?;
        }
    }
    Ok(())
}

fn sync_message(case: &Value) -> Result<(), String> {
    let key = identity(text(case, "private_key_hex")?)?;
    let digest: [u8; 32] = Sha256::digest(hash_field(case, "definition_hash")?).into();
    let signature = key.sign_der(&digest);
    equal("the signature", hex::encode(&signature), text(case, "hash_signature_der")?.to_owned())?;
    key.public_key().verify_der(&digest, &signature).map_err(shown)?;
    let proto = hex_field(case, "proto")?;
    let timestamp: Option<Timestamp> = MsgSync::decode(proto.as_slice()).map_err(shown)?.timestamp;
    let message = MsgSync {
        timestamp,
        hash_signature: signature,
        shutdown: read_as(case, "shutdown")?,
        version: text(case, "version")?.to_owned(),
        step: read_as(case, "step")?,
        nickname: text(case, "nickname")?.to_owned(),
        ..MsgSync::default()
    };
    equal("the message", hex::encode(message.encode_to_vec()), hex::encode(&proto))?;
    equal("the frame", hex::encode(sync::frame(&proto)), text(case, "frame")?.to_owned())
}
