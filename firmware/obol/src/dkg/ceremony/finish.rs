//! Steps 2 to 8 of a ceremony: everything that is signed with the new keys, the lock, and the end.

use chain::{PublicKeyBytes, SignatureBytes};
use cluster::SchemaVersion;
use threshold::{PublicKey, ShareIndex, Signature};

use super::{Ceremony, Channel, GOODBYE_MS, NODE_SIGNATURE, Output, Outputs, Question, Record, step_of};
use crate::dkg::dealer::{BornValidator, root_of};
use crate::dkg::exchange::{self, Exchange, ExchangeRefusal, Partials};
use crate::dkg::wire::MsgNodeSig;
use crate::wire::Named as _;

const SUSPECT: &str = "Do not fund anything. Speak with that member's owner; if its software is sound, discard the ceremony on every member and start it again together.";
const OURS: &str =
    "Do not fund anything: discard the ceremony on every member, start it again together, and report this.";

impl Ceremony {
    /// One exchange for each amount.
    pub(super) fn deposit_exchanges(&self) -> Vec<Exchange> {
        (0_u16..).take(self.plan.amounts().len()).map(Exchange::Deposit).collect()
    }

    /// Whether every deposit is signed.
    pub(super) fn sign_deposits(&mut self, out: &mut Outputs) -> bool {
        let exchanges = self.deposit_exchanges();
        // All of them are begun at once, not one after the other.
        let incomplete = exchanges.iter().filter(|exchange| !self.is_complete(**exchange, out)).count();
        if incomplete > 0 {
            return false;
        }
        let mut deposits = Vec::new();
        for exchange in exchanges {
            let Some(signatures) = self.combine(exchange, out) else { return false };
            deposits.push(signatures);
        }
        self.signed.deposits = deposits;
        true
    }

    /// Whether every registration is signed.
    pub(super) fn sign_registrations(&mut self, out: &mut Outputs) -> bool {
        if self.signed.deposits.is_empty() && !self.sign_deposits(out) {
            return false; // After a restart.
        }
        if !self.is_complete(Exchange::Registration, out) {
            return false;
        }
        let Some(registrations) = self.combine(Exchange::Registration, out) else { return false };
        self.signed.registrations = registrations;
        true
    }

    /// Whether the lock is there and every share signed it.
    pub(super) fn sign_lock(&mut self, out: &mut Outputs) -> bool {
        if self.signed.registrations.is_empty() && !self.sign_registrations(out) {
            return false;
        }
        if self.lock.is_none() {
            let validators = self.validators.as_deref().unwrap_or_default();
            self.lock = self.signed.lock(&self.plan, validators);
            if self.lock.is_none() {
                self.fail(None, "the signatures do not make a lock".to_owned(), OURS.to_owned(), out);
                return false;
            }
        }
        if !self.is_complete(Exchange::Lock, out) {
            return false;
        }
        if self.aggregate.is_none() {
            self.aggregate = self.aggregate_lock(out);
        }
        self.aggregate.is_some()
    }

    /// Whether every operator signed the lock.
    pub(super) fn sign_as_nodes(&mut self, out: &mut Outputs) -> bool {
        if self.aggregate.is_none() && !self.sign_lock(out) {
            return false;
        }
        let Some(hash) = self.lock.as_ref().map(|lock| lock.lock_hash) else { return false };
        if self.asked.insert("node signature") {
            let peer_index = u32::try_from(self.plan.own()).unwrap_or(u32::MAX);
            let message = MsgNodeSig { signature: self.identity.sign(&hash).to_vec(), peer_index };
            self.broadcast(NODE_SIGNATURE, message.to_any(), out);
        }
        if self.node_signatures.len() < self.plan.members().len() {
            return false;
        }
        for (member, key) in self.plan.members().to_vec().iter().enumerate() {
            let signature = self.node_signatures.get(&member).map(Vec::as_slice).unwrap_or_default();
            if key.verify(&hash, signature).is_err() {
                let why = "its operator's signature of the lock is wrong: it arrived at another lock";
                self.fail(Some(member), why.to_owned(), SUSPECT.to_owned(), out);
                return false;
            }
        }
        true
    }

    /// Whether the lock passed its own check and the signer put the shares into service.
    pub(super) fn release(&mut self, out: &mut Outputs) -> bool {
        if !self.complete_lock(out) {
            return false;
        }
        if self.released {
            return true;
        }
        let Some(lock) = self.lock.as_ref().and_then(|lock| lock.to_json().ok()) else { return false };
        if !self.asked.contains("release") {
            // A signer that put the shares into service signs nothing for the ceremony any more.
            out.push(Output::Record(Record::Lock { bytes: lock.clone() }));
        }
        self.ask("release", |_| Question::Release { lock }, out);
        false
    }

    /// Hands the finished lock out once per start.
    pub(super) fn give_lock(&mut self, out: &mut Outputs) -> bool {
        if !self.complete_lock(out) {
            return false;
        }
        if self.asked.insert("give lock")
            && let Some(lock) = &self.lock
        {
            out.push(Output::Complete(Box::new(lock.clone())));
        }
        true
    }

    /// The last barrier, then goodbyes for a while.
    pub(super) fn say_goodbye(&mut self, out: &mut Outputs) -> bool {
        let since = *self.leaving_since.get_or_insert(self.now_ms);
        if self.sync.behind(8).is_ok_and(|behind| behind.is_empty()) {
            self.sync.leave();
        }
        if self.sync.all_left() || self.now_ms.saturating_sub(since) > GOODBYE_MS {
            self.done = true;
            out.push(Output::Done);
        }
        false
    }

    /// A set of partial signatures arrived.
    pub(super) fn on_partials(&mut self, member: usize, bytes: Vec<u8>, out: &mut Outputs) {
        match exchange::read(&self.plan, member, &bytes) {
            Ok((exchange, partials)) => match self.partials.get(&(exchange, member)) {
                Some(known) if *known == partials => {} // Sent again.
                Some(_) => {
                    let why = ExchangeRefusal::SecondDifferent.to_string();
                    out.push(Output::Refused { member, why });
                }
                None => {
                    self.partials.insert((exchange, member), partials);
                    out.push(Output::Record(Record::Partials { member, bytes }));
                }
            },
            Err(why) => out.push(Output::Refused { member, why: why.to_string() }),
        }
    }

    /// The signer made ours: they go to everybody.
    pub(super) fn on_own_partials(&mut self, exchange: Exchange, partials: Partials, out: &mut Outputs) {
        let own = self.plan.own();
        let bytes = exchange::write(own, exchange, &partials);
        for member in self.plan.others() {
            let past = self.sync.peer(member).is_some_and(|peer| peer.step > step_of(exchange));
            if !past {
                let bytes = bytes.clone().into();
                out.push(Output::Send { member, channel: Channel::Partials, bytes });
            }
        }
        let mut sorted = partials;
        sorted.sort_unstable_by_key(|(key, _)| key.0);
        self.partials.insert((exchange, own), sorted.clone());
        self.own_partials.insert(exchange, sorted);
    }

    /// Whether all sets are there; asks the signer for ours.
    fn is_complete(&mut self, exchange: Exchange, out: &mut Outputs) -> bool {
        if self.validators.is_none() {
            // After a restart: the signer tells again what was made.
            self.make_keys(out);
            return false;
        }
        if !self.own_partials.contains_key(&exchange) {
            if self.asked_to_sign.insert(exchange) {
                let question = match exchange {
                    Exchange::Deposit(_) | Exchange::Registration => Question::Sign(exchange),
                    Exchange::Lock => Question::SignLock(self.signed.clone()),
                };
                out.push(Output::Ask(question));
            }
            return false;
        }
        (0..self.plan.members().len()).all(|member| self.partials.contains_key(&(exchange, member)))
    }

    /// Puts the partial signatures of all members together. When the result is wrong, the liar is looked for and named.
    fn combine(&mut self, exchange: Exchange, out: &mut Outputs) -> Option<Vec<SignatureBytes>> {
        let validators = self.validators.clone().unwrap_or_default();
        let mut signatures = Vec::with_capacity(validators.len());
        for (place, validator) in validators.iter().enumerate() {
            let root = root_of(&self.plan, exchange, place, validator.group_key)?;
            let partials = match self.partials_of(exchange, validator) {
                Ok(partials) => partials,
                Err(member) => {
                    let why = ExchangeRefusal::UnknownValidator.to_string();
                    self.fail(Some(member), why, SUSPECT.to_owned(), out);
                    return None;
                }
            };
            let combined = threshold::combine(&partials).ok();
            let right = combined
                .filter(|signature| threshold::verify_bytes(&validator.group_key, &root, signature).is_ok());
            let Some(signature) = right else {
                self.name_liar(&partials, validator, place, &root, out);
                return None;
            };
            signatures.push(signature);
        }
        Some(signatures)
    }

    fn aggregate_lock(&mut self, out: &mut Outputs) -> Option<SignatureBytes> {
        let hash = self.lock.as_ref()?.lock_hash;
        let validators = self.signing_the_lock();
        let (mut keys, mut signatures) = (Vec::new(), Vec::new());
        let mut all_parse = true;
        for validator in &validators {
            let Ok(partials) = self.partials_of(Exchange::Lock, validator) else {
                all_parse = false;
                continue;
            };
            for ((_, signature), key) in partials.iter().zip(&validator.public_shares) {
                match (Signature::parse(signature), PublicKey::parse(key)) {
                    (Ok(signature), Ok(key)) => {
                        signatures.push(signature);
                        keys.push(key);
                    }
                    (_, _) => all_parse = false,
                }
            }
        }
        let sum = threshold::aggregate_signatures(&signatures).ok();
        let right = sum.filter(|sum| all_parse && threshold::fast_aggregate_verify(&keys, &hash, sum));
        if let Some(sum) = right {
            return Some(sum.to_bytes());
        }
        for (place, validator) in validators.iter().enumerate() {
            match self.partials_of(Exchange::Lock, validator) {
                Ok(partials) => self.name_liar(&partials, validator, place, &hash, out),
                Err(member) => {
                    let why = ExchangeRefusal::UnknownValidator.to_string();
                    self.fail(Some(member), why, SUSPECT.to_owned(), out);
                }
            }
        }
        None
    }

    /// The validators whose shares sign the lock: all that it has.
    fn signing_the_lock(&self) -> Vec<BornValidator> {
        let present = self.plan.present().iter().map(|validator| BornValidator {
            group_key: validator.public_key,
            public_shares: validator.public_shares.clone(),
        });
        present.chain(self.validators.iter().flatten().cloned()).collect()
    }

    /// Every member's partial signature for one validator, or the member who has none.
    fn partials_of(
        &self,
        exchange: Exchange,
        validator: &BornValidator,
    ) -> Result<Vec<(ShareIndex, SignatureBytes)>, usize> {
        (0..self.plan.members().len())
            .map(|member| {
                let found = self.partials.get(&(exchange, member)).and_then(|set| {
                    let signature = |(key, signature): &(PublicKeyBytes, SignatureBytes)| {
                        (*key == validator.group_key).then_some(*signature)
                    };
                    set.iter().find_map(signature)
                });
                let index = u64::try_from(member + 1).ok().and_then(|index| ShareIndex::new(index).ok());
                index.zip(found).ok_or(member)
            })
            .collect()
    }

    fn name_liar(
        &mut self,
        partials: &[(ShareIndex, SignatureBytes)],
        validator: &BornValidator,
        place: usize,
        root: &[u8],
        out: &mut Outputs,
    ) {
        let lies = |((_, signature), key): (&(ShareIndex, SignatureBytes), &PublicKeyBytes)| {
            threshold::verify_bytes(key, root, signature).is_err()
        };
        if let Some(member) = partials.iter().zip(&validator.public_shares).position(lies) {
            let why = ExchangeRefusal::Signature { validator: place }.to_string();
            self.fail(Some(member), why, SUSPECT.to_owned(), out);
        }
    }

    /// Whether the lock is whole and passes the check that every member of a cluster makes.
    fn complete_lock(&mut self, out: &mut Outputs) -> bool {
        if self.asked.contains("lock verified") {
            return true;
        }
        if self.aggregate.is_none() && !self.sign_as_nodes(out) {
            return false;
        }
        let network = self.plan.network().clone();
        let version = self.plan.definition().version;
        let (Some(lock), Some(aggregate)) = (&mut self.lock, self.aggregate) else { return false };
        lock.signature_aggregate = aggregate.0.to_vec();
        if version >= SchemaVersion::V1_7 {
            lock.node_signatures = self.node_signatures.values().cloned().collect();
        }
        if let Err(error) = lock.verify(&[network]) {
            self.fail(None, error.to_string(), OURS.to_owned(), out);
            return false;
        }
        self.asked.insert("lock verified");
        true
    }
}
