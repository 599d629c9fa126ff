//! The hashing primitives of cluster files (SHA-256 SSZ merkleisation with its historical quirks).
//!
//! A [`Container`] gathers 32-byte chunks and becomes their root. Two quirks matter: an empty byte string adds no
//! chunk at all, and a container of one chunk is that chunk.

use crate::primitives::sha256;

/// One leaf or node of a tree.
pub(crate) type Chunk = [u8; 32];

/// A value does not fit where the hash puts it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the member '{field}' is {found} long, at most {limit} is allowed")]
pub struct HashInputError {
    /// Member of the cluster file.
    pub field: &'static str,
    /// Most bytes or elements allowed.
    pub limit: usize,
    /// Bytes or elements found.
    pub found: usize,
}

/// Chunks on their way to a root.
#[derive(Default)]
pub(crate) struct Container {
    chunks: Vec<Chunk>,
}

impl Container {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A finished sub-tree.
    pub(crate) fn chunk(&mut self, chunk: Chunk) -> &mut Self {
        self.chunks.push(chunk);
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        let mut chunk = [0; 32];
        chunk[..8].copy_from_slice(&value.to_le_bytes());
        self.chunk(chunk)
    }

    pub(crate) fn boolean(&mut self, value: bool) -> &mut Self {
        self.u64(u64::from(value))
    }

    /// Unbounded bytes without length: no chunk when empty, one chunk otherwise.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        if bytes.is_empty() { self } else { self.chunk(merkleize(&pack(bytes), 1)) }
    }

    /// Bytes with their length mixed in.
    pub(crate) fn byte_list(
        &mut self,
        field: &'static str,
        bytes: &[u8],
        max: usize,
    ) -> Result<&mut Self, HashInputError> {
        if bytes.len() > max {
            return Err(HashInputError { field, limit: max, found: bytes.len() });
        }
        Ok(self.chunk(mix_in_length(merkleize(&pack(bytes), max.div_ceil(32)), bytes.len())))
    }

    /// Bytes padded on the left to `len`.
    pub(crate) fn fixed(
        &mut self,
        field: &'static str,
        bytes: &[u8],
        len: usize,
    ) -> Result<&mut Self, HashInputError> {
        if bytes.len() > len {
            return Err(HashInputError { field, limit: len, found: bytes.len() });
        }
        let mut padded = vec![0; len];
        padded[len - bytes.len()..].copy_from_slice(bytes);
        Ok(self.bytes(&padded))
    }

    /// A list of finished elements with their count mixed in.
    pub(crate) fn list(
        &mut self,
        field: &'static str,
        elements: &[Chunk],
        max: usize,
    ) -> Result<&mut Self, HashInputError> {
        if elements.len() > max {
            return Err(HashInputError { field, limit: max, found: elements.len() });
        }
        Ok(self.chunk(mix_in_length(merkleize(elements, max), elements.len())))
    }

    /// Numbers packed four to a chunk, with their count mixed in.
    pub(crate) fn packed_u64(
        &mut self,
        field: &'static str,
        values: &[u64],
        max: usize,
    ) -> Result<&mut Self, HashInputError> {
        if values.len() > max {
            return Err(HashInputError { field, limit: max, found: values.len() });
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(self.chunk(mix_in_length(merkleize(&pack(&bytes), max.div_ceil(4)), values.len())))
    }

    /// The chunks as a list of `count` elements without bound, as v1.0 to v1.2 hash lists.
    pub(crate) fn unbounded_list(&self, count: usize) -> Chunk {
        mix_in_length(merkleize(&self.chunks, count), count)
    }

    pub(crate) fn root(&self) -> Chunk {
        merkleize(&self.chunks, 1)
    }
}

/// Splits bytes into chunks, the last padded on the right.
fn pack(bytes: &[u8]) -> Vec<Chunk> {
    bytes
        .chunks(32)
        .map(|part| {
            let mut chunk = [0; 32];
            chunk[..part.len()].copy_from_slice(part);
            chunk
        })
        .collect()
}

/// Root of the chunks in a tree with room for `limit` (or all) of them, filled up with zeros.
fn merkleize(chunks: &[Chunk], limit: usize) -> Chunk {
    let depth = chunks.len().max(limit).max(1).next_power_of_two().trailing_zeros();
    let mut layer = chunks.to_vec();
    let mut zero = [0; 32];
    for _ in 0..depth {
        layer = layer
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => sha256(&[left, right]),
                [left] => sha256(&[left, &zero]),
                _ => zero,
            })
            .collect();
        zero = sha256(&[&zero, &zero]);
    }
    layer.first().copied().unwrap_or(zero)
}

fn mix_in_length(root: Chunk, len: usize) -> Chunk {
    let mut length = [0; 32];
    length[..8].copy_from_slice(&u64::try_from(len).unwrap_or(u64::MAX).to_le_bytes());
    sha256(&[&root, &length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_chunk_is_its_own_root_and_none_is_zero() {
        assert_eq!(Container::new().root(), [0; 32]);
        assert_eq!(Container::new().bytes(b"").root(), [0; 32]);
        let mut padded = [0; 32];
        padded[..2].copy_from_slice(b"ab");
        assert_eq!(Container::new().bytes(b"ab").root(), padded);
    }

    #[test]
    fn short_trees_fill_up_with_zero_subtrees() {
        let zero1 = sha256(&[&[0; 32], &[0; 32]]);
        assert_eq!(merkleize(&[], 4), sha256(&[&zero1, &zero1]));
        assert_eq!(merkleize(&[[1; 32]], 4), sha256(&[&sha256(&[&[1; 32], &[0; 32]]), &zero1]));
        assert_eq!(merkleize(&[[1; 32]; 3], 1), merkleize(&[[1; 32], [1; 32], [1; 32], [0; 32]], 4));
    }

    #[test]
    fn oversized_values_name_their_member() {
        let error = Container::new().byte_list("uuid", &[0; 65], 64).map(|_| ()).unwrap_err();
        assert_eq!(error, HashInputError { field: "uuid", limit: 64, found: 65 });
    }
}
