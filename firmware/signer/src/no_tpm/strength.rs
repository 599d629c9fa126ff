//! What a passphrase must be like to be worth something against whoever has the disk and time.

use ipc::passphrase::MAX_PASSPHRASE_BYTES;

/// Letters that add something, at least. Five random words of a list of 7,776 (64 bits) have more; each guess costs Argon2's memory.
const LEAST_FRESH: u32 = 14;
const LEAST_DIFFERENT: usize = 8;
/// The longest pattern whose repetition is seen.
const LONGEST_PATTERN: usize = 16;
const KEYBOARD: [&str; 6] = ["qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm", "1234567890"];

/// Why it is no good; nothing when it is. Repetitions, sequences, rows of the keyboard and half of all digits do not
/// count, so that a long but empty one does not pass. It does not know the words that people love: no rule does.
pub(crate) fn weakness(passphrase: &str) -> Option<String> {
    if passphrase.len() > MAX_PASSPHRASE_BYTES {
        return Some(format!("the passphrase is longer than {MAX_PASSPHRASE_BYTES} bytes"));
    }
    let letters: Vec<char> = passphrase.chars().flat_map(char::to_lowercase).collect();
    let different: std::collections::BTreeSet<char> = letters.iter().copied().collect();
    // In halves, for digits.
    let halves: u32 = (0..letters.len())
        .filter(|place| is_fresh(&letters, *place))
        .map(|place| letters.get(place).map_or(0, |letter| if letter.is_numeric() { 1 } else { 2 }))
        .sum();
    if halves < 2 * LEAST_FRESH || different.len() < LEAST_DIFFERENT {
        return Some(format!(
            "the passphrase is too easy to guess: it needs {LEAST_FRESH} letters that are no repetition, no sequence and no row of keys, with {LEAST_DIFFERENT} different ones, and a digit counts half"
        ));
    }
    None
}

/// Whether a letter does not just follow from those before it.
fn is_fresh(letters: &[char], place: usize) -> bool {
    let at = |place: usize| letters.get(place).copied();
    let (Some(letter), Some(before)) = (at(place), place.checked_sub(1).and_then(at)) else { return true };
    if letter == before || u32::from(letter).abs_diff(u32::from(before)) == 1 {
        return false;
    }
    let beside = |row: &&str| {
        let (left, right) = (row.find(letter), row.find(before));
        left.zip(right).is_some_and(|(left, right)| left.abs_diff(right) == 1)
    };
    if KEYBOARD.iter().any(beside) {
        return false;
    }
    // Two letters that stood together before at a distance: the pattern goes on.
    !(2..=LONGEST_PATTERN).any(|distance| {
        let earlier = place.checked_sub(distance);
        earlier.is_some_and(|earlier| {
            earlier > 0 && at(earlier) == Some(letter) && at(earlier - 1) == Some(before)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_alone_is_not_enough() {
        for (passphrase, good) in [
            ("", false),
            ("hunter2", false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("abcdefghijklmnopqrstuvwxyz", false),
            ("zyxwvutsrqponmlkjihgfedcba", false),
            ("qwertyuiopasdfghjkl", false),
            ("passwordpasswordpassword", false),
            ("1234567890123456789012345678901234567890", false),
            ("918273645091", false),
            ("91827364509182736450", false),
            ("short but so", false),
            ("copper lantern violet marsh tune", true),
            ("Rk8!vQz2#mWp7&tXc4", true),
            ("größte Bäume wachsen langsam", true),
        ] {
            assert_eq!(weakness(passphrase).is_none(), good, "{passphrase}");
        }
        assert!(weakness(&"copper lantern violet ".repeat(100)).is_some(), "too long");
    }
}
