//! What may be signed beyond the rules of slashing: the owner's settings, and exits only when the owner has confirmed them.
//!
//! Pure. A [`Permitted`] message exists only when this file has let it through, and only that goes to the ledger. Nothing
//! here can be set by who asks for signatures: rules and confirmations come over the control socket alone.

use std::time::Duration;

use chain::{
    Bytes32, DepositMessage, Epoch, ExecutionAddress, ForkVersion, Gwei, PublicKeyBytes, UnixMillis,
};
use ipc::signer::ChainClock;

use crate::{
    clock,
    message::{Asks, Message, Vote},
    refusal::Refusal,
};

/// Votes for epochs that ended longer ago than this serve nobody: blocks stopped taking them (EIP-7045). Only counted for
/// chains whose epochs are longer; what protects the stake is the history, and this only keeps nonsense out.
const STALE_AFTER: Duration = Duration::from_secs(600);
/// The same in epochs.
const STALE_AFTER_EPOCHS: u64 = 2;
/// Builders go by the newest registration, so one from the future would shut out all honest ones until then.
const REGISTRATION_AHEAD_S: u64 = 600;
const ETH: u64 = 1_000_000_000;
/// The least a deposit may be.
const LEAST_DEPOSIT: Gwei = Gwei(ETH);
/// The most that one deposit may bring, by the type of the withdrawal credentials (EIP-7251).
const MOST_DEPOSIT: Gwei = Gwei(32 * ETH);
const MOST_COMPOUNDING_DEPOSIT: Gwei = Gwei(2048 * ETH);
const COMPOUNDING: u8 = 2;

/// What holds for one validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Names the chain in deposits and registrations.
    pub genesis_fork_version: ForkVersion,
    /// Exits are signed with it (EIP-7044); unknown on some chains that are not public.
    pub capella_fork_version: Option<ForkVersion>,
    /// Who is paid for blocks.
    pub fee_recipient: ExecutionAddress,
    /// The gas limit the validator votes for.
    pub gas_limit: u64,
    /// Who may withdraw, as signed by the validator's own key; none when no such deposit was shown.
    pub withdrawal_credentials: Option<Bytes32>,
}

/// An exit that the owner has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Approval {
    /// The epoch in the message.
    pub epoch: Epoch,
    /// When it was confirmed.
    pub confirmed_at: UnixMillis,
    /// From when on it is signed.
    pub ready_at: UnixMillis,
    /// When it was first signed.
    pub signed_at: Option<UnixMillis>,
}

/// What is known of an approval when it is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waited {
    /// The approval.
    pub approval: Approval,
    /// How long this process has known of it, by a clock that nobody can set.
    pub known_for: Duration,
}

impl Waited {
    /// When the exit may be signed. A clock that is set forward does not shorten the wait, nor does one that was behind when
    /// the owner gave the order.
    pub(crate) fn ready_at(&self, now: UnixMillis) -> UnixMillis {
        let delay = self.approval.ready_at.0.saturating_sub(self.approval.confirmed_at.0);
        let known_for = u64::try_from(self.known_for.as_millis()).unwrap_or(u64::MAX);
        match delay.saturating_sub(known_for) {
            0 => self.approval.ready_at,
            left => self.approval.ready_at.max(now.saturating_add(left)),
        }
    }
}

/// A message that may go to the ledger. Made only by [`permit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permitted(Message);

impl Permitted {
    /// The message.
    pub(crate) fn message(&self) -> &Message {
        &self.0
    }
}

/// What is known of the validator whose share is asked for.
pub(crate) struct Subject<'a> {
    /// The validator.
    pub validator: PublicKeyBytes,
    /// Its chain's clock.
    pub clock: &'a ChainClock,
    /// The owner's rules for it.
    pub rules: Option<&'a Rules>,
    /// The owner's confirmation of its exit.
    pub exit: Option<Waited>,
}

/// Lets a message through, or says why not.
pub(crate) fn permit(message: Message, of: &Subject<'_>, now: UnixMillis) -> Result<Permitted, Refusal> {
    match &message.asks {
        Asks::Duty => within_window(&message, of.clock, now)?,
        Asks::Exit => exit(message.epoch, of.exit, now)?,
        Asks::Registration(registration) => {
            let rules = of.rules.ok_or(Refusal::NoRules)?;
            same_validator(registration.pubkey, of)?;
            if registration.fee_recipient != rules.fee_recipient {
                return Err(Refusal::FeeRecipient {
                    asked: registration.fee_recipient.to_string(),
                    set: rules.fee_recipient.to_string(),
                });
            }
            if registration.gas_limit != rules.gas_limit {
                return Err(Refusal::GasLimit { asked: registration.gas_limit, set: rules.gas_limit });
            }
            if registration.timestamp > (now.0 / 1000).saturating_add(REGISTRATION_AHEAD_S) {
                return Err(Refusal::RegistrationAhead);
            }
        }
        Asks::Deposit { message, genesis_fork_version } => deposit(message, *genesis_fork_version, of)?,
    }
    Ok(Permitted(message))
}

fn same_validator(asked: PublicKeyBytes, of: &Subject<'_>) -> Result<(), Refusal> {
    if asked == of.validator { Ok(()) } else { Err(Refusal::OtherValidator(asked.to_string())) }
}

/// A top-up must go to the very account that the validator's own key has named, or a node in foreign hands could make the
/// stake pay out elsewhere: the first valid deposit of a key decides for good.
fn deposit(message: &DepositMessage, genesis: ForkVersion, of: &Subject<'_>) -> Result<(), Refusal> {
    let rules = of.rules.ok_or(Refusal::NoRules)?;
    same_validator(message.pubkey, of)?;
    if genesis != rules.genesis_fork_version {
        return Err(Refusal::WrongChain);
    }
    let known = rules.withdrawal_credentials.ok_or(Refusal::NoRules)?;
    if message.withdrawal_credentials != known {
        return Err(Refusal::WithdrawalCredentials {
            asked: message.withdrawal_credentials.to_string(),
            signed: known.to_string(),
        });
    }
    let most = if known.0[0] == COMPOUNDING { MOST_COMPOUNDING_DEPOSIT } else { MOST_DEPOSIT };
    if message.amount < LEAST_DEPOSIT || message.amount > most {
        return Err(Refusal::DepositAmount { gwei: message.amount.0, most: most.0 });
    }
    Ok(())
}

fn exit(epoch: Epoch, confirmed: Option<Waited>, now: UnixMillis) -> Result<(), Refusal> {
    let waited = confirmed.ok_or(Refusal::ExitNotConfirmed)?;
    let approval = waited.approval;
    if approval.epoch != epoch {
        return Err(Refusal::ExitEpoch { asked: epoch.0, confirmed: approval.epoch.0 });
    }
    match waited.ready_at(now).0.saturating_sub(now.0) {
        0 => Ok(()),
        left => Err(Refusal::ExitTooEarly { left_s: left.div_ceil(1000) }),
    }
}

/// One epoch ahead is allowed, for clients prepare the next one. A vote for the far future would be recorded and would
/// forbid every honest vote until then. No chain justifies an epoch that has not ended, so a source is at most the previous
/// one; with that, floors from the clock cover all that was ever signed (see [`clock::floors_at`]).
///
/// Before the chain has begun nothing can be voted on, and no floors would cover it.
fn within_window(message: &Message, clock: &ChainClock, now: UnixMillis) -> Result<(), Refusal> {
    let current = match (clock::epoch_at(clock, now), message.vote) {
        (Some(epoch), _) => epoch,
        (None, Vote::None) => Epoch(0),
        (None, Vote::Attestation { .. } | Vote::Block { .. }) => return Err(Refusal::NotBegun),
    };
    let refuse = |epoch: Epoch| Err(Refusal::TooFarAhead { epoch: epoch.0, now: current.0 });
    match message.vote {
        Vote::Attestation { source, .. } if source > current.saturating_sub(1) => refuse(source),
        _ if message.epoch > current.saturating_add(1) => refuse(message.epoch),
        Vote::Attestation { .. } | Vote::Block { .. } | Vote::None => {
            if is_stale(message.epoch, clock, now) {
                return Err(Refusal::TooOld { epoch: message.epoch.0, now: current.0 });
            }
            Ok(())
        }
    }
}

fn is_stale(epoch: Epoch, clock: &ChainClock, now: UnixMillis) -> bool {
    let Ok(timing) = clock::timing(clock) else { return false };
    let over = timing.start_of(timing.first_slot_of(epoch.saturating_add(STALE_AFTER_EPOCHS + 1)));
    let patience = u64::try_from(STALE_AFTER.as_millis()).unwrap_or(u64::MAX);
    now > over && now.0 - timing.start_of(timing.first_slot_of(epoch.saturating_add(1))).0 > patience
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Kind;
    use chain::{Root, Slot, ValidatorRegistration};
    use ipc::signer::ChainPreset;

    const CLOCK: ChainClock =
        ChainClock { genesis_time: 1000, slot_ms: 12_000, slots_per_epoch: 32, preset: ChainPreset::Mainnet };
    const EPOCH_MS: u64 = 32 * 12_000;
    const VALIDATOR: PublicKeyBytes = PublicKeyBytes([7; 48]);
    const OURS: Bytes32 = Bytes32([1; 32]);

    fn rules() -> Rules {
        Rules {
            genesis_fork_version: ForkVersion([0, 0, 0, 1]),
            capella_fork_version: None,
            fee_recipient: ExecutionAddress([9; 20]),
            gas_limit: 60_000_000,
            withdrawal_credentials: Some(OURS),
        }
    }

    fn judge(
        asks: Asks,
        epoch: u64,
        rules: Option<&Rules>,
        exit: Option<Waited>,
        now: u64,
    ) -> Result<(), Refusal> {
        let message = Message {
            kind: Kind::Attestation,
            signing_root: Root::default(),
            epoch: Epoch(epoch),
            vote: Vote::None,
            asks,
        };
        let of = Subject { validator: VALIDATOR, clock: &CLOCK, rules, exit };
        permit(message, &of, UnixMillis(now)).map(drop)
    }

    fn at(epoch: u64) -> u64 {
        1_000_000 + epoch * EPOCH_MS + 1
    }

    #[test]
    fn votes_beyond_the_next_epoch_are_refused() {
        let vote = |source| Vote::Attestation { source: Epoch(source), target: Epoch(0) };
        for (epoch, vote, now, allowed) in [
            (5, Vote::None, at(5), true),
            (6, Vote::None, at(5), true),
            (7, Vote::None, at(5), false),
            (u64::MAX, Vote::None, at(5), false),
            (0, Vote::None, 0, true),
            (1, Vote::None, 0, true),
            (2, Vote::None, 0, false),
            (5, vote(4), at(5), true),
            (6, vote(4), at(5), true),
            (5, vote(5), at(5), false),
            (6, vote(5), at(5), false),
            (7, vote(4), at(5), false),
            (0, vote(0), at(0), true),
            (1, vote(1), at(0), false),
            // Before genesis nothing is voted on.
            (0, vote(0), 0, false),
            (1, vote(0), 999_999, false),
            (0, Vote::Block { slot: Slot(1) }, 999_999, false),
            (0, Vote::Block { slot: Slot(1) }, at(0), true),
        ] {
            let message = Message {
                kind: Kind::Attestation,
                signing_root: Root::default(),
                epoch: Epoch(epoch),
                vote,
                asks: Asks::Duty,
            };
            let of = Subject { validator: VALIDATOR, clock: &CLOCK, rules: None, exit: None };
            assert_eq!(permit(message, &of, UnixMillis(now)).is_ok(), allowed, "epoch {epoch}, {vote:?}");
        }
    }

    #[test]
    fn duties_that_are_long_over_are_refused() {
        assert_eq!(judge(Asks::Duty, 10, None, None, at(12)), Ok(()));
        assert_eq!(judge(Asks::Duty, 10, None, None, at(13)), Err(Refusal::TooOld { epoch: 10, now: 13 }));
        // Where epochs fly by, minutes count.
        let quick = ChainClock { slot_ms: 100, ..CLOCK };
        let of = Subject { validator: VALIDATOR, clock: &quick, rules: None, exit: None };
        let message = Message {
            kind: Kind::RandaoReveal,
            signing_root: Root::default(),
            epoch: Epoch(1),
            vote: Vote::None,
            asks: Asks::Duty,
        };
        let long_after = 1_000_000 + 2 * 3200;
        assert!(permit(message.clone(), &of, UnixMillis(long_after + 500_000)).is_ok());
        assert!(permit(message, &of, UnixMillis(long_after + 600_001)).is_err());
    }

    fn approval(epoch: u64) -> Approval {
        Approval {
            epoch: Epoch(epoch),
            confirmed_at: UnixMillis(1_000),
            ready_at: UnixMillis(11_000),
            signed_at: None,
        }
    }

    #[test]
    fn no_exit_without_the_owner_s_word_the_same_epoch_and_the_whole_delay() {
        let waited = |known_for| Some(Waited { approval: approval(3), known_for });
        let seconds = Duration::from_secs;
        for (exit, epoch, now, expected) in [
            (None, 3, 99_000, Err(Refusal::ExitNotConfirmed)),
            (waited(seconds(10)), 4, 99_000, Err(Refusal::ExitEpoch { asked: 4, confirmed: 3 })),
            (waited(seconds(10)), 3, 10_999, Err(Refusal::ExitTooEarly { left_s: 1 })),
            (waited(seconds(10)), 3, 11_000, Ok(())),
            (waited(seconds(2)), 3, 99_000, Err(Refusal::ExitTooEarly { left_s: 8 })),
            (waited(seconds(0)), 3, 99_000, Err(Refusal::ExitTooEarly { left_s: 10 })),
            (waited(seconds(10)), 3, 99_000, Ok(())),
            (waited(seconds(99)), 3, 2_000, Err(Refusal::ExitTooEarly { left_s: 9 })),
        ] {
            assert_eq!(judge(Asks::Exit, epoch, None, exit, now), expected, "epoch {epoch} at {now}");
        }
    }

    #[test]
    fn a_registration_says_what_the_owner_has_set() {
        let good = ValidatorRegistration {
            fee_recipient: ExecutionAddress([9; 20]),
            gas_limit: 60_000_000,
            timestamp: 2_000,
            pubkey: VALIDATOR,
        };
        let ask =
            |message, rules: Option<&Rules>| judge(Asks::Registration(message), 0, rules, None, 2_000_000);
        let rules = rules();
        assert_eq!(ask(good, Some(&rules)), Ok(()));
        assert_eq!(ask(good, None), Err(Refusal::NoRules));
        let table = [
            (
                ValidatorRegistration { fee_recipient: ExecutionAddress([8; 20]), ..good },
                "fee_recipient_differs",
            ),
            (ValidatorRegistration { gas_limit: 30_000_000, ..good }, "gas_limit_differs"),
            (ValidatorRegistration { timestamp: 2_601, ..good }, "registration_from_the_future"),
            (ValidatorRegistration { pubkey: PublicKeyBytes([8; 48]), ..good }, "other_validator"),
        ];
        for (message, code) in table {
            assert_eq!(ask(message, Some(&rules)).unwrap_err().code(), code);
        }
    }

    #[test]
    fn a_deposit_goes_to_the_account_that_the_validator_s_own_key_has_named() {
        let good = DepositMessage { pubkey: VALIDATOR, withdrawal_credentials: OURS, amount: Gwei(32 * ETH) };
        let here = ForkVersion([0, 0, 0, 1]);
        let ask = |message, genesis_fork_version, rules: Option<&Rules>| {
            judge(Asks::Deposit { message, genesis_fork_version }, 0, rules, None, 0)
                .map_err(|refusal| refusal.code())
        };
        let rules = rules();
        let compounding = Rules { withdrawal_credentials: Some(Bytes32([2; 32])), ..rules };
        let unsigned = Rules { withdrawal_credentials: None, ..rules };
        let to = |credentials| DepositMessage { withdrawal_credentials: Bytes32(credentials), ..good };
        let of = |amount, credentials| DepositMessage { amount: Gwei(amount), ..to(credentials) };
        for (message, fork_version, rules, expected) in [
            (good, here, Some(&rules), Ok(())),
            (good, here, None, Err("no_rules")),
            (good, here, Some(&unsigned), Err("no_rules")),
            (good, ForkVersion([0; 4]), Some(&rules), Err("wrong_chain")),
            (to([3; 32]), here, Some(&rules), Err("withdrawal_credentials_differ")),
            (
                DepositMessage { pubkey: PublicKeyBytes([8; 48]), ..good },
                here,
                Some(&rules),
                Err("other_validator"),
            ),
            (of(ETH, [1; 32]), here, Some(&rules), Ok(())),
            (of(ETH - 1, [1; 32]), here, Some(&rules), Err("deposit_amount")),
            (of(33 * ETH, [1; 32]), here, Some(&rules), Err("deposit_amount")),
            (of(2048 * ETH, [2; 32]), here, Some(&compounding), Ok(())),
            (of(2048 * ETH + 1, [2; 32]), here, Some(&compounding), Err("deposit_amount")),
        ] {
            assert_eq!(ask(message, fork_version, rules), expected, "{message:?}");
        }
    }
}
