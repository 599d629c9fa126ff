//! Step 1 of a ceremony: the two rounds of key generation.

use zeroize::Zeroizing;

use super::{Ceremony, Output, Outputs, Question, ROUND_2};
use crate::dkg::dealer::{BornValidator, arrived};
use crate::dkg::frost::{self, FrostRefusal};
use crate::wire::Named as _;

/// What an owner can do about a member that cheats or is broken.
const SUSPECT: &str = "Do not fund anything. Speak with that member's owner; if its software is sound, discard the ceremony on every member and start it again together, or make a new definition without it.";

impl Ceremony {
    /// Whether all keys are made and everybody arrived at the same.
    pub(super) fn make_keys(&mut self, out: &mut Outputs) -> bool {
        let everybody = self.plan.members().len();
        if self.shares.is_empty() {
            self.ask("deal", |this| Question::Deal { seal_keys: this.seal_keys() }, out);
            return false;
        }
        if self.casts.len() < everybody || self.kept.len() + 1 < everybody {
            return false;
        }
        if self.validators.is_none() {
            let casts = |this: &Self| {
                this.casts.iter().map(|(member, (_, signed))| (*member, signed.clone())).collect()
            };
            self.ask("finish", |this| Question::Finish { casts: casts(this) }, out);
            return false;
        }
        if self.arrived.len() < everybody {
            return false;
        }
        for member in 0..everybody {
            if let Some(validator) = self.differs(member) {
                let why = FrostRefusal::OtherResult { validator };
                self.fail(Some(member), why.to_string(), SUSPECT.to_owned(), out);
                return false;
            }
        }
        true
    }

    /// The first validator for which a member arrived at other keys than the commitments make.
    fn differs(&self, member: usize) -> Option<usize> {
        let expected = arrived(self.validators.as_deref().unwrap_or_default(), member);
        let found = self.arrived.get(&member).map(Vec::as_slice).unwrap_or_default();
        let places = 0..expected.len().max(found.len());
        places.into_iter().find(|place| expected.get(*place) != found.get(*place))
    }

    fn seal_keys(&self) -> std::collections::BTreeMap<usize, crate::dkg::SealKey> {
        let key = |member| Some((member, self.sync.peer(member)?.seal_key.clone()?));
        self.plan.others().filter_map(key).collect()
    }

    /// A share goes to the signer as it came; the first one of each member counts.
    pub(super) fn on_share(&mut self, member: usize, bytes: Zeroizing<Vec<u8>>, out: &mut Outputs) {
        if !self.kept.contains(&member) && self.keeping.insert(member) {
            out.push(Output::Ask(Question::Keep { member, bytes }));
        }
    }

    pub(super) fn on_finished(&mut self, validators: Vec<BornValidator>, out: &mut Outputs) {
        let own = arrived(&validators, self.plan.own());
        self.validators = Some(validators);
        if self.sync.step() <= 1 {
            self.broadcast(ROUND_2, frost::write_round_2(self.plan.own(), &own).to_any(), out);
        }
    }
}
