//! The keymanager API over the real process: on the control socket and from outside the box.

use crate::{harness::*, remote::Outside, remote::try_let_in};
use chain::PublicKeyBytes;
use cluster::{
    Keystore, Network,
    create::{self, Addresses, CreateOptions, CreatedCluster},
    keystore::KdfCost,
};
use ipc::{
    remote::RemoteRight,
    signer::{ChainClock, HISTORY_PATH, History},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

pub(crate) const KEYSTORES: &str = "/eth/v1/keystores";

/// Asks on the control socket, with or without a token.
pub(crate) async fn ask(
    machine: &Machine,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, Value) {
    let mut stream = UnixStream::connect(machine.dir.path().join("control.sock")).await.unwrap();
    let token = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\n{token}content-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(body).ok();
    openapi::expect_answer(openapi::KEYMANAGER, method, path, status, body.as_ref());
    (status, body.unwrap_or(Value::Null))
}

/// The token that the owner reads with a client's certificate.
pub(crate) async fn token(signer: &Running) -> String {
    let made = try_let_in(signer, "manager", &[RemoteRight::ManageKeys]).await.unwrap();
    made.keymanager_token.unwrap().expose_secret().to_owned()
}

pub(crate) fn statuses(answer: &Value) -> Vec<String> {
    let data = answer["data"].as_array().unwrap_or_else(|| panic!("no data: {answer}"));
    data.iter().map(|outcome| outcome["status"].as_str().unwrap().to_owned()).collect()
}

fn exported(answer: &Value) -> Value {
    serde_json::from_str(answer["slashing_protection"].as_str().unwrap()).unwrap()
}

/// A cluster with two validators, of which the first member's shares are to come here.
struct Cluster {
    made: CreatedCluster,
    clock: ChainClock,
}

impl Cluster {
    fn new() -> Self {
        let network = Network {
            name: "devnet".to_owned(),
            chain_id: 1337,
            genesis_fork_version: chain::ForkVersion([0x20, 0, 0, 0x89]),
            genesis_time: 1_600_000_000,
        };
        let address = chain::ExecutionAddress([9; 20]);
        let addresses = Addresses { fee_recipient: address, withdrawal: address };
        let mut options = CreateOptions::new("Keys", 4, 2, network, addresses);
        options.timestamp = "2026-01-01T00:00:00Z".to_owned();
        Self { made: create::cluster(&options, &mut rand::rng()).unwrap(), clock: clock() }
    }

    fn lock(&self) -> Value {
        serde_json::from_slice(&self.made.lock.to_json().unwrap()).unwrap()
    }

    fn pubshare(&self, validator: usize) -> PublicKeyBytes {
        self.made.lock.validators[validator].public_shares[0]
    }

    fn keystore(&self, validator: usize) -> String {
        self.keystore_of(0, validator)
    }

    fn keystore_of(&self, member: usize, validator: usize) -> String {
        let secret = &self.made.nodes[member].shares[validator];
        let keystore = Keystore::encrypt_share(secret.key(), PASSWORD, KdfCost::Insecure, &mut rand::rng());
        String::from_utf8(keystore.to_json()).unwrap()
    }

    fn membership(&self) -> Value {
        json!({"lock": self.lock(), "genesis_validators_root": GENESIS_ROOT.to_string(), "chain": self.clock})
    }

    fn never_signed(&self) -> Value {
        let mut membership = self.membership();
        membership["history"] = json!("never_signed");
        membership
    }
}

#[tokio::test]
async fn a_second_share_of_a_validator_does_not_come_in_by_the_keymanager_api() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let (token, cluster) = (token(&signer).await, Cluster::new());
    let import = async |members: &[usize]| {
        let keystores: Vec<String> = members.iter().map(|member| cluster.keystore_of(*member, 0)).collect();
        let passwords = vec![PASSWORD; members.len()];
        let body = json!({"keystores": keystores, "passwords": passwords, "hearth": cluster.never_signed()});
        ask(&machine, Some(&token), "POST", KEYSTORES, &body.to_string()).await.1
    };
    let both = import(&[0, 1]).await;
    assert_eq!(statuses(&both), ["error", "error"]);
    assert_eq!(signer.status().await.shares, []);
    assert_eq!(statuses(&import(&[0]).await), ["imported"]);
    let second = import(&[1]).await;
    assert_eq!(statuses(&second), ["error"]);
    for answer in [&both, &second] {
        let why = answer["data"][0]["message"].as_str().unwrap();
        assert!(why.contains("another share") && why.contains(&cluster.pubshare(0).to_string()), "{why}");
    }
    assert_eq!(statuses(&import(&[0]).await), ["duplicate"]);
    assert_eq!(signer.status().await.shares.len(), 1);
}

#[tokio::test]
async fn keystores_are_listed_imported_and_deleted_with_their_history() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let token = token(&signer).await;
    let cluster = Cluster::new();
    let (first, second) = (cluster.pubshare(0), cluster.pubshare(1));
    let manage = |method: &'static str, body: Value| {
        let (machine, token) = (&machine, token.clone());
        async move { ask(machine, Some(&token), method, KEYSTORES, &body.to_string()).await }
    };
    assert_eq!(manage("GET", Value::Null).await, (200, json!({"data": []})));

    let history = json!({
        "metadata": {"interchange_format_version": "5", "genesis_validators_root": GENESIS_ROOT.to_string()},
        "data": [{"pubkey": first.to_string(), "signed_blocks": [],
                  "signed_attestations": [{"source_epoch": "2", "target_epoch": "30"}]},
                 {"pubkey": second.to_string(), "signed_blocks": [], "signed_attestations": []}],
    });
    let import = json!({
        "keystores": [cluster.keystore(0), cluster.keystore(1)], "passwords": [PASSWORD, PASSWORD],
        "slashing_protection": history.to_string(), "hearth": cluster.membership(),
    });
    let (status, answer) = manage("POST", import.clone()).await;
    assert_eq!((status, statuses(&answer)), (200, vec!["imported".to_owned(); 2]), "{answer}");
    let (_, answer) = manage("POST", import.clone()).await;
    assert_eq!(statuses(&answer), ["duplicate", "duplicate"]);

    let (status, answer) = manage("GET", Value::Null).await;
    assert_eq!(status, 200);
    let listed = answer["data"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    let mine = listed.iter().find(|share| share["validating_pubkey"] == first.to_string()).unwrap();
    let group = cluster.made.lock.validators[0].public_key.to_string();
    assert_eq!(
        *mine,
        json!({"validating_pubkey": first.to_string(), "derivation_path": "", "readonly": false,
               "group_pubkey": group, "share_index": 1})
    );

    // What was imported binds: a vote below it is refused, one above it signed.
    until_epoch(&cluster.clock, 45).await;
    assert_eq!(code(signer.attest(&first, &vote(20, 30, 1)).await), refused(412, "slashable"));
    signer.attest(&first, &vote(38, 40, 1)).await.unwrap();

    let unknown = pubshare(9).to_string();
    let wanted = json!({"pubkeys": [first.to_string(), unknown, "0x12"]});
    let (status, answer) = manage("DELETE", wanted.clone()).await;
    assert_eq!(
        (status, statuses(&answer)),
        (200, ["deleted", "not_found", "error"].map(str::to_owned).to_vec())
    );
    let document = exported(&answer);
    assert_eq!(document["metadata"]["genesis_validators_root"], GENESIS_ROOT.to_string());
    assert_eq!(document["data"].as_array().unwrap().len(), 1, "only what was asked for");
    let votes = document["data"][0]["signed_attestations"].as_array().unwrap();
    assert!(votes.iter().any(|vote| vote["target_epoch"] == "40"), "{document}");
    assert_eq!(code(signer.attest(&first, &vote(41, 42, 1)).await), refused(404, "unknown_key"));
    assert_eq!(manage("GET", Value::Null).await.1["data"].as_array().unwrap().len(), 1);

    // Asked again, and after a restart, the same history comes out.
    signer.stop();
    let signer = machine.start().await;
    let (_, again) = manage("DELETE", wanted).await;
    assert_eq!(statuses(&again), ["not_active", "not_found", "error"]);
    assert_eq!(exported(&again), document);
    assert!(
        !signer.problem_codes().await.contains(&"share_damaged".to_owned()),
        "it is deleted, not damaged"
    );
    assert_eq!(code(signer.attest(&first, &vote(41, 42, 1)).await), refused(404, "unknown_key"));

    // Elsewhere it may have signed since: with its keystore alone, or without a word about that, it does not come back.
    let mut back = json!({"keystores": [cluster.keystore(0)], "passwords": [PASSWORD]});
    for _ in ["the lock is missing", "its history is missing"] {
        let (_, answer) = manage("POST", back.clone()).await;
        assert!(!answer.to_string().contains("imported\""), "{answer}");
        assert_eq!(code(signer.attest(&first, &vote(41, 42, 1)).await), refused(404, "unknown_key"));
        back["hearth"] = cluster.membership();
    }
    // With it, it comes back with all that it signed, and above the clock.
    back["slashing_protection"] = json!(document.to_string());
    let (_, answer) = manage("POST", back).await;
    assert_eq!(statuses(&answer), ["imported"], "{answer}");
    assert_eq!(code(signer.attest(&first, &vote(39, 40, 2)).await), refused(412, "slashable"));
    let complete: Value = signer.control.get(&format!("{HISTORY_PATH}?form=complete")).await.unwrap();
    let records = complete["data"].as_array().unwrap();
    assert_eq!(records.len(), 2);
    let record = records.iter().find(|record| record["pubkey"] == first.to_string()).unwrap();
    let votes = record["signed_attestations"].as_array().unwrap();
    let lowest =
        votes.iter().map(|vote| vote["target_epoch"].as_str().unwrap().parse::<u64>().unwrap()).min();
    assert!(lowest >= Some(40), "where this box's knowledge begins now: {record}");
    let minimal: Value = signer.control.get(HISTORY_PATH).await.unwrap();
    for record in minimal["data"].as_array().unwrap() {
        assert!(record["signed_attestations"].as_array().unwrap().len() <= 1);
        assert!(record["signed_blocks"].as_array().unwrap().len() <= 1);
    }
}

#[tokio::test]
async fn a_bad_import_over_the_keymanager_api_leaves_nothing_behind() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let token = token(&signer).await;
    let cluster = Cluster::new();
    let (good, never) = (cluster.keystore(0), cluster.never_signed());
    let mut damaged: Value = serde_json::from_str(&cluster.keystore(1)).unwrap();
    damaged["crypto"]["cipher"]["message"] = json!("00".repeat(32));
    let foreign = Keystore::encrypt_share(&secret(5), PASSWORD, KdfCost::Insecure, &mut rand::rng());
    let foreign = String::from_utf8(foreign.to_json()).unwrap();
    let empty_history = json!({
        "metadata": {"interchange_format_version": "5", "genesis_validators_root": GENESIS_ROOT.to_string()}, "data": []
    });
    let other_chain = empty_history.to_string().replace("4242", "4343");
    let two = |second: &str, password: &str| json!({"keystores": [good, second], "passwords": [PASSWORD, password], "hearth": never});
    let one = |more: Value| {
        let mut request = json!({"keystores": [good], "passwords": [PASSWORD]});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    // All of a request or none of it: the good keystore stays out with the bad one.
    for (request, why) in [
        (two(&cluster.keystore(1), "not the password"), "password"),
        (two(&damaged.to_string(), PASSWORD), "keystore"),
        (two("{\"crypto\":", PASSWORD), "keystore"),
        (two(&foreign, PASSWORD), "cluster"),
        (two(&good, PASSWORD), "twice"),
    ] {
        let (status, answer) = ask(&machine, Some(&token), "POST", KEYSTORES, &request.to_string()).await;
        assert_eq!((status, statuses(&answer)), (200, vec!["error".to_owned(); 2]), "{answer}");
        assert!(answer["data"][1]["message"].as_str().unwrap().to_lowercase().contains(why), "{answer}");
    }
    // A request that makes no sense, or that says nothing about the past, has no outcomes at all.
    for (request, code) in [
        ("[]".to_owned(), "request_invalid"),
        ("{\"keystores\":[],\"passwords\":[]}".to_owned(), "request_invalid"),
        (json!({"keystores": [good], "passwords": []}).to_string(), "request_invalid"),
        (one(json!({"unknown": 1})).to_string(), "request_invalid"),
        (one(json!({"hearth": cluster.membership()})).to_string(), "history_missing"),
        (one(json!({"hearth": never, "slashing_protection": empty_history.to_string()})).to_string(), "history_missing"),
        (one(json!({"hearth": never, "slashing_protection": other_chain})).to_string(), "history_invalid"),
        (one(json!({"hearth": never, "slashing_protection": "{"})).to_string(), "history_invalid"),
        (one(json!({"hearth": {"lock": {}, "genesis_validators_root": "0x", "chain": cluster.clock}})).to_string(), "request_invalid"),
        (one(json!({"hearth": {"lock": {}, "genesis_validators_root": GENESIS_ROOT.to_string(), "chain": cluster.clock}})).to_string(), "lock_invalid"),
        (one(json!({"hearth": {"lock": cluster.lock(), "genesis_validators_root": mainnet().0.to_string(), "chain": cluster.clock, "history": "never_signed"}})).to_string(), "chain_clock_wrong"),
        (one(json!({"hearth": {"lock": cluster.lock(), "genesis_validators_root": mainnet().0.to_string(), "chain": mainnet().1, "history": "never_signed"}})).to_string(), "chain_root_wrong"),
    ] {
        let (status, answer) = ask(&machine, Some(&token), "POST", KEYSTORES, &request).await;
        assert_eq!((status, answer["code"].as_str().unwrap_or_default()), (400, code), "{request} {answer}");
        assert!(!answer.to_string().contains(PASSWORD));
    }
    // A history of an epoch that no clock reaches would silence the share for good.
    for (target, slot) in [(1_u64 << 30, 1_u64), (1 << 41, 1), (1, 1 << 33)] {
        let vote = json!({"source_epoch": "1", "target_epoch": target.to_string()});
        let far = json!({
            "metadata": {"interchange_format_version": "5", "genesis_validators_root": GENESIS_ROOT},
            "data": [{"pubkey": cluster.pubshare(0), "signed_blocks": [{"slot": slot.to_string()}], "signed_attestations": [vote]}],
        });
        let request = one(json!({"hearth": cluster.membership(), "slashing_protection": far.to_string()}));
        let (status, answer) = ask(&machine, Some(&token), "POST", KEYSTORES, &request.to_string()).await;
        assert_eq!((status, statuses(&answer)), (200, vec!["error".to_owned()]), "{answer}");
        assert!(answer["data"][0]["message"].as_str().unwrap().contains("history"), "{answer}");
    }
    // What would be taken in, but for its size.
    let whole = json!({"keystores": [good], "passwords": [PASSWORD], "hearth": never}).to_string();
    let large = format!("{whole}{}", " ".repeat(17 << 20));
    // Refused before all of it is read; the connection may be gone before we have said it all.
    let mut stream = UnixStream::connect(machine.dir.path().join("control.sock")).await.unwrap();
    let head = format!(
        "POST {KEYSTORES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        large.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let _ = stream.write_all(large.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));

    assert!(signer.status().await.shares.is_empty(), "nothing came in");
    let log = signer.log_text();
    assert!(!log.contains(PASSWORD) && !log.contains(&token));
    let fits = format!("{whole}{}", " ".repeat(15 << 20));
    let (_, answer) = ask(&machine, Some(&token), "POST", KEYSTORES, &fits).await;
    assert_eq!(statuses(&answer), ["imported"]);
}

#[tokio::test]
async fn the_keymanager_api_needs_its_token_and_outside_the_box_the_right_as_well() {
    use std::os::unix::fs::PermissionsExt as _;
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let signing = try_let_in(&signer, "prysm", &[RemoteRight::Sign]).await.unwrap();
    assert!(signing.keymanager_token.is_none());
    let managing = try_let_in(&signer, "manager", &[RemoteRight::ManageKeys]).await.unwrap();
    let token = managing.keymanager_token.as_ref().unwrap().expose_secret().to_owned();
    let file = machine.state().join("keymanager-token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let key = pubshare(1);
    let routes = [
        ("GET", KEYSTORES.to_owned()),
        ("POST", KEYSTORES.to_owned()),
        ("DELETE", KEYSTORES.to_owned()),
        ("GET", "/eth/v1/remotekeys".to_owned()),
        ("GET", format!("/eth/v1/validator/{key}/feerecipient")),
        ("POST", format!("/eth/v1/validator/{key}/feerecipient")),
        ("POST", format!("/eth/v1/validator/{key}/gas_limit")),
        ("POST", format!("/eth/v1/validator/{key}/voluntary_exit")),
    ];
    let bearer = format!("authorization: Bearer {token}\r\n");
    let (outside, signer_only) = (Outside::new(&machine, &managing), Outside::new(&machine, &signing));
    for (method, path) in &routes {
        assert_eq!(ask(&machine, None, method, path, "{}").await.0, 401, "{method} {path}");
        assert_eq!(ask(&machine, Some("wrong"), method, path, "{}").await.0, 403, "{method} {path}");
        assert_eq!(outside.ask(method, path, "", "{}").await.unwrap().0, 401);
        // The right to sign is no right to manage, whatever token is shown.
        let (status, text) = signer_only.ask(method, path, &bearer, "{}").await.unwrap();
        assert!(status == 403 && text.contains("client_not_allowed"), "{method} {path}: {status} {text}");
    }
    let (status, text) = outside.ask("GET", KEYSTORES, &bearer, "").await.unwrap();
    assert!(status == 200 && text.contains(&key.to_string()), "{status} {text}");
    let sign = ipc::web3signer::sign_path(&key);
    assert_eq!(outside.ask("POST", &sign, &bearer, "{}").await.unwrap().0, 403, "nor the other way round");
    // An exit is nothing that a program may order, and there is no way back to a setting that is not there.
    let exit = format!("/eth/v1/validator/{key}/voluntary_exit");
    let (status, answer) = ask(&machine, Some(&token), "POST", &exit, "").await;
    assert_eq!((status, answer["code"].as_str().unwrap()), (403, "exit_not_confirmed"));
    for path in ["feerecipient", "gas_limit"] {
        let path = format!("/eth/v1/validator/{key}/{path}");
        assert_eq!(ask(&machine, Some(&token), "DELETE", &path, "").await.0, 403);
        assert_eq!(ask(&machine, Some(&token), "GET", &path, "").await.0, 404, "no lock was handed in");
    }
    assert_eq!(ask(&machine, Some(&token), "GET", "/eth/v1/remotekeys", "").await.0, 501);
}

#[tokio::test]
async fn who_is_paid_is_what_the_page_and_the_keymanager_api_both_say() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let token = token(&signer).await;
    let cluster = Cluster::new();
    let import = json!({
        "keystores": [cluster.keystore(0)], "passwords": [PASSWORD], "hearth": cluster.never_signed(),
    });
    let (_, answer) = ask(&machine, Some(&token), "POST", KEYSTORES, &import.to_string()).await;
    assert_eq!(statuses(&answer), ["imported"], "{answer}");
    let rules = json!({"lock": cluster.lock()});
    let _: Value = signer.control.put(ipc::owner::RULES_PATH, &rules).await.unwrap();

    let group = cluster.made.lock.validators[0].public_key;
    let path = format!("/eth/v1/validator/{group}/feerecipient");
    let (status, answer) = ask(&machine, Some(&token), "GET", &path, "").await;
    assert_eq!(status, 200);
    assert_eq!(
        answer["data"]["ethaddress"].as_str().unwrap().to_lowercase(),
        format!("0x{}", "09".repeat(20))
    );
    let other = format!("0x{}", "0a".repeat(20));
    let body = json!({"ethaddress": other}).to_string();
    assert_eq!(ask(&machine, Some(&token), "POST", &path, &body).await.0, 202);
    for wrong in ["{}", "{\"ethaddress\":\"0x12\"}", "no json"] {
        assert_eq!(ask(&machine, Some(&token), "POST", &path, wrong).await.0, 400, "{wrong}");
    }
    // The public share names the same validator.
    let limit = format!("/eth/v1/validator/{}/gas_limit", cluster.pubshare(0));
    let body = json!({"gas_limit": "45000000"}).to_string();
    assert_eq!(ask(&machine, Some(&token), "POST", &limit, &body).await.0, 202);
    for wrong in ["{}", "{\"gas_limit\":\"-1\"}", "{\"gas_limit\":\"99999999999999999999\"}"] {
        assert_eq!(ask(&machine, Some(&token), "POST", &limit, wrong).await.0, 400, "{wrong}");
    }
    signer.stop();
    let _signer = machine.start().await;
    let (_, answer) = ask(&machine, Some(&token), "GET", &path, "").await;
    assert_eq!(answer["data"]["ethaddress"].as_str().unwrap().to_lowercase(), other);
    let (_, answer) = ask(&machine, Some(&token), "GET", &limit, "").await;
    assert_eq!(answer["data"]["gas_limit"], "45000000");
}
