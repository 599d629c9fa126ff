//! The vault of a board without a TPM: the file on its disk, which a thief may have changed, and what its owner types.

use ipc::passphrase::PassphraseOrder;
use signer::outside;

use crate::{Target, Verdict};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "passphrase_vault",
        about: "the file of a vault under a passphrase: read and written the same, open to one passphrase, bound to every byte",
        max_bytes: 2048,
        run: vault,
        seeds: vault_seeds,
    },
    Target {
        name: "passphrase_order",
        about: "what the owner wants with a passphrase, once unsealed: a new one that is easy to guess is none",
        max_bytes: 4096,
        run: order,
        seeds: order_seeds,
    },
];

const WORDS: &str = "copper lantern violet marsh tune";

fn vault(input: &[u8]) -> Verdict {
    let Some(written) = outside::passphrase_vault(input) else { return Verdict::Refused };
    assert_eq!(
        outside::passphrase_vault(&written).as_ref(),
        Some(&written),
        "it is written otherwise than read"
    );
    let own = outside::make_passphrase_vault(WORDS);
    match outside::open_passphrase_vault(input, WORDS) {
        // Tried only where it costs next to nothing.
        Some(true) => {
            assert_eq!(Some(&written), own.as_ref(), "another file opens with our passphrase");
            assert_eq!(outside::open_passphrase_vault(input, "another"), Some(false));
        }
        Some(false) => assert_ne!(Some(&written), own.as_ref(), "our own file does not open"),
        None => {}
    }
    Verdict::Taken
}

fn vault_seeds() -> Vec<Vec<u8>> {
    outside::make_passphrase_vault(WORDS).into_iter().collect()
}

fn order(input: &[u8]) -> Verdict {
    let Ok(order) = serde_json::from_slice::<PassphraseOrder>(input) else { return Verdict::Refused };
    let shown = format!("{order:?}");
    let (PassphraseOrder::Open { passphrase }
    | PassphraseOrder::First { passphrase }
    | PassphraseOrder::Change { new: passphrase, .. }) = &order;
    let text = passphrase.expose_secret();
    assert!(text.len() < 12 || !shown.contains(text), "a passphrase is shown");
    if outside::is_strong(text) {
        assert!(text.chars().count() >= 14, "a short one is taken");
        return Verdict::Taken;
    }
    Verdict::Refused
}

fn order_seeds() -> Vec<Vec<u8>> {
    ["open", "first"]
        .map(|word| format!("{{\"{word}\":{{\"passphrase\":\"{WORDS}\"}}}}"))
        .into_iter()
        .chain([format!("{{\"change\":{{\"passphrase\":\"{WORDS}\",\"new\":\"{WORDS} and more\"}}}}")])
        .map(String::into_bytes)
        .collect()
}
