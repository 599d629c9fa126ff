//! The recovery key in the form that systemd-cryptenroll gives it: 256 random bits as eight groups of eight letters that lie alike
//! on most keyboards ("modhex"), with a hyphen between each two.

use ipc::recovery::{GROUP_LETTERS, GROUPS};
use zeroize::Zeroizing;

/// The letters that stand for the sixteen digits.
const LETTERS: &[u8; 16] = b"cbdefghijklnrtuv";
/// With its hyphens.
pub(crate) const LENGTH: usize = GROUPS * GROUP_LETTERS + GROUPS - 1;

/// A recovery key: wiped on drop, never printed.
pub(crate) struct RecoveryKey(Zeroizing<String>);

impl RecoveryKey {
    /// Reads a key, with or without a line's end, and nothing that differs from one by a byte.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut groups = bytes.split(|byte| *byte == b'-');
        let is_group =
            |group: &[u8]| group.len() == GROUP_LETTERS && group.iter().all(|byte| LETTERS.contains(byte));
        if bytes.len() != LENGTH || !groups.all(is_group) {
            return None;
        }
        std::str::from_utf8(bytes).ok().map(|text| Self(Zeroizing::new(text.to_owned())))
    }

    /// All of it. The name is long so that each use stands out in review.
    pub(crate) fn expose_secret(&self) -> &str {
        &self.0
    }

    /// Its groups, in their order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        self.0.split('-')
    }

    /// Whether `typed` is the group of that number, counted from 1. Blanks around it and large letters do not matter.
    pub(crate) fn has_group(&self, number: usize, typed: &str) -> bool {
        let group = number.checked_sub(1).and_then(|before| self.groups().nth(before));
        // Whoever may ask this is shown the whole key when they ask for it: time tells nobody anything.
        group.is_some_and(|group| typed.trim().eq_ignore_ascii_case(group))
    }
}

/// A key for tests, as systemd-cryptenroll would say it.
#[cfg(test)]
pub(crate) const SAMPLE: &str = "cbdefghi-jklnrtuv-vutrnlkj-ihgfedbc-cccccccc-bbbbbbbb-dddddddd-cbdefghv";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_whole_and_nothing_else_is_one() {
        let key = RecoveryKey::parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!((key.expose_secret(), key.groups().count()), (SAMPLE, GROUPS));
        assert!(RecoveryKey::parse(format!("{SAMPLE}\n").as_bytes()).is_some());
        let mut bad: Vec<Vec<u8>> = vec![
            Vec::new(),
            b"\n".to_vec(),
            format!("{SAMPLE}\n\n").into_bytes(),
            format!(" {SAMPLE}").into_bytes(),
            format!("{SAMPLE}c").into_bytes(),
            format!("{SAMPLE}-cbdefghi").into_bytes(),
            SAMPLE.to_uppercase().into_bytes(),
            SAMPLE.replace('-', "").into_bytes(),
            vec![b'c'; LENGTH],
            vec![b'-'; LENGTH],
        ];
        for place in 0..SAMPLE.len() {
            bad.push(SAMPLE.as_bytes()[..place].to_vec());
            for byte in [b'a', b'-', b'c', b'\n', b' ', 0, 0x1b, 0xff] {
                let mut changed = SAMPLE.as_bytes().to_vec();
                // A letter for a letter is another key.
                if changed[place] != byte && (byte != b'c' || changed[place] == b'-') {
                    changed[place] = byte;
                    bad.push(changed);
                }
            }
        }
        for bytes in bad {
            assert!(RecoveryKey::parse(&bytes).is_none(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn a_group_is_known_by_its_number_and_all_its_letters() {
        let key = RecoveryKey::parse(SAMPLE.as_bytes()).unwrap();
        for (number, group) in SAMPLE.split('-').enumerate() {
            assert!(key.has_group(number + 1, group));
            assert!(key.has_group(number + 1, &format!(" {}\n", group.to_uppercase())));
            assert!(!key.has_group(number, group) && !key.has_group(number + 2, group));
            assert!(!key.has_group(number + 1, &group[1..]) && !key.has_group(number + 1, ""));
        }
        assert!(!key.has_group(usize::MAX, "") && !key.has_group(1, SAMPLE));
    }
}
