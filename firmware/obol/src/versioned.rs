//! The SSZ headers that say which fork a value belongs to.

/// Fork numbers as they stand on the wire.
pub const FULU: u64 = 6;
/// First fork whose attestations span committees, and whose blocks we can read.
pub const ELECTRA: u64 = 5;

/// Why bytes or JSON are not the object they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A fork number beyond fulu.
    #[error("fork number {0} is unknown")]
    UnknownFork(u64),
    /// A known fork whose blocks this version does not read.
    #[error("blocks of fork number {0} are not supported")]
    UnsupportedFork(u64),
    /// Neither the SSZ nor the JSON form.
    #[error("the bytes are not the expected object")]
    Malformed,
    /// Nothing of this duty is exchanged.
    #[error("nothing is encoded for this duty")]
    NotForThisDuty,
}

/// A value with its header taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versioned<'a> {
    pub(crate) version: u64,
    pub(crate) value: &'a [u8],
}

/// `version ‖ offset ‖ value`.
pub(crate) fn read_plain(bytes: &[u8]) -> Result<Versioned<'_>, DecodeError> {
    read(bytes, 8, 12)
}

/// `version ‖ blinded ‖ offset ‖ value`.
pub(crate) fn read_blinded(bytes: &[u8]) -> Result<(Versioned<'_>, bool), DecodeError> {
    let blinded = match bytes.get(8) {
        Some(0) => false,
        Some(1) => true,
        Some(_) | None => return Err(DecodeError::Malformed),
    };
    Ok((read(bytes, 9, 13)?, blinded))
}

/// `version ‖ validator index ‖ offset (20) ‖ value`, or the plain header that old releases write.
pub(crate) fn read_indexed(bytes: &[u8]) -> Result<(Versioned<'_>, Option<u64>), DecodeError> {
    if u32_at(bytes, 16) == Some(20) {
        let index = u64_at(bytes, 8);
        return Ok((read(bytes, 16, 20)?, index));
    }
    Ok((read_plain(bytes)?, None))
}

fn read(bytes: &[u8], offset_at: usize, header: usize) -> Result<Versioned<'_>, DecodeError> {
    let version = u64_at(bytes, 0).ok_or(DecodeError::Malformed)?;
    if version > FULU {
        return Err(DecodeError::UnknownFork(version));
    }
    let offset = u32_at(bytes, offset_at).and_then(|offset| usize::try_from(offset).ok());
    let value = offset.filter(|offset| *offset >= header).and_then(|offset| bytes.get(offset..));
    Ok(Versioned { version, value: value.ok_or(DecodeError::Malformed)? })
}

pub(crate) fn write_plain(version: u64, value: &[u8]) -> Vec<u8> {
    [&version.to_le_bytes(), &12_u32.to_le_bytes()[..], value].concat()
}

pub(crate) fn write_blinded(version: u64, blinded: bool, value: &[u8]) -> Vec<u8> {
    [&version.to_le_bytes(), &[u8::from(blinded)][..], &13_u32.to_le_bytes(), value].concat()
}

pub(crate) fn write_indexed(version: u64, index: u64, value: &[u8]) -> Vec<u8> {
    [&version.to_le_bytes(), &index.to_le_bytes()[..], &20_u32.to_le_bytes(), value].concat()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// JSON, when the trimmed bytes begin like an object: what a reader tries after SSZ.
pub(crate) fn json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(DecodeError::Malformed);
    }
    serde_json::from_slice(bytes).map_err(|_| DecodeError::Malformed)
}

/// Compact JSON.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have string keys only and cannot fail")
}

/// An SSZ value.
pub(crate) fn ssz<T: ssz::Decode>(bytes: &[u8]) -> Result<T, DecodeError> {
    T::from_ssz_bytes(bytes).map_err(|_| DecodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations_are_read_with_and_without_validator_index() {
        let old = write_plain(FULU, &[7; 30]);
        let new = write_indexed(FULU, 9, &[7; 30]);
        for (bytes, index) in [(old, None), (new, Some(9))] {
            let (versioned, found) = read_indexed(&bytes).unwrap();
            assert_eq!((versioned.version, versioned.value, found), (FULU, &[7_u8; 30][..], index));
        }
    }

    #[test]
    fn offsets_outside_the_data_and_unknown_forks_are_refused() {
        let mut bytes = write_plain(FULU, &[1, 2, 3]);
        bytes[8] = 11; // Into the header.
        assert_eq!(read_plain(&bytes), Err(DecodeError::Malformed));
        bytes[8] = 16; // Beyond the end.
        assert_eq!(read_plain(&bytes), Err(DecodeError::Malformed));
        bytes[8] = 14; // Later than the header is tolerated.
        assert_eq!(read_plain(&bytes).unwrap().value, &[3]);
        assert_eq!(read_plain(&write_plain(7, &[])), Err(DecodeError::UnknownFork(7)));
        assert_eq!(read_blinded(&write_blinded(6, true, &[5])).unwrap().0.value, &[5]);
        for length in 0..12 {
            assert_eq!(read_plain(&vec![0; length]), Err(DecodeError::Malformed));
        }
    }
}
