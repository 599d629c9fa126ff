//! What the signer has sealed and reads again, and what the firmware says of the board.

use signer::outside;

use crate::{Target, Verdict};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "kept_identity",
        about: "what is kept of a cluster's identity key: read and written the same",
        max_bytes: 40_000,
        run: identity,
        seeds: identity_seeds,
    },
    Target {
        name: "device_tree_name",
        about: "a `compatible` property of the firmware's: a TPM's name is found wherever it stands, in any case of letters",
        max_bytes: 4096,
        run: compatible,
        seeds: compatible_seeds,
    },
];

fn identity(input: &[u8]) -> Verdict {
    let Some(written) = outside::kept_identity(input) else { return Verdict::Refused };
    assert_eq!(
        outside::kept_identity(&written).as_ref(),
        Some(&written),
        "it is written otherwise than read"
    );
    Verdict::Taken
}

fn identity_seeds() -> Vec<Vec<u8>> {
    let (key, share) = ("11".repeat(32), format!("0x{}", "ab".repeat(48)));
    let kept = [
        format!("node\n{key}"),
        format!("box\n{key}\n"),
        format!("{share}\n{key}"),
        format!("folder {share}\n{key}\nabababababababab 0102030405060708"),
    ];
    kept.into_iter().map(String::into_bytes).collect()
}

fn compatible(input: &[u8]) -> Verdict {
    let named = outside::names_a_tpm(input);
    assert_eq!(named, outside::names_a_tpm(&input.to_ascii_uppercase()), "the case of letters matters");
    let beside = |before: &[u8], after: &[u8]| outside::names_a_tpm(&[before, b"\0", after].concat());
    assert!(
        beside(input, b"tcg,tpm-tis-mmio\0") && beside(b"infineon,slb9670", input),
        "a TPM beside it is not seen"
    );
    if named { Verdict::Taken } else { Verdict::Refused }
}

fn compatible_seeds() -> Vec<Vec<u8>> {
    vec![b"tcg,tpm_tis-spi\0".to_vec(), b"infineon,slb9670\0TCG,tpm_tis-spi\0".to_vec()]
}
