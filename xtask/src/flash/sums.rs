//! What stands beside an image: its checksums, and a signature over them.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use installer::write::Sums;
use sha2::{Digest as _, Sha256};

/// Checks the signature, then the compressed file against the list; says what must come out of it.
pub(crate) fn signed(image: &Path, key: &Path) -> anyhow::Result<Sums> {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let base = name.strip_suffix(".img.zst").context("the image must be a .img.zst file")?;
    let [list, signature] = ["SHA256SUMS", "SHA256SUMS.sig"].map(|end| beside(image, base, end));
    for path in [image, &list, &signature, key] {
        ensure!(path.is_file(), "there is no {}", path.display());
    }
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"]).arg(key).arg("-in").arg(&list);
    openssl.arg("-sigfile").arg(&signature);
    let status = openssl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.context("cannot run openssl")?;
    ensure!(
        status.success(),
        "the checksums are not signed by {}: do not use this image; download it again from where you trust",
        key.display()
    );
    let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let wanted = of(&text, &name)?;
    let file = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    ensure!(
        digest(file)? == wanted,
        "{} is not what the signed list says: it is damaged, download it again",
        image.display()
    );
    let raw = of(&text, &format!("{base}.raw"))?;
    Ok(Sums { raw, raw_bytes: content_size(image)? })
}

fn beside(image: &Path, base: &str, end: &str) -> PathBuf {
    image.with_file_name(format!("{base}.{end}"))
}

/// One file's sum in a list as `sha256sum` writes it.
fn of(list: &str, name: &str) -> anyhow::Result<[u8; 32]> {
    let sum = list.lines().take(64).find_map(|line| {
        let (sum, file) = line.split_once("  ")?;
        (file == name).then_some(sum)
    });
    let sum = sum.with_context(|| format!("the signed list does not name {name}"))?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(sum, &mut bytes)
        .with_context(|| format!("the signed list has no sum for {name}"))?;
    Ok(bytes)
}

/// The size of what a zstd frame holds, from its header (RFC 8878, section 3.1.1.1).
fn content_size(image: &Path) -> anyhow::Result<u64> {
    let mut header = [0; 18];
    File::open(image)?.read_exact(&mut header).context("the image is too short")?;
    frame_content_size(&header).with_context(|| {
        format!(
            "{} does not say how large it is unpacked: it was not made by ./hearth image",
            image.display()
        )
    })
}

fn frame_content_size(header: &[u8; 18]) -> Option<u64> {
    if header[..4] != [0x28, 0xb5, 0x2f, 0xfd] {
        return None;
    }
    let descriptor = header[4];
    let single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let at = 5 + usize::from(!single_segment) + dictionary;
    let field = match (descriptor >> 6, single_segment) {
        (0, false) => return None,
        (0, true) => 1,
        (1, _) => 2,
        (2, _) => 4,
        _ => 8,
    };
    let mut bytes = [0; 8];
    bytes[..field].copy_from_slice(header.get(at..at + field)?);
    Some(u64::from_le_bytes(bytes) + if field == 2 { 256 } else { 0 })
}

pub(crate) fn digest(mut from: impl Read) -> anyhow::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unpacked_size_is_read_from_the_frame() {
        let mut header = [0; 18];
        header[..4].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        assert_eq!(frame_content_size(&header), None, "it does not say");
        header[4] = 0xc0; // Eight bytes, after the window descriptor.
        header[6..14].copy_from_slice(&1_628_459_008_u64.to_le_bytes());
        assert_eq!(frame_content_size(&header), Some(1_628_459_008));
        header[4] = 0x60; // Two bytes, single segment.
        header[5..7].copy_from_slice(&[1, 0]);
        assert_eq!(frame_content_size(&header), Some(257));
        header[0] = 0;
        assert_eq!(frame_content_size(&header), None);
    }

    #[test]
    fn a_list_without_the_file_is_refused() {
        let sum = "ab".repeat(32);
        assert_eq!(of(&format!("{sum}  x.raw\n"), "x.raw").unwrap(), [0xab; 32]);
        assert!(of(&format!("{sum}  y.raw\n"), "x.raw").is_err());
        assert!(of("zz  x.raw\n", "x.raw").is_err());
        assert!(of("", "x.raw").is_err());
    }
}
