//! Runs the local chain by hand until Enter or Ctrl-C, or measures it.
//!
//! ```text
//! cargo run -p hw-tests --example devnet -- run [electra|fulu] [slot seconds] [everybody]
//! cargo run -p hw-tests --example devnet -- measure <slot seconds> <slots> <busy loops>
//! cargo run -p hw-tests --example devnet -- choose
//! ```

use std::time::Duration;

use anyhow::{Context, Result, bail};
use hw_tests::devnet::{Config, Devnet, SyncCommittee, Tools, choose_slot_seconds, inclusion, measure};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut say = |line: &str| println!("{line}");
    let tools = Tools::ensure(&mut say)?;
    let dir = tempfile::tempdir()?;
    match arguments.as_slice() {
        ["run", shape @ ..] => run(dir.path(), config(shape)?, tools),
        ["measure", seconds, slots, busy] => {
            let config = Config { slot_seconds: number(seconds)?, ..Config::electra() };
            let busy = usize::try_from(number(busy)?)?;
            println!("{}", measure(dir.path(), config, tools, number(slots)?, busy)?);
            Ok(())
        }
        ["choose"] => {
            println!("{} s", choose_slot_seconds(dir.path(), &tools, &mut say)?);
            Ok(())
        }
        _ => bail!(
            "usage: run [electra|fulu] [slot seconds] [everybody] | measure <slot seconds> <slots> <busy loops> | choose"
        ),
    }
}

/// `everybody` has seats in the sync committees when asked for; else only a few fillers.
fn config(shape: &[&str]) -> Result<Config> {
    let mut config = Config::electra();
    for word in shape {
        match *word {
            "electra" => {}
            "fulu" => config = Config::fulu(),
            "everybody" => config.sync_committee = SyncCommittee::Everybody,
            seconds => config.slot_seconds = number(seconds)?,
        }
    }
    Ok(config)
}

fn number(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{text} is not a number"))
}

fn run(dir: &std::path::Path, config: Config, tools: Tools) -> Result<()> {
    let slots_per_epoch = config.slots_per_epoch;
    let mut chain = Devnet::prepare(dir, config, tools, &[])?;
    chain.start(Duration::from_secs(15))?;
    println!(
        "beacon API {}, execution API {}, files in {}",
        chain.beacon_url(),
        chain.execution_url(),
        dir.display()
    );
    println!("Enter ends it; whatever ends this program ends the chain too.");
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = ended.send(());
    });
    let mut follower =
        inclusion::Follower::new(inclusion::Reader::new(chain.api(), slots_per_epoch), 1.into());
    let wait = Duration::from_secs(chain.config().slot_seconds);
    while end.recv_timeout(wait).is_err() {
        let health = chain.health()?;
        let votes = follower.poll()?.len();
        println!(
            "slot {} head {} missed {:?} finalized epoch {}, {votes} new votes on the chain",
            health.clock, health.head, health.missed, health.finalized
        );
    }
    Ok(())
}
