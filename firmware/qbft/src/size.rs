//! How many members there are, and how many of them make a quorum.

use crate::{MAX_MEMBERS, Member};

/// Number of members with the two numbers that follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    members: u8,
    quorum: u8,
    faulty: u8,
}

/// The cluster has no member, or more than [`MAX_MEMBERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster has 1 to {MAX_MEMBERS} members, not {0}; check the cluster file")]
pub struct SizeError(pub usize);

impl Size {
    /// The size of a cluster of `members`: quorum ⌈2n/3⌉, tolerates ⌊(n-1)/3⌋ liars.
    pub fn new(members: usize) -> Result<Self, SizeError> {
        let count = u8::try_from(members).map_err(|_| SizeError(members))?;
        if members == 0 || members > MAX_MEMBERS {
            return Err(SizeError(members));
        }
        Ok(Size { members: count, quorum: (2 * count).div_ceil(3), faulty: (count - 1) / 3 })
    }

    /// A size with a wrong quorum, so that the simulator can prove that it would notice one.
    #[doc(hidden)]
    pub fn broken_for_simulation(self, quorum: u8) -> Self {
        Size { quorum, ..self }
    }

    /// Number of members.
    pub fn members(self) -> usize {
        usize::from(self.members)
    }

    /// Distinct members whose equal votes settle something.
    pub fn quorum(self) -> usize {
        usize::from(self.quorum)
    }

    /// Members that may lie without harm.
    pub fn faulty(self) -> usize {
        usize::from(self.faulty)
    }

    /// Every member, in order.
    pub fn all(self) -> impl Iterator<Item = Member> {
        (0..self.members).map(Member)
    }

    pub(crate) fn contains(self, member: Member) -> bool {
        member.0 < self.members
    }

    /// `(offset + round) mod n`, without overflow.
    pub(crate) fn leader(self, offset: u64, round: u64) -> Member {
        let n = u64::from(self.members);
        let index = (offset % n + round % n) % n;
        Member(u8::try_from(index).expect("smaller than the number of members"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (members, quorum, faulty)
    const TABLE: [(usize, usize, usize); 16] = [
        (1, 1, 0),
        (2, 2, 0),
        (3, 2, 0),
        (4, 3, 1),
        (5, 4, 1),
        (6, 4, 1),
        (7, 5, 2),
        (8, 6, 2),
        (9, 6, 2),
        (10, 7, 3),
        (11, 8, 3),
        (12, 8, 3),
        (13, 9, 4),
        (14, 10, 4),
        (15, 10, 4),
        (16, 11, 5),
    ];

    #[test]
    fn quorum_and_faulty_are_these_numbers() {
        for (members, quorum, faulty) in TABLE {
            let size = Size::new(members).unwrap();
            assert_eq!((size.quorum(), size.faulty()), (quorum, faulty), "{members} members");
        }
    }

    #[test]
    fn any_two_quorums_share_an_honest_member() {
        for members in 1..=MAX_MEMBERS {
            let size = Size::new(members).unwrap();
            assert!(2 * size.quorum() > members + size.faulty(), "{members} members");
        }
    }

    #[test]
    fn no_member_and_too_many_members_are_refused() {
        for members in [0, MAX_MEMBERS + 1, 255, 256, 100_000] {
            assert_eq!(Size::new(members), Err(SizeError(members)));
        }
    }

    #[test]
    fn leaders_take_turns_and_huge_offsets_do_not_overflow() {
        let size = Size::new(4).unwrap();
        assert_eq!(size.leader(0, 1), Member(1));
        assert_eq!(size.leader(3, 1), Member(0));
        assert_eq!(size.leader(u64::MAX, 1), Member(0)); // 2^64 is a multiple of 4.
        assert_eq!(Size::new(3).unwrap().leader(5_742_783_269 + 1, 2), Member(2));
    }
}
