//! Who pays what of a validator's stake: each member's part, made of the deposits that the validator's key has signed.
//!
//! A signed deposit of an amount may be sent any number of times and by anybody, because it says where the money can go and
//! not where it came from. So with signed deposits of 1, 8 and 32 ETH, four members who pay 8 ETH each all send the same one.

use chain::Gwei;

use crate::deposit::ETH;

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
    /// What the deposit contract does not take; it would also make parts of any number of deposits.
    #[error(
        "the cluster has signed a deposit of {0} gwei, less than the 1 ETH of the least deposit; create it anew"
    )]
    BelowLeast(Gwei),
    /// No deposit to make parts of.
    #[error("the cluster has signed no deposits; use the deposit files from the key generation")]
    NothingSigned,
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

/// The parts that the members have chosen, of deposits of the `signed` amounts.
pub fn parts(
    signed: &[Gwei],
    compounding: bool,
    members: usize,
    chosen: &[Gwei],
) -> Result<Vec<Part>, PartsError> {
    if chosen.len() != members {
        return Err(PartsError::Members { found: chosen.len(), members });
    }
    let total = sum(chosen);
    let most = most(compounding);
    if total < ACTIVATION {
        return Err(PartsError::TooLittle(total));
    }
    if total > most {
        return Err(PartsError::TooMuch { total, most });
    }
    let signed = largest_first(signed)?;
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

/// The parts when nobody has chosen, of deposits of the `signed` amounts. There always are some, whatever number of members.
///
/// The amounts that the definition lists, one after the other to whoever pays least so far, where these are signed and sum
/// to what one validator may hold. Else 32 ETH: in equal parts, or as equal as whole deposits allow. Only where no signed
/// deposits sum to 32 ETH it is a little more.
pub fn usual_parts(
    signed: &[Gwei],
    listed: &[Gwei],
    compounding: bool,
    members: usize,
) -> Result<Vec<Part>, PartsError> {
    let signed = largest_first(signed)?;
    if members == 0 {
        return Err(PartsError::Members { found: 0, members });
    }
    let total = sum(listed);
    let fits = total >= ACTIVATION && total <= most(compounding);
    if fits && listed.iter().all(|amount| signed.contains(amount)) {
        return Ok(deal(listed, members));
    }
    let count = u64::try_from(members).unwrap_or(u64::MAX);
    let equal = Some(Gwei(ACTIVATION.0 / count)).filter(|_| ACTIVATION.0.is_multiple_of(count));
    if let Some(deposits) = equal.and_then(|each| compose(each, &signed)) {
        return Ok((1..=members).map(|member| Part { member, deposits: deposits.clone() }).collect());
    }
    if let Some(unit) = signed.iter().rev().find(|unit| ACTIVATION.0.is_multiple_of(unit.0)) {
        let units = ACTIVATION.0 / unit.0;
        let part = |member: usize| {
            let extra = u64::try_from(member).is_ok_and(|member| member <= units % count);
            let times = units / count + u64::from(extra);
            // Larger deposits stand for several units where they fit.
            let deposits = compose(Gwei(unit.0 * times), &signed)
                .unwrap_or_else(|| vec![(*unit, usize::try_from(times).unwrap_or(usize::MAX))]);
            Part { member, deposits }
        };
        return Ok((1..=members).map(part).collect());
    }
    let whole = compose(ACTIVATION, &signed).map_or_else(|| just_above(&signed), |found| repeated(&found));
    Ok(deal(&whole, members))
}

/// The most that one validator, or one deposit to it, may hold.
pub fn most(compounding: bool) -> Gwei {
    if compounding { MOST_COMPOUNDING } else { ACTIVATION }
}

fn sum(amounts: &[Gwei]) -> Gwei {
    Gwei(amounts.iter().fold(0, |sum, amount| sum.saturating_add(amount.0)))
}

fn largest_first(signed: &[Gwei]) -> Result<Vec<Gwei>, PartsError> {
    let mut signed = signed.to_vec();
    signed.sort_unstable_by(|a, b| b.cmp(a));
    signed.dedup();
    let least = *signed.last().ok_or(PartsError::NothingSigned)?;
    if least < ETH { Err(PartsError::BelowLeast(least)) } else { Ok(signed) }
}

/// Each amount as often as it is to be sent.
fn repeated(deposits: &[(Gwei, usize)]) -> Vec<Gwei> {
    deposits.iter().flat_map(|(amount, times)| std::iter::repeat_n(*amount, *times)).collect()
}

/// Deposits that sum to 32 ETH or as little more as a greedy choice gives: the largest that fit, then the smallest. At most 32,
/// for none is below 1 ETH.
fn just_above(signed: &[Gwei]) -> Vec<Gwei> {
    let mut left = ACTIVATION.0;
    let mut taken = Vec::new();
    while left > 0 {
        let fitting = signed.iter().find(|amount| amount.0 <= left).or_else(|| signed.last());
        let Some(amount) = fitting else { break };
        left = left.saturating_sub(amount.0);
        taken.push(*amount);
    }
    taken
}

/// Each deposit, the largest first, to whoever pays least so far.
fn deal(deposits: &[Gwei], members: usize) -> Vec<Part> {
    let mut sorted = deposits.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let mut parts: Vec<Part> = (1..=members).map(|member| Part { member, deposits: Vec::new() }).collect();
    for amount in sorted {
        let Some(least) = parts.iter_mut().min_by_key(|part| part.total()) else { break };
        match least.deposits.last_mut() {
            Some((same, times)) if *same == amount => *times += 1,
            Some(_) | None => least.deposits.push((amount, 1)),
        }
    }
    parts
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
    use crate::deposit::effective_amounts;

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
            let signed = effective_amounts(&eth(amounts), compounding);
            let parts = parts(&signed, compounding, chosen.len(), &eth(chosen)).unwrap();
            assert_eq!(totals(&parts), chosen, "{amounts:?}");
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
        for (listed, compounding, members, expected) in [
            (&[][..], false, 4, &[8, 8, 8, 8][..]),
            (&[], false, 3, &[11, 11, 10]),
            (&[], false, 7, &[5, 5, 5, 5, 4, 4, 4]),
            (&[8, 8, 8, 8], false, 4, &[8, 8, 8, 8]),
            (&[16, 10, 6], false, 2, &[16, 16]),
            (&[16, 16], false, 4, &[16, 16, 0, 0]),
            (&[32], false, 4, &[32, 0, 0, 0]),
            // More than one validator holds: what is listed are the amounts that can be sent.
            (&[32, 32], false, 2, &[32, 0]),
            (&[1, 8, 32], false, 4, &[8, 8, 8, 8]),
            (&[1024, 512, 512], true, 2, &[1024, 1024]),
            // No sum of these is 32.
            (&[20, 20], false, 4, &[20, 20, 0, 0]),
            (&[5, 30], false, 2, &[30, 5]),
        ] {
            let signed = effective_amounts(&eth(listed), compounding);
            let parts = usual_parts(&signed, &eth(listed), compounding, members).unwrap();
            assert_eq!(totals(&parts), expected, "{listed:?} for {members}");
        }
        // A deposit that is listed and was never signed cannot be sent.
        let parts = usual_parts(&eth(&[32]), &eth(&[8, 8, 8, 8]), false, 4).unwrap();
        assert_eq!(totals(&parts), [32, 0, 0, 0]);
        assert_eq!(usual_parts(&[], &[], false, 4), Err(PartsError::NothingSigned));
        // A lock's amounts are whatever its author signed: these would be billions of deposits.
        for gwei in [0, 1, 3, ETH.0 - 1] {
            assert_eq!(usual_parts(&[Gwei(gwei)], &[], false, 4), Err(PartsError::BelowLeast(Gwei(gwei))));
        }
        let huge = usual_parts(&[Gwei(u64::MAX)], &[], false, 4).unwrap();
        assert_eq!(huge[0].deposits, [(Gwei(u64::MAX), 1)]);
    }

    #[test]
    fn every_number_of_members_has_parts_that_sum_to_a_validator_s_stake() {
        let lists: [(&[u64], bool); 8] = [
            (&[], false),
            (&[], true),
            (&[32], false),
            (&[16, 16], false),
            (&[8, 8, 8, 8], false),
            (&[6, 10, 16], false),
            (&[3, 29], false),
            (&[7, 25, 32], true),
        ];
        for (listed, compounding) in lists {
            for members in 1..=16 {
                let signed = effective_amounts(&eth(listed), compounding);
                let parts = usual_parts(&signed, &eth(listed), compounding, members).unwrap();
                let expected = if compounding { listed.iter().sum::<u64>().max(32) } else { 32 };
                assert_eq!(totals(&parts).iter().sum::<u64>(), expected, "{listed:?} for {members}");
                let numbers: Vec<usize> = parts.iter().map(|part| part.member).collect();
                assert_eq!(numbers, (1..=members).collect::<Vec<_>>());
                let sent = parts.iter().flat_map(|part| &part.deposits);
                assert!(sent.into_iter().all(|(amount, times)| signed.contains(amount) && *times > 0));
            }
        }
    }
}
