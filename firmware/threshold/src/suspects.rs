//! Operators whose partial signatures were wrong lately.

use crate::keys::ShareIndex;
use chain::Epoch;
use std::collections::BTreeMap;

/// Whom to trust last. At most one entry per operator of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Suspects(BTreeMap<ShareIndex, Suspect>);

#[derive(Clone, Copy, Debug)]
struct Suspect {
    last_wrong: Epoch,
    /// Something of it was looked at since and was right.
    right_since: bool,
}

impl Suspects {
    /// Who is one, after those are let off that were seen to be right and for a whole epoch never wrong.
    pub(crate) fn at(&mut self, epoch: Epoch) -> Vec<ShareIndex> {
        self.0.retain(|_, suspect| !(suspect.right_since && epoch > suspect.last_wrong.saturating_add(1)));
        self.0.keys().copied().collect()
    }

    pub(crate) fn was_wrong(&mut self, index: ShareIndex, epoch: Epoch) {
        let known = self.0.get(&index).map_or(epoch, |suspect| suspect.last_wrong);
        self.0.insert(index, Suspect { last_wrong: known.max(epoch), right_since: false });
    }

    pub(crate) fn was_right(&mut self, index: ShareIndex) {
        if let Some(suspect) = self.0.get_mut(&index) {
            suspect.right_since = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_is_let_off_after_a_whole_epoch_without_a_lie() {
        let liar = ShareIndex::new(2).unwrap();
        let mut suspects = Suspects::default();
        suspects.was_wrong(liar, Epoch(5));
        assert_eq!(suspects.at(Epoch(99)), [liar], "silence is no proof");
        suspects.was_right(liar);
        assert_eq!(suspects.at(Epoch(6)), [liar]);
        suspects.was_wrong(liar, Epoch(6));
        suspects.was_right(liar);
        assert_eq!(suspects.at(Epoch(7)), [liar]);
        assert_eq!(suspects.at(Epoch(8)), []);
        suspects.was_right(liar);
        assert_eq!(suspects.at(Epoch(8)), [], "who is none does not become one by being right");
    }
}
