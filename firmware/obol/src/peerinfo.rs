//! Peerinfo: who runs which version on which cluster, and how far its clock is from ours.

use core::cmp::Ordering;
use core::fmt;

use prost::Message as _;

use crate::wire::{PeerInfo, Timestamp};

/// Name this implementation gives itself in `dv_client`.
pub const DV_CLIENT: &str = "hearth";
/// Minor versions of the reference whose run-mode behaviour we follow, newest first.
pub const SUPPORTED_MINORS: [&str; 12] =
    ["v1.11", "v1.10", "v1.9", "v1.8", "v1.7", "v1.6", "v1.5", "v1.4", "v1.3", "v1.2", "v1.1", "v1.0"];
/// Seconds between two rounds of asking every peer.
pub const INTERVAL_S: u64 = 60;
/// The clock offset is clamped to one hour either way.
const MAX_OFFSET_MS: i64 = 3_600_000;
/// Longest text taken over from a peer, in characters.
const MAX_TEXT: usize = 64;
/// Longest nickname, in characters.
const MAX_NICKNAME: usize = 32;

/// What we say about ourselves in peerinfo.
#[derive(Clone, Debug)]
pub struct OwnInfo {
    /// Version of the reference we are compatible with, such as `v1.10.3`.
    pub charon_version: String,
    /// Lock hash of the cluster.
    pub lock_hash: [u8; 32],
    /// 7 hex digits or `unknown`.
    pub git_hash: String,
    /// Name the operator gave this node, at most 32 characters.
    pub nickname: String,
    /// Whether the builder API is in use.
    pub builder_api_enabled: bool,
}

/// What a peer said about itself, checked and cut to size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Version it claims.
    pub charon_version: String,
    /// Name of its implementation; empty for old releases of the reference.
    pub dv_client: String,
    /// Its nickname.
    pub nickname: String,
    /// Its build.
    pub git_hash: String,
    /// Whether it runs the same cluster lock.
    pub same_lock: bool,
    /// Whether it speaks a version we know; other implementations are not asked.
    pub version_supported: bool,
    /// Whether it uses the builder API.
    pub builder_api_enabled: bool,
    /// How far its clock is ahead of ours, in milliseconds, within an hour.
    pub clock_offset_ms: i64,
    /// How long the question took there and back, in milliseconds.
    pub round_trip_ms: u64,
    /// When it started, in seconds since 1970.
    pub started_at_s: i64,
}

/// Why an answer was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// It is not a PeerInfo message.
    #[error("the answer is not a peerinfo message")]
    Malformed,
    /// A timestamp is absent or impossible.
    #[error("the answer lacks a valid timestamp")]
    Timestamp,
    /// The git hash is not 7 hex digits.
    #[error("the answer's git hash is malformed")]
    GitHash,
    /// The version does not parse.
    #[error("the answer's version is malformed")]
    Version,
}

/// Encodes what we say about ourselves.
pub fn encode(own: &OwnInfo, now_ms: u64, started_ms: u64) -> Vec<u8> {
    PeerInfo {
        charon_version: own.charon_version.clone(),
        lock_hash: own.lock_hash.to_vec(),
        sent_at: Some(timestamp(now_ms)),
        git_hash: own.git_hash.clone(),
        started_at: Some(timestamp(started_ms)),
        builder_api_enabled: own.builder_api_enabled,
        nickname: own.nickname.chars().take(MAX_NICKNAME).collect(),
        dv_client: DV_CLIENT.to_owned(),
    }
    .encode_to_vec()
}

/// A time in milliseconds since 1970 as protobuf timestamp.
fn timestamp(unix_ms: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(unix_ms % 1000 * 1_000_000).unwrap_or(0),
    }
}

/// Checks an answer. `received_ms` is our time when it came, `round_trip_ms` how long we waited for it.
pub fn check(
    bytes: &[u8],
    lock_hash: &[u8; 32],
    received_ms: u64,
    round_trip_ms: u64,
) -> Result<Report, Ignored> {
    let info = PeerInfo::decode(bytes).map_err(|_| Ignored::Malformed)?;
    let sent_ms = info.sent_at.and_then(millis).ok_or(Ignored::Timestamp)?;
    let started_at = info.started_at.ok_or(Ignored::Timestamp)?;
    let git_hash_ok = info.git_hash == "unknown"
        || (info.git_hash.len() == 7
            && info.git_hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    if !git_hash_ok {
        return Err(Ignored::GitHash);
    }
    let other_client = !matches!(info.dv_client.as_str(), "" | "charon");
    let version = Version::parse(&info.charon_version);
    if version.is_none() && !other_client {
        return Err(Ignored::Version);
    }
    let expected = i128::from(received_ms) - i128::from(round_trip_ms / 2);
    let offset =
        (i128::from(sent_ms) - expected).clamp(-i128::from(MAX_OFFSET_MS), i128::from(MAX_OFFSET_MS));
    Ok(Report {
        charon_version: cut(&info.charon_version, MAX_TEXT),
        dv_client: cut(&info.dv_client, MAX_TEXT),
        nickname: cut(&info.nickname, MAX_NICKNAME),
        git_hash: info.git_hash,
        same_lock: info.lock_hash == lock_hash,
        version_supported: other_client || version.is_some_and(|version| version.is_supported()),
        builder_api_enabled: info.builder_api_enabled,
        clock_offset_ms: i64::try_from(offset).unwrap_or(0),
        round_trip_ms,
        started_at_s: started_at.seconds,
    })
}

/// A timestamp in milliseconds since 1970; `None` when it lies outside what a clock can say.
fn millis(at: Timestamp) -> Option<i64> {
    if !(0..1_000_000_000).contains(&at.nanos) {
        return None;
    }
    at.seconds.checked_mul(1000)?.checked_add(i64::from(at.nanos / 1_000_000))
}

/// Text of a peer that may reach a log or the owner's page: printable, and not endless.
fn cut(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}

/// A version string of the reference: `v1.11`, `v1.10.3`, `v1.11-dev`, `v1.11.0-rc1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    major: u64,
    minor: u64,
    /// Only of plain patch versions: the patch of a pre-release never counts.
    patch: Option<u64>,
}

impl Version {
    /// Reads a version; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix('v')?;
        let (numbers, label) = match rest.split_once('-') {
            Some((_, "")) => return None,
            Some((numbers, _)) => (numbers, true),
            None => (rest, false),
        };
        let mut parts = numbers.split('.').map(number);
        let (major, minor) = (parts.next()??, parts.next()??);
        let patch = match parts.next() {
            Some(patch) => Some(patch?),
            None => None,
        };
        if parts.next().is_some() {
            return None;
        }
        Some(Self { major, minor, patch: if label { None } else { patch } })
    }

    /// Order of two versions: the patch counts only when both have one, pre-release labels never.
    pub fn compare(self, other: Self) -> Ordering {
        let minors = (self.major, self.minor).cmp(&(other.major, other.minor));
        match (self.patch, other.patch) {
            (Some(ours), Some(theirs)) => minors.then(ours.cmp(&theirs)),
            _ => minors,
        }
    }

    /// Whether its minor is one we know, or it is newer than all of them.
    pub fn is_supported(self) -> bool {
        let known = SUPPORTED_MINORS.into_iter().filter_map(Self::parse);
        let newest = SUPPORTED_MINORS.first().and_then(|text| Self::parse(text));
        newest.is_some_and(|newest| self.compare(newest) == Ordering::Greater)
            || known.into_iter().any(|minor| self.compare(minor) == Ordering::Equal)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}", self.major, self.minor)
    }
}

/// Digits only, as `\d+` says; Rust's own parser would also take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(change: impl FnOnce(&mut PeerInfo)) -> Result<Report, Ignored> {
        let mut info = PeerInfo {
            charon_version: "v1.10.3".into(),
            lock_hash: vec![7; 32],
            sent_at: Some(Timestamp { seconds: 1000, nanos: 500_000_000 }),
            git_hash: "9ff5308".into(),
            started_at: Some(Timestamp { seconds: 900, nanos: 0 }),
            ..PeerInfo::default()
        };
        change(&mut info);
        check(&info.encode_to_vec(), &[7; 32], 1_000_300, 200)
    }

    #[test]
    fn the_clock_offset_is_taken_at_the_middle_of_the_round_trip() {
        let report = answer(|_| ()).unwrap();
        assert_eq!(report.clock_offset_ms, 300);
        assert!(report.same_lock && report.version_supported);
    }

    #[test]
    fn an_absurd_clock_is_clamped_to_an_hour() {
        let far = |seconds| answer(|info| info.sent_at = Some(Timestamp { seconds, nanos: 0 }));
        assert_eq!(far(1 << 50).unwrap().clock_offset_ms, 3_600_000);
        assert_eq!(far(-(1 << 50)).unwrap().clock_offset_ms, -3_600_000);
        assert_eq!(far(i64::MAX), Err(Ignored::Timestamp));
    }

    #[test]
    fn answers_without_timestamps_or_with_a_bad_hash_are_ignored() {
        assert_eq!(answer(|info| info.sent_at = None), Err(Ignored::Timestamp));
        assert_eq!(answer(|info| info.started_at = None), Err(Ignored::Timestamp));
        assert_eq!(answer(|info| info.git_hash = "9FF5308".into()), Err(Ignored::GitHash));
        assert_eq!(answer(|info| info.git_hash.clear()), Err(Ignored::GitHash));
        assert_eq!(answer(|info| info.charon_version = "1.10".into()), Err(Ignored::Version));
    }

    #[test]
    fn another_implementation_need_not_use_our_version_numbers() {
        let report = answer(|info| {
            info.charon_version = "0.3".into();
            info.dv_client = "other\u{7}".into();
        });
        assert_eq!(report.unwrap().dv_client, "other");
    }

    #[test]
    fn what_we_send_passes_our_own_check() {
        let own = OwnInfo {
            charon_version: "v1.10.3".into(),
            lock_hash: [3; 32],
            git_hash: "unknown".into(),
            nickname: "x".repeat(100),
            builder_api_enabled: false,
        };
        let report = check(&encode(&own, 5_000, 1_000), &[3; 32], 5_000, 0).unwrap();
        assert_eq!(
            (report.clock_offset_ms, report.nickname.len(), report.dv_client.as_str()),
            (0, 32, DV_CLIENT)
        );
    }

    #[test]
    fn unknown_minors_are_unsupported_but_newer_ones_are_not() {
        for (text, supported) in
            [("v1.10.9", true), ("v0.19", false), ("v1.11-dev", true), ("v2.0", true), ("v1.0", true)]
        {
            assert_eq!(Version::parse(text).unwrap().is_supported(), supported, "{text}");
        }
    }
}
