//! A member's signer: the real rules, and a ledger that is durable before the signature leaves.

use std::collections::BTreeMap;

use chain::{PublicKeyBytes, SignatureBytes};
use duty::{SignError, Task};
use qbft::Member;
use slashing::{AttestationVote, BlockProposal, History, Retention, check_attestation, check_block};

use crate::crypto::Keys;
use crate::messages::Message;
use crate::values::validator;
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
    pub(crate) fn sign(&mut self, task: &Task, keys: &Keys) -> Result<(Message, SignatureBytes), SignError> {
        let refused = |why: String| SignError::Refused(why);
        let message =
            Message::decode(&task.data).ok_or_else(|| refused("the message does not decode".to_owned()))?;
        let signing_root = message.message_root();
        let key = task.id.validator;
        let history = self.histories.get_mut(&key).ok_or_else(|| refused("unknown key".to_owned()))?;
        match message {
            Message::Attestation(attestation) => {
                let (source, target) = (attestation.source.0, attestation.target.0);
                let permit = check_attestation(history, &AttestationVote { source, target, signing_root })
                    .map_err(|refusal| refused(refusal.to_string()))?;
                history.record_attestation(permit).map_err(|error| refused(error.to_string()))?;
            }
            Message::Block(block) => {
                let permit = check_block(history, &BlockProposal { slot: block.slot, signing_root })
                    .map_err(|refusal| refused(refusal.to_string()))?;
                history.record_block(permit).map_err(|error| refused(error.to_string()))?;
            }
            Message::Harmless(_) => {}
        }
        Ok((message, keys.sign(self.member, &key, signing_root)))
    }

    /// The box crashed.
    pub(crate) fn crash(&mut self, ledger: Ledger) {
        if ledger == Ledger::LostInCrashes {
            *self = Signer::new(self.member);
        }
    }
}
