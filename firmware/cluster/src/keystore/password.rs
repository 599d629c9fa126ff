//! How EIP-2335 turns a password into bytes.

use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

/// NFKD, then without the control codes C0, C1 and DEL.
pub fn normalize_password(password: &str) -> Zeroizing<String> {
    // Room for every expansion, so that no half-filled copy is left behind by a reallocation.
    let mut normalized = Zeroizing::new(String::with_capacity(password.len().saturating_mul(18)));
    normalized.extend(password.nfkd().filter(|character| !is_control(*character)));
    normalized
}

fn is_control(character: char) -> bool {
    matches!(character, '\u{00}'..='\u{1f}' | '\u{7f}'..='\u{9f}')
}
