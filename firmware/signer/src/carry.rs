//! What a share is when it leaves the box encrypted, and how it is believed again on the other side.

use std::sync::Arc;

use chain::{Epoch, PublicKeyBytes, Slot, UnixMillis};
use cluster::IdentityKey;
use ipc::{
    Problem, Sensitive,
    moving::{CarriedIdentity, CarriedSecrets, CarriedShare, MAX_CARRIED_SHARES, MAX_IDENTITIES, Watermarks},
    signer::{ChainClock, SecondShare, ShareImported},
};
use slashing::{SignedAttestation, SignedBlock};
use threshold::SecretKey;
use zeroize::Zeroizing;

use crate::{
    clock,
    identities::Said,
    import::{Incoming, Second, bad},
    ledger::{Entries, Marks, ShareRow},
    real_chain,
    share::Share,
    signer::{Signer, ledger_problem},
    vault::Vault,
};

/// Shares and identity keys that were opened and checked.
pub(crate) struct Opened {
    /// When the file was made, by the clock of where it comes from.
    pub(crate) made_at: UnixMillis,
    pub(crate) shares: Vec<Incoming>,
    pub(crate) identities: Vec<([u8; 32], IdentityKey)>,
}

/// A share as it is carried.
pub(crate) fn pack(share: &Share, known: &Marks) -> (CarriedShare, Sensitive) {
    let (row, marks) = (share.row(), known.floors);
    let carried = CarriedShare {
        pubshare: row.pubshare.to_string(),
        group_key: row.group_key.to_string(),
        share_index: row.share_index,
        genesis_validators_root: row.genesis_validators_root.to_string(),
        chain: row.clock,
        marks: Watermarks {
            block: marks.block.map(|slot| slot.0),
            source: marks.source.map(|epoch| epoch.0),
            target: marks.target.map(|epoch| epoch.0),
        },
        stopped_at_ms: known.stopped.map(|at| at.0),
    };
    (carried, secret_of(share))
}

/// Its secret, as it is carried.
pub(crate) fn secret_of(share: &Share) -> Sensitive {
    Sensitive::new(hex::encode(share.expose_bytes().as_slice()))
}

/// Believes nothing that is said: every secret must be that of its public share.
pub(crate) fn unpack(
    made_at_ms: u64,
    shares: &[CarriedShare],
    secrets: CarriedSecrets,
    more_epochs: u64,
) -> Result<Opened, Problem> {
    if shares.is_empty() || shares.len() > MAX_CARRIED_SHARES || shares.len() != secrets.shares.len() {
        return Err(invalid("the number of shares in it is not possible"));
    }
    let mut incoming: Vec<Incoming> = Vec::with_capacity(shares.len());
    for (carried, secret) in shares.iter().zip(secrets.shares) {
        let share = unpack_one(carried, &secret, more_epochs)?;
        if incoming.iter().any(|known| known.row.pubshare == share.row.pubshare) {
            return Err(invalid("it has a share twice"));
        }
        incoming.push(share);
    }
    let identity = |carried: CarriedIdentity| {
        let hash: Option<[u8; 32]> =
            hex::decode(&carried.lock_hash).ok().and_then(|hash| hash.try_into().ok());
        let key = IdentityKey::from_file_text(carried.identity_key.expose_secret()).ok();
        hash.zip(key).ok_or_else(|| invalid("an identity key in it is none"))
    };
    // More than a box keeps are not worth losing shares for.
    let identities =
        secrets.identities.into_iter().take(MAX_IDENTITIES).map(identity).collect::<Result<_, _>>()?;
    Ok(Opened { made_at: UnixMillis(made_at_ms), shares: incoming, identities })
}

/// The clocks of two boxes may differ by this.
const CLOCKS_DIFFER_MS: u64 = 60_000;

/// A file from the future means that one of two clocks is wrong. If it is ours, the floors of what comes in would be too low. They
/// allow for an epoch between the clocks of two boxes, which some chains have in less than a minute.
pub(crate) fn not_from_the_future<'a>(
    made_at: UnixMillis,
    now: UnixMillis,
    chains: impl Iterator<Item = &'a ChainClock>,
) -> Result<(), Problem> {
    let shortest = chains.map(|clock| clock.slot_ms.saturating_mul(clock.slots_per_epoch)).min();
    let ahead = made_at.0.saturating_sub(now.0);
    if ahead <= shortest.unwrap_or(CLOCKS_DIFFER_MS).min(CLOCKS_DIFFER_MS) {
        return Ok(());
    }
    Err(bad(
        "file_from_the_future",
        &format!(
            "the file was made {} s later than this box's clock says it is now: one of the two boxes has a wrong clock",
            ahead.div_ceil(1000)
        ),
        "See what the page says about this box's clock, and try again when it is right.",
    ))
}

fn unpack_one(carried: &CarriedShare, secret: &Sensitive, more_epochs: u64) -> Result<Incoming, Problem> {
    let pubshare: PublicKeyBytes = carried.pubshare.parse().map_err(|_| not_hex())?;
    let group_key: PublicKeyBytes = carried.group_key.parse().map_err(|_| not_hex())?;
    threshold::PublicKey::parse(&group_key).map_err(|_| invalid("a validator key in it is no key"))?;
    let genesis_validators_root = carried.genesis_validators_root.parse().map_err(|_| not_hex())?;
    clock::timing(&carried.chain).map_err(|error| invalid(&error.to_string()))?;
    real_chain::check_clock(&genesis_validators_root, &carried.chain)?;
    if carried.share_index == 0 {
        return Err(invalid("share indices start at 1"));
    }
    let mut bytes = Zeroizing::new([0_u8; 32]);
    hex::decode_to_slice(secret.expose_secret(), bytes.as_mut_slice())
        .map_err(|_| invalid("a secret in it has not 32 bytes"))?;
    let secret = SecretKey::from_bytes(bytes.as_slice()).map_err(|error| invalid(&error.to_string()))?;
    if secret.public_key().to_bytes() != pubshare {
        return Err(invalid("a secret in it is not that of its public share"));
    }
    Ok(Incoming {
        row: ShareRow {
            pubshare,
            group_key,
            share_index: carried.share_index,
            genesis_validators_root,
            clock: carried.chain,
            sealed: Vec::new(),
        },
        secret,
        history: entries(&carried.marks),
        more_epochs,
        stopped: carried.stopped_at_ms.map(UnixMillis),
    })
}

/// Marks as a minimal history: one entry stands for everything at and below it.
fn entries(marks: &Watermarks) -> Entries {
    let block = marks.block.map(|slot| SignedBlock { slot: Slot(slot), signing_root: None });
    let target = marks.target.max(marks.source);
    let vote = target.map(|target| SignedAttestation {
        source_epoch: Epoch(marks.source.unwrap_or(0)),
        target_epoch: Epoch(target),
        signing_root: None,
    });
    (block.into_iter().collect(), vote.into_iter().collect())
}

impl Signer {
    /// All shares, each of which must be open and in nobody's hands at the moment, and the identity keys known here.
    pub(crate) async fn everything(
        &self,
        vault: &Vault,
    ) -> Result<(Vec<Arc<Share>>, Vec<CarriedIdentity>), Problem> {
        let shares = self.in_service();
        if shares.is_empty() {
            return Err(bad(
                "nothing_to_carry",
                "this box holds no share",
                "Choose the box that holds the shares.",
            ));
        }
        if shares.len() > MAX_CARRIED_SHARES {
            return Err(bad(
                "too_many_to_carry",
                &format!(
                    "this box holds {} shares, and {MAX_CARRIED_SHARES} can be carried at once",
                    shares.len()
                ),
                "Keep the shares where they are: nothing was changed.",
            ));
        }
        if shares.len() != self.known_rows().len() {
            return Err(bad(
                "share_damaged",
                "not all shares on this box can be opened",
                "See the problems on the page, and import those shares again first.",
            ));
        }
        // The old share's floors stand above everything then, and the new one is not in force yet.
        if !self.ledger()?.pending().await.map_err(|error| ledger_problem(&error))?.is_empty() {
            return Err(bad(
                "edit_unfinished",
                "a change of the cluster is not finished",
                "Finish or discard it first.",
            ));
        }
        // The new validators' shares are in that key generation alone, and would stay behind.
        let keys: Vec<_> = shares.iter().map(|share| share.row().pubshare).collect();
        drop(self.adds_beside(vault, &keys).await?);
        Ok((shares, self.identities(vault)?))
    }

    /// Takes in all but those that were given up here for good, and those that are the `second` share of a validator, and says
    /// which those are: none of them must cost the others. That all of it was given up is an error, and the only thing to say.
    pub(crate) async fn take_in_what_may_come_back(
        self: &Arc<Self>,
        mut shares: Vec<Incoming>,
        second: &[Second],
    ) -> Result<ShareImported, Problem> {
        let keys = shares.iter().map(|share| share.row.pubshare).collect();
        let retired = self.ledger()?.retired_among(keys).await.map_err(|error| ledger_problem(&error))?;
        if retired.len() < shares.len() {
            shares.retain(|share| !retired.contains(&share.row.pubshare));
        }
        shares.retain(|share| second.iter().all(|second| second.share != share.row.pubshare));
        let mut taken = self.take_in(shares).await?;
        taken.left_out = retired.iter().map(ToString::to_string).collect();
        let shown = |second: &Second| SecondShare {
            share: second.share.to_string(),
            validator: second.validator.to_string(),
            other: second.other.to_string(),
            next_step: second.to_problem().next_step,
        };
        taken.second = second.iter().map(shown).collect();
        Ok(taken)
    }

    /// Keeps the identity keys. One that cannot be kept is handed in again with its lock; the shares matter more.
    pub(crate) fn keep_identities(&self, vault: &Vault, identities: &[([u8; 32], IdentityKey)]) {
        for (hash, key) in identities {
            if let Err(problem) = self.keep_identity(vault, hash, key, Said::AnotherBox, &[]) {
                tracing::warn!(code = %problem.code, "an identity key that came along was not kept");
            }
        }
    }
}

fn not_hex() -> Problem {
    invalid("a key or root in it is not hex of the right length")
}

pub(crate) fn invalid(what: &str) -> Problem {
    bad("file_invalid", &format!("the file cannot be used: {what}"), "Use the file as the box gave it out.")
}

#[cfg(test)]
mod tests {
    use ipc::{
        moving::{BackupContent, MAX_CARRIED_BYTES},
        signer::ChainPreset,
    };

    use super::*;
    use crate::backup;

    /// So many shares, each as long as one can be.
    fn content(number: u16) -> BackupContent {
        let longest = u64::MAX;
        let (mut shares, mut secrets) = (Vec::new(), Vec::new());
        for n in 1..=number {
            let mut bytes = [0x20_u8; 32];
            bytes[30..].copy_from_slice(&n.to_be_bytes());
            let pubshare = SecretKey::from_bytes(&bytes).unwrap().public_key().to_bytes();
            shares.push(CarriedShare {
                pubshare: pubshare.to_string(),
                group_key: pubshare.to_string(),
                share_index: u8::MAX,
                genesis_validators_root: format!("0x{}", "ab".repeat(32)),
                chain: ChainClock {
                    genesis_time: 1_700_000_000,
                    slot_ms: 12_000,
                    slots_per_epoch: 32,
                    preset: ChainPreset::Mainnet,
                },
                marks: Watermarks { block: Some(longest), source: Some(longest), target: Some(longest) },
                stopped_at_ms: Some(longest),
            });
            secrets.push(Sensitive::new(hex::encode(bytes)));
        }
        let identity = IdentityKey::from_bytes(Zeroizing::new([7; 32])).unwrap();
        let identities = (0..MAX_IDENTITIES).map(|n| CarriedIdentity {
            lock_hash: hex::encode([u8::try_from(n).unwrap(); 32]),
            identity_key: Sensitive::new(identity.to_file_text().to_string()),
        });
        let secrets = CarriedSecrets { shares: secrets, identities: identities.collect() };
        BackupContent { made_at_ms: longest, shares, secrets }
    }

    #[test]
    fn as_many_shares_as_a_box_gives_out_at_once_fit_in_a_file_and_come_out_again_and_one_more_makes_none() {
        let most = u16::try_from(MAX_CARRIED_SHARES).unwrap();
        let encrypt = |content: &BackupContent| backup::encrypt(content, "words", 64, &[1; 16], &[2; 24]);
        let file = encrypt(&content(most)).expect("what a box holds fits");
        let opened = backup::decrypt(file.as_bytes(), "words").unwrap();
        assert_eq!((opened.shares.len(), opened.identities.len()), (MAX_CARRIED_SHARES, MAX_IDENTITIES));
        let too_many = content(most + 1);
        assert!(unpack(1, &too_many.shares, too_many.secrets, 0).is_err());
        assert_eq!(encrypt(&content(most + 1)), None);
        // The certificate of a move, as it is written: digits and what is said of each share.
        let content = content(most);
        let body = serde_json::to_string(&content.shares).unwrap().len();
        let secrets = serde_json::to_vec(&content.secrets).unwrap().len() * 2;
        assert!(body + secrets + 4096 < MAX_CARRIED_BYTES, "{body} {secrets}");
    }

    #[test]
    fn a_share_that_is_carried_with_a_public_chain_s_root_has_that_chain_s_clock() {
        let network = cluster::Network::by_name("hoodi").unwrap();
        let mut content = content(2);
        content.shares[1].genesis_validators_root = network.genesis_validators_root().unwrap().to_string();
        let outcome = |chain: ChainClock| {
            let mut shares = content.shares.clone();
            shares[1].chain = chain;
            let secrets: CarriedSecrets =
                serde_json::from_value(serde_json::to_value(&content.secrets).unwrap()).unwrap();
            unpack(1, &shares, secrets, 0).map(|_| ()).map_err(|problem| problem.code)
        };
        let clock = content.shares[0].chain;
        assert_eq!(outcome(clock), Err("chain_clock_wrong".to_owned()));
        assert_eq!(outcome(ChainClock { genesis_time: network.genesis_time, ..clock }), Ok(()));
    }

    #[test]
    fn each_mark_that_is_carried_is_an_entry() {
        let (blocks, votes) = entries(&Watermarks { block: Some(9), source: Some(4), target: Some(5) });
        assert_eq!(blocks, [SignedBlock { slot: Slot(9), signing_root: None }]);
        let vote = SignedAttestation { source_epoch: Epoch(4), target_epoch: Epoch(5), signing_root: None };
        assert_eq!(votes, [vote]);
    }

    #[test]
    fn a_file_from_the_future_is_refused() {
        let now = UnixMillis(1_000_000);
        let chain = |slot_ms, slots_per_epoch| ChainClock {
            genesis_time: 0,
            slot_ms,
            slots_per_epoch,
            preset: ChainPreset::Mainnet,
        };
        // Epochs of six minutes, and among them some of 48 seconds.
        let (long, short) = (chain(12_000, 32), chain(6_000, 8));
        for (made_at, by_long, by_both) in [
            (0, true, true),
            (1_000_000, true, true),
            (1_048_000, true, true),
            (1_048_001, true, false),
            (1_060_000, true, false),
            (1_060_001, false, false),
            (u64::MAX, false, false),
        ] {
            let made_at = UnixMillis(made_at);
            assert_eq!(not_from_the_future(made_at, now, [&long].into_iter()).is_ok(), by_long, "{made_at}");
            let both = [&long, &short].into_iter();
            assert_eq!(not_from_the_future(made_at, now, both).is_ok(), by_both, "{made_at}");
        }
    }
}
