//! The sync protocol (obol spec 11.3): who is there, with which version and definition, and how far everybody is.
//!
//! Pure. Each member tells each other its step ten times a second; a member goes on when everybody has reached a step.

use std::sync::Arc;

use cluster::{IdentityKey, IdentityPublicKey};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::profile::{Profile, major_minor};
use super::wire::{MsgSync, MsgSyncResponse};
use crate::wire::{Complete as _, Timestamp};

/// Longest message: an honest one has about 300 bytes. The reference takes 32 MiB.
pub const MAX_SYNC_BYTES: usize = 16 << 10;
/// Bytes of the length before each message.
pub const PREFIX_BYTES: usize = 8;
/// How often a member tells its step.
pub const INTERVAL_MS: u64 = 100;
/// Names longer than this are cut.
const MAX_NICKNAME: usize = 32;
/// Bytes of a key that shares are sealed to.
pub const SEAL_KEY_BYTES: usize = 32;

/// A message with its length in front, to be written in one piece: int64 little-endian, then the bytes.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u64::try_from(message.len()).unwrap_or(u64::MAX);
    [&length.to_le_bytes()[..], message].concat()
}

/// The length of the message that follows a prefix; none when it is not 1 to [`MAX_SYNC_BYTES`].
pub fn frame_length(prefix: [u8; PREFIX_BYTES]) -> Option<usize> {
    let length = i64::from_le_bytes(prefix);
    usize::try_from(length).ok().filter(|length| (1..=MAX_SYNC_BYTES).contains(length))
}

/// What a member's identity signs when it announces the key that shares for it are to be sealed to (decision 0171).
pub fn seal_key_digest(hash: &[u8; 32], key: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"hearth dkg seal key v1");
    hasher.update(hash);
    hasher.update(key);
    hasher.finalize().into()
}

/// A key that shares are sealed to, and the identity signature that says whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealKey {
    /// X25519 public key.
    pub key: [u8; SEAL_KEY_BYTES],
    /// 65-byte signature over [`seal_key_digest`].
    pub signature: Vec<u8>,
}

impl SealKey {
    /// Whether the member's own identity vouches for the key in this ceremony.
    pub fn is_of(&self, member: &IdentityPublicKey, hash: &[u8; 32]) -> bool {
        member.verify(&seal_key_digest(hash, &self.key), &self.signature).is_ok()
    }
}

/// Why a member's message is refused, or the ceremony cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncRefusal {
    /// No such message.
    #[error("the bytes are not a sync message")]
    Malformed,
    /// It runs another minor version.
    #[error("mismatching charon version; expect={expected}, got={found}")]
    Version {
        /// Ours.
        expected: String,
        /// Theirs.
        found: String,
    },
    /// It has another definition, or it is somebody else.
    #[error("invalid definition hash signature: it holds another cluster definition")]
    Definition,
    /// Its first step is not a beginning.
    #[error("it begins at step {0}: it or we restarted in the middle of the ceremony")]
    FirstStep(i64),
    /// Its steps went backwards.
    #[error("it went back from step {from} to {to}: it restarted in the middle of the ceremony")]
    WentBack {
        /// From.
        from: i64,
        /// To.
        to: i64,
    },
    /// Its steps jumped.
    #[error("it jumped from step {from} to {to}: somebody restarted in the middle of the ceremony")]
    Jumped {
        /// From.
        from: i64,
        /// To.
        to: i64,
    },
    /// It is further than anybody can be.
    #[error("it is at step {theirs} while we are at {ours}: we missed something")]
    Ahead {
        /// Ours.
        ours: i64,
        /// Theirs.
        theirs: i64,
    },
    /// It told us that it cannot go on.
    #[error("it refuses to go on: {0}")]
    Told(String),
}

/// What a sync message led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The answer; none: end the stream without one.
    pub response: Option<Vec<u8>>,
    /// The sender's last message: end the stream after the answer.
    pub ends: bool,
    /// What is wrong.
    pub refusal: Option<SyncRefusal>,
    /// Whether that ends the ceremony.
    pub fatal: bool,
    /// Whether the sender was not known to be there before, or has a new step.
    pub news: bool,
}

/// One other member, as heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSync {
    /// It sent a valid message.
    pub heard: bool,
    /// It answered one of ours.
    pub answered: bool,
    /// Its step.
    pub step: i64,
    /// It said goodbye.
    pub left: bool,
    /// Its name.
    pub nickname: String,
    /// The key that shares for it are sealed to, when it is a Hearth.
    pub seal_key: Option<SealKey>,
    /// It drops what it is told a second time.
    pub drops_repeats: bool,
}

/// The sync of one ceremony, as one member sees it.
pub struct Sync {
    profile: Profile,
    hash: [u8; 32],
    members: Vec<IdentityPublicKey>,
    own: usize,
    signature: Vec<u8>,
    nickname: String,
    seal_key: Option<SealKey>,
    drops_repeats: bool,
    step: i64,
    /// We came back in the middle: others need not begin with us.
    resumed: bool,
    leaving: bool,
    peers: Vec<PeerSync>,
}

impl Sync {
    /// `hash` is the definition hash; `own` our place among the members.
    pub fn new(
        profile: Profile,
        hash: [u8; 32],
        members: Vec<IdentityPublicKey>,
        own: usize,
        identity: &Arc<IdentityKey>,
        nickname: &str,
    ) -> Self {
        let digest: [u8; 32] = Sha256::digest(hash).into();
        let peers = vec![PeerSync::default(); members.len()];
        Self {
            profile,
            hash,
            members,
            own,
            signature: identity.sign_der(&digest),
            nickname: nickname.chars().take(MAX_NICKNAME).collect(),
            seal_key: None,
            drops_repeats: false,
            step: 0,
            resumed: false,
            leaving: false,
            peers,
        }
    }

    /// Announces the key that shares for us are to be sealed to.
    pub fn announce(&mut self, key: SealKey) {
        self.seal_key = Some(key);
    }

    /// Tells the others that we drop what we are told a second time.
    pub fn drop_repeats(&mut self) {
        self.drops_repeats = true;
    }

    /// Goes on at a step that was reached before a restart.
    pub fn resume(&mut self, step: i64) {
        self.resumed = step > 0;
        self.step = step;
    }

    /// Our step.
    pub fn step(&self) -> i64 {
        self.step
    }

    /// We have reached a step.
    pub fn advance(&mut self, step: i64) {
        self.step = self.step.max(step);
    }

    /// From now on our messages say goodbye.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether our messages say goodbye.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// What is known of a member.
    pub fn peer(&self, member: usize) -> Option<&PeerSync> {
        self.peers.get(member)
    }

    /// Our message now.
    pub fn message(&self, now_ms: u64) -> Vec<u8> {
        let seconds = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
        let nanos = i32::try_from(now_ms % 1000 * 1_000_000).unwrap_or_default();
        let nickname = if self.profile.minor >= 9 { self.nickname.clone() } else { String::new() };
        let (seal_key, seal_key_signature) = match &self.seal_key {
            Some(seal) => (seal.key.to_vec(), seal.signature.clone()),
            None => (Vec::new(), Vec::new()),
        };
        let message = MsgSync {
            timestamp: Some(Timestamp { seconds, nanos }),
            hash_signature: self.signature.clone(),
            shutdown: self.leaving,
            version: self.profile.announced(),
            step: self.step,
            nickname,
            seal_key,
            seal_key_signature,
            drops_repeats: self.drops_repeats,
        };
        message.encode_to_vec()
    }

    /// Takes a member's message.
    pub fn on_message(&mut self, from: usize, bytes: &[u8]) -> Heard {
        let drop_stream =
            |refusal| Heard { response: None, ends: true, refusal: Some(refusal), fatal: false, news: false };
        let message = match MsgSync::decode(bytes) {
            Ok(message) if bytes.len() <= MAX_SYNC_BYTES && message.complete().is_ok() => message,
            Ok(_) | Err(_) => return drop_stream(SyncRefusal::Malformed),
        };
        let respond = |error: String| {
            Some(MsgSyncResponse { sync_timestamp: message.timestamp, error }.encode_to_vec())
        };
        if let Err(refusal) = self.check_sender(from, &message) {
            let response = respond(refusal.to_string());
            return Heard { response, ends: true, refusal: Some(refusal), fatal: true, news: false };
        }
        if let Err(refusal) = self.check_step(from, message.step) {
            // Older releases only end the stream here. Saying why costs nothing and tells who lost its part.
            let response = respond(refusal.to_string());
            let fatal = self.profile.restart_is_fatal;
            return Heard { response, ends: true, refusal: Some(refusal), fatal, news: false };
        }
        let seal_key = self.seal_key_of(from, &message);
        let Some(peer) = self.peers.get_mut(from) else { return drop_stream(SyncRefusal::Malformed) };
        let news = !peer.heard || peer.step != message.step || peer.left != message.shutdown;
        peer.heard = true;
        peer.step = message.step;
        peer.left |= message.shutdown;
        peer.drops_repeats |= message.drops_repeats;
        peer.nickname = message.nickname.chars().filter(|c| !c.is_control()).take(MAX_NICKNAME).collect();
        // The first key counts: our shares go out once.
        if peer.seal_key.is_none() {
            peer.seal_key = seal_key;
        }
        Heard { response: respond(String::new()), ends: message.shutdown, refusal: None, fatal: false, news }
    }

    /// Answers a member's message with why we cannot go on, so that it need not wait for us.
    pub fn refuse(&self, bytes: &[u8], why: &str) -> Option<Vec<u8>> {
        let message = MsgSync::decode(bytes).ok().filter(|_| bytes.len() <= MAX_SYNC_BYTES)?;
        let error = why.chars().take(200).collect();
        Some(MsgSyncResponse { sync_timestamp: message.timestamp, error }.encode_to_vec())
    }

    /// Takes a member's answer to our message.
    pub fn on_response(&mut self, from: usize, bytes: &[u8]) -> Result<(), SyncRefusal> {
        let response = MsgSyncResponse::decode(bytes).map_err(|_| SyncRefusal::Malformed)?;
        if !response.error.is_empty() {
            let text = response.error.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(SyncRefusal::Told(text));
        }
        if let Some(peer) = self.peers.get_mut(from) {
            peer.answered = true;
        }
        Ok(())
    }

    /// A member's connection is gone; it must be heard again.
    pub fn disconnected(&mut self, member: usize) {
        if let Some(peer) = self.peers.get_mut(member) {
            peer.answered = false;
        }
    }

    /// The members with whom sync does not run in both directions yet.
    pub fn missing(&self) -> Vec<usize> {
        self.others(|peer| !peer.heard || !peer.answered)
    }

    /// The members who have not reached a step; a member who is too far ahead ends the ceremony.
    pub fn behind(&self, step: i64) -> Result<Vec<usize>, (usize, SyncRefusal)> {
        let ahead = |peer: &PeerSync| peer.step >= step.saturating_add(2);
        if let Some(member) = self.others(ahead).first() {
            let theirs = self.peers.get(*member).map_or(0, |peer| peer.step);
            return Err((*member, SyncRefusal::Ahead { ours: step, theirs }));
        }
        Ok(self.others(|peer| !peer.heard || peer.step < step))
    }

    /// Whether every other member said goodbye.
    pub fn all_left(&self) -> bool {
        self.others(|peer| !peer.left).is_empty()
    }

    fn others(&self, wanted: impl Fn(&PeerSync) -> bool) -> Vec<usize> {
        let others = self.peers.iter().enumerate().filter(|(member, _)| *member != self.own);
        others.filter(|(_, peer)| wanted(peer)).map(|(member, _)| member).collect()
    }

    fn check_sender(&self, from: usize, message: &MsgSync) -> Result<(), SyncRefusal> {
        let found: String = message.version.chars().filter(|c| !c.is_control()).take(64).collect();
        if major_minor(&message.version) != Some((1, u32::from(self.profile.minor))) {
            return Err(SyncRefusal::Version { expected: self.profile.announced(), found });
        }
        let digest: [u8; 32] = Sha256::digest(self.hash).into();
        let key = self.members.get(from).ok_or(SyncRefusal::Definition)?;
        key.verify_der(&digest, &message.hash_signature).map_err(|_| SyncRefusal::Definition)
    }

    fn check_step(&self, from: usize, step: i64) -> Result<(), SyncRefusal> {
        let Some(peer) = self.peers.get(from) else { return Err(SyncRefusal::Malformed) };
        if !peer.heard {
            let begins = if self.resumed {
                (self.step.saturating_sub(2)..=self.step.saturating_add(2)).contains(&step)
            } else {
                (0..=1).contains(&step)
            };
            return if begins { Ok(()) } else { Err(SyncRefusal::FirstStep(step)) };
        }
        if step < peer.step {
            return Err(SyncRefusal::WentBack { from: peer.step, to: step });
        }
        if step > peer.step.saturating_add(2) {
            return Err(SyncRefusal::Jumped { from: peer.step, to: step });
        }
        Ok(())
    }

    fn seal_key_of(&self, from: usize, message: &MsgSync) -> Option<SealKey> {
        let key = message.seal_key.as_slice().try_into().ok()?;
        let seal = SealKey { key, signature: message.seal_key_signature.clone() };
        seal.is_of(self.members.get(from)?, &self.hash).then_some(seal)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: [u8; 32] = [9; 32];

    fn identity(number: u8) -> Arc<IdentityKey> {
        Arc::new(IdentityKey::from_bytes(zeroize::Zeroizing::new([number + 1; 32])).unwrap())
    }

    fn sync(own: u8, minor: u8, hash: [u8; 32]) -> Sync {
        let members = (0..3).map(|number| identity(number).public_key()).collect();
        let profile = Profile::of_minor(minor).unwrap();
        Sync::new(profile, hash, members, usize::from(own), &identity(own), "name")
    }

    fn at_step(own: u8, minor: u8, step: i64) -> Vec<u8> {
        let mut sync = sync(own, minor, HASH);
        sync.resume(step);
        sync.message(1_000)
    }

    #[test]
    fn a_frame_is_a_little_endian_length_and_the_message() {
        assert_eq!(frame(b"abc"), [3, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c']);
        for (length, expected) in [
            (0_i64, None),
            (-1, None),
            (1, Some(1)),
            (16 << 10, Some(16 << 10)),
            ((16 << 10) + 1, None),
            (i64::MAX, None),
            (i64::MIN, None),
        ] {
            assert_eq!(frame_length(length.to_le_bytes()), expected);
        }
    }

    #[test]
    fn everybody_waits_for_the_slowest() {
        let mut ours = sync(0, 10, HASH);
        assert_eq!(ours.missing(), [1, 2]);
        for member in 1..=2 {
            let heard = ours.on_message(usize::from(member), &at_step(member, 10, 0));
            assert!(heard.news && heard.refusal.is_none());
            ours.on_response(usize::from(member), &heard.response.unwrap()).unwrap();
        }
        assert!(ours.missing().is_empty());
        ours.advance(1);
        assert_eq!(ours.behind(1), Ok(vec![1, 2]));
        ours.on_message(1, &at_step(1, 10, 1));
        assert_eq!(ours.behind(1), Ok(vec![2]));
        ours.on_message(1, &at_step(1, 10, 2));
        ours.on_message(2, &at_step(2, 10, 1));
        assert_eq!(ours.behind(1), Ok(vec![]));
        ours.on_message(1, &at_step(1, 10, 3));
        assert_eq!(ours.behind(1), Err((1, SyncRefusal::Ahead { ours: 1, theirs: 3 })));
    }

    #[test]
    fn another_version_or_definition_is_told_to_both_sides() {
        let mut ours = sync(0, 10, HASH);
        let heard = ours.on_message(1, &at_step(1, 11, 0));
        let refusal = SyncRefusal::Version { expected: "v1.10".to_owned(), found: "v1.11".to_owned() };
        assert_eq!((heard.refusal, heard.fatal), (Some(refusal), true));
        let mut theirs = sync(1, 11, HASH);
        let told = theirs.on_response(0, &heard.response.unwrap()).unwrap_err();
        let text = "mismatching charon version; expect=v1.10, got=v1.11";
        assert_eq!(told, SyncRefusal::Told(text.to_owned()));

        let heard = ours.on_message(1, &sync(1, 10, [8; 32]).message(0));
        assert_eq!((heard.refusal, heard.fatal), (Some(SyncRefusal::Definition), true));
        let heard = ours.on_message(2, &at_step(1, 10, 0));
        assert_eq!(heard.refusal, Some(SyncRefusal::Definition), "member 1 in the place of member 2");
    }

    #[test]
    fn a_restart_in_the_middle_is_noticed_and_from_v1_11_fatal() {
        for (minor, fatal) in [(10, false), (11, true)] {
            let cases: [(&[i64], SyncRefusal); 4] = [
                (&[2], SyncRefusal::FirstStep(2)),
                (&[1, 0], SyncRefusal::WentBack { from: 1, to: 0 }),
                (&[1, 2, 5], SyncRefusal::Jumped { from: 2, to: 5 }),
                (&[1, -1], SyncRefusal::WentBack { from: 1, to: -1 }),
            ];
            for (steps, refusal) in cases {
                let mut ours = sync(0, minor, HASH);
                let (last, before) = steps.split_last().unwrap();
                for step in before {
                    assert_eq!(ours.on_message(1, &at_step(1, minor, *step)).refusal, None);
                }
                let heard = ours.on_message(1, &at_step(1, minor, *last));
                assert_eq!(heard.refusal, Some(refusal));
                assert_eq!((heard.fatal, heard.response.is_some()), (fatal, true));
            }
            // Who comes back at the step that it had is none of these.
            let mut ours = sync(0, minor, HASH);
            for step in [0, 1, 2, 3, 3] {
                assert_eq!(ours.on_message(1, &at_step(1, minor, step)).refusal, None);
            }
            let mut back = sync(0, minor, HASH);
            back.resume(3);
            assert_eq!(back.on_message(1, &at_step(1, minor, 4)).refusal, None);
        }
    }

    #[test]
    fn a_seal_key_counts_only_with_its_owner_s_signature_over_this_ceremony() {
        let key = [5; 32];
        let signed = |number, hash| SealKey {
            key,
            signature: identity(number).sign(&seal_key_digest(&hash, &key)).to_vec(),
        };
        for (seal, counts) in [(signed(1, HASH), true), (signed(2, HASH), false), (signed(1, [1; 32]), false)]
        {
            let mut theirs = sync(1, 10, HASH);
            theirs.announce(seal.clone());
            let mut ours = sync(0, 10, HASH);
            assert_eq!(ours.on_message(1, &theirs.message(0)).refusal, None);
            assert_eq!(ours.peer(1).unwrap().seal_key, counts.then_some(seal));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut ours = sync(0, 10, HASH);
            prop_assert!(ours.on_message(1, &bytes).refusal.is_some());
            let _ = ours.on_response(1, &bytes);
            prop_assert!(!ours.peer(1).unwrap().heard);
        }
    }
}
