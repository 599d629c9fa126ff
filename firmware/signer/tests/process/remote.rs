//! Clients outside the box: mutual TLS to the real process, the owner's list, and the one path to a signature.

use std::{collections::BTreeSet, sync::Arc};

use crate::harness::*;
use ipc::{
    SignAnswer, SignRequest,
    remote::{
        ALL_CLIENTS, REMOTE_CLIENTS_PATH, REMOTE_PATH, REMOTE_REMOVE_PATH, RemoteClientMade,
        RemoteClientOrder, RemoteClientRemoval, RemoteRight, RemoteStatus, SERVER_NAME,
    },
    signer::History,
    web3signer::{PUBLIC_KEYS_PATH, SIGN_MANY_PATH, UPCHECK_PATH, sign_path},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

type Tls = tokio_rustls::client::TlsStream<UnixStream>;

/// A client as it stands outside: what the owner gave it, and nothing else.
pub(crate) struct Outside {
    config: Arc<rustls::ClientConfig>,
    socket: std::path::PathBuf,
}

impl Outside {
    pub(crate) fn new(machine: &Machine, made: &RemoteClientMade) -> Self {
        Self::with(machine, &made.authority, Some((&made.certificate, made.private_key.expose_secret())))
    }

    fn with(machine: &Machine, authority: &str, own: Option<(&str, &str)>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        Self { config: Arc::new(config), socket: machine.dir.path().join("remote.sock") }
    }

    async fn connect(&self) -> std::io::Result<Tls> {
        self.connect_to(SERVER_NAME).await
    }

    async fn connect_to(&self, name: &str) -> std::io::Result<Tls> {
        let stream = UnixStream::connect(&self.socket).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        tokio_rustls::TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> std::io::Result<(u16, String)> {
        let mut stream = self.connect().await?;
        let (status, said) = request(&mut stream, method, path, headers, body, "close").await?;
        let json = serde_json::from_str(&said).ok();
        // Who asks for another form than JSON gets what has no schema.
        let plain = !headers.contains("accept");
        for document in [openapi::WEB3SIGNER, openapi::KEYMANAGER].into_iter().filter(|_| plain) {
            openapi::expect_answer(document, method, path, status, json.as_ref());
        }
        Ok((status, said))
    }
}

/// One request on an open connection.
async fn request(
    stream: &mut Tls,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
    connection: &str,
) -> std::io::Result<(u16, String)> {
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: hearth-signer\r\ncontent-type: application/json\r\n{headers}\
         connection: {connection}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(whole) = whole(&answer) {
            return Ok(whole);
        }
        match stream.read(&mut buffer).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Status and body, once all of it is there.
fn whole(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    (body.len() >= length.unwrap_or(0)).then(|| (status, body.to_owned()))
}

pub(crate) fn order(name: &str, may: &[RemoteRight]) -> RemoteClientOrder {
    RemoteClientOrder {
        name: name.to_owned(),
        may: may.iter().copied().collect::<BTreeSet<_>>(),
        addresses: vec!["box.local".to_owned()],
        code: None,
    }
}

/// Lets a client in with the code from the screen, unless it is refused before.
pub(crate) async fn try_let_in(
    signer: &Running,
    name: &str,
    may: &[RemoteRight],
) -> Result<RemoteClientMade, ipc::ClientError> {
    let mut order = order(name, may);
    let asked = signer.control.post::<RemoteClientMade>(REMOTE_CLIENTS_PATH, &order).await;
    match asked {
        Err(ipc::ClientError::Refused { problem, .. }) if problem.code == "confirm_on_screen" => {}
        other => return other,
    }
    order.code = Some(signer.code_on_screen());
    signer.control.post(REMOTE_CLIENTS_PATH, &order).await
}

async fn let_in(signer: &Running, name: &str) -> RemoteClientMade {
    try_let_in(signer, name, &[RemoteRight::Sign]).await.unwrap()
}

async fn remove(signer: &Running, name: &str) -> Result<RemoteStatus, ipc::ClientError> {
    signer.control.post(REMOTE_REMOVE_PATH, &RemoteClientRemoval { name: name.to_owned() }).await
}

fn vote_text(source: u64, target: u64, head: u8) -> String {
    let request = SignRequest::attestation(fork_info(), &vote(source, target, head)).unwrap();
    serde_json::to_string(&request).unwrap()
}

#[tokio::test]
async fn a_client_outside_the_box_signs_over_mutual_tls_and_by_the_same_rules() {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let made = let_in(&signer, "prysm").await;
    let client = Outside::new(&machine, &made);
    let key = pubshare(1);
    let path = sign_path(&key);

    let (status, text) = client.ask("POST", &path, "", &vote_text(40, 41, 1)).await.unwrap();
    assert_eq!(status, 200, "{text}");
    let answer: SignAnswer = serde_json::from_str(&text).unwrap();
    assert!(signs(&key, &vote(40, 41, 1), &answer.signature));

    // One ledger for both doors, whichever is used first.
    assert_eq!(code(signer.attest(&key, &vote(40, 41, 2)).await), refused(412, "slashable"));
    signer.attest(&key, &vote(41, 42, 1)).await.unwrap();
    let (status, text) = client.ask("POST", &path, "", &vote_text(41, 42, 2)).await.unwrap();
    assert!(status == 412 && text.contains("slashable"), "{status} {text}");

    let (status, text) = client.ask("GET", PUBLIC_KEYS_PATH, "", "").await.unwrap();
    assert_eq!((status, text), (200, format!("[\"{key}\"]")));
    assert_eq!(client.ask("GET", UPCHECK_PATH, "", "").await.unwrap().0, 200);
    // What is for dv-node and the owner alone is not there.
    for (method, path) in [
        ("POST", SIGN_MANY_PATH),
        ("GET", ipc::signer::STATUS_PATH),
        ("POST", ipc::signer::SHARES_PATH),
        ("GET", "/metrics"),
        ("GET", REMOTE_PATH),
        ("POST", REMOTE_CLIENTS_PATH),
        ("POST", ipc::dkg::DEAL_PATH),
        ("POST", ipc::edit::EDIT_COMMIT_PATH),
        ("PUT", ipc::owner::RULES_PATH),
    ] {
        let (status, text) = client.ask(method, path, "", "{}").await.unwrap();
        assert_eq!(status, 404, "{method} {path}: {text}");
    }
    let large = "x".repeat(300 * 1024);
    // The box may hang up while the rest is still on its way; an answer, if one comes, is this one.
    if let Ok((status, text)) = client.ask("POST", &path, "", &large).await {
        assert_eq!(status, 413, "{text}");
    }
    let fits = format!("{}{}", vote_text(43, 44, 1), " ".repeat(200 * 1024));
    let signed = client.ask("POST", &path, "", &fits).await.unwrap();
    assert_eq!(signed.0, 200, "the limit is not far below");
    // Who takes nothing but text gets the same signature as text.
    let text = client.ask("POST", &path, "accept: text/plain\r\n", &vote_text(43, 44, 1)).await.unwrap();
    assert_eq!(signed.1, format!("{{\"signature\":\"{}\"}}", text.1));
    assert_eq!(client.ask("GET", UPCHECK_PATH, "", "").await.unwrap(), (200, "OK".to_owned()));
    let json = client.ask("GET", UPCHECK_PATH, "accept: application/json;q=0.9, */*\r\n", "").await.unwrap();
    assert_eq!(json, (200, "{\"status\":\"OK\"}".to_owned()));
}

#[tokio::test]
async fn nobody_comes_in_without_the_owner_s_certificate() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let other_machine = Machine::new();
    let other_signer = other_machine.start().await;
    let foreign = let_in(&other_signer, "prysm").await;

    // Before the owner has let anybody in, there is not even a handshake.
    let stranger = Outside::with(&machine, &foreign.authority, None);
    assert!(stranger.ask("GET", UPCHECK_PATH, "", "").await.is_err());
    assert!(!machine.state().join("remote/open").exists());

    let made = let_in(&signer, "prysm").await;
    assert!(machine.state().join("remote/open").exists(), "the port is opened by this");
    assert_eq!(Outside::new(&machine, &made).ask("GET", UPCHECK_PATH, "", "").await.unwrap().0, 200);
    let without = Outside::with(&machine, &made.authority, None);
    assert!(without.ask("GET", UPCHECK_PATH, "", "").await.is_err());
    let own = Some((foreign.certificate.as_str(), foreign.private_key.expose_secret()));
    let other_authority = Outside::with(&machine, &made.authority, own);
    assert!(other_authority.ask("GET", UPCHECK_PATH, "", "").await.is_err());
    // And a client notices a signer that is not its own.
    let own = Some((made.certificate.as_str(), made.private_key.expose_secret()));
    let fooled = Outside::with(&machine, &foreign.authority, own);
    assert!(fooled.connect().await.is_err());
    let client = Outside::new(&machine, &made);
    assert!(client.connect_to("box.local").await.is_ok());
    assert!(client.connect_to("elsewhere.local").await.is_err());
    // Who speaks no TLS gets nothing, and is in nobody's way.
    let mut plain = UnixStream::connect(machine.dir.path().join("remote.sock")).await.unwrap();
    plain.write_all(b"GET /upcheck HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"));
    assert_eq!(client.ask("GET", UPCHECK_PATH, "", "").await.unwrap().0, 200);
}

#[tokio::test]
async fn who_is_shut_out_is_out_at_once_and_stays_out() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let (first, second) = (let_in(&signer, "one").await, let_in(&signer, "two").await);
    assert_eq!(first.authority, second.authority);
    let twice = try_let_in(&signer, "one", &[RemoteRight::Sign]).await;
    assert_eq!(code(twice), refused(422, "remote_client_invalid"));
    for bad in ["", "One", "a b", ALL_CLIENTS, &"x".repeat(41)] {
        let asked = try_let_in(&signer, bad, &[RemoteRight::Sign]).await;
        assert_eq!(code(asked), refused(422, "remote_client_invalid"), "{bad}");
    }
    // A page in foreign hands cannot read the screen, and a code for one client lets no other in.
    let mut other = order("other", &[RemoteRight::Sign]);
    let asked = signer.control.post::<RemoteClientMade>(REMOTE_CLIENTS_PATH, &other).await;
    assert_eq!(code(asked), refused(422, "confirm_on_screen"));
    assert!(signer.screen_text().contains("called other, shall ask for signatures"));
    other.may.insert(RemoteRight::ManageKeys);
    for guess in [signer.code_on_screen(), "0000-0000".to_owned()] {
        other.code = Some(guess);
        let asked = signer.control.post::<RemoteClientMade>(REMOTE_CLIENTS_PATH, &other).await;
        assert!(asked.is_err(), "for more than was shown");
    }
    other.may.remove(&RemoteRight::ManageKeys);
    let asked = signer.control.post::<RemoteClientMade>(REMOTE_CLIENTS_PATH, &other).await;
    assert!(asked.is_err(), "a guess");
    let known: RemoteStatus = signer.control.get(REMOTE_PATH).await.unwrap();
    assert_eq!(known.clients.len(), 2, "{known:?}");
    let idle = try_let_in(&signer, "idle", &[]).await;
    assert_eq!(code(idle), refused(422, "remote_client_invalid"));

    let client = Outside::new(&machine, &first);
    let mut open = client.connect().await.unwrap();
    let (status, _) = request(&mut open, "GET", UPCHECK_PATH, "", "", "keep-alive").await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(remove(&signer, "one").await.unwrap().clients.len(), 1);
    let (status, text) = request(&mut open, "GET", UPCHECK_PATH, "", "", "keep-alive").await.unwrap();
    assert!(status == 403 && text.contains("client_not_allowed"), "{status} {text}");
    assert!(client.ask("GET", UPCHECK_PATH, "", "").await.is_err());
    assert_eq!(code(remove(&signer, "one").await), refused(422, "remote_client_invalid"));

    signer.stop();
    let signer = machine.start().await;
    let known: RemoteStatus = signer.control.get(REMOTE_PATH).await.unwrap();
    assert_eq!(known.clients.iter().map(|client| client.name.as_str()).collect::<Vec<_>>(), ["two"]);
    assert_eq!(known.addresses, ["box.local"]);
    assert!(client.ask("GET", UPCHECK_PATH, "", "").await.is_err());
    let other = Outside::new(&machine, &second);
    assert_eq!(other.ask("GET", UPCHECK_PATH, "", "").await.unwrap().0, 200);
    remove(&signer, "two").await.unwrap();
    assert!(!machine.state().join("remote/open").exists());
    assert!(other.ask("GET", UPCHECK_PATH, "", "").await.is_err());
}

#[tokio::test]
async fn a_changed_list_lets_nobody_in_and_harms_nothing_else() {
    let machine = Machine::new();
    let signer = machine.start().await;
    signer.import(&bundle(&[1], History::NeverSigned)).await.unwrap();
    let made = let_in(&signer, "prysm").await;
    signer.stop();
    // Neither the client's key nor the authority's is on the disk.
    let secret = made.private_key.expose_secret().lines().nth(1).unwrap().to_owned();
    for (path, content) in machine.disk() {
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains(&secret) && !text.contains("PRIVATE KEY"), "{}", path.display());
    }
    let list = machine.state().join("remote/clients.sealed");
    let mut bytes = std::fs::read(&list).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&list, bytes).unwrap();
    let signer = machine.start().await;
    let client = Outside::new(&machine, &made);
    assert!(client.ask("GET", UPCHECK_PATH, "", "").await.is_err());
    assert_eq!(code(signer.control.get::<RemoteStatus>(REMOTE_PATH).await), refused(503, "remote_unusable"));
    signer.attest(&pubshare(1), &vote(45, 46, 1)).await.unwrap();
    // The way out, and a new authority with it.
    assert!(remove(&signer, ALL_CLIENTS).await.unwrap().clients.is_empty());
    let again = let_in(&signer, "prysm").await;
    assert_eq!(Outside::new(&machine, &again).ask("GET", UPCHECK_PATH, "", "").await.unwrap().0, 200);
    assert!(client.ask("GET", UPCHECK_PATH, "", "").await.is_err());
}

/// Puts a file in another's place, as a thief with a copy of the disk would.
fn put_back(machine: &Machine, list: &[u8]) {
    std::fs::write(machine.state().join("remote/clients.sealed"), list).unwrap();
}

#[tokio::test]
async fn an_older_list_put_back_lets_nobody_in() {
    let machine = Machine::new();
    let list = machine.state().join("remote/clients.sealed");
    let signer = machine.start().await;
    let made = let_in(&signer, "one").await;
    let with_one = std::fs::read(&list).unwrap();
    let_in(&signer, "two").await;
    remove(&signer, "one").await.unwrap();
    signer.stop();
    put_back(&machine, &with_one);
    let signer = machine.start().await;
    let client = Outside::new(&machine, &made);
    assert!(client.ask("GET", UPCHECK_PATH, "", "").await.is_err());
    assert_eq!(code(signer.control.get::<RemoteStatus>(REMOTE_PATH).await), refused(503, "remote_unusable"));

    // Nor after everybody was shut out, when there is no list to compare with.
    remove(&signer, ALL_CLIENTS).await.unwrap();
    signer.stop();
    put_back(&machine, &with_one);
    let signer = machine.start().await;
    assert!(client.ask("GET", UPCHECK_PATH, "", "").await.is_err());
    // A file that appears while the signer runs is not even looked at.
    remove(&signer, ALL_CLIENTS).await.unwrap();
    put_back(&machine, &with_one);
    assert!(client.ask("GET", UPCHECK_PATH, "", "").await.is_err());
    let again = let_in(&signer, "one").await;
    assert_eq!(Outside::new(&machine, &again).ask("GET", UPCHECK_PATH, "", "").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_list_that_the_power_cut_parted_from_the_ledger_is_believed() {
    let machine = Machine::new();
    let list = machine.state().join("remote/clients.sealed");
    let signer = machine.start().await;
    let made = let_in(&signer, "one").await;
    signer.stop();
    // The first list is on the disk, and the ledger has not heard of it.
    let database = rusqlite::Connection::open(machine.state().join("ledger.db")).unwrap();
    let lowered = database
        .execute("UPDATE meta SET value = 0 WHERE name = 'remote_generation' AND value = 1", [])
        .unwrap();
    assert_eq!(lowered, 1);
    drop(database);
    let before = std::fs::read(&list).unwrap();
    let signer = machine.start().await;
    let client = Outside::new(&machine, &made);
    assert_eq!(client.ask("GET", UPCHECK_PATH, "", "").await.unwrap().0, 200);
    remove(&signer, "one").await.unwrap();
    signer.stop();
    put_back(&machine, &before);
    let _signer = machine.start().await;
    assert!(client.ask("GET", UPCHECK_PATH, "", "").await.is_err());
}

#[tokio::test]
async fn everybody_is_shut_out_although_the_disk_takes_nothing() {
    let machine = Machine::new();
    let signer = machine.start().await;
    let made = let_in(&signer, "one").await;
    let client = Outside::new(&machine, &made);
    let mut open = client.connect().await.unwrap();
    // A folder in the list's place can neither be removed as a file nor replaced by one.
    let list = machine.state().join("remote/clients.sealed");
    std::fs::remove_file(&list).unwrap();
    std::fs::create_dir(&list).unwrap();
    assert_eq!(code(remove(&signer, ALL_CLIENTS).await), refused(503, "remote_unusable"));
    let (status, text) = request(&mut open, "GET", UPCHECK_PATH, "", "", "keep-alive").await.unwrap();
    assert_eq!(status, 403, "{text}");
    assert!(client.ask("GET", UPCHECK_PATH, "", "").await.is_err());
}
