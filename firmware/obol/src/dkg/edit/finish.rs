//! Steps 2 to 6 of a change: the dry run, the operators' signatures, the change itself, and the time after it.

use chain::{PublicKeyBytes, SignatureBytes};
use cluster::{Lock, SchemaVersion};

use super::{Channel, Editing, Failure, NODE_SIGNATURE, Output, Outputs, Question, Record, STAY_MS};
use crate::dkg::exchange::{self, Exchange, ExchangeRefusal, Partials};
use crate::dkg::frost::NO_SIGNATURE;
use crate::dkg::wire::MsgNodeSig;
use crate::wire::Named as _;

/// How long we stay when nobody is heard that has not finished.
const UNHEARD_MS: u64 = 60 * 1_000;

/// What to do about a fault of ours after a promise.
const OURS: &str =
    "Keep this box as it is and report this. If another member has the complete lock, hand it in here.";

impl Editing {
    /// Whether all new shares signed the new lock. The promise is durable before the signer is asked to keep it.
    pub(super) fn dry_run(&mut self, out: &mut Outputs) -> bool {
        let Some(lock_hash) = self.lock.as_ref().map(|lock| lock.lock_hash) else { return false };
        if !self.promised {
            // For one that leaves, too: the others freeze their shares now and count on it.
            self.promised = true;
            out.push(Output::Record(Record::Promised));
        }
        if self.has_new_share() {
            self.ask("dry run", Question::DryRun { lock_hash }, out);
        }
        let signing = self.signing();
        if !signing.iter().all(|member| self.partials.contains_key(member)) {
            return false;
        }
        if self.aggregate.is_none() {
            self.check(out);
        }
        self.aggregate.is_some()
    }

    fn check(&mut self, out: &mut Outputs) {
        let lock = self.lock.as_ref().and_then(|lock| lock.to_json().ok());
        let Some(lock) = lock else { return };
        let members: Option<Vec<Partials>> =
            self.signing().into_iter().map(|member| self.partials.get(&member).cloned()).collect();
        if let Some(members) = members {
            self.ask("check", Question::Check { lock, members }, out);
        }
    }

    /// The places of those who have new shares, in the order of the new lock.
    fn signing(&self) -> Vec<usize> {
        let mut places: Vec<(u32, usize)> =
            (0..).zip(self.plan.members()).filter_map(|(place, member)| Some((member.new?, place))).collect();
        places.sort_unstable();
        places.into_iter().map(|(_, place)| place).collect()
    }

    fn has_new_share(&self) -> bool {
        self.plan.members().get(self.own).is_some_and(|own| own.new.is_some())
    }

    /// Our new shares signed: everybody hears it.
    pub(super) fn on_own_partials(&mut self, partials: Partials, out: &mut Outputs) {
        self.partials.insert(self.own, partials);
        if let Some(bytes) = self.own_partials_message() {
            self.send_all(Channel::Partials, &bytes, out);
        }
    }

    pub(super) fn own_partials_message(&self) -> Option<Vec<u8>> {
        let own = self.plan.members().get(self.own).filter(|own| own.new.is_some())?;
        // The reference's members keep their old numbers here, though the new shares count without gaps.
        let number = usize::try_from(own.index()).ok()?;
        Some(exchange::write(number, Exchange::Lock, self.partials.get(&self.own)?))
    }

    /// A member's new shares signed. Wrong ones are not taken, so that the right ones may still come: the old shares are
    /// silent already, and a member that lied must not be able to end the change.
    pub(super) fn on_partials(&mut self, member: usize, bytes: Vec<u8>, out: &mut Outputs) {
        match self.read_partials(member, &bytes) {
            Ok(partials) if self.partials.get(&member) == Some(&partials) => {} // Sent again.
            Ok(partials) if !self.partials.contains_key(&member) => {
                if let Err(why) = self.verify_partials(member, &partials) {
                    return out.push(Output::Refused { member, why: why.to_string() });
                }
                self.partials.insert(member, partials);
                out.push(Output::Record(Record::Partials { member, bytes }));
            }
            Ok(_) => {
                let why = ExchangeRefusal::SecondDifferent.to_string();
                out.push(Output::Refused { member, why });
            }
            Err(why) => out.push(Output::Refused { member, why }),
        }
    }

    /// A member's partial signatures in the order of the lock's validators. Not verified yet.
    pub(super) fn read_partials(&self, member: usize, bytes: &[u8]) -> Result<Partials, String> {
        let lock = self.lock.as_ref().ok_or("it signs the new lock before this box knows it")?;
        let sender = self.plan.members().get(member).ok_or("no such member")?;
        let new = sender.new.ok_or("it gets no new share")?;
        let read = |number: u32| {
            let number = usize::try_from(number).map_err(|_| ExchangeRefusal::Malformed)?;
            exchange::read_set(|_| lock.validators.len(), 0, number, bytes)
        };
        // The version before went by the new numbers. Whose they are is known by the connection, and they are verified under its
        // new public shares.
        let (exchange, set) =
            read(sender.index()).or_else(|why| read(new).map_err(|_| why)).map_err(|why| why.to_string())?;
        if exchange != Exchange::Lock {
            return Err("only the lock is signed in a change of the cluster".to_owned());
        }
        let find = |key: PublicKeyBytes| {
            set.iter().find(|(known, _)| *known == key).map(|(_, signature)| (key, *signature))
        };
        let partials: Option<Partials> =
            lock.validators.iter().map(|validator| find(validator.public_key)).collect();
        partials.ok_or_else(|| ExchangeRefusal::UnknownValidator.to_string())
    }

    fn verify_partials(&self, member: usize, partials: &Partials) -> Result<(), ExchangeRefusal> {
        let new = self.plan.members().get(member).and_then(|known| known.new);
        let new = new.and_then(|new| usize::try_from(new).ok());
        let (Some(lock), Some(new)) = (&self.lock, new) else {
            return Err(ExchangeRefusal::UnknownValidator);
        };
        for (place, (validator, (_, signature))) in lock.validators.iter().zip(partials).enumerate() {
            let share: Option<&PublicKeyBytes> = validator.public_shares.get(new);
            let right =
                share.is_some_and(|share| threshold::verify_bytes(share, &lock.lock_hash, signature).is_ok());
            if !right {
                return Err(ExchangeRefusal::Signature { validator: place });
            }
        }
        Ok(())
    }

    /// Whether every operator signed the lock and it is whole. Never says that it moved on by itself: what is complete is
    /// taken up by the next turn of the loop.
    pub(super) fn sign_as_nodes(&mut self, out: &mut Outputs) -> bool {
        let Some(hash) = self.lock.as_ref().map(|lock| lock.lock_hash) else { return false };
        if self.aggregate.is_none() {
            // After a restart: it is added up again.
            self.dry_run(out);
        }
        if self.asked.insert("node signature") {
            let peer_index = u32::try_from(self.own).unwrap_or(u32::MAX);
            let signature =
                if self.has_new_share() { self.identity.sign(&hash).to_vec() } else { NO_SIGNATURE.to_vec() };
            self.broadcast(NODE_SIGNATURE, MsgNodeSig { signature, peer_index }.to_any(), out);
        }
        let signatures: Option<Vec<Vec<u8>>> =
            self.signing().into_iter().map(|member| self.node_signatures.get(&member).cloned()).collect();
        match (self.aggregate, signatures) {
            (Some(aggregate), Some(signatures)) => self.complete(aggregate, signatures, out),
            (_, _) => false,
        }
    }

    fn complete(&mut self, aggregate: SignatureBytes, signatures: Vec<Vec<u8>>, out: &mut Outputs) -> bool {
        let Some(mut lock) = self.lock.clone() else { return false };
        lock.signature_aggregate = aggregate.0.to_vec();
        if lock.definition.version >= SchemaVersion::V1_7 {
            lock.node_signatures = signatures;
        }
        self.take_complete(lock, out)
    }

    /// The owner brings the complete lock: whoever lost touch with the others in the middle needs nothing else.
    pub(super) fn on_lock(&mut self, bytes: &[u8], out: &mut Outputs) {
        let read = Lock::from_json(bytes).map_err(|error| error.to_string());
        let why = match (read, &self.lock) {
            (_, None) => "this box has no new shares that wait for a lock".to_owned(),
            (Err(why), Some(_)) => why,
            (Ok(lock), Some(known)) if lock.lock_hash != known.lock_hash => {
                "it is not the lock that this box's new shares are for".to_owned()
            }
            (Ok(lock), Some(_)) if lock.signature_aggregate.is_empty() => {
                "it is not signed by the new shares".to_owned()
            }
            (Ok(lock), Some(_)) => {
                if !self.is_complete {
                    self.take_complete(lock, out);
                }
                return;
            }
        };
        out.push(Output::Refused { member: self.own, why });
    }

    /// Keeps the lock once it passes the check that every member of a cluster makes.
    fn take_complete(&mut self, lock: Lock, out: &mut Outputs) -> bool {
        let (checked, bytes) = (lock.verify(&self.networks), lock.to_json());
        match (checked, bytes) {
            (Ok(_), Ok(bytes)) => {
                out.push(Output::Record(Record::Lock { bytes }));
                self.lock = Some(lock);
                self.is_complete = true;
                true
            }
            (Err(error), _) => {
                let why = format!("the new lock does not hold: {error}");
                if self.asked.insert("complete") {
                    out.push(Output::Refused { member: self.own, why });
                }
                false
            }
            (Ok(_), Err(_)) => {
                let why = "the new lock cannot be written".to_owned();
                self.end(Failure { member: None, why, next_step: OURS.to_owned() }, out);
                false
            }
        }
    }

    /// Whether the signer gave the old shares up for the complete lock.
    pub(super) fn commit(&mut self, out: &mut Outputs) -> bool {
        if self.committed {
            return true;
        }
        if let Some(lock) = self.lock.as_ref().and_then(|lock| lock.to_json().ok()) {
            self.ask("commit", Question::Commit { lock }, out);
        }
        false
    }

    /// Says once per start that this is the cluster now.
    pub(super) fn give_lock(&mut self, out: &mut Outputs) -> bool {
        if self.asked.insert("give lock")
            && let Some(lock) = &self.lock
        {
            out.push(Output::Changed(Box::new(lock.clone())));
        }
        true
    }

    /// The last barrier. Releases without the last step say goodbye before it.
    pub(super) fn say_goodbye(&mut self) -> bool {
        let left = |member: &usize| self.sync.peer(*member).is_some_and(|peer| peer.left);
        if self.sync.behind(6).is_ok_and(|behind| behind.iter().all(left)) {
            self.sync.leave();
        }
        false
    }

    /// Ends when everybody has left, or after a while: our part is done.
    pub(super) fn leave_in_time(&mut self, out: &mut Outputs) {
        let since = *self.stays_since.get_or_insert(self.now_ms);
        let all_left = self.sync.is_leaving() && self.sync.all_left();
        let is_late = |member: usize| self.sync.peer(member).is_some_and(|peer| peer.heard && peer.step < 5);
        // Whoever was never heard since our start may have finished long ago.
        let stay = if self.others().into_iter().any(is_late) { STAY_MS } else { UNHEARD_MS };
        if !self.done && (all_left || self.now_ms.saturating_sub(since) > stay) {
            self.done = true;
            out.push(Output::Done);
        }
    }
}
