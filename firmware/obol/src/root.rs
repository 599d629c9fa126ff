//! The 32-byte root of a message: SSZ merkleisation of its deterministic encoding, without length mix-in.

use prost::{Message, encoding};
use sha2::{Digest, Sha256};

use crate::wire;

/// Bytes of one Merkle chunk.
const CHUNK: usize = 32;

/// Root of a byte string: right-padded to 32-byte chunks, zero subtrees up to the next power of two.
/// A single chunk is its own root, and nothing has the root of 32 zero bytes.
pub fn bytes_root(bytes: &[u8]) -> [u8; 32] {
    // `pending[level]` waits for its right neighbour, so memory stays logarithmic in the input.
    let mut pending: Vec<Option<[u8; 32]>> = Vec::new();
    for chunk in bytes.chunks(CHUNK) {
        let mut node = [0; 32];
        node[..chunk.len()].copy_from_slice(chunk);
        carry(&mut pending, node);
    }
    let Some(top) = pending.len().checked_sub(1) else { return [0; 32] };
    if pending[..top].iter().all(Option::is_none) {
        return pending[top].unwrap_or_default();
    }
    // Complete the tree with zero subtrees from the lowest level up.
    let mut zero = [0; 32];
    let mut right: Option<[u8; 32]> = None;
    for waiting in pending {
        right = match (waiting, right) {
            (Some(left), Some(node)) => Some(pair(&left, &node)),
            (Some(left), None) => Some(pair(&left, &zero)),
            (None, Some(node)) => Some(pair(&node, &zero)),
            (None, None) => None,
        };
        zero = pair(&zero, &zero);
    }
    right.unwrap_or_default()
}

/// Adds a leaf and joins every pair that is now complete.
fn carry(pending: &mut Vec<Option<[u8; 32]>>, leaf: [u8; 32]) {
    let mut node = leaf;
    for slot in pending.iter_mut() {
        match slot.take() {
            Some(left) => node = pair(&left, &node),
            None => {
                *slot = Some(node);
                return;
            }
        }
    }
    pending.push(Some(node));
}

fn pair(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(left).chain_update(right).finalize().into()
}

/// Root of a message without maps.
pub fn message_root(message: &impl Message) -> [u8; 32] {
    bytes_root(&message.encode_to_vec())
}

/// Value hash of an unsigned data set: keys sorted, values as received.
pub fn unsigned_set_root(set: &wire::UnsignedDataSet) -> [u8; 32] {
    bytes_root(&unsigned_set_encoding(set))
}

/// The deterministic encoding of an unsigned data set, as the reference writes it: key and value of an entry always stand
/// there, also when empty, which the derived encoder would leave out.
pub fn unsigned_set_encoding(set: &wire::UnsignedDataSet) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in &set.set {
        let mut entry = Vec::with_capacity(key.len() + value.len() + 16);
        encoding::string::encode(1, key, &mut entry);
        encoding::bytes::encode(2, value, &mut entry);
        encoding::bytes::encode(1, &entry, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> [u8; 32] {
        let mut nodes: Vec<[u8; 32]> = bytes
            .chunks(32)
            .map(|chunk| {
                let mut node = [0; 32];
                node[..chunk.len()].copy_from_slice(chunk);
                node
            })
            .collect();
        if nodes.is_empty() {
            return [0; 32];
        }
        nodes.resize(nodes.len().next_power_of_two(), [0; 32]);
        while nodes.len() > 1 {
            nodes = nodes.chunks(2).map(|two| pair(&two[0], &two[1])).collect();
        }
        nodes[0]
    }

    #[test]
    fn the_streaming_root_equals_the_plain_tree_for_every_length() {
        for length in 0..=32 * 40 {
            let bytes: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap() + 1).collect();
            assert_eq!(bytes_root(&bytes), plain(&bytes), "length {length}");
        }
    }
}
