//! Who pays what of a validator's stake: each member's part, made of the deposits that the validator's key has signed.
//!
//! A signed deposit of an amount may be sent any number of times and by anybody, because it says where the money can go and
//! not where it came from. So with signed deposits of 1, 8 and 32 ETH, four members who pay 8 ETH each all send the same one.

use chain::Gwei;

use crate::deposit::{ETH, effective_amounts};

/// What a validator needs to be activated.
pub const ACTIVATION: Gwei = Gwei(32 * ETH.0);
/// The most that counts for a compounding validator (EIP-7251).
pub const MOST_COMPOUNDING: Gwei = Gwei(2048 * ETH.0);
/// More transactions than any member wants to send for one validator.
const MAX_DEPOSITS: usize = 64;
/// Bounds the search for a sum.
const MAX_STEPS: usize = 100_000;

/// Why parts cannot be paid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// One per member.
    #[error("{found} parts for {members} members: name one for each, 0 for those who pay nothing")]
    Members {
        /// Parts named.
        found: usize,
        /// Members.
        members: usize,
    },
    /// Less than a validator needs.
    #[error("the parts sum to {0} gwei, less than the 32 ETH that a validator needs; raise some")]
    TooLittle(Gwei),
    /// More than counts.
    #[error("the parts sum to {total} gwei, and more than {most} gwei earns nothing; lower some")]
    TooMuch {
        /// Sum.
        total: Gwei,
        /// Most that counts.
        most: Gwei,
    },
    /// Not a sum of signed deposits.
    #[error(
        "member {member} cannot pay {amount} gwei: the cluster has signed deposits of {signed} ETH only; choose a sum of these, or create the cluster with other deposit amounts"
    )]
    NotASum {
        /// Share index.
        member: usize,
        /// Its part.
        amount: Gwei,
        /// The signed amounts.
        signed: String,
    },
}

/// One member's part for one validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Share index, from 1.
    pub member: usize,
    /// Which deposits to send, and how often each, the largest first.
    pub deposits: Vec<(Gwei, usize)>,
}

impl Part {
    /// What the member pays.
    pub fn total(&self) -> Gwei {
        let sum = |sum: u64, (amount, times): &(Gwei, usize)| {
            sum.saturating_add(amount.0.saturating_mul(u64::try_from(*times).unwrap_or(u64::MAX)))
        };
        Gwei(self.deposits.iter().fold(0, sum))
    }
}

/// The parts that the members have chosen.
pub fn parts(
    amounts: &[Gwei],
    compounding: bool,
    members: usize,
    chosen: &[Gwei],
) -> Result<Vec<Part>, PartsError> {
    if chosen.len() != members {
        return Err(PartsError::Members { found: chosen.len(), members });
    }
    let total = Gwei(chosen.iter().fold(0, |sum: u64, part| sum.saturating_add(part.0)));
    let most = if compounding { MOST_COMPOUNDING } else { ACTIVATION };
    if total < ACTIVATION {
        return Err(PartsError::TooLittle(total));
    }
    if total > most {
        return Err(PartsError::TooMuch { total, most });
    }
    let mut signed = effective_amounts(amounts, compounding);
    signed.reverse();
    let part = |(position, amount): (usize, &Gwei)| {
        let member = position + 1;
        let deposits = compose(*amount, &signed).ok_or_else(|| PartsError::NotASum {
            member,
            amount: *amount,
            signed: signed.iter().rev().map(in_eth).collect::<Vec<_>>().join(", "),
        })?;
        Ok(Part { member, deposits })
    };
    chosen.iter().enumerate().map(part).collect()
}

/// The parts when nobody has chosen: the definition's own amounts, one after the other to whoever pays least so far; with the
/// usual amounts, equal parts where these can be paid.
pub fn usual_parts(amounts: &[Gwei], compounding: bool, members: usize) -> Result<Vec<Part>, PartsError> {
    let listed: u64 = amounts.iter().fold(0, |sum, amount| sum.saturating_add(amount.0));
    let most = if compounding { MOST_COMPOUNDING } else { ACTIVATION };
    if members == 0 || amounts.is_empty() || listed > most.0 {
        let each = ACTIVATION.0 / u64::try_from(members.max(1)).unwrap_or(u64::MAX);
        let mut chosen = vec![Gwei(each); members];
        // What a division leaves goes to the first.
        let rest =
            ACTIVATION.0 - each.saturating_mul(u64::try_from(members).unwrap_or(u64::MAX)).min(ACTIVATION.0);
        if let Some(first) = chosen.first_mut() {
            first.0 = first.0.saturating_add(rest);
        }
        return parts(amounts, compounding, members, &chosen);
    }
    let mut sorted = amounts.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let mut chosen = vec![Gwei(0); members];
    for amount in sorted {
        if let Some(least) = chosen.iter_mut().min_by_key(|part| part.0) {
            least.0 = least.0.saturating_add(amount.0);
        }
    }
    parts(amounts, compounding, members, &chosen)
}

fn in_eth(amount: &Gwei) -> String {
    let fraction = format!("{:09}", amount.0 % ETH.0);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{}{dot}{fraction}", amount.0 / ETH.0)
}

/// The amount as a sum of the signed ones (largest first), with few deposits.
fn compose(amount: Gwei, signed: &[Gwei]) -> Option<Vec<(Gwei, usize)>> {
    let mut steps = 0;
    let mut taken = Vec::new();
    fill(amount.0, signed, MAX_DEPOSITS, &mut taken, &mut steps).then_some(taken)
}

fn fill(left: u64, signed: &[Gwei], room: usize, taken: &mut Vec<(Gwei, usize)>, steps: &mut usize) -> bool {
    *steps += 1;
    if left == 0 {
        return true;
    }
    let Some((largest, smaller)) = signed.split_first() else { return false };
    if *steps > MAX_STEPS || room == 0 || largest.0 == 0 {
        return false;
    }
    let most = usize::try_from(left / largest.0).unwrap_or(usize::MAX).min(room);
    for times in (0..=most).rev() {
        let spent = largest.0.saturating_mul(u64::try_from(times).unwrap_or(u64::MAX));
        let before = taken.len();
        if times > 0 {
            taken.push((*largest, times));
        }
        if fill(left - spent.min(left), smaller, room - times, taken, steps) {
            return true;
        }
        taken.truncate(before);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth(amounts: &[u64]) -> Vec<Gwei> {
        amounts.iter().map(|amount| Gwei(amount * ETH.0)).collect()
    }

    fn totals(parts: &[Part]) -> Vec<u64> {
        parts.iter().map(|part| part.total().0 / ETH.0).collect()
    }

    #[test]
    fn parts_always_add_up_to_what_was_chosen() {
        for (amounts, compounding, chosen) in [
            (&[][..], false, &[32, 0, 0, 0][..]),
            (&[], false, &[8, 8, 8, 8]),
            (&[8, 8, 8, 8], false, &[8, 16, 8, 0]),
            (&[5, 7, 20], false, &[5, 12, 15]),
            (&[], true, &[512, 512, 512, 512]),
            (&[], true, &[40, 33, 257]),
        ] {
            let parts = parts(&eth(amounts), compounding, chosen.len(), &eth(chosen)).unwrap();
            assert_eq!(totals(&parts), chosen, "{amounts:?}");
            let signed = effective_amounts(&eth(amounts), compounding);
            let sent = parts.iter().flat_map(|part| &part.deposits);
            assert!(sent.into_iter().all(|(amount, times)| signed.contains(amount) && *times > 0));
        }
    }

    #[test]
    fn a_sum_is_found_also_where_the_largest_first_fails() {
        // 12 = 6 + 6, and not 10 + ….
        let found = parts(&eth(&[6, 10]), false, 2, &eth(&[12, 20])).unwrap();
        assert_eq!(found[0].deposits, [(Gwei(6 * ETH.0), 2)]);
        assert_eq!(found[1].deposits, [(Gwei(10 * ETH.0), 2)]);
    }

    #[test]
    fn impossible_parts_are_refused_with_the_reason() {
        let amounts = eth(&[8, 24]);
        let ask = |chosen: &[u64], compounding| {
            parts(&amounts, compounding, chosen.len(), &eth(chosen)).unwrap_err()
        };
        assert!(matches!(ask(&[8, 16], false), PartsError::TooLittle(_)));
        assert!(matches!(ask(&[24, 16], false), PartsError::TooMuch { .. }));
        assert!(matches!(ask(&[2048, 8], true), PartsError::TooMuch { .. }));
        let not_a_sum = ask(&[31, 1], false);
        assert!(not_a_sum.to_string().contains("8, 24 ETH"), "{not_a_sum}");
        let uneven = parts(&amounts, false, 3, &eth(&[32]));
        assert_eq!(uneven, Err(PartsError::Members { found: 1, members: 3 }));
        // A search that could take for ever ends.
        let many: Vec<Gwei> = (0..200).map(|n| Gwei(ETH.0 + 2 * n)).collect();
        let odd = parts(&many, false, 1, &[Gwei(32 * ETH.0)]);
        assert!(odd.is_ok() || matches!(odd, Err(PartsError::NotASum { .. })));
    }

    #[test]
    fn without_a_choice_the_definition_s_own_amounts_are_shared_out() {
        for (amounts, compounding, members, expected) in [
            (&[][..], false, 4, &[8, 8, 8, 8][..]),
            (&[], false, 3, &[0, 0, 0]),
            (&[8, 8, 8, 8], false, 4, &[8, 8, 8, 8]),
            (&[16, 10, 6], false, 2, &[16, 16]),
            (&[16, 16], false, 4, &[16, 16, 0, 0]),
            (&[1024, 512, 512], true, 2, &[1024, 1024]),
        ] {
            match usual_parts(&eth(amounts), compounding, members) {
                Ok(parts) => assert_eq!(totals(&parts), expected, "{amounts:?}"),
                // A third of 32 ETH is no sum of whole ether.
                Err(error) => assert!(matches!(error, PartsError::NotASum { .. }) && members == 3, "{error}"),
            }
        }
    }
}
