//! A sealed key as bytes on the disk: versioned, bounded, and no secret by itself.
//!
//! ```text
//! "HRTHSEAL" | version u8 = 2 | SRK name [34] | key name [34] | PCR count u8 | (PCR u8, value [32])*
//!            | public area u16 + bytes | private area u16 + bytes
//! ```
//! Only the last two matter to the TPM. The names and values say in words *why* a blob does not open; nothing trusts
//! them beyond that.

use crate::policy::Digest;

const MAGIC: &[u8; 8] = b"HRTHSEAL";
const VERSION: u8 = 2;
const NAME_BYTES: usize = 34;
const MAX_PCRS: usize = 23;
const MAX_AREA_BYTES: usize = 1024;
/// No blob is longer.
pub const MAX_BLOB_BYTES: usize = 4096;

/// Why bytes are not a sealed blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Not made by us.
    #[error("this is not a sealed blob")]
    NotABlob,
    /// Made by another version.
    #[error("a sealed blob of version {version} cannot be read: this software reads version {VERSION}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// Cut off, too long, or inconsistent.
    #[error("a sealed blob is damaged")]
    Damaged,
}

/// A key that only its TPM can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBlob {
    pub(crate) srk_name: Vec<u8>,
    pub(crate) key_name: Vec<u8>,
    pub(crate) literal: Vec<(u8, Digest)>,
    pub(crate) public: Vec<u8>,
    pub(crate) private: Vec<u8>,
}

impl SealedBlob {
    /// The bytes to keep.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend(&self.srk_name);
        bytes.extend(&self.key_name);
        bytes.push(u8::try_from(self.literal.len()).unwrap_or(u8::MAX));
        for (pcr, value) in &self.literal {
            bytes.push(*pcr);
            bytes.extend(value);
        }
        for area in [&self.public, &self.private] {
            bytes.extend(u16::try_from(area.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend(area);
        }
        bytes
    }

    /// Reads [`Self::to_bytes`] back; takes any bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BlobError> {
        let mut rest = Reader(bytes.strip_prefix(MAGIC).ok_or(BlobError::NotABlob)?);
        let version = rest.byte()?;
        if version != VERSION {
            return Err(BlobError::Version { version });
        }
        if bytes.len() > MAX_BLOB_BYTES {
            return Err(BlobError::Damaged);
        }
        let srk_name = rest.take(NAME_BYTES)?.to_vec();
        let key_name = rest.take(NAME_BYTES)?.to_vec();
        let count = usize::from(rest.byte()?);
        if count > MAX_PCRS {
            return Err(BlobError::Damaged);
        }
        let mut literal = Vec::with_capacity(count);
        for _ in 0..count {
            let pcr = rest.byte()?;
            let value = rest.take(32)?.try_into().map_err(|_| BlobError::Damaged)?;
            literal.push((pcr, value));
        }
        let public = rest.area()?;
        let private = rest.area()?;
        if rest.0.is_empty() {
            Ok(Self { srk_name, key_name, literal, public, private })
        } else {
            Err(BlobError::Damaged)
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BlobError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BlobError::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, BlobError> {
        self.take(1)?.first().copied().ok_or(BlobError::Damaged)
    }

    fn area(&mut self) -> Result<Vec<u8>, BlobError> {
        let length = u16::from_be_bytes(self.take(2)?.try_into().map_err(|_| BlobError::Damaged)?);
        if usize::from(length) > MAX_AREA_BYTES {
            return Err(BlobError::Damaged);
        }
        Ok(self.take(usize::from(length))?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blob() -> SealedBlob {
        SealedBlob {
            srk_name: vec![1; NAME_BYTES],
            key_name: vec![2; NAME_BYTES],
            literal: vec![(7, [7; 32]), (12, [12; 32])],
            public: vec![3; 90],
            private: vec![4; 200],
        }
    }

    #[test]
    fn a_blob_reads_back_and_every_shortened_one_is_refused() {
        let bytes = blob().to_bytes();
        assert_eq!(SealedBlob::from_bytes(&bytes), Ok(blob()));
        for length in 0..bytes.len() {
            assert!(SealedBlob::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(SealedBlob::from_bytes(&longer), Err(BlobError::Damaged));
    }

    #[test]
    fn a_blob_of_the_future_says_so() {
        let mut bytes = blob().to_bytes();
        bytes[8] = 3;
        assert_eq!(SealedBlob::from_bytes(&bytes), Err(BlobError::Version { version: 3 }));
    }

    proptest! {
        #[test]
        fn random_and_mutated_blobs_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..600), at in 0..400_usize, value: u8,
        ) {
            let _ = SealedBlob::from_bytes(&noise);
            let mut mutated = blob().to_bytes();
            let at = at % mutated.len();
            mutated[at] = value;
            if let Ok(read) = SealedBlob::from_bytes(&mutated) {
                prop_assert_eq!(read.to_bytes(), mutated);
            }
        }
    }
}
