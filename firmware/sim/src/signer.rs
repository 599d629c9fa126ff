//! A member's signer: the real rules, and a ledger that is durable before the signature leaves.

use std::collections::BTreeMap;

use chain::{PublicKeyBytes, SignatureBytes};
use duty::{SignError, Task};
use qbft::Member;
use slashing::{AttestationVote, History, Retention, check_attestation};

use crate::crypto::Keys;
use crate::values::{Attestation, validator};
use crate::world::Ledger;

pub(crate) struct Signer {
    member: Member,
    histories: BTreeMap<PublicKeyBytes, History>,
}

impl Signer {
    pub(crate) fn new(member: Member) -> Self {
        let fresh = |number| {
            let key = validator(number);
            (key, History::never_signed(key, Retention::Complete))
        };
        Signer { member, histories: (1..=3).map(fresh).collect() }
    }

    /// Check, record, sign: in this order.
    pub(crate) fn sign(
        &mut self,
        task: &Task,
        keys: &Keys,
    ) -> Result<(Attestation, SignatureBytes), SignError> {
        let refused = |why: String| SignError::Refused(why);
        let attestation = Attestation::decode(&task.data)
            .ok_or_else(|| refused("the message does not decode".to_owned()))?;
        let root = attestation.message_root();
        let key = task.id.validator;
        let history = self.histories.get_mut(&key).ok_or_else(|| refused("unknown key".to_owned()))?;
        let vote = AttestationVote {
            source: attestation.source.0,
            target: attestation.target.0,
            signing_root: root,
        };
        let permit = check_attestation(history, &vote).map_err(|refusal| refused(refusal.to_string()))?;
        history.record_attestation(permit).map_err(|error| refused(error.to_string()))?;
        Ok((attestation, keys.sign(self.member, &key, root)))
    }

    /// The box crashed.
    pub(crate) fn crash(&mut self, ledger: Ledger) {
        if ledger == Ledger::LostInCrashes {
            *self = Signer::new(self.member);
        }
    }
}
