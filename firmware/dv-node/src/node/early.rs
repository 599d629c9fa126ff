//! Partial signatures that come before the chain is known.
//!
//! Members send a box that connects what it missed ([`super::exchange`]) at once, and only once. A box that has just started
//! asks its beacon node meanwhile which chain this is, and can check nothing before; so what comes waits here.

use std::collections::BTreeMap;

use qbft::Member;

/// Bytes that one member may leave. A slot's partial signatures of a thousand validators take a fifth of it.
const MAX_BYTES_OF_MEMBER: usize = 1024 * 1024;
/// Messages that one member may leave: as many duties as it keeps itself.
const MAX_MESSAGES_OF_MEMBER: usize = 256;

/// Unread messages, by sender: who sends too much loses its own alone.
#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: BTreeMap<Member, OfMember>,
}

#[derive(Debug, Default)]
struct OfMember {
    messages: Vec<Vec<u8>>,
    bytes: usize,
}

impl Early {
    /// Keeps a message, unless its sender has left enough.
    pub(super) fn keep(&mut self, sender: Member, message: &[u8]) {
        let of = self.waiting.entry(sender).or_default();
        let bytes = of.bytes.saturating_add(message.len());
        if bytes <= MAX_BYTES_OF_MEMBER && of.messages.len() < MAX_MESSAGES_OF_MEMBER {
            of.bytes = bytes;
            of.messages.push(message.to_vec());
        }
    }

    /// Everything that waited, in the order in which each member sent it.
    pub(super) fn take(&mut self) -> Vec<(Member, Vec<u8>)> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        waiting
            .flat_map(|(sender, of)| of.messages.into_iter().map(move |message| (sender, message)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_is_given_once_and_in_order() {
        let mut early = Early::default();
        early.keep(Member(1), b"a");
        early.keep(Member(0), b"b");
        early.keep(Member(1), b"c");
        let taken = early.take();
        assert_eq!(
            taken,
            [(Member(0), b"b".to_vec()), (Member(1), b"a".to_vec()), (Member(1), b"c".to_vec())]
        );
        assert!(early.take().is_empty());
    }

    #[test]
    fn a_member_that_sends_too_much_takes_no_room_from_another() {
        let mut early = Early::default();
        for _ in 0..3 * MAX_MESSAGES_OF_MEMBER {
            early.keep(Member(1), b"flood");
        }
        let large = vec![0; MAX_BYTES_OF_MEMBER];
        early.keep(Member(2), &large);
        early.keep(Member(2), b"more");
        early.keep(Member(0), b"heard");
        let taken = early.take();
        assert_eq!(taken.iter().filter(|(sender, _)| *sender == Member(1)).count(), MAX_MESSAGES_OF_MEMBER);
        assert_eq!(taken.iter().filter(|(sender, _)| *sender == Member(2)).count(), 1);
        assert!(taken.contains(&(Member(0), b"heard".to_vec())));
    }
}
