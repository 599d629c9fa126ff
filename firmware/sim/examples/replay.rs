//! Replays one seed and prints what happened: `replay SEED MEMBERS [bls]`.

use sim::{Crypto, World, run_with_log};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seed = arguments.next().and_then(|text| text.parse().ok());
    let members = arguments.next().and_then(|text| text.parse().ok());
    let (Some(seed), Some(members)) = (seed, members) else {
        eprintln!("usage: replay SEED MEMBERS [bls]");
        std::process::exit(2);
    };
    let crypto = if arguments.next().as_deref() == Some("bls") { Crypto::Bls } else { Crypto::StandIn };
    let report = run_with_log(seed, &World { crypto, ..World::new(members) });
    report.log.iter().for_each(|line| println!("{line}"));
    println!(
        "{} done, {} missed {:?}, rounds {:?}",
        report.done, report.missed, report.reasons, report.rounds
    );
    if let Some(violation) = report.violation {
        println!("VIOLATION: {violation}");
        std::process::exit(1);
    }
}
