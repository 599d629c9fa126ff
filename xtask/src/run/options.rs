//! What `./hearth run` takes, and what it makes of it before anything is started.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use hw_tests::charon::Charon;

use crate::called_from;

/// The sizes Obol's clusters have: `3f + 1` members withstand f that fail.
const FEWEST_MEMBERS: u8 = 4;
const MOST_MEMBERS: u8 = 16;

/// What `./hearth run` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// No image: all members are native processes.
    #[arg(long)]
    pub(crate) fast: bool,
    /// Unattended: end as soon as the chain holds an attestation that needed the box. With --slots: fail too when a kind
    /// of duty that the chain asked for never succeeded, or much less often than the chain's other validators did theirs.
    #[arg(long)]
    pub(crate) check: bool,
    /// With --check: the result as JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// The chain's newest fork.
    #[arg(long, value_enum, default_value_t = Fork::Electra)]
    pub(crate) fork: Fork,
    /// Length of a slot, instead of what this machine was measured to hold.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=60))]
    pub(crate) slot_seconds: Option<u64>,
    /// Members of the cluster; the last one is the box.
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u8).range(i64::from(FEWEST_MEMBERS)..=i64::from(MOST_MEMBERS)))]
    pub(crate) members: u8,
    /// Partial signatures that make a whole one, instead of two thirds of the members, rounded up.
    #[arg(long, value_name = "N")]
    pub(crate) threshold: Option<u8>,
    /// Distributed validators of the cluster.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) validators: u32,
    /// What member N is: charon:PATH (a Charon that you have, with Prysm's validator client behind it), vc (Hearth, with
    /// Prysm's validator client behind its validator API), vc-signer (the same, and the client has no keys but asks that
    /// Hearth's signer over mutual TLS) or hearth. May be given several times.
    #[arg(long = "member", value_name = "N=KIND")]
    pub(crate) kinds: Vec<Member>,
    /// Once everybody is in: run this many slots (whole epochs) and count what the chain asked and what was done.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) slots: Option<u64>,
    /// A block builder beside the beacon node, and a cluster that takes its offers: the cluster's blocks are blinded ones.
    #[arg(long)]
    pub(crate) builder: bool,
    /// With --slots: when all is counted, the owners of the members that sign by themselves let this many validators leave.
    #[arg(long, value_name = "N", requires = "slots", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) exits: Option<u32>,
    /// With --slots: write the counts there, as JSON.
    #[arg(long, value_name = "FILE", requires = "slots", value_parser = called_from::path)]
    pub(crate) report: Option<PathBuf>,
    /// With --slots: kill a member every third epoch and start it again, a Hearth and a Charon in turn.
    #[arg(long, requires = "slots")]
    pub(crate) restart_members: bool,
    /// The members' programs as `./hearth bench` measures them (compiled with optimisation: some minutes the first time),
    /// so that the report's figures of processor time and memory are those of a release.
    #[arg(long, requires = "report")]
    pub(crate) optimised: bool,
    /// Keep the logs of everything in this folder instead of throwing them away at the end.
    #[arg(long, value_name = "DIR", value_parser = called_from::path)]
    pub(crate) keep: Option<PathBuf>,
    /// With --check: look at the box's page in headless Chromium too, and keep a picture of it (PNG).
    #[arg(long, value_name = "FILE", requires = "check", value_parser = called_from::path)]
    pub(crate) picture: Option<PathBuf>,
    /// As a test of ours: with --check and --slots, a kind of duty that the chain never asked for is a failure too.
    #[arg(skip)]
    pub(crate) every_kind: bool,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            fast: false,
            check: false,
            json: false,
            fork: Fork::Electra,
            slot_seconds: None,
            members: FEWEST_MEMBERS,
            threshold: None,
            validators: 4,
            kinds: Vec::new(),
            slots: None,
            builder: false,
            exits: None,
            report: None,
            restart_members: false,
            optimised: false,
            keep: None,
            picture: None,
            every_kind: false,
        }
    }
}

impl Arguments {
    /// What to type for the same run, with a word in place of paths.
    pub(super) fn command(&self, slot_seconds: u64) -> String {
        let mut words = vec!["./hearth run".to_owned()];
        if self.fast {
            words.push("--fast".to_owned());
        }
        if self.fork == Fork::Fulu {
            words.push("--fork fulu".to_owned());
        }
        if self.members != FEWEST_MEMBERS {
            words.push(format!("--members {}", self.members));
        }
        if let Some(threshold) = self.threshold {
            words.push(format!("--threshold {threshold}"));
        }
        for Member { number, kind } in &self.kinds {
            match kind {
                Kind::Hearth => {}
                Kind::HearthWithClient => words.push(format!("--member {number}=vc")),
                Kind::HearthWithRemoteClient => words.push(format!("--member {number}=vc-signer")),
                Kind::Charon(_) => words.push(format!("--member {number}=charon:PATH")),
            }
        }
        words.push(format!("--validators {} --slot-seconds {slot_seconds}", self.validators));
        words.extend(self.slots.map(|slots| format!("--slots {slots}")));
        if self.builder {
            words.push("--builder".to_owned());
        }
        words.extend(self.exits.map(|exits| format!("--exits {exits}")));
        if self.restart_members {
            words.push("--restart-members".to_owned());
        }
        if self.optimised {
            words.push("--optimised".to_owned());
        }
        words.extend(self.report.as_ref().map(|_| "--report FILE".to_owned()));
        words.join(" ")
    }
}

/// Forks the local chain can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fork {
    /// Epochs of 8 slots.
    #[default]
    Electra,
    /// Epochs of 32 slots.
    Fulu,
}

/// One `--member N=KIND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// From 1.
    pub(crate) number: u8,
    pub(crate) kind: Kind,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours, signing by itself.
    Hearth,
    /// Ours, with a stock validator client that signs.
    HearthWithClient,
    /// Ours, with a stock validator client that has our signer sign.
    HearthWithRemoteClient,
    /// A Charon binary, with a stock validator client that signs.
    Charon(PathBuf),
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write it like 2=charon:/usr/local/bin/charon, 2=vc, 2=vc-signer or 2=hearth";
        let (number, kind) =
            text.split_once('=').ok_or_else(|| format!("{text:?} names no kind: {example}"))?;
        let number = number.parse().ok().filter(|number| *number > 0);
        let number =
            number.ok_or_else(|| format!("{text:?} does not begin with a member's number: {example}"))?;
        let kind = match kind.split_once(':') {
            None if kind == "hearth" => Kind::Hearth,
            None if kind == "vc" => Kind::HearthWithClient,
            None if kind == "vc-signer" => Kind::HearthWithRemoteClient,
            None if kind == "charon" => {
                return Err(format!("which Charon? Give its path: {number}=charon:/usr/local/bin/charon"));
            }
            Some(("charon", path)) if !path.is_empty() => Kind::Charon(called_from::path(path)?),
            None | Some(_) => return Err(format!("{kind:?} is no kind of member: {example}")),
        };
        Ok(Self { number, kind })
    }
}

/// What a seat of the cluster is filled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    /// The image, in QEMU.
    Box,
    Hearth,
    HearthWithClient,
    HearthWithRemoteClient,
    Charon(Charon),
}

impl Occupant {
    /// Whether a stock validator client signs for this Hearth.
    pub(super) fn has_client(&self) -> bool {
        matches!(self, Self::HearthWithClient | Self::HearthWithRemoteClient)
    }

    /// Whether it is native and its shares are with a signer of ours.
    pub(super) fn has_signer(&self) -> bool {
        matches!(self, Self::Hearth | Self::HearthWithRemoteClient)
    }

    /// Whether it can be made to stand still for a while.
    pub(super) fn can_freeze(&self) -> bool {
        match self {
            Self::Box => false,
            Self::Hearth | Self::HearthWithClient | Self::HearthWithRemoteClient | Self::Charon(_) => true,
        }
    }

    /// A word for a mix and for reports.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Box => "box",
            Self::Hearth => "hearth",
            Self::HearthWithClient => "vc",
            Self::HearthWithRemoteClient => "vc-signer",
            Self::Charon(_) => "charon",
        }
    }
}

/// The cluster that was asked for, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// In order of the members.
    pub(super) occupants: Vec<Occupant>,
    pub(super) threshold: u8,
}

impl Plan {
    /// Checks all that can be checked before minutes are spent on building and booting.
    pub(super) fn of(arguments: &Arguments) -> anyhow::Result<Self> {
        let members = arguments.members;
        let fewest_that_sign = (members * 2).div_ceil(3);
        let threshold = arguments.threshold.unwrap_or(fewest_that_sign);
        ensure!(
            threshold <= members && threshold >= fewest_that_sign,
            "--threshold {threshold} does not work for {members} members: from {fewest_that_sign} (below, a split cluster \
             could sign two things) to {members}"
        );
        let mut kinds: BTreeMap<u8, Kind> = BTreeMap::new();
        for Member { number, kind } in &arguments.kinds {
            ensure!(
                *number <= members,
                "--member {number}=…: there are {members} members, numbered from 1 (more with --members N)"
            );
            if kinds.insert(*number, kind.clone()).is_some() {
                bail!("--member {number}=… is given twice");
            }
        }
        if !arguments.fast && kinds.get(&members).is_some_and(|kind| *kind != Kind::Hearth) {
            bail!(
                "member {members} is the box in QEMU, which cannot be anything else: choose another number, or --fast \
                 to have no box"
            );
        }
        let mut occupants = Vec::new();
        for number in 1..=members {
            occupants.push(match kinds.remove(&number) {
                None | Some(Kind::Hearth) if number == members && !arguments.fast => Occupant::Box,
                None | Some(Kind::Hearth) => Occupant::Hearth,
                Some(Kind::HearthWithClient) => Occupant::HearthWithClient,
                Some(Kind::HearthWithRemoteClient) => Occupant::HearthWithRemoteClient,
                Some(Kind::Charon(path)) => {
                    let charon = Charon::open(&path).with_context(|| format!("--member {number}=charon"))?;
                    Occupant::Charon(charon)
                }
            });
        }
        let plan = Self { occupants, threshold };
        let signing = plan.occupants.iter().filter(|occupant| occupant.has_signer()).count();
        ensure!(
            arguments.exits.is_none() || signing >= usize::from(threshold),
            "--exits needs {threshold} members with a signer of ours whose owners can be asked, and there are {signing}"
        );
        ensure!(
            arguments.exits.is_none_or(|exits| exits <= arguments.validators),
            "--exits: there are {} validators",
            arguments.validators
        );
        ensure!(
            !arguments.check || plan.page_seat().is_some(),
            "--check looks at a Hearth member, and there is none in this cluster: leave one, or leave out --check"
        );
        ensure!(
            arguments.slots.is_some() || plan.page_seat().is_some(),
            "a cluster of Charon members alone has no page to show: give --slots, or leave a Hearth member"
        );
        Ok(plan)
    }

    /// The Hearth member that plays the box: the last one.
    pub(super) fn page_seat(&self) -> Option<usize> {
        self.occupants.iter().rposition(|occupant| !matches!(occupant, Occupant::Charon(_)))
    }

    /// Such as `3 hearth, 1 charon`.
    pub(super) fn mix(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for occupant in &self.occupants {
            *counts.entry(occupant.word()).or_default() += 1;
        }
        let words: Vec<String> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn plan(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("run").chain(line.split_whitespace());
        let parsed = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Plan::of(&parsed.arguments).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_cluster_is_what_was_asked_for() {
        let cases = [
            ("", "1 box, 3 hearth", 3),
            ("--fast", "4 hearth", 3),
            ("--fast --member 2=vc --member 1=hearth", "3 hearth, 1 vc", 3),
            ("--members 7 --member 3=vc", "1 box, 5 hearth, 1 vc", 5),
            ("--fast --members 10 --threshold 8", "10 hearth", 8),
            ("--fast --member 2=vc --member 3=vc-signer", "2 hearth, 1 vc, 1 vc-signer", 3),
        ];
        for (line, mix, threshold) in cases {
            let plan = plan(line).unwrap();
            assert_eq!((plan.mix().as_str(), plan.threshold), (mix, threshold), "{line}");
        }
        assert_eq!(plan("--fast --member 4=vc").unwrap().page_seat(), Some(3));
    }

    #[test]
    fn every_member_but_the_box_in_qemu_can_be_frozen_whoever_wrote_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let charon = dir.path().join("charon");
        std::fs::write(&charon, "#!/bin/sh\necho 'v1.10.3 [git_commit_hash=1,git_commit_time=2]'\n").unwrap();
        std::fs::set_permissions(&charon, std::fs::Permissions::from_mode(0o755)).unwrap();
        let line = format!("--member 1=vc --member 2=charon:{}", charon.display());
        let can = |line: &str| -> Vec<bool> {
            plan(line).unwrap().occupants.iter().map(Occupant::can_freeze).collect()
        };
        assert_eq!(can(&line), [true, true, true, false]);
        assert_eq!(can(&format!("--fast {line}")), [true; 4]);
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_way_out() {
        let cases = [
            ("--fast --member 5=vc", "there are 4 members"),
            ("--fast --member 0=vc", "does not begin with a member's number"),
            ("--fast --member x=vc", "does not begin with a member's number"),
            ("--fast --member 2", "names no kind"),
            ("--fast --member 2=ssv", "is no kind of member"),
            ("--fast --member 2=charon", "which Charon?"),
            ("--fast --member 2=charon:", "is no kind of member"),
            ("--fast --member 2=charon:/nowhere/charon", "there is no file /nowhere/charon"),
            ("--fast --member 2=charon:/etc/passwd", "is not a program"),
            ("--fast --member 2=charon:/bin/true", "is not Charon"),
            ("--fast --member 2=vc --member 2=hearth", "given twice"),
            ("--member 4=vc", "is the box in QEMU"),
            ("--members 3", "3 is not in 4..=16"),
            ("--threshold 2", "from 3"),
            ("--threshold 5", "to 4"),
            ("--report x.json", "--slots"),
            ("--restart-members", "--slots"),
            ("--optimised", "--report"),
        ];
        for (line, part) in cases {
            let error = plan(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
