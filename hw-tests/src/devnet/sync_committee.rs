//! Gives the sync-committee seats of genesis to a few holders: one seat in each subcommittee to a distributed validator,
//! all others to eight fillers.
//!
//! The seats are more than half of the beacon node's work (docs/decisions/0112-four-seats-for-the-cluster.md), and on a
//! machine that emulates a box beside the chain that work decides which slot time can be held. The sizes of mainnet are
//! compiled in: 512 seats, however few validators there are, and `generate-genesis` deals them to everybody. With few
//! holders each one signs once for many seats.

use std::path::Path;

use threshold::{PublicKey, aggregate_public_keys};

use super::DevnetError;

const KEY: usize = 48;
const SEATS: usize = 512;
/// 512 public keys and their sum.
const COMMITTEE: usize = (SEATS + 1) * KEY;
/// How many fillers share the seats.
const HOLDERS: usize = 8;
/// `SYNC_COMMITTEE_SUBNET_COUNT`: each subcommittee aggregates for itself.
const SUBCOMMITTEES: usize = 4;

const ROOT: usize = 32;
/// An SSZ list stands here as the place where its bytes are.
const OFFSET: usize = 4;
/// Lengths of what stands before `current_sync_committee` in an Electra or Fulu state, in order of the fields.
const BEFORE: [usize; 20] = [
    8,            // genesis_time
    ROOT,         // genesis_validators_root
    8,            // slot
    16,           // fork
    112,          // latest_block_header
    8192 * ROOT,  // block_roots
    8192 * ROOT,  // state_roots
    OFFSET,       // historical_roots
    72,           // eth1_data
    OFFSET,       // eth1_data_votes
    8,            // eth1_deposit_index
    OFFSET,       // validators
    OFFSET,       // balances
    65536 * ROOT, // randao_mixes
    8192 * 8,     // slashings
    OFFSET,       // previous_epoch_participation
    OFFSET,       // current_epoch_participation
    1,            // justification_bits
    3 * 40,       // justified (previous, current) and finalized checkpoints
    OFFSET,       // inactivity_scores
];

/// Rewrites the current and the next sync committee of the genesis state at `path`.
///
/// `validators` are all public keys of genesis: before anything is overwritten, every seat must hold one of them, which
/// proves that the place is right. The first `fillers` hold the seats, but for one in each subcommittee that belongs to one
/// of the first `distributed`.
pub(super) fn give_to_few(
    path: &Path,
    validators: &[[u8; KEY]],
    fillers: &[[u8; KEY]],
    distributed: &[[u8; KEY]],
) -> Result<(), DevnetError> {
    let file_error = |source| DevnetError::File { path: path.to_owned(), source };
    let mut state = std::fs::read(path).map_err(file_error)?;
    rewrite(&mut state, validators, fillers, distributed)?;
    std::fs::write(path, state).map_err(file_error)
}

fn rewrite(
    state: &mut [u8],
    validators: &[[u8; KEY]],
    fillers: &[[u8; KEY]],
    distributed: &[[u8; KEY]],
) -> Result<(), DevnetError> {
    let strange = || DevnetError::GenesisState;
    let start: usize = BEFORE.iter().sum();
    let committees = state.get_mut(start..start + 2 * COMMITTEE).ok_or_else(strange)?;
    let seats = |committee: &[u8]| {
        committee[..SEATS * KEY].chunks(KEY).all(|key| validators.iter().any(|v| v == key))
    };
    if !committees.chunks(COMMITTEE).all(seats) {
        return Err(strange());
    }
    let fillers = &fillers[..HOLDERS.min(fillers.len())];
    let committee = committee_of(fillers, distributed).ok_or_else(strange)?;
    committees.chunks_mut(COMMITTEE).for_each(|place| place.copy_from_slice(&committee));
    Ok(())
}

/// The fillers in rotation over all seats, a distributed validator on the first seat of each subcommittee, and the sum of
/// all keys. Nobody sits in two subcommittees of whom the cluster's old peers could tell only one contribution.
fn committee_of(fillers: &[[u8; KEY]], distributed: &[[u8; KEY]]) -> Option<Vec<u8>> {
    if fillers.is_empty() {
        return None;
    }
    let parse = |key: &[u8; KEY]| PublicKey::from_slice(key).ok();
    let mut holders: Vec<([u8; KEY], PublicKey)> = Vec::with_capacity(fillers.len());
    for key in fillers {
        holders.push((*key, parse(key)?));
    }
    let mut seats: Vec<([u8; KEY], PublicKey)> = holders.iter().copied().cycle().take(SEATS).collect();
    for (subcommittee, key) in distributed.iter().take(SUBCOMMITTEES).enumerate() {
        seats[subcommittee * (SEATS / SUBCOMMITTEES)] = (*key, parse(key)?);
    }
    let keys: Vec<PublicKey> = seats.iter().map(|(_, key)| *key).collect();
    let mut committee = seats.iter().flat_map(|(bytes, _)| *bytes).collect::<Vec<u8>>();
    committee.extend(aggregate_public_keys(&keys).ok()?.0);
    (committee.len() == COMMITTEE).then_some(committee)
}

#[cfg(test)]
mod tests {
    use super::super::interop::interop_deposit;
    use super::*;

    fn keys(count: u64) -> Vec<[u8; KEY]> {
        let key = |index| hex::decode(interop_deposit(index).unwrap().pubkey).unwrap().try_into().unwrap();
        (0..count).map(key).collect()
    }

    /// A state whose seats all belong to the last key.
    fn state(keys: &[[u8; KEY]]) -> Vec<u8> {
        let mut state = vec![7; BEFORE.iter().sum()];
        for _ in 0..2 {
            state.extend(keys.last().unwrap().repeat(SEATS + 1));
        }
        state.extend([9; 100]);
        state
    }

    #[test]
    fn only_the_seats_change() {
        let keys = keys(10);
        let before = state(&keys);
        let mut after = before.clone();
        rewrite(&mut after, &keys, &keys[..9], &keys[9..]).unwrap();
        let start: usize = BEFORE.iter().sum();
        assert_eq!(after[..start], before[..start]);
        assert_eq!(after[start + 2 * COMMITTEE..], before[start + 2 * COMMITTEE..]);
        assert_eq!(after[start..start + COMMITTEE], after[start + COMMITTEE..start + 2 * COMMITTEE]);
        assert_eq!(after[start + 8 * KEY..start + 9 * KEY], keys[0]);
        assert_eq!(after[start..start + KEY], keys[9]);
    }

    #[test]
    fn the_sum_is_that_of_all_seats() {
        let keys = keys(13);
        for distributed in [&keys[8..8], &keys[8..9], &keys[8..]] {
            let committee = committee_of(&keys[..8], distributed).unwrap();
            let mut sum: Option<PublicKey> = None;
            for seat in committee[..SEATS * KEY].chunks(KEY) {
                let key = PublicKey::from_slice(seat).unwrap();
                let terms: Vec<PublicKey> = sum.into_iter().chain([key]).collect();
                sum = Some(PublicKey::parse(&aggregate_public_keys(&terms).unwrap()).unwrap());
            }
            assert_eq!(sum.unwrap().to_bytes().0, committee[SEATS * KEY..]);
        }
    }

    #[test]
    fn four_distributed_validators_have_a_seat_each_in_a_subcommittee_of_their_own() {
        let keys = keys(14);
        let committee = committee_of(&keys[..8], &keys[8..]).unwrap();
        let seats: Vec<&[u8]> = committee[..SEATS * KEY].chunks(KEY).collect();
        for (position, key) in keys[8..].iter().enumerate() {
            let held: Vec<usize> = (0..SEATS).filter(|seat| seats[*seat] == key).collect();
            let expected = if position < 4 { vec![position * 128] } else { Vec::new() };
            assert_eq!(held, expected, "validator {position}");
        }
    }

    #[test]
    fn a_state_of_another_shape_is_left_alone() {
        let keys = keys(10);
        let good = state(&keys);
        for mut wrong in [good[1..].to_vec(), good[..1000].to_vec(), Vec::new()] {
            let before = wrong.clone();
            assert!(rewrite(&mut wrong, &keys, &keys, &[]).is_err());
            assert_eq!(wrong, before);
        }
        assert!(committee_of(&[], &keys).is_none());
    }
}
