//! Many signatures in one request: judged and recorded one by one, written to the disk together, signed on several threads.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use chain::{PublicKeyBytes, Root, SignatureBytes};
use ipc::{Problem, SignRequest, signer::ChainClock, web3signer::SignGroup};

use crate::{
    ledger::{Clearance, ShareRow},
    message::{self, Asks, Kind, Message},
    refusal::Refusal,
    rules::{Permitted, Rules},
    share::{HashedRoot, Share},
    signer::{Signer, blocking},
};

/// Fewer signatures than this are not worth another thread.
const LEAST_FOR_A_THREAD: usize = 16;

/// How many threads are worth while. Asked once, for the answer is looked up in files.
static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

type Outcome = Result<SignatureBytes, Refusal>;

/// A message that may go to the ledger, and where its outcome belongs.
struct Pending {
    place: usize,
    share: Arc<Share>,
    permitted: Permitted,
}

/// A message that may be signed.
struct Cleared {
    place: usize,
    share: Arc<Share>,
    clearance: Clearance,
    kind: Kind,
}

impl Signer {
    /// One list of outcomes for each group, one outcome for each of its keys. As in the single call, each step uses up the
    /// proof of the one before; what is refused does not hold up the rest.
    pub(crate) async fn sign_many(&self, groups: &[SignGroup]) -> Vec<Vec<Outcome>> {
        let asked: Vec<(PublicKeyBytes, &SignRequest)> =
            groups.iter().flat_map(|group| group.keys.iter().map(|key| (*key, &group.request))).collect();
        let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
        let pending = self.permit_all(&asked, &mut outcomes).await;
        let cleared = self.clear_pending(pending, &mut outcomes).await;
        self.sign_cleared(cleared, &mut outcomes).await;
        let mut places = 0..;
        let mut outcome_of = |_: &PublicKeyBytes| {
            let place = places.next().unwrap_or_default();
            outcomes.remove(&place).unwrap_or_else(|| Err(Refusal::NotReady(thread_died())))
        };
        groups.iter().map(|group| group.keys.iter().map(&mut outcome_of).collect()).collect()
    }

    async fn permit_all(
        &self,
        asked: &[(PublicKeyBytes, &SignRequest)],
        outcomes: &mut BTreeMap<usize, Outcome>,
    ) -> Vec<Pending> {
        let mut pending = Vec::with_capacity(asked.len());
        let mut last: Option<Read<'_>> = None;
        for (place, (key, request)) in asked.iter().enumerate() {
            match self.permit_read(*key, |row, rules| Read::again(&mut last, request, row, rules)) {
                // Exits have a lock of their own.
                Ok((_, permitted)) if permitted.message().asks == Asks::Exit => {
                    let outcome = self.sign(*key, request).await;
                    outcomes.insert(place, outcome);
                }
                Ok((share, permitted)) => pending.push(Pending { place, share, permitted }),
                Err(refusal) => {
                    self.note_refusal(*key, request, &refusal);
                    outcomes.insert(place, Err(refusal));
                }
            }
        }
        pending
    }

    async fn clear_pending(
        &self,
        pending: Vec<Pending>,
        outcomes: &mut BTreeMap<usize, Outcome>,
    ) -> Vec<Cleared> {
        let verdicts = match self.ready() {
            Ok(ledger) => {
                let asked: Vec<_> = pending
                    .iter()
                    .map(|pending| (pending.share.row().pubshare, &pending.permitted))
                    .collect();
                ledger.clear_all(&asked).await
            }
            Err(refusal) => pending.iter().map(|_| Err(refusal.clone())).collect(),
        };
        let mut cleared = Vec::with_capacity(pending.len());
        for (Pending { place, share, permitted }, verdict) in pending.into_iter().zip(verdicts) {
            let kind = permitted.message().kind;
            match verdict {
                Ok(clearance) => cleared.push(Cleared { place, share, clearance, kind }),
                Err(refusal) => {
                    self.metrics.refused(&refusal);
                    tracing::warn!(pubshare = %share.row().pubshare, kind = kind.name(), code = refusal.code(), %refusal, "refused to sign");
                    outcomes.insert(place, Err(refusal));
                }
            }
        }
        cleared
    }

    async fn sign_cleared(&self, mut cleared: Vec<Cleared>, outcomes: &mut BTreeMap<usize, Outcome>) {
        let kinds: BTreeMap<usize, Kind> =
            cleared.iter().map(|cleared| (cleared.place, cleared.kind)).collect();
        let shared = hash_shared(&cleared).await;
        let chunk = cleared.len().div_ceil(*PROCESSORS).max(LEAST_FOR_A_THREAD);
        let mut running = Vec::new();
        while !cleared.is_empty() {
            let part = cleared.split_off(cleared.len().saturating_sub(chunk));
            let shared = Arc::clone(&shared);
            running.push(tokio::spawn(blocking(move || sign_part(part, &shared))));
        }
        for part in running {
            let signed = part.await.ok().flatten().unwrap_or_default();
            for (place, outcome) in signed {
                if let (Ok(_), Some(kind)) = (&outcome, kinds.get(&place)) {
                    self.metrics.signed(*kind);
                }
                outcomes.insert(place, outcome);
            }
        }
    }
}

/// A recorded vote that is not signed does no harm.
fn thread_died() -> Problem {
    Problem::new("signing_failed", "Signing failed by a fault of ours.", "Restart the box and report this.")
}

/// The roots that more than one share signs, hashed once.
async fn hash_shared(cleared: &[Cleared]) -> Arc<BTreeMap<Root, HashedRoot>> {
    let mut counts: BTreeMap<Root, usize> = BTreeMap::new();
    for cleared in cleared {
        *counts.entry(cleared.clearance.signing_root()).or_default() += 1;
    }
    let several: Vec<Root> =
        counts.into_iter().filter(|(_, count)| *count > 1).map(|(root, _)| root).collect();
    let hashed =
        blocking(move || several.into_iter().map(|root| (root, HashedRoot::new(root))).collect()).await;
    Arc::new(hashed.unwrap_or_default())
}

fn sign_part(part: Vec<Cleared>, shared: &BTreeMap<Root, HashedRoot>) -> Vec<(usize, Outcome)> {
    part.into_iter()
        .map(|Cleared { place, share, clearance, .. }| {
            let signature = match shared.get(&clearance.signing_root()) {
                Some(hashed) => share.sign_hashed(clearance, hashed),
                None => share.sign(clearance),
            };
            (place, signature.ok_or_else(|| Refusal::UnknownKey(share.row().pubshare.to_string())))
        })
        .collect()
}

/// What reading a message gave. The shares of one group mostly differ in nothing that reading depends on.
struct Read<'a> {
    request: &'a SignRequest,
    chain: (Root, ChainClock),
    rules: Option<Rules>,
    outcome: Result<Message, Refusal>,
}

impl<'a> Read<'a> {
    fn again(
        last: &mut Option<Self>,
        request: &'a SignRequest,
        row: &ShareRow,
        rules: Option<&Rules>,
    ) -> Result<Message, Refusal> {
        let chain = (row.genesis_validators_root, row.clock);
        let same = |last: &&Self| {
            std::ptr::eq(last.request, request) && last.chain == chain && last.rules.as_ref() == rules
        };
        if let Some(last) = last.as_ref().filter(same) {
            return last.outcome.clone();
        }
        let outcome = message::read(request, row.genesis_validators_root, &row.clock, rules);
        *last = Some(Self { request, chain, rules: rules.copied(), outcome: outcome.clone() });
        outcome
    }
}
