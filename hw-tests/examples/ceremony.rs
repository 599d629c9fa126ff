//! Makes a cluster by key generation among native Hearths and, if a Charon binary is at hand, Charons, and compares what
//! everybody ends up with: `ceremony HEARTHS CHARONS VALIDATORS MINOR [CHARON_BINARY]`. With `RELAY=http://…` in the
//! environment everybody uses that relay; with `COMPOUNDING=1` there are three deposits, of compounding validators.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chain::{ExecutionAddress, Gwei};
use cluster::create::{Addresses, CreateOptions, draft};
use cluster::{Enr, IdentityKey, Network, PeerId};
use hw_tests::ceremony::{Ceremony, CeremonyChain, address, files};
use hw_tests::member::Member;
use hw_tests::ports::free_ports;
use hw_tests::process::{Launch, Process};
use ipc::signer::{ChainClock, ChainPreset};

const PATIENCE: Duration = Duration::from_secs(150);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| -> anyhow::Result<usize> {
        arguments
            .get(place)
            .context("HEARTHS CHARONS VALIDATORS MINOR [CHARON_BINARY]")?
            .parse()
            .context("a number")
    };
    let (hearths, charons, validators) = (number(0)?, number(1)?, number(2)?);
    let minor = u8::try_from(number(3)?)?;
    let compounding = std::env::var_os("COMPOUNDING").is_some();
    let binaries = std::env::current_exe()?;
    let binaries = binaries.parent().and_then(Path::parent).context("no target folder")?.to_owned();
    let dir = tempfile::tempdir()?.keep();
    println!("everything is in {}", dir.display());

    let members = (1..=hearths)
        .map(|number| {
            let name = format!("m{number}");
            Member::start(&name, &dir.join(&name), &binaries)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut rng = rand::rng();
    let identities: Vec<IdentityKey> =
        (0..hearths + charons).map(|_| IdentityKey::generate(&mut rng)).collect();
    let records: Vec<Enr> = identities.iter().map(Enr::build).collect();
    let hoodi = Network::by_name("hoodi").context("hoodi")?;
    let addresses =
        Addresses { fee_recipient: ExecutionAddress([1; 20]), withdrawal: ExecutionAddress([2; 20]) };
    let mut options = CreateOptions::new("mixed", hearths + charons, validators, hoodi.clone(), addresses);
    options.timestamp = "2026-01-02T03:04:05Z".to_owned();
    if compounding {
        options.compounding = true;
        options.deposit_amounts = [8, 32, 256].map(|eth| Gwei(eth * 1_000_000_000)).to_vec();
    }
    let definition = draft(&options, &records, &mut rng)?;
    let definition_file = dir.join("cluster-definition.json");
    fs::write(&definition_file, definition.to_json()?)?;

    let ports = free_ports(charons);
    let mut peers: Vec<String> =
        members.iter().zip(&identities).map(|(member, key)| address(member, key)).collect();
    let mut others: Vec<(PathBuf, Process)> = Vec::new();
    for (place, port) in ports.iter().enumerate() {
        let key = &identities[hearths + place];
        let peer = PeerId::from_public_key(&key.public_key());
        peers.push(format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"));
        let home = dir.join(format!("charon{place}"));
        fs::create_dir_all(&home)?;
        fs::write(home.join("charon-enr-private-key"), key.to_file_text().as_bytes())?;
        let program = arguments.get(4).context("the path of a Charon binary")?;
        let process = Launch::new(format!("charon {place}"), program, home.join("charon.log"))
            .args([
                "dkg",
                "--p2p-relays",
                &std::env::var("RELAY").unwrap_or_default(),
                "--log-color",
                "disable",
                "--log-level",
                "debug",
            ])
            .arg("--data-dir")
            .arg(&home)
            .arg("--definition-file")
            .arg(&definition_file)
            .args(["--p2p-tcp-address".to_owned(), format!("127.0.0.1:{port}")])
            .start()?;
        others.push((home, process));
    }
    let ceremony = Ceremony {
        definition,
        identities: identities.into_iter().take(hearths).collect(),
        chain: CeremonyChain {
            genesis_validators_root: hoodi.genesis_validators_root().context("hoodi")?.to_string(),
            clock: ChainClock {
                genesis_time: hoodi.genesis_time,
                slot_ms: 12_000,
                slots_per_epoch: 32,
                preset: ChainPreset::Mainnet,
            },
            network: None,
            beacon_nodes: vec!["http://127.0.0.1:9".to_owned()],
        },
        minor,
        others: (hearths + 1..=hearths + charons).filter_map(|index| u8::try_from(index).ok()).collect(),
        peers,
        relays: std::env::var("RELAY").ok().map(|relay| vec![relay]),
    };
    let begun = Instant::now();
    let lock = ceremony.run(&members, PATIENCE)?;
    println!("lock {} after {:?}", lock.lock_hash_hex(), begun.elapsed());
    lock.verify(&[])?;
    let ours = files(&members[0])?;
    for (home, mut process) in others {
        let deadline = Instant::now() + Duration::from_secs(30);
        while process.check_alive().is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(200));
        }
        for file in &ours.files {
            let theirs = fs::read_to_string(home.join(&file.name)).unwrap_or_default();
            let same = serde_json::from_str::<serde_json::Value>(&theirs).ok()
                == serde_json::from_str::<serde_json::Value>(&file.content).ok();
            let words = match (theirs == file.content, same) {
                (true, _) => "the same bytes",
                (false, true) => "the same content",
                (false, false) => "DIFFERENT",
            };
            println!("{} of {}: {words}", file.name, home.display());
        }
    }
    Ok(())
}
