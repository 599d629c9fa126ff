//! A real signer over its sockets: what it signs, what it refuses, and what it still knows after a restart.

use crate::harness::*;
use ipc::{
    ClientError, SignRequest,
    signer::{History, ProtectionTier},
    web3signer,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_imported_and_signs_what_its_pubshare_verifies() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let status = signer.status().await;
    assert_eq!(status.problems, []);
    assert_eq!(status.protection.tier, ProtectionTier::SoftwareTpm);
    assert!(status.tpm.unwrap().is_software);

    let imported = signer.import(&bundle(&[1, 2], History::NeverSigned)).await.unwrap();
    assert_eq!(imported.imported.len(), 2);
    let again = signer.import(&bundle(&[1, 3], History::NeverSigned)).await.unwrap();
    assert_eq!((again.imported.len(), again.already_held), (1, vec![pubshare(1).to_string()]));

    let asked = vote(9, 10, 1);
    let signature = signer.attest(&pubshare(1), &asked).await.unwrap();
    assert!(signs(&pubshare(1), &asked, &signature));
    let other = signer.attest(&pubshare(2), &asked).await.unwrap();
    assert!(signs(&pubshare(2), &asked, &other));

    let keys: Vec<chain::PublicKeyBytes> = signer.sign.get(web3signer::PUBLIC_KEYS_PATH).await.unwrap();
    assert_eq!(keys.len(), 3);
    let up: serde_json::Value = signer.sign.get(web3signer::UPCHECK_PATH).await.unwrap();
    assert_eq!(up["status"], "OK");
    let shares = signer.status().await.shares;
    let first = shares.iter().find(|share| share.pubshare == pubshare(1).to_string()).unwrap();
    assert_eq!(first.last_signed.unwrap().target_epoch, Some(10));
    assert_eq!(first.share_index, 2);
    let third = shares.iter().find(|share| share.pubshare == pubshare(3).to_string()).unwrap();
    assert_eq!(third.last_signed, None);
    let metrics = signer.control.get_text("/metrics").await.unwrap();
    assert!(metrics.contains("hearth_signer_signatures_total{type=\"ATTESTATION\"} 2"), "{metrics}");
    assert!(metrics.contains("hearth_signer_shares 3"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn punishable_votes_are_refused_also_after_a_restart() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let key = pubshare(1);
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let first = signer.attest(&key, &vote(10, 20, 1)).await.unwrap();
    signer.attest(&key, &vote(15, 21, 1)).await.unwrap();
    let check = async |signer: &Running| {
        assert_eq!(
            signer.attest(&key, &vote(10, 20, 1)).await.unwrap(),
            first,
            "the same vote again is harmless"
        );
        for (bad, why) in [
            (vote(10, 20, 2), "double vote: another head"),
            (vote(11, 20, 1), "double vote: another source"),
            (vote(9, 22, 1), "surrounds both"),
            (vote(14, 22, 1), "surrounds the second"),
            (vote(9, 19, 1), "older than anything known"),
        ] {
            assert_eq!(code(signer.attest(&key, &bad).await), refused(412, "slashable"), "{why}");
        }
    };
    check(&signer).await;
    signer.stop();
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, [""; 0]);
    check(&signer).await;
    drop(signer); // kill -9
    machine.forget_the_power_cut();
    let signer = machine.start().await;
    check(&signer).await;
    signer.attest(&key, &vote(20, 22, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_history_forbids_what_was_signed_elsewhere() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let history = serde_json::json!({
        "metadata": {"interchange_format_version": "5", "genesis_validators_root": GENESIS_ROOT},
        "data": [{"pubkey": pubshare(1), "signed_blocks": [],
                  "signed_attestations": [{"source_epoch": "30", "target_epoch": "31"}]}],
    });
    let with_history = || History::Interchange(history.clone());
    let unmentioned = signer.import(&bundle(&[1, 2], with_history())).await;
    assert_eq!(code(unmentioned), refused(422, "history_missing"));
    assert_eq!(signer.status().await.shares, [], "nothing of a refused bundle is kept");

    signer.import(&bundle(&[1], with_history())).await.unwrap();
    for (source, target) in [(30, 31), (1, 2), (29, 32)] {
        let outcome = signer.attest(&pubshare(1), &vote(source, target, 1)).await;
        assert_eq!(code(outcome), refused(412, "slashable"), "{source} to {target}");
    }
    // A later word of "never signed" does not make it forget.
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    assert_eq!(code(signer.attest(&pubshare(1), &vote(30, 31, 1)).await), refused(412, "slashable"));
    signer.attest(&pubshare(1), &vote(31, 32, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_do_not_fit_are_refused_each_with_its_reason() {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let key = pubshare(1);
    let good = vote(9, 10, 1);
    let post = async |request: SignRequest| -> Result<serde_json::Value, ClientError> {
        signer.sign.post(&web3signer::sign_path(&key), &request).await
    };
    let request = |change: fn(&mut SignRequest)| {
        let mut request = SignRequest::attestation(fork_info(), &good).unwrap();
        change(&mut request);
        request
    };

    assert_eq!(code(signer.attest(&pubshare(9), &good).await), refused(404, "unknown_key"));
    assert_eq!(code(signer.attest(&key, &vote(9, 1_000_000, 1)).await), refused(412, "too_far_ahead"));
    for (change, status, expected) in [
        (
            (|r| r.fork_info.as_mut().unwrap().genesis_validators_root.0[0] ^= 1) as fn(&mut SignRequest),
            412,
            "wrong_chain",
        ),
        (|r| r.signing_root = Some(chain::Root([7; 32])), 412, "signing_root_mismatch"),
        (|r| r.kind = "BLS_TO_EXECUTION_CHANGE".to_owned(), 400, "not_supported_yet"),
        (|r| r.kind = "DEPOSIT".to_owned(), 400, "malformed"),
        (|r| r.fork_info = None, 400, "malformed"),
        (|r| r.body.clear(), 400, "malformed"),
    ] {
        assert_eq!(code(post(request(change)).await), refused(status, expected));
    }
    // None of them left a mark.
    assert_eq!(signer.status().await.shares[0].last_signed, None);
    signer.attest(&key, &good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duty_of_mainnet_under_a_fork_that_is_over_is_refused() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let bundle = of_mainnet(bundle(&[1], History::NeverSigned));
    signer.import_only(&bundle).await.unwrap();
    let epoch = epoch_of(&bundle.chain);
    let reveal = async |previous: [u8; 4], current: [u8; 4], from: u64| {
        let fork = chain::Fork {
            previous_version: chain::ForkVersion(previous),
            current_version: chain::ForkVersion(current),
            epoch: chain::Epoch(from),
        };
        let fork_info = chain::ForkInfo { fork, genesis_validators_root: mainnet().0 };
        let body = serde_json::json!({ "epoch": epoch.to_string() });
        let request = SignRequest::new("RANDAO_REVEAL", Some(fork_info), "randao_reveal", &body).unwrap();
        let path = web3signer::sign_path(&pubshare(1));
        signer.sign.post::<serde_json::Value>(&path, &request).await
    };
    let (electra, fulu, later) = ([5, 0, 0, 0], [6, 0, 0, 0], [0xfe, 0, 0, 0]);
    assert_eq!(code(reveal([4, 0, 0, 0], electra, 364_032).await), refused(412, "wrong_fork"));
    assert_eq!(code(reveal(later, later, 0).await), refused(412, "wrong_fork"));
    reveal(electra, fulu, 411_392).await.unwrap();
    // One that this firmware does not know yet.
    reveal(fulu, later, epoch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_users_may_ask() {
    let mut machine = Machine::new();
    machine.callers = "[65533]".to_owned();
    let signer = machine.start().await;
    let outcome = signer.attest(&pubshare(1), &vote(1, 2, 1)).await;
    assert_eq!(code(outcome), refused(403, "caller_not_allowed"));
    assert_eq!(signer.problem_codes().await, [""; 0], "the control socket has its own list");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_sockets_changes_nothing() {
    use tokio::io::AsyncWriteExt as _;
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    for socket in ["sign.sock", "control.sock"] {
        for garbage in [
            &b"\0\xff\xfe\x16\x03\x01"[..],
            b"POST /v1/shares HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n{",
            b"POST /api/v1/eth2/sign/0x00 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n[]",
            b"GET / HTTP/9.9\r\n\r\n",
        ] {
            let mut stream = tokio::net::UnixStream::connect(machine.dir.path().join(socket)).await.unwrap();
            let _ = stream.write_all(garbage).await;
        }
    }
    let huge = "x".repeat(8 * 1024 * 1024);
    assert!(signer.control.post::<()>("/v1/shares", &huge).await.is_err());
    let junk = ipc::ShareImport { enc: "zz".to_owned(), ciphertext: "00".to_owned() };
    assert_eq!(code(signer.control.post::<()>("/v1/shares", &junk).await), refused(422, "envelope_invalid"));
    signer.attest(&pubshare(1), &vote(1, 2, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_life_forgets_details_and_no_refusal() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let shares = bundle(&[1], History::NeverSigned);
    signer.import(&shares).await.unwrap();
    until_epoch(&shares.chain, 652).await;
    let key = pubshare(1);
    for target in 1..=650 {
        signer.attest(&key, &vote(target - 1, target, 1)).await.unwrap();
    }
    signer.stop();
    let database = rusqlite::Connection::open(machine.state().join("ledger.db")).unwrap();
    let rows: i64 = database.query_row("SELECT count(*) FROM attestations", [], |row| row.get(0)).unwrap();
    drop(database);
    assert!((256..400).contains(&rows), "{rows} rows");
    let signer = machine.start().await;
    assert_eq!(signer.problem_codes().await, [""; 0]);
    for target in [1, 2, 100, 300, 500, 650] {
        let other = vote(target - 1, target, 2);
        assert_eq!(code(signer.attest(&key, &other).await), refused(412, "slashable"), "epoch {target}");
    }
    signer.attest(&key, &vote(650, 651, 1)).await.unwrap();
}
