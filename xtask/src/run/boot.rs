//! Boots the image in QEMU, and keeps its clock.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use hw_tests::image::Image;
use hw_tests::ports::free_ports;
use hw_tests::vm::Vm;

use super::members::Body;
use super::{Steps, stopped};
use crate::say;

/// An emulated first boot takes two minutes on two busy cores; nothing good comes after this.
const BOOT_PATIENCE: Duration = Duration::from_secs(900);
/// How often the emulated box's clock is compared with this machine's.
const TIME_CHECK: Duration = Duration::from_secs(4);
/// Questions about the time in one comparison.
const SAMPLES: usize = 4;
/// How far it may be off before it is set, in seconds; a step below half a second does not trouble the box.
const TIME_TOLERANCE: f64 = 0.2;
/// A step that may trouble it, in seconds, and how long its signer then signs nothing where no time service vouches for the clock
/// (decision 0283).
const TROUBLING_STEP: f64 = 0.4;
const CALM: Duration = Duration::from_secs(63);
/// When a box's clock still has to be set by then, it runs too wrong for duties.
const CALM_PATIENCE: Duration = Duration::from_secs(600);

/// Boots the image and reads the claim code off its console, as an owner would off the screen.
pub(super) fn boot_box(image: &Image, dir: &Path, steps: &mut Steps<'_>) -> anyhow::Result<Body> {
    say::begin("booting the box in QEMU with UEFI Secure Boot and a software TPM");
    let ports = free_ports(2);
    let (p2p_port, page_port) = (ports[0], ports[1]);
    let mut vm = Vm::builder(&image.raw, dir).forward(p2p_port, 3610).forward(page_port, 443).start()?;
    let log = vm.serial_log().to_owned();
    let begun = Instant::now();
    let mut shown = String::new();
    while vm.wait_ready(Duration::from_secs(5)).is_err() {
        vm.check_alive()?;
        ensure!(!stopped(), "stopped");
        let last = hw_tests::process::log_tail(&log, 1);
        if last != shown && !last.trim().is_empty() {
            say::detail(&format!("box: {}", last.trim().chars().take(110).collect::<String>()));
            shown = last;
        }
        ensure!(
            begun.elapsed() < BOOT_PATIENCE,
            "the box did not come up within {} s; its console is in {}",
            BOOT_PATIENCE.as_secs(),
            log.display()
        );
    }
    let line = vm.wait_for("hearth: claim code ", Duration::from_secs(60))?;
    let code =
        line.rsplit("claim code ").next().unwrap_or_default().trim().chars().take(14).collect::<String>();
    steps.done("box booted");
    set_clock_and_wait(&mut vm)?;
    let body = Body::Qemu { vm: Box::new(vm), p2p_port, page_port, code, timed: Instant::now() };
    if let Some(page) = body.page()? {
        page.wait(Duration::from_secs(120))?;
    }
    steps.done("page answers");
    Ok(body)
}

/// Sets the clock of a box that has just started, and waits until its signer believes it.
fn set_clock_and_wait(vm: &mut Vm) -> anyhow::Result<()> {
    let begun = Instant::now();
    if keep_time(vm)? <= TROUBLING_STEP {
        return Ok(());
    }
    say::note(&format!(
        "its signer waits for {} s after such a step, as a box's signer must",
        CALM.as_secs()
    ));
    let (mut calm_since, mut compared) = (Instant::now(), Instant::now());
    while calm_since.elapsed() < CALM {
        ensure!(!stopped(), "stopped");
        ensure!(begun.elapsed() < CALM_PATIENCE, "the box's clock has to be set again and again");
        vm.check_alive()?;
        std::thread::sleep(Duration::from_secs(1));
        if compared.elapsed() > TIME_CHECK {
            if keep_time(vm)? > TROUBLING_STEP {
                calm_since = Instant::now();
            }
            compared = Instant::now();
        }
    }
    Ok(())
}

/// Compares the box's clock when it is time for it; `timed` is when it was last compared.
pub(super) fn keep_time_now_and_then(vm: &mut Vm, timed: &mut Instant) -> anyhow::Result<()> {
    if timed.elapsed() > TIME_CHECK {
        keep_time(vm)?;
        *timed = Instant::now();
    }
    Ok(())
}

/// Does for the emulated box what a time server does for a real one, which it cannot reach: an emulated clock starts from
/// whole seconds and runs wrong on a busy host, and a box whose clock is off by more than a second rightly signs nothing. Gives by how many
/// seconds it was set.
fn keep_time(vm: &mut Vm) -> anyhow::Result<f64> {
    // An answer is on the way for a while on a busy host, and nobody knows on which half of it: the quickest of a few tells most.
    let mut best: Option<(f64, f64)> = None;
    for _ in 0..SAMPLES {
        let asked = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let text = vm.expect("date +%s.%N")?;
        let answered = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let guest: f64 = text.trim().parse().with_context(|| format!("the box's `date` says {text:?}"))?;
        let unsure = (answered - asked) / 2.0;
        if best.is_none_or(|(_, least)| unsure < least) {
            best = Some((guest - asked - unsure, unsure));
        }
        if best.is_some_and(|(off, unsure)| off.abs() + unsure <= TIME_TOLERANCE) {
            return Ok(0.0);
        }
    }
    let Some((off, unsure)) = best.filter(|(off, unsure)| off.abs() > TIME_TOLERANCE + unsure) else {
        return Ok(0.0);
    };
    // By the box's own clock, lest the time on the way there count.
    let off_ns = (off * 1e9).round();
    let set = "date -s @$((t / 1000000000)).$(printf %09d $((t % 1000000000))) >/dev/null";
    vm.expect(&format!("t=$(( $(date +%s%N) - ({off_ns}) )); {set}"))?;
    say::note(&format!(
        "the box's clock was {off:+.2} s off (known to {unsure:.2} s) and is set from here, for want of a time server"
    ));
    Ok(off.abs())
}
