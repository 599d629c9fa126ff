//! Reliable broadcast (obol spec 11.4): everybody signs a message's hash before anybody delivers it, so that no two members
//! can be told different things.
//!
//! Pure. What was signed must survive a restart: after [`Broadcasts::on_request`] the caller makes it durable, then answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::{IdentityKey, IdentityPublicKey};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::wire::{BCastMessage, BCastSigRequest, BCastSigResponse};
use crate::scan;
use crate::wire::{Any, Complete as _};

/// Bytes of an identity signature.
const SIGNATURE_BYTES: usize = 65;

/// Which hash is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BroadcastVersion {
    /// Releases up to v1.10: nothing but the message.
    V1,
    /// v1.11: the session, the identifier and the message.
    V2,
}

/// What signatures of this ceremony are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Which hash is signed.
    pub version: BroadcastVersion,
    /// Definition hash (key generation) or lock hash (editing a cluster).
    pub hash: [u8; 32],
}

impl Session {
    /// The hash that every member signs.
    pub fn hash_of(&self, id: &str, message: &Any) -> [u8; 32] {
        let mut hasher = Sha256::new();
        match self.version {
            BroadcastVersion::V1 => {
                hasher.update(message.type_url.as_bytes());
                hasher.update(&message.value);
            }
            BroadcastVersion::V2 => {
                for field in [&self.hash[..], id.as_bytes(), message.type_url.as_bytes(), &message.value] {
                    hasher.update(u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
                    hasher.update(field);
                }
            }
        }
        hasher.finalize().into()
    }

    /// Checks the signatures of all members, in order.
    pub fn check(
        &self,
        members: &[IdentityPublicKey],
        id: &str,
        message: &Any,
        signatures: &[Vec<u8>],
    ) -> Result<(), BroadcastRefusal> {
        if signatures.len() != members.len() {
            return Err(BroadcastRefusal::SignatureCount { members: members.len(), found: signatures.len() });
        }
        let hash = self.hash_of(id, message);
        for (member, (key, signature)) in members.iter().zip(signatures).enumerate() {
            if signature.len() != SIGNATURE_BYTES || key.verify(&hash, signature).is_err() {
                return Err(BroadcastRefusal::Signature { member });
            }
        }
        Ok(())
    }
}

/// A kind of message that may be broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its identifier.
    pub id: &'static str,
    /// Full name of the message inside.
    pub type_name: &'static str,
    /// Longest message accepted.
    pub max_bytes: usize,
}

/// Why a broadcast or a request to sign one is refused. The sender is known to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BroadcastRefusal {
    /// No such message.
    #[error("the bytes are not a broadcast message")]
    Malformed,
    /// A mandatory sub-message is absent.
    #[error("the field {0} is absent")]
    Absent(&'static str),
    /// An identifier that nobody registered.
    #[error("nothing is broadcast under the name {0:?}")]
    UnknownId(String),
    /// A message of another type under this identifier.
    #[error("the message is not of the type that belongs to its name")]
    WrongType,
    /// Longer than any honest one.
    #[error("a message of {0} bytes is longer than its kind can be")]
    TooLong(usize),
    /// A second, different message of one sender under one identifier.
    #[error("it broadcast two different messages under the name {0}: it tells members different things")]
    SecondDifferent(&'static str),
    /// Not one signature for each member.
    #[error("{found} signatures for {members} members")]
    SignatureCount {
        /// Members.
        members: usize,
        /// Signatures found.
        found: usize,
    },
    /// A signature that is not by the member at its place.
    #[error("the signature of member {} is wrong: the message was changed, or belongs to another ceremony", .member + 1)]
    Signature {
        /// Whose signature, from 0.
        member: usize,
    },
    /// All signatures are right, but we did not sign it in this ceremony.
    #[error("we did not sign it in this ceremony: it was replayed from another one")]
    NotSignedHere,
    /// An answer to nothing we asked.
    #[error("it answered a request that was not made")]
    NotAsked,
}

/// Something a member asks us to sign, or has delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Its identifier.
    pub id: &'static str,
    /// The message.
    pub message: Any,
    /// Everybody's signatures, in order; none in a request.
    pub signatures: Vec<Vec<u8>>,
    /// The hash signed.
    pub hash: [u8; 32],
}

/// A message of ours on its way.
struct Outgoing {
    kind: Kind,
    message: Any,
    hash: [u8; 32],
    signatures: Vec<Option<Vec<u8>>>,
}

/// The broadcasts of one ceremony, as one member sees them.
pub struct Broadcasts {
    session: Session,
    members: Vec<IdentityPublicKey>,
    own: usize,
    identity: Arc<IdentityKey>,
    kinds: Vec<Kind>,
    /// The one hash ever signed for each sender and identifier.
    signed: BTreeMap<(usize, &'static str), [u8; 32]>,
    outgoing: BTreeMap<&'static str, Outgoing>,
}

impl Broadcasts {
    /// `own` is our place among the members.
    pub fn new(
        session: Session,
        members: Vec<IdentityPublicKey>,
        own: usize,
        identity: Arc<IdentityKey>,
        kinds: Vec<Kind>,
    ) -> Self {
        Self { session, members, own, identity, kinds, signed: BTreeMap::new(), outgoing: BTreeMap::new() }
    }

    /// The session that signatures are bound to.
    pub fn session(&self) -> Session {
        self.session
    }

    /// Reads a request to sign. Nothing is remembered yet: check the content, then call [`Self::sign`].
    pub fn on_request(&self, sender: usize, bytes: &[u8]) -> Result<Delivered, BroadcastRefusal> {
        let request = BCastSigRequest::decode(bytes).map_err(|_| BroadcastRefusal::Malformed)?;
        request.complete().map_err(BroadcastRefusal::Absent)?;
        let message = request.message.unwrap_or_default();
        let kind = self.kind(&request.id, &message)?;
        let hash = self.session.hash_of(kind.id, &message);
        self.same_as_before(sender, kind.id, hash)?;
        Ok(Delivered { id: kind.id, message, signatures: Vec::new(), hash })
    }

    /// Signs what [`Self::on_request`] read, once and for all. The answer leaves only after this fact is durable.
    pub fn sign(&mut self, sender: usize, request: &Delivered) -> Result<Vec<u8>, BroadcastRefusal> {
        self.remember(sender, request.id, request.hash)?;
        let signature = self.identity.sign(&request.hash).to_vec();
        Ok(BCastSigResponse { id: request.id.to_owned(), signature }.encode_to_vec())
    }

    /// Takes a durable fact back after a restart.
    pub fn remember(&mut self, sender: usize, id: &str, hash: [u8; 32]) -> Result<(), BroadcastRefusal> {
        let kind = self.kinds.iter().find(|kind| kind.id == id);
        let kind = kind.ok_or_else(|| BroadcastRefusal::UnknownId(short(id)))?;
        self.same_as_before(sender, kind.id, hash)?;
        self.signed.insert((sender, kind.id), hash);
        Ok(())
    }

    /// Begins a broadcast of ours; the result goes to every other member as a request. Beginning again changes nothing, and
    /// a different message under the same identifier is refused here as everywhere.
    pub fn begin(&mut self, id: &'static str, message: Any) -> Result<Vec<u8>, BroadcastRefusal> {
        let kind = self.kind(id, &message)?;
        let hash = self.session.hash_of(id, &message);
        self.remember(self.own, id, hash)?;
        let request = BCastSigRequest { id: id.to_owned(), message: Some(message.clone()) }.encode_to_vec();
        let own = self.identity.sign(&hash).to_vec();
        let outgoing = self.outgoing.entry(id).or_insert_with(|| Outgoing {
            kind,
            message,
            hash,
            signatures: vec![None; self.members.len()],
        });
        if let Some(place) = outgoing.signatures.get_mut(self.own) {
            *place = Some(own);
        }
        Ok(request)
    }

    /// The request that [`Self::begin`] gave, to be sent again.
    pub fn request(&self, id: &str) -> Option<Vec<u8>> {
        let outgoing = self.outgoing.get(id)?;
        let message = Some(outgoing.message.clone());
        Some(BCastSigRequest { id: outgoing.kind.id.to_owned(), message }.encode_to_vec())
    }

    /// The members who have not signed our message yet.
    pub fn unsigned(&self, id: &str) -> Vec<usize> {
        let Some(outgoing) = self.outgoing.get(id) else { return Vec::new() };
        let missing = outgoing.signatures.iter().enumerate().filter(|(_, signature)| signature.is_none());
        missing.map(|(member, _)| member).collect()
    }

    /// Takes a member's signature of our message.
    pub fn on_response(&mut self, from: usize, bytes: &[u8]) -> Result<&'static str, BroadcastRefusal> {
        let response = BCastSigResponse::decode(bytes).map_err(|_| BroadcastRefusal::Malformed)?;
        let outgoing = self.outgoing.get_mut(response.id.as_str()).ok_or(BroadcastRefusal::NotAsked)?;
        let key = self.members.get(from).ok_or(BroadcastRefusal::NotAsked)?;
        let signature = response.signature;
        if signature.len() != SIGNATURE_BYTES || key.verify(&outgoing.hash, &signature).is_err() {
            return Err(BroadcastRefusal::Signature { member: from });
        }
        if let Some(place) = outgoing.signatures.get_mut(from) {
            *place = Some(signature);
        }
        Ok(outgoing.kind.id)
    }

    /// Our message with all signatures, once they are there: to be sent to everybody, and delivered to ourselves.
    pub fn complete(&self, id: &str) -> Option<(Vec<u8>, Delivered)> {
        let outgoing = self.outgoing.get(id)?;
        let signatures = outgoing.signatures.iter().cloned().collect::<Option<Vec<_>>>()?;
        let message = BCastMessage {
            id: outgoing.kind.id.to_owned(),
            message: Some(outgoing.message.clone()),
            signatures: signatures.clone(),
        };
        let delivered = Delivered {
            id: outgoing.kind.id,
            message: outgoing.message.clone(),
            signatures,
            hash: outgoing.hash,
        };
        Some((message.encode_to_vec(), delivered))
    }

    /// Checks a message that its sender says everybody signed.
    pub fn on_message(&self, sender: usize, bytes: &[u8]) -> Result<Delivered, BroadcastRefusal> {
        let found = scan::count(bytes, 3).map_err(|_| BroadcastRefusal::Malformed)?;
        if found != self.members.len() {
            return Err(BroadcastRefusal::SignatureCount { members: self.members.len(), found });
        }
        let message = BCastMessage::decode(bytes).map_err(|_| BroadcastRefusal::Malformed)?;
        message.complete().map_err(BroadcastRefusal::Absent)?;
        let any = message.message.unwrap_or_default();
        let kind = self.kind(&message.id, &any)?;
        let hash = self.session.hash_of(kind.id, &any);
        self.same_as_before(sender, kind.id, hash)?;
        self.session.check(&self.members, kind.id, &any, &message.signatures)?;
        if !self.signed.contains_key(&(sender, kind.id)) {
            return Err(BroadcastRefusal::NotSignedHere);
        }
        Ok(Delivered { id: kind.id, message: any, signatures: message.signatures, hash })
    }

    fn same_as_before(
        &self,
        sender: usize,
        id: &'static str,
        hash: [u8; 32],
    ) -> Result<(), BroadcastRefusal> {
        match self.signed.get(&(sender, id)) {
            Some(known) if *known != hash => Err(BroadcastRefusal::SecondDifferent(id)),
            _ => Ok(()),
        }
    }

    fn kind(&self, id: &str, message: &Any) -> Result<Kind, BroadcastRefusal> {
        let kind = self.kinds.iter().find(|kind| kind.id == id).copied();
        let kind = kind.ok_or_else(|| BroadcastRefusal::UnknownId(short(id)))?;
        if message.type_url.rsplit('/').next() != Some(kind.type_name) {
            return Err(BroadcastRefusal::WrongType);
        }
        if message.value.len() > kind.max_bytes {
            return Err(BroadcastRefusal::TooLong(message.value.len()));
        }
        Ok(kind)
    }
}

fn short(id: &str) -> String {
    id.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dkg::wire::MsgNodeSig;
    use crate::wire::Named as _;

    const ID: &str = "/charon/dkg/node_sig";
    const KIND: Kind = Kind { id: ID, type_name: MsgNodeSig::NAME, max_bytes: 128 };

    fn identity(number: u8) -> Arc<IdentityKey> {
        Arc::new(IdentityKey::from_bytes(zeroize::Zeroizing::new([number + 1; 32])).unwrap())
    }

    fn members(version: BroadcastVersion, hash: u8) -> Vec<Broadcasts> {
        let keys: Vec<_> = (0..3).map(|number| identity(number).public_key()).collect();
        let session = Session { version, hash: [hash; 32] };
        (0..3)
            .map(|own| Broadcasts::new(session, keys.clone(), usize::from(own), identity(own), vec![KIND]))
            .collect()
    }

    fn message(number: u32) -> Any {
        MsgNodeSig { signature: vec![7; 65], peer_index: number }.to_any()
    }

    /// A whole broadcast of member 0; the bytes that it sends at the end.
    fn signed_by_all(all: &mut [Broadcasts], message: Any) -> Vec<u8> {
        let request = all[0].begin(ID, message).unwrap();
        for member in 1..all.len() {
            let read = all[member].on_request(0, &request).unwrap();
            let response = all[member].sign(0, &read).unwrap();
            assert_eq!(all[0].on_response(member, &response), Ok(ID));
        }
        assert!(all[0].unsigned(ID).is_empty());
        all[0].complete(ID).unwrap().0
    }

    #[test]
    fn a_message_is_delivered_once_everybody_signed_it() {
        for version in [BroadcastVersion::V1, BroadcastVersion::V2] {
            let mut all = members(version, 1);
            let bytes = signed_by_all(&mut all, message(0));
            for member in &all[1..] {
                let delivered = member.on_message(0, &bytes).unwrap();
                assert_eq!((delivered.id, &delivered.message), (ID, &message(0)));
                assert_eq!(delivered, all[0].complete(ID).unwrap().1);
            }
        }
    }

    #[test]
    fn a_second_different_message_is_never_signed_even_after_a_restart() {
        let mut all = members(BroadcastVersion::V1, 1);
        let first = all[0].begin(ID, message(0)).unwrap();
        let read = all[1].on_request(0, &first).unwrap();
        let answer = all[1].sign(0, &read).unwrap();
        let other = BCastSigRequest { id: ID.to_owned(), message: Some(message(9)) }.encode_to_vec();
        let refusal = Err(BroadcastRefusal::SecondDifferent(ID));
        assert_eq!(all[1].on_request(0, &other), refusal);
        assert_eq!(all[0].begin(ID, message(9)), Err(BroadcastRefusal::SecondDifferent(ID)));
        // The same again is answered the same.
        assert_eq!(all[1].sign(0, &read), Ok(answer));
        let mut restarted = members(BroadcastVersion::V1, 1).remove(1);
        restarted.remember(0, ID, read.hash).unwrap();
        assert_eq!(restarted.on_request(0, &other), refusal);
        assert!(restarted.on_request(2, &other).is_ok(), "another sender has its own");
    }

    #[test]
    fn nobody_signs_what_is_no_message_of_the_ceremony_nor_a_hash_that_the_asker_chose() {
        for version in [BroadcastVersion::V1, BroadcastVersion::V2] {
            let mut all = members(version, 1);
            let asked = |id: &str, message: Option<Any>| {
                let request = BCastSigRequest { id: id.to_owned(), message };
                all[1].on_request(0, &request.encode_to_vec()).unwrap_err()
            };
            let other = "/charon/consensus/qbft/2.0.0";
            assert_eq!(asked(other, Some(message(0))), BroadcastRefusal::UnknownId(other.to_owned()));
            assert_eq!(asked(ID, None), BroadcastRefusal::Absent("message"));
            let vote = crate::wire::QbftMsg { r#type: 1, round: 1, ..Default::default() };
            let vote = Any {
                type_url: "type.googleapis.com/core.corepb.v1.QBFTMsg".to_owned(),
                value: vote.encode_to_vec(),
            };
            assert_eq!(asked(ID, Some(vote)), BroadcastRefusal::WrongType);
            assert_eq!(
                asked(ID, Some(Any { value: vec![0; 129], ..message(0) })),
                BroadcastRefusal::TooLong(129)
            );
            // What is signed is a hash that we made, with the name of the type in it, and never the 32 bytes that were sent.
            let chosen = Any { value: vec![0x1d; 32], ..message(0) };
            let request = BCastSigRequest { id: ID.to_owned(), message: Some(chosen) }.encode_to_vec();
            let read = all[1].on_request(0, &request).unwrap();
            let answer = BCastSigResponse::decode(all[1].sign(0, &read).unwrap().as_slice()).unwrap();
            let key = identity(1).public_key();
            assert_eq!(key.verify(&read.hash, &answer.signature), Ok(()));
            for digest in [[0x1d; 32], Sha256::digest([0x1d; 32]).into()] {
                assert!(key.verify(&digest, &answer.signature).is_err());
            }
        }
    }

    #[test]
    fn what_was_signed_in_another_session_is_refused() {
        let bytes = signed_by_all(&mut members(BroadcastVersion::V2, 1), message(0));
        let mut other = members(BroadcastVersion::V2, 2);
        assert_eq!(other[1].on_message(0, &bytes), Err(BroadcastRefusal::Signature { member: 0 }));
        // Version 1 signs nothing of the session: only our own memory helps.
        let bytes = signed_by_all(&mut members(BroadcastVersion::V1, 1), message(0));
        other = members(BroadcastVersion::V1, 2);
        assert_eq!(other[1].on_message(0, &bytes), Err(BroadcastRefusal::NotSignedHere));
        let request = other[0].begin(ID, message(5)).unwrap();
        let read = other[1].on_request(0, &request).unwrap();
        other[1].sign(0, &read).unwrap();
        assert_eq!(other[1].on_message(0, &bytes), Err(BroadcastRefusal::SecondDifferent(ID)));
    }

    #[test]
    fn signatures_of_others_missing_or_too_many_are_refused() {
        let mut all = members(BroadcastVersion::V1, 1);
        let whole = BCastMessage::decode(signed_by_all(&mut all, message(0)).as_slice()).unwrap();
        let refused = |change: &dyn Fn(&mut BCastMessage)| {
            let mut changed = whole.clone();
            change(&mut changed);
            all[1].on_message(0, &changed.encode_to_vec()).unwrap_err()
        };
        let count = |found| BroadcastRefusal::SignatureCount { members: 3, found };
        assert_eq!(refused(&|message| message.signatures.truncate(2)), count(2));
        assert_eq!(refused(&|message| message.signatures.push(vec![0; 65])), count(4));
        assert_eq!(
            refused(&|message| message.signatures.swap(1, 2)),
            BroadcastRefusal::Signature { member: 1 }
        );
        assert_eq!(
            refused(&|message| message.signatures[2].truncate(64)),
            BroadcastRefusal::Signature { member: 2 }
        );
        assert_eq!(refused(&|message| message.message = None), BroadcastRefusal::Absent("message"));
        assert_eq!(
            refused(&|message| message.id = "other".to_owned()),
            BroadcastRefusal::UnknownId("other".to_owned())
        );
        let wrong_type = Any { type_url: "type.googleapis.com/x.Y".to_owned(), value: vec![] };
        assert_eq!(
            refused(&|message| message.message = Some(wrong_type.clone())),
            BroadcastRefusal::WrongType
        );
        let long = Any { value: vec![0; 129], ..self::message(0) };
        assert_eq!(refused(&|message| message.message = Some(long.clone())), BroadcastRefusal::TooLong(129));
    }

    #[test]
    fn a_signature_by_another_member_or_for_nothing_asked_is_refused() {
        let mut all = members(BroadcastVersion::V2, 1);
        let request = all[0].begin(ID, message(0)).unwrap();
        let read = all[1].on_request(0, &request).unwrap();
        let response = all[1].sign(0, &read).unwrap();
        assert_eq!(all[0].on_response(2, &response), Err(BroadcastRefusal::Signature { member: 2 }));
        assert_eq!(all[2].on_response(1, &response), Err(BroadcastRefusal::NotAsked));
        assert_eq!(all[0].unsigned(ID), [1, 2]);
        assert!(all[0].complete(ID).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut all = members(BroadcastVersion::V2, 1);
            prop_assert!(all[1].on_request(0, &bytes).is_err());
            prop_assert!(all[1].on_message(0, &bytes).is_err());
            prop_assert!(all[1].on_response(0, &bytes).is_err());
        }
    }
}
