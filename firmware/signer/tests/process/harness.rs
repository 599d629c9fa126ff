//! A real signer process with its own software TPM, for tests.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chain::{
    AttestationData, Checkpoint, CommitteeIndex, Epoch, Fork, ForkInfo, PublicKeyBytes, Root, SignatureBytes,
    Slot, domain,
};
use cluster::keystore::{KdfCost, Keystore};
use ipc::{
    Client, ClientError, Sensitive, SignAnswer, SignRequest, SignerStatus,
    passphrase::{PASSPHRASE_INFO, PASSPHRASE_PATH, PassphraseOrder, PassphraseStatus},
    signer::{
        ChainClock, ChainPreset, History, SHARES_PATH, STATUS_PATH, ShareBundle, ShareEntry, ShareImported,
    },
    web3signer,
};
use threshold::{PublicKey, SecretKey, Signature};
use tpm::{devpolicy, swtpm::Swtpm};

pub(crate) const GENESIS_ROOT: Root = Root([0x42; 32]);
pub(crate) const PASSWORD: &str = "a password that must not be found anywhere";
const SLOTS_PER_EPOCH: u64 = 8;

/// Starts of a signer so far.
static STARTS: AtomicUsize = AtomicUsize::new(0);
/// The longest start so far: how slow this machine is.
static SLOWEST_START_MS: AtomicU64 = AtomicU64::new(0);

/// A machine: a disk, a TPM, and the files of its measured boot.
pub(crate) struct Machine {
    pub dir: tempfile::TempDir,
    pub swtpm: Option<Swtpm>,
    pub tcti: String,
    pub callers: String,
    /// Whether the configuration asks for Secure Boot.
    pub secure_boot: bool,
    /// Whether the system says that it is signed with its maker's own keys.
    pub release_keys: bool,
    /// Whether the configuration lets a passphrase take the place of a TPM that is not there.
    pub passphrase: bool,
    /// The time service's mark, where there is one.
    pub clock_mark: Option<PathBuf>,
    /// Another user that the signer runs as, and who may ask it then.
    user: Option<(u32, u32)>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let swtpm = Swtpm::start(&dir.path().join("tpm")).unwrap();
        devpolicy::make(&dir.path().join("boot"), &[devpolicy::UNMEASURED]).unwrap();
        let tcti = swtpm.tcti().to_owned();
        Self {
            dir,
            swtpm: Some(swtpm),
            tcti,
            callers: "[\"self\"]".to_owned(),
            secure_boot: false,
            release_keys: true,
            passphrase: false,
            clock_mark: None,
            user: None,
        }
    }

    /// Another box, with a TPM of its own, that runs the same maker's image as this one.
    pub(crate) fn sibling(&self) -> Self {
        let other = Self::new();
        for file in std::fs::read_dir(self.dir.path().join("boot")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), other.dir.path().join("boot").join(file.file_name())).unwrap();
        }
        other
    }

    /// Another board of that kind, with the same maker's image.
    pub(crate) fn sibling_without_tpm(&self) -> Self {
        let mut other = self.sibling();
        other.swtpm = None;
        other.let_a_passphrase_do();
        other.tcti.clone_from(&self.tcti);
        other
    }

    /// A board that has no TPM, whose kernel and firmware say so, and whose clock is vouched for.
    pub(crate) fn without_tpm() -> Self {
        let mut machine = Self::new();
        machine.swtpm = None;
        machine.tcti = "device:/dev/no-such-tpm".to_owned();
        machine.let_a_passphrase_do();
        machine
    }

    /// The configuration of such a board, and what its kernel shows.
    pub(crate) fn let_a_passphrase_do(&mut self) {
        self.passphrase = true;
        self.clock_mark = Some(self.dir.path().join("synchronised"));
        for folder in ["sys/class-tpm", "sys/no-tpm"] {
            std::fs::create_dir_all(self.dir.path().join(folder)).unwrap();
        }
        std::fs::create_dir_all(self.dir.path().join("efivars")).unwrap();
        std::fs::write(self.dir.path().join("efivars/BootOrder"), [7, 0, 0, 0, 0, 0]).unwrap();
    }

    /// As the time service does every 20 seconds.
    pub(crate) fn vouch_for_the_clock(&self) {
        if let Some(mark) = self.clock_mark.as_ref().filter(|_| self.passphrase) {
            std::fs::write(mark, b"").unwrap();
        }
    }

    /// From now on the signer runs as this user, and `caller` may ask it. Needs root unless that is the user already.
    pub(crate) fn run_as(&mut self, user: u32, caller: u32) {
        self.callers = format!("[{caller}]");
        self.user = Some((user, caller));
    }

    /// The signer's program; in the machine's own folder if another user must be able to start it.
    fn program(&self) -> PathBuf {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_signer"));
        let Some((user, _)) = self.user else { return built };
        let copy = self.dir.path().join("signer");
        if !copy.exists() {
            // By another process: what this one writes, a child that another test starts meanwhile has open for a moment, and what is
            // open for writing does not start.
            assert!(Command::new("cp").arg(built).arg(&copy).status().unwrap().success());
            std::fs::create_dir_all(self.state()).unwrap();
            for path in [self.dir.path(), &self.state()] {
                std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
            }
        }
        copy
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn write_config(&self) -> PathBuf {
        let dir = self.dir.path().display();
        let path = self.dir.path().join("signer.toml");
        let control = self.user.map_or_else(|| "[\"self\"]".to_owned(), |(_, caller)| format!("[{caller}]"));
        let keys = if self.release_keys { "release" } else { "test" };
        let os_release = self.dir.path().join("os-release");
        std::fs::write(&os_release, format!("ID=debian\nIMAGE_ID=hearth\nHEARTH_KEYS={keys}\n")).unwrap();
        let text = format!(
            "state_dir = \"{dir}/state\"\nlog = \"debug\"\nargon2_memory_kib = 1024\n\
             require_secure_boot = {}\nefivars = \"{dir}/efivars\"\nos_release = \"{dir}/os-release\"\n\
             [tpm]\ntcti = \"{}\"\npcr_public_key = \"{dir}/boot/tpm2-pcr-public-key.pem\"\n\
             pcr_signature = \"{dir}/boot/tpm2-pcr-signature.json\"\nliteral_pcrs = [7, 12]\n\
             [exits]\ndelay_s = 6\nleast_delay_s = 1\n\
             [callers]\nsign = {}\ncontrol = {control}\nremote = {control}\n\
             [listen]\nsign = \"{dir}/sign.sock\"\ncontrol = \"{dir}/control.sock\"\nremote = \"{dir}/remote.sock\"\n",
            self.secure_boot, self.tcti, self.callers
        );
        let mark = self.clock_mark.as_ref().map(|mark| format!("[clock]\nmark = \"{}\"\n", mark.display()));
        let signs = format!(
            "[passphrase]\nsigns_of_a_tpm = [\"{dir}/sys/tpm\", \"{dir}/sys/TPM2\"]\n\
             started_without = \"{dir}/sys/no-tpm\"\n\
             tpm_class = \"{dir}/sys/class-tpm\"\ndevice_tree = \"{dir}/sys/devicetree\"\n"
        );
        let signs = if self.passphrase { signs } else { String::new() };
        std::fs::write(&path, text + &mark.unwrap_or_default() + &signs).unwrap();
        path
    }

    /// Starts the signer and waits until it answers.
    pub(crate) async fn start(&self) -> Running {
        self.vouch_for_the_clock();
        let config = self.write_config();
        let mut command = Command::new(self.program());
        command.arg("--config").arg(config);
        if let Some((user, _)) = self.user.filter(|_| nix::unistd::Uid::effective().is_root()) {
            std::os::unix::process::CommandExt::uid(&mut command, user);
            std::os::unix::process::CommandExt::gid(&mut command, user);
        }
        self.run(command).await
    }

    /// The same after a word to the shell, in another folder.
    pub(crate) async fn start_in(&self, words: &str, dir: &Path) -> Running {
        let config = self.write_config();
        let script = format!("{words}; exec \"$0\" --config \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_signer")]).arg(config).current_dir(dir);
        self.run(command).await
    }

    /// The same under a soft limit for the size of files, which a shell can set without privileges.
    pub(crate) async fn start_with_file_limit(&self, blocks_of_512: u64) -> Running {
        let config = self.write_config();
        let script = format!("trap '' XFSZ; ulimit -S -f {blocks_of_512}; exec \"$0\" --config \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_signer")]).arg(config);
        self.run(command).await
    }

    async fn run(&self, mut command: Command) -> Running {
        // A file, a new one for each start: what the signer showed before it answered is there when the answer is.
        let number = STARTS.fetch_add(1, Ordering::Relaxed);
        let screen = self.dir.path().join(format!("screen-{number}"));
        let shown = std::fs::File::create(&screen).unwrap();
        let mut child = command.stdout(shown).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        keep(child.stderr.take().unwrap(), Arc::clone(&log));
        let sign = Client::new(self.dir.path().join("sign.sock"));
        let control = Client::new(self.dir.path().join("control.sock")).with_timeout(Duration::from_secs(60));
        let mut running = Running { child, log, screen, sign: Arc::new(sign), control };
        let begun = Instant::now();
        loop {
            if control_answers(&running.control).await {
                let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
                SLOWEST_START_MS.fetch_max(took, Ordering::Relaxed);
                return running;
            }
            let ended = running.child.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < Duration::from_secs(60),
                "no answer: {}",
                running.log_text()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the firmware says of Secure Boot from now on.
    pub(crate) fn set_secure_boot(&self, secure_boot: u8, setup_mode: u8) {
        let dir = self.dir.path().join("efivars");
        std::fs::create_dir_all(&dir).unwrap();
        for (name, value) in [("SecureBoot", secure_boot), ("SetupMode", setup_mode)] {
            let path = dir.join(format!("{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c"));
            std::fs::write(path, [6, 0, 0, 0, value]).unwrap();
        }
    }

    /// Takes the mark of an unfinished run off the ledger, so that a test of the records themselves is not helped by
    /// the floors that a power cut raises.
    pub(crate) fn forget_the_power_cut(&self) {
        let database = rusqlite::Connection::open(self.state().join("ledger.db")).unwrap();
        database.execute("UPDATE meta SET value = 0 WHERE name = 'open'", []).unwrap();
    }

    /// All bytes of all files on the machine's disk, with their names.
    pub(crate) fn disk(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else if let Ok(content) = std::fs::read(&path) {
                    found.push((path, content));
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.state(), &mut found);
        found
    }

    /// Makes the disk what it once was, here or in another machine.
    pub(crate) fn put_back(&self, disk: &[(PathBuf, Vec<u8>)]) {
        std::fs::create_dir_all(self.state()).unwrap();
        for (path, _) in self.disk() {
            std::fs::remove_file(path).unwrap();
        }
        for (path, content) in disk {
            std::fs::write(self.state().join(path.file_name().unwrap()), content).unwrap();
        }
    }
}

fn keep(mut from: impl std::io::Read + Send + 'static, kept: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            kept.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    });
}

async fn control_answers(control: &Client) -> bool {
    control.get::<SignerStatus>(STATUS_PATH).await.is_ok()
}

/// A running signer. Killed without warning when dropped.
pub(crate) struct Running {
    pub child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    screen: PathBuf,
    pub sign: Arc<Client>,
    pub control: Client,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// The power goes. Its sockets are free when this returns, as they are for whom systemd starts anew.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn log_text(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// What is on the box's own screen.
    pub(crate) fn screen_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.screen).unwrap()).into_owned()
    }

    /// The last code on the screen, as its owner reads it.
    pub(crate) fn code_on_screen(&self) -> String {
        let text = self.screen_text();
        let code = text.rsplit_once("type ").and_then(|(_, rest)| rest.split(' ').next());
        code.unwrap_or_else(|| panic!("no code on the screen: {text}")).to_owned()
    }

    /// Asks it to end, as systemd does, and waits.
    pub(crate) fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.log_text());
    }

    /// Makes it crash, as a fault of its own would.
    pub(crate) fn crash(mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGABRT).unwrap();
        self.child.wait().unwrap()
    }

    pub(crate) async fn status(&self) -> SignerStatus {
        self.control.get(STATUS_PATH).await.unwrap()
    }

    pub(crate) async fn problem_codes(&self) -> Vec<String> {
        self.status().await.problems.into_iter().map(|problem| problem.code).collect()
    }

    /// Imports, and waits until the chain is old enough for the votes of these tests.
    pub(crate) async fn import(&self, bundle: &ShareBundle) -> Result<ShareImported, ClientError> {
        let imported = self.import_only(bundle).await?;
        if bundle.chain.slot_ms == 1 {
            until_epoch(&bundle.chain, 60).await;
        }
        Ok(imported)
    }

    pub(crate) async fn import_only(&self, bundle: &ShareBundle) -> Result<ShareImported, ClientError> {
        let key = self.status().await.import_key.expect("an import key");
        let sealed = ipc::envelope::seal(&key, bundle).unwrap();
        self.control.post(SHARES_PATH, &sealed).await
    }

    /// The owner's word about the passphrase, sealed as the page seals it.
    pub(crate) async fn passphrase(&self, order: &PassphraseOrder) -> Result<PassphraseStatus, ClientError> {
        let known: PassphraseStatus = self.control.get(PASSPHRASE_PATH).await?;
        let text = serde_json::to_vec(order).unwrap();
        let sealed = ipc::envelope::seal_as_page(&known.key, PASSPHRASE_INFO, &text).unwrap();
        self.control.post(PASSPHRASE_PATH, &sealed).await
    }

    pub(crate) async fn attest(
        &self,
        key: &PublicKeyBytes,
        vote: &AttestationData,
    ) -> Result<SignatureBytes, ClientError> {
        attest(&self.sign, key, vote).await
    }
}

pub(crate) async fn attest(
    client: &Client,
    key: &PublicKeyBytes,
    vote: &AttestationData,
) -> Result<SignatureBytes, ClientError> {
    let request = SignRequest::attestation(fork_info(), vote).unwrap();
    client.post::<SignAnswer>(&web3signer::sign_path(key), &request).await.map(|answer| answer.signature)
}

/// The code of a refusal.
pub(crate) fn code<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> (u16, String) {
    match outcome {
        Err(ClientError::Refused { status, problem }) => {
            assert!(!problem.message.is_empty() && !problem.next_step.is_empty(), "{problem:?}");
            (status, problem.code)
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// What was said of a request that was refused.
pub(crate) fn problem<T: std::fmt::Debug>(outcome: &Result<T, ClientError>) -> &ipc::Problem {
    match outcome {
        Err(ClientError::Refused { problem, .. }) => problem,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

pub(crate) fn secret(number: u8) -> SecretKey {
    let mut bytes = [number; 32];
    bytes[0] = 0x11; // Below the group's order.
    SecretKey::from_bytes(&bytes).unwrap()
}

pub(crate) fn pubshare(number: u8) -> PublicKeyBytes {
    secret(number).public_key().to_bytes()
}

/// A chain that begins a little later, so that shares imported now may sign from its first epoch on, and whose epochs
/// then fly by, eight milliseconds each.
pub(crate) fn clock() -> ChainClock {
    clock_with(1)
}

/// The same with slots of this length.
pub(crate) fn clock_with(slot_ms: u64) -> ChainClock {
    // Later where the machine is slow: what is imported must be there before the first votes are due.
    let slow = SLOWEST_START_MS.load(Ordering::Relaxed) / 250;
    let genesis_time = now_ms() / 1000 + 3 + slow.min(30);
    ChainClock { genesis_time, slot_ms, slots_per_epoch: SLOTS_PER_EPOCH, preset: ChainPreset::Mainnet }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Mainnet's genesis validators root and its slots.
pub(crate) fn mainnet() -> (Root, ChainClock) {
    let mainnet = cluster::Network::by_name("mainnet").unwrap();
    let clock = ChainClock {
        genesis_time: mainnet.genesis_time,
        slot_ms: 12_000,
        slots_per_epoch: 32,
        preset: ChainPreset::Mainnet,
    };
    (mainnet.genesis_validators_root().unwrap(), clock)
}

/// The same shares as ones of mainnet.
pub(crate) fn of_mainnet(mut bundle: ShareBundle) -> ShareBundle {
    let (root, clock) = mainnet();
    (bundle.genesis_validators_root, bundle.chain) = (root.to_string(), clock);
    bundle
}

/// The epoch now; zero before the chain begins.
pub(crate) fn epoch_of(clock: &ChainClock) -> u64 {
    now_ms().saturating_sub(clock.genesis_time * 1000) / clock.slot_ms / clock.slots_per_epoch
}

/// Waits for an epoch of a chain.
pub(crate) async fn until_epoch(clock: &ChainClock, epoch: u64) {
    while epoch_of(clock) < epoch {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A bundle of the shares with these numbers.
pub(crate) fn bundle(numbers: &[u8], history: History) -> ShareBundle {
    let validators = numbers
        .iter()
        .map(|number| {
            let keystore =
                Keystore::encrypt_share(&secret(*number), PASSWORD, KdfCost::Insecure, &mut rand::rng());
            ShareEntry {
                keystore: serde_json::from_slice(&keystore.to_json()).unwrap(),
                password: Sensitive::new(PASSWORD.to_owned()),
                public_key: pubshare(*number).to_string(),
                group_public_key: pubshare(128 + *number).to_string(),
                share_index: 2,
            }
        })
        .collect();
    let genesis_validators_root = GENESIS_ROOT.to_string();
    ShareBundle { validators, history, genesis_validators_root, chain: clock() }
}

pub(crate) fn fork_info() -> ForkInfo {
    let version = chain::ForkVersion([5, 0, 0, 1]);
    let fork = Fork { previous_version: version, current_version: version, epoch: Epoch(0) };
    ForkInfo { fork, genesis_validators_root: GENESIS_ROOT }
}

/// A vote from `source` to `target` for a head.
pub(crate) fn vote(source: u64, target: u64, head: u8) -> AttestationData {
    AttestationData {
        slot: Slot(target * SLOTS_PER_EPOCH),
        index: CommitteeIndex(0),
        beacon_block_root: Root([head; 32]),
        source: Checkpoint { epoch: Epoch(source), root: Root([1; 32]) },
        target: Checkpoint { epoch: Epoch(target), root: Root([2; 32]) },
    }
}

/// Whether a signature is the share's over this vote.
pub(crate) fn signs(key: &PublicKeyBytes, vote: &AttestationData, signature: &SignatureBytes) -> bool {
    let domain = domain::domain_at(domain::BEACON_ATTESTER, vote.target.epoch, &fork_info());
    let root = chain::signing_root(vote, domain);
    let signature = Signature::parse(signature).unwrap();
    threshold::verify(&PublicKey::parse(key).unwrap(), root.as_slice(), &signature)
}
