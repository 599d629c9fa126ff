//! What changed from release to release (obol spec 13.3). The sync protocol forces equal minor versions, so the announced
//! minor is the profile.

use super::bcast::BroadcastVersion;

/// How a ceremony of one minor version behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The minor version of v1 that is announced.
    pub minor: u8,
    /// Which hash broadcasts sign.
    pub broadcast: BroadcastVersion,
    /// A member whose steps go backwards or jump ends the ceremony for everybody; before, only its stream ended.
    pub restart_is_fatal: bool,
}

impl Profile {
    /// The minors whose ceremonies are spoken.
    pub const MINORS: [u8; 4] = [8, 9, 10, 11];

    /// The profile of a minor; none when we do not speak it.
    pub fn of_minor(minor: u8) -> Option<Self> {
        match minor {
            8..=10 => Some(Self { minor, broadcast: BroadcastVersion::V1, restart_is_fatal: false }),
            11 => Some(Self { minor, broadcast: BroadcastVersion::V2, restart_is_fatal: true }),
            _ => None,
        }
    }

    /// As announced: `v1.10`.
    pub fn announced(&self) -> String {
        format!("v1.{}", self.minor)
    }
}

/// Major and minor of a version text such as `v1.10`, `v1.10.3` or `v1.11-rc`.
pub fn major_minor(text: &str) -> Option<(u32, u32)> {
    let rest = text.strip_prefix('v')?;
    if rest.len() > 64 {
        return None;
    }
    let rest = rest.split('-').next()?;
    let mut parts = rest.split('.');
    let number = |part: Option<&str>| {
        part.filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
    };
    let pair = (number(parts.next())?, number(parts.next())?);
    Some(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minor_has_its_broadcast_and_step_rules() {
        for (minor, broadcast, fatal) in [
            (8, BroadcastVersion::V1, false),
            (9, BroadcastVersion::V1, false),
            (10, BroadcastVersion::V1, false),
            (11, BroadcastVersion::V2, true),
        ] {
            let profile = Profile::of_minor(minor).unwrap();
            assert_eq!((profile.broadcast, profile.restart_is_fatal), (broadcast, fatal));
            assert_eq!(profile.announced(), format!("v1.{minor}"));
        }
        assert!(Profile::of_minor(7).is_none() && Profile::of_minor(12).is_none());
    }

    #[test]
    fn versions_read_as_major_and_minor() {
        for (text, expected) in [
            ("v1.10", Some((1, 10))),
            ("v1.10.3", Some((1, 10))),
            ("v1.11-dev", Some((1, 11))),
            ("v1.11.0-rc3", Some((1, 11))),
            ("1.10", None),
            ("v1", None),
            ("v1.", None),
            ("v1.x", None),
            ("v99999999999.1", None),
            ("", None),
        ] {
            assert_eq!(major_minor(text), expected, "{text}");
        }
    }
}
