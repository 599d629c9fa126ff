//! Proof that somebody stands before the box.
//!
//! `web` is the owner's only way to the signer, and may be in foreign hands. What would let a share or signatures out needs more than its word: a
//! code that the signer shows on the box's own screen for exactly this order, and that works once, for ten minutes. The
//! journal keeps it too, which does no harm after that.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipc::Problem;
use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};

use crate::screen;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 40 bits against [`GUESSES`].
const LETTERS: usize = 8;
const GUESSES: u8 = 5;
const VALID_FOR: Duration = Duration::from_secs(600);
/// Between two codes: a hijacked page must not fill the screen, nor get five guesses as often as it likes.
const BETWEEN_CODES: Duration = Duration::from_secs(5);

/// The code that is valid now.
#[derive(Default)]
pub(crate) struct Presence(Mutex<Option<Shown>>);

struct Shown {
    /// The order it is for.
    order: [u8; 32],
    digest: [u8; 32],
    since: Instant,
    wrong: u8,
}

impl Presence {
    /// Lets an order through when its code is right. Without one, or with a code that is not valid any more, a new one is shown.
    /// `order` is everything that decides what happens; `line` says the same to people.
    pub(crate) fn confirm(
        &self,
        order: &[u8],
        line: &str,
        code: Option<&str>,
        now: Instant,
    ) -> Result<(), Problem> {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let order: [u8; 32] = Sha256::digest(order).into();
        let code = code.filter(|code| !code.trim().is_empty());
        if let (Some(code), Some(valid)) = (code, shown.as_mut())
            && valid.order == order
            && now.saturating_duration_since(valid.since) < VALID_FOR
            && valid.wrong < GUESSES
        {
            if digest(code) == valid.digest {
                *shown = None;
                return Ok(());
            }
            valid.wrong += 1;
            return Err(Problem::new(
                "screen_code_wrong",
                "That is not the code on the box's screen.",
                "Read it again on the box's own screen; after five wrong ones a new order shows a new code.",
            ));
        }
        if let Some(valid) = shown.as_ref()
            && now.saturating_duration_since(valid.since) < BETWEEN_CODES
        {
            return Err(Problem::new(
                "screen_code_too_soon",
                "A code was shown a moment ago.",
                "Type the one on the box's screen, or wait a few seconds for a new one.",
            ));
        }
        let code = new_code()?;
        screen::show(&format!("{line}: type {code} on the page within 10 minutes to allow it"));
        *shown = Some(Shown { order, digest: digest(&code), since: now, wrong: 0 });
        Err(Problem::new(
            "confirm_on_screen",
            "Only somebody who stands before this box can allow that: its screen shows a code now.",
            "Read the code on the box's own screen, compare what it says there with what you want, and order again with the code.",
        ))
    }
}

fn new_code() -> Result<String, Problem> {
    let mut bytes = [0_u8; LETTERS];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|_| {
        Problem::new("no_randomness", "The operating system gave no randomness.", "Restart the box.")
    })?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

/// Without regard to case, hyphens, spaces and look-alike letters.
fn digest(code: &str) -> [u8; 32] {
    let canonical = |letter: char| match letter.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let text: String = code.chars().filter(char::is_ascii_alphanumeric).take(64).map(canonical).collect();
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(presence: &Presence, order: &[u8], code: Option<&str>, now: Instant) -> String {
        presence.confirm(order, "x", code, now).err().map_or("ok".to_owned(), |problem| problem.code)
    }

    /// As if this had been on the screen.
    fn show(presence: &Presence, order: &[u8], code: &str, since: Instant) {
        let shown = Shown { order: Sha256::digest(order).into(), digest: digest(code), since, wrong: 0 };
        *presence.0.lock().unwrap() = Some(shown);
    }

    #[test]
    fn a_code_is_for_one_order_once_and_not_for_long() {
        let (presence, now) = (Presence::default(), Instant::now());
        let later = now + BETWEEN_CODES;
        assert_eq!(ask(&presence, b"a", None, now), "confirm_on_screen");
        assert_eq!(ask(&presence, b"a", None, now), "screen_code_too_soon");
        assert_eq!(ask(&presence, b"a", Some("????"), later), "screen_code_wrong");
        show(&presence, b"a", "AB01CD23", now);
        assert_eq!(ask(&presence, b"b", Some("AB01CD23"), later), "confirm_on_screen", "another order");
        show(&presence, b"a", "AB01CD23", now);
        assert_eq!(ask(&presence, b"a", Some("AB01CD23"), now + VALID_FOR), "confirm_on_screen", "too late");
        show(&presence, b"a", "AB01CD23", now);
        assert_eq!(ask(&presence, b"a", Some("abo1-cd23 "), later), "ok");
        assert_eq!(ask(&presence, b"a", Some("AB01CD23"), later), "confirm_on_screen", "only once");
    }

    #[test]
    fn five_wrong_codes_spend_it() {
        let (presence, now) = (Presence::default(), Instant::now());
        show(&presence, b"a", "AB01CD23", now);
        for _ in 0..GUESSES {
            assert_eq!(ask(&presence, b"a", Some("wrong"), now), "screen_code_wrong");
        }
        assert_eq!(ask(&presence, b"a", Some("AB01CD23"), now + BETWEEN_CODES), "confirm_on_screen");
    }
}
