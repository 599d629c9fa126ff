//! What only the owner may settle: exits, registrations and deposits, over the signer's real sockets.

use std::time::Duration;

use crate::harness::*;
use chain::{
    Bytes32, DepositMessage, Epoch, ExecutionAddress, ForkVersion, Gwei, PublicKeyBytes, SignatureBytes,
    ValidatorIndex, ValidatorRegistration, VoluntaryExit, deposit, domain,
};
use cluster::{
    Keystore, Network,
    create::{self, Addresses, CreateOptions, CreatedCluster},
    keystore::KdfCost,
};
use ipc::{
    ClientError, Sensitive, SignAnswer, SignRequest,
    owner::{
        EXITS_CANCEL_PATH, EXITS_PATH, ExitApprovals, ExitCancel, ExitOrder, OwnerRules, Payment, RULES_PATH,
        RulesKept,
    },
    signer::{History, ShareBundle, ShareEntry},
    web3signer,
};

const GENESIS: ForkVersion = ForkVersion([0x20, 0, 0, 0x89]);
const CAPELLA: ForkVersion = ForkVersion([0x23, 0, 0, 0x89]);
const ETH: u64 = 1_000_000_000;

struct Owner {
    machine: Machine,
    signer: Running,
    cluster: CreatedCluster,
}

impl Owner {
    /// A signer that holds the first member's share of a cluster with one validator.
    async fn new() -> Self {
        let network = Network {
            name: "devnet".to_owned(),
            chain_id: 1337,
            genesis_fork_version: GENESIS,
            genesis_time: 0,
        };
        let addresses = Addresses {
            fee_recipient: ExecutionAddress([0xfe; 20]),
            withdrawal: ExecutionAddress([0xd1; 20]),
        };
        let options = CreateOptions::new("owners", 4, 1, network, addresses);
        let cluster = create::cluster(&options, &mut rand::rng()).unwrap();
        let machine = Machine::new();
        let signer = machine.start().await;
        let share = &cluster.nodes[0].shares[0];
        let keystore = Keystore::encrypt_share(share.key(), PASSWORD, KdfCost::Insecure, &mut rand::rng());
        let entry = ShareEntry {
            keystore: serde_json::from_slice(&keystore.to_json()).unwrap(),
            password: Sensitive::new(PASSWORD.to_owned()),
            public_key: share.public_share().key.to_bytes().to_string(),
            group_public_key: cluster.group_public_keys()[0].to_string(),
            share_index: 1,
        };
        let bundle = ShareBundle {
            validators: vec![entry],
            history: History::NeverSigned,
            genesis_validators_root: GENESIS_ROOT.to_string(),
            chain: clock_with(1000),
        };
        signer.import_only(&bundle).await.unwrap();
        Self { machine, signer, cluster }
    }

    fn validator(&self) -> PublicKeyBytes {
        self.cluster.group_public_keys()[0]
    }

    fn pubshare(&self) -> PublicKeyBytes {
        self.cluster.lock.validators[0].public_shares[0]
    }

    fn credentials(&self) -> Bytes32 {
        self.cluster.lock.validators[0].deposits[0].withdrawal_credentials
    }

    async fn set_rules(&self, payments: Vec<Payment>) -> Result<RulesKept, ClientError> {
        let lock = serde_json::from_slice(&self.cluster.lock.to_json().unwrap()).unwrap();
        self.set_rules_of(lock, payments).await
    }

    async fn set_rules_of(
        &self,
        lock: serde_json::Value,
        payments: Vec<Payment>,
    ) -> Result<RulesKept, ClientError> {
        let rules = OwnerRules { lock, capella_fork_version: Some(CAPELLA.to_string()), payments };
        self.signer.control.put(RULES_PATH, &rules).await
    }

    async fn ask(&self, request: &SignRequest) -> Result<SignatureBytes, ClientError> {
        let path = web3signer::sign_path(&self.pubshare());
        self.signer.sign.post::<SignAnswer>(&path, request).await.map(|answer| answer.signature)
    }

    async fn exit(&self, epoch: u64) -> Result<SignatureBytes, ClientError> {
        self.ask(
            &SignRequest::new("VOLUNTARY_EXIT", Some(fork_info()), "voluntary_exit", &exit(epoch)).unwrap(),
        )
        .await
    }

    async fn order(&self, order: &ExitOrder) -> Result<ExitApprovals, ClientError> {
        self.signer.control.post(EXITS_PATH, order).await
    }

    fn order_of(&self, epoch: u64) -> ExitOrder {
        let validator = self.validator().to_string();
        ExitOrder { typed_again: validator.clone(), validator, epoch, delay_s: None }
    }

    async fn cancel(&self) -> Result<ExitApprovals, ClientError> {
        let cancel = ExitCancel { validator: self.validator().to_string() };
        self.signer.control.post(EXITS_CANCEL_PATH, &cancel).await
    }

    fn verifies(&self, root: chain::Root, signature: &SignatureBytes) -> bool {
        threshold::verify_bytes(&self.pubshare(), root.as_slice(), signature).is_ok()
    }
}

fn exit(epoch: u64) -> VoluntaryExit {
    VoluntaryExit { epoch: Epoch(epoch), validator_index: ValidatorIndex(5) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_is_signed_only_after_the_owner_s_word_typed_twice_and_the_delay() {
    let owner = Owner::new().await;
    owner.set_rules(vec![]).await.unwrap();
    assert_eq!(code(owner.exit(3).await), refused(412, "exit_not_confirmed"));

    let order = owner.order_of(3);
    let not_twice = ExitOrder { typed_again: String::new(), ..order.clone() };
    assert_eq!(code(owner.order(&not_twice).await), refused(422, "exit_not_typed_again"));
    let stranger = pubshare(9).to_string();
    let unknown = ExitOrder { validator: stranger.clone(), typed_again: stranger, ..order.clone() };
    assert_eq!(code(owner.order(&unknown).await), refused(422, "validator_unknown"));
    let hasty = ExitOrder { delay_s: Some(0), ..order.clone() };
    assert_eq!(code(owner.order(&hasty).await), refused(422, "exit_delay_invalid"));
    assert_eq!(code(owner.exit(3).await), refused(412, "exit_not_confirmed"));

    let all = owner.order(&order).await.unwrap();
    assert_eq!((all.exits.len(), all.exits[0].epoch, all.exits[0].signed_at_ms), (1, 3, None));
    assert_eq!(code(owner.exit(3).await), refused(412, "exit_too_early"));
    assert_eq!(code(owner.exit(4).await), refused(412, "exit_epoch_differs"));
    // The owner thinks again: nothing is signed however long one waits.
    owner.cancel().await.unwrap();
    tokio::time::sleep(Duration::from_millis(6_100)).await;
    assert_eq!(code(owner.exit(3).await), refused(412, "exit_not_confirmed"));
    assert_eq!(code(owner.cancel().await), refused(422, "exit_unknown"));

    owner
        .order(&ExitOrder {
            validator: "all".to_owned(),
            typed_again: "exit all 1 validators".to_owned(),
            ..order
        })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(6_100)).await;
    let signature = owner.exit(3).await.unwrap();
    // Capella's version signs, although the request names another fork (EIP-7044).
    let capella = domain::compute_domain(domain::VOLUNTARY_EXIT, CAPELLA, GENESIS_ROOT);
    assert!(owner.verifies(chain::signing_root(&exit(3), capella), &signature));
    assert_eq!(owner.exit(3).await.unwrap(), signature, "asked again, it is the same");
    let exits = owner.signer.status().await.exits;
    assert!(exits[0].signed_at_ms.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_exit_and_a_cancelled_one_are_remembered_over_restarts() {
    let mut owner = Owner::new().await;
    owner.set_rules(vec![]).await.unwrap();
    owner.order(&owner.order_of(3)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(6_100)).await;
    owner.signer.kill();
    owner.signer = owner.machine.start().await;
    assert_eq!(owner.signer.status().await.exits.len(), 1);
    // The clock of before may have been wrong: the delay begins anew with each start.
    assert_eq!(code(owner.exit(3).await), refused(412, "exit_too_early"));
    tokio::time::sleep(Duration::from_millis(6_100)).await;
    owner.exit(3).await.unwrap();
    owner.cancel().await.unwrap();
    owner.signer.kill();
    owner.signer = owner.machine.start().await;
    assert_eq!(owner.signer.status().await.exits, []);
    assert_eq!(code(owner.exit(3).await), refused(412, "exit_not_confirmed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_ask_for_signatures_cannot_confirm_an_exit() {
    let owner = Owner::new().await;
    // The signing socket has no such door at all.
    for path in [EXITS_PATH, RULES_PATH, EXITS_CANCEL_PATH] {
        let outcome = owner.signer.sign.post::<ExitApprovals>(path, &owner.order_of(3)).await;
        assert!(outcome.is_err(), "{path}");
    }
    assert_eq!(owner.signer.status().await.exits, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_pays_whom_the_owner_has_set() {
    let owner = Owner::new().await;
    let registration = ValidatorRegistration {
        fee_recipient: ExecutionAddress([0xfe; 20]),
        gas_limit: owner.cluster.view.target_gas_limit,
        timestamp: 1_700_000_000,
        pubkey: owner.validator(),
    };
    let request = |message: &ValidatorRegistration| {
        SignRequest::new("VALIDATOR_REGISTRATION", None, "validator_registration", message).unwrap()
    };
    assert_eq!(code(owner.ask(&request(&registration)).await), refused(412, "no_rules"));
    let kept = owner.set_rules(vec![]).await.unwrap();
    assert_eq!(kept, RulesKept { validators: 1, with_credentials: 1 });
    let signature = owner.ask(&request(&registration)).await.unwrap();
    assert!(owner.verifies(deposit::registration_signing_root(&registration, GENESIS), &signature));

    let other = ValidatorRegistration { fee_recipient: ExecutionAddress([0xaa; 20]), ..registration };
    assert_eq!(code(owner.ask(&request(&other)).await), refused(412, "fee_recipient_differs"));
    let payment = |fee_recipient: &str| Payment {
        validator: owner.validator().to_string(),
        fee_recipient: fee_recipient.to_owned(),
        gas_limit: None,
    };
    let wrong = owner.set_rules(vec![payment("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1beAed")]).await;
    assert_eq!(code(wrong), refused(422, "address_invalid"), "a typing error in the checksum");
    owner.set_rules(vec![payment(&format!("0x{}", "aa".repeat(20)))]).await.unwrap();
    owner.ask(&request(&other)).await.unwrap();
    assert_eq!(code(owner.ask(&request(&registration)).await), refused(412, "fee_recipient_differs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_up_goes_where_the_validator_s_own_key_has_said() {
    let owner = Owner::new().await;
    let message = DepositMessage {
        pubkey: owner.validator(),
        withdrawal_credentials: owner.credentials(),
        amount: Gwei(2 * ETH),
    };
    let request = |message: &DepositMessage| {
        let mut value = serde_json::to_value(message).unwrap();
        value["genesis_fork_version"] = GENESIS.to_string().into();
        SignRequest::new("DEPOSIT", None, "deposit", &value).unwrap()
    };
    assert_eq!(code(owner.ask(&request(&message)).await), refused(412, "no_rules"));
    owner.set_rules(vec![]).await.unwrap();
    let signature = owner.ask(&request(&message)).await.unwrap();
    assert!(owner.verifies(deposit::deposit_signing_root(&message, GENESIS), &signature));
    let elsewhere = DepositMessage {
        withdrawal_credentials: deposit::withdrawal_credentials(ExecutionAddress([0xbb; 20])),
        ..message
    };
    let refusal = refused(412, "withdrawal_credentials_differ");
    assert_eq!(code(owner.ask(&request(&elsewhere)).await), refusal);

    // A lock whose hashes were made to fit again around another account: the validator's key has not signed that.
    let mut forged = owner.cluster.lock.clone();
    let address = "0xBBbBbBbBBbbbbBBBbBBbbbbBBBbBbbBBbBbBbbbb".to_lowercase();
    forged.definition.validators[0].withdrawal_address = address;
    for deposit in &mut forged.validators[0].deposits {
        deposit.withdrawal_credentials = elsewhere.withdrawal_credentials;
    }
    forged.definition.set_hashes().unwrap();
    forged.lock_hash = forged.compute_lock_hash().unwrap();
    let lock = serde_json::from_slice(&forged.to_json().unwrap()).unwrap();
    let kept = owner.set_rules_of(lock, vec![]).await.unwrap();
    assert_eq!(kept.with_credentials, 0);
    assert_eq!(code(owner.ask(&request(&elsewhere)).await), refused(412, "no_rules"));

    let mut foreign = owner.cluster.lock.clone();
    foreign.validators[0].public_shares.swap(0, 1);
    foreign.lock_hash = foreign.compute_lock_hash().unwrap();
    let lock = serde_json::from_slice(&foreign.to_json().unwrap()).unwrap();
    let outcome = owner.set_rules_of(lock, vec![]).await;
    assert_eq!(code(outcome), refused(422, "lock_of_another_cluster"));
}
