//! A box that holds a key share: what opens it after the box was changed, and what does not.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use chain::{ExecutionAddress, ForkVersion};
use cluster::Network;
use cluster::create::{self, Addresses, CreateOptions};
use cluster::keystore::KdfCost;
use hw_tests::image::Arch;
use hw_tests::join::{ChainFacts, NodeFolder};
use hw_tests::page::Page;
use hw_tests::ports::free_port;
use hw_tests::swtpm::Swtpm;
use hw_tests::vm::checks::BOOT_PATIENCE;
use hw_tests::vm::{Vm, VmError};
use ipc::signer::{ChainClock, ProtectionTier, SignerStatus};
use tpm::Tpm;

use super::SHUT;
use super::kernel_image::{KernelImage, test_key};
use super::recovery;
use super::tamper::{BootPartition, run};

const VALIDATORS: u8 = 2;
const CLAIM_CODE: &str = "hearth: claim code ";

/// A machine: a disk, a TPM and what its firmware remembers.
struct Machine<'a> {
    image: &'a Path,
    dir: &'a Path,
    arch: Arch,
    page: u16,
}

impl Machine<'_> {
    fn patience(&self) -> Duration {
        BOOT_PATIENCE * self.arch.slowness()
    }

    fn start(&self) -> Vm {
        Vm::builder(self.image, self.dir).arch(self.arch).forward(self.page, 443).start().unwrap()
    }

    fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    fn tpm(&self) -> PathBuf {
        self.dir.join("tpm")
    }

    /// Starts, and gives the page once the signer says how it is.
    fn started(&self) -> (Vm, Page, SignerStatus) {
        let mut vm = self.start();
        vm.wait_ready(self.patience()).unwrap();
        let line = vm.wait_for(CLAIM_CODE, self.patience()).unwrap();
        let code: String = line.rsplit(CLAIM_CODE).next().unwrap().trim().chars().take(14).collect();
        let page = Page::new(SocketAddr::from((Ipv4Addr::LOCALHOST, self.page))).with_claim_code(code);
        let begun = Instant::now();
        let signer = loop {
            match page.wait(self.patience()).unwrap().signer {
                Some(signer) => break signer,
                None => assert!(begun.elapsed() < self.patience(), "the signer does not answer"),
            }
            std::thread::sleep(Duration::from_secs(1));
        };
        (vm, page, signer)
    }

    /// Starts, and must come to nothing because the disk's key stays in the TPM.
    fn stays_shut(&self) {
        let mut vm = self.start();
        vm.wait_for(SHUT, self.patience()).unwrap();
        let error = vm.wait_ready(self.patience()).unwrap_err();
        assert!(matches!(error, VmError::Emergency { .. }), "{error}");
        vm.power_cut().unwrap();
    }
}

/// The folder of a member of two clusters of one validator each, on a chain of nobody's: what is signed with everybody's keys takes
/// no share of a public one.
fn folders(dir: &Path) -> [NodeFolder; 2] {
    let network = Network {
        name: "devnet".to_owned(),
        chain_id: 1337,
        genesis_fork_version: ForkVersion([0x20, 0, 0, 0x89]),
        genesis_time: 1_700_000_000,
    };
    let addresses =
        Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
    ["first", "second"].map(|name| {
        let options = CreateOptions::new(name, 4, 1, network.clone(), addresses);
        let created = create::cluster(&options, &mut rand::rng()).unwrap();
        let folder = dir.join(name);
        for file in created.node_files(0, KdfCost::Insecure, &mut rand::rng()).unwrap() {
            let path = folder.join(&file.path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file.content.as_slice()).unwrap();
        }
        NodeFolder::new(folder.join("node0"))
    })
}

fn chain() -> ChainFacts {
    ChainFacts {
        genesis_validators_root: format!("0x{}", "5b".repeat(32)),
        clock: ChainClock {
            genesis_time: 1_700_000_000,
            slot_ms: 12_000,
            slots_per_epoch: 32,
            preset: ipc::signer::ChainPreset::default(),
        },
        beacon_nodes: Vec::new(),
    }
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to));
}

/// The problems' names.
fn problems(signer: &SignerStatus) -> Vec<&str> {
    signer.problems.iter().map(|problem| problem.code.as_str()).collect()
}

/// A share is opened after an update, and by nothing that is not one: not by a system that the measuring key did not approve, not in
/// another machine, not after the TPM was cleared. Yesterday's disk in its own machine opens, and its signer signs nothing.
pub(crate) fn opens_for_an_update_and_nothing_else(arch: Arch, named_by: &str) {
    let Some(image) = std::env::var_os(named_by).map(PathBuf::from) else {
        println!("SKIPPED: no {arch:?} image to boot; set {named_by} to the path of a built dev image");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("box");
    let machine = Machine { image: &image, dir: &state, arch, page: free_port() };
    let [first, second] = folders(dir.path());

    let (mut vm, page, signer) = machine.started();
    assert_ne!(signer.protection.tier, ProtectionTier::None, "{}", signer.protection.explanation);
    let recovery_key = recovery::waits(&page);
    first.import_shares(&page, 1, &chain()).unwrap();
    vm.shutdown().unwrap();
    assert!(recovery::opens(&machine.disk(), &recovery_key));
    let yesterday = dir.path().join("yesterday.raw");
    copy(&machine.disk(), &yesterday);

    // An update, as far as a TPM can tell: another system, measured otherwise, with approvals of its own.
    let boot = BootPartition::of(&machine.disk());
    let shipped = boot.kernel_image();
    let update = KernelImage::new(shipped.clone()).of_another_version();
    boot.put_signed_kernel_image(update.approved_by(&test_key("pcr.key")).bytes());
    let (mut vm, page, signer) = machine.started();
    assert_ne!(signer.protection.tier, ProtectionTier::None, "{:?}", problems(&signer));
    assert_eq!(signer.shares.len(), 1, "{:?}", problems(&signer));
    // Whoever carries a box with shares off finds no key that waits, and one that somebody has seen is worth nothing.
    recovery::has_lapsed(&mut vm, &page, &recovery_key);
    // And it takes another share, for which the TPM's counter takes a step.
    second.import_shares(&page, 1, &chain()).unwrap();
    assert_eq!(page.status().unwrap().signer.unwrap().shares.len(), usize::from(VALIDATORS));
    vm.shutdown().unwrap();
    assert!(!recovery::opens(&machine.disk(), &recovery_key));

    // The same system signed for Secure Boot, without approvals: whoever has that one key has no share.
    boot.put_signed_kernel_image(update.bytes());
    machine.stays_shut();
    boot.put_kernel_image(&shipped);

    // The disk in another machine, or a copy of it: another TPM.
    let (own, other) = (dir.path().join("own-tpm"), machine.tpm());
    std::fs::rename(&other, &own).unwrap();
    machine.stays_shut();
    std::fs::remove_dir_all(&other).unwrap();
    copy(&own, &other);

    // Yesterday's disk: /var opens, it is this box's; the signer knows that it has signed more since.
    let newest = dir.path().join("newest.raw");
    std::fs::rename(machine.disk(), &newest).unwrap();
    std::fs::rename(&yesterday, machine.disk()).unwrap();
    let (mut vm, page, signer) = machine.started();
    assert_eq!(
        (problems(&signer), signer.protection.tier),
        (vec!["ledger_rolled_back"], ProtectionTier::None)
    );
    assert_eq!(signer.import_key, None);
    second.import_shares(&page, 1, &chain()).unwrap_err();
    vm.power_cut().unwrap();
    drop(vm);

    // Today's disk, and a TPM that was cleared as firmware's menu does it.
    std::fs::rename(&newest, machine.disk()).unwrap();
    let swtpm = Swtpm::start(&machine.tpm()).unwrap();
    Tpm::open(&swtpm.tcti()).unwrap().clear().unwrap();
    drop(swtpm);
    machine.stays_shut();
}
