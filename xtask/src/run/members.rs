//! The seats of the cluster and who sits in them: a box in QEMU, native members, Charon, and the validator clients of some.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use hw_tests::charon::{CharonMember, Relay};
use hw_tests::devnet::Devnet;
use hw_tests::devnet::duties::ByMember;
use hw_tests::devnet::scribe::Scribe;
use hw_tests::devnet::witness::Witness;
use hw_tests::join::{ChainFacts, NodeFolder};
use hw_tests::member::Member;
use hw_tests::page::{Page, PageError};
use hw_tests::process::Process;
use hw_tests::remote_signer::RemoteSigner;
use hw_tests::stock_client::StockClient;
use hw_tests::vm::{HOST_FROM_GUEST, Vm};
use ipc::remote::{RemoteClientOrder, RemoteRight};
use ipc::signer::{ChainClock, ChainPreset};
use ipc::web::BoxStatus;
use ipc::{Proposals, Signing};

use super::options::{Occupant, Plan};
use super::{boot, stopped};
use crate::say;

/// One member of the cluster.
pub(super) struct Seat {
    /// From 1.
    pub(super) number: u8,
    pub(super) name: String,
    pub(super) occupant: Occupant,
    folder: NodeFolder,
    // Stopped in this order: a client without its middleware only complains.
    /// The stock client that signs for it.
    pub(super) client: Option<StockClient>,
    /// The way from that client to the Hearth's signer.
    remote: Option<RemoteSigner>,
    /// Between the client and a Hearth's validator API.
    pub(super) scribe: Option<Scribe>,
    /// None until started, and again once switched off for good.
    pub(super) body: Option<Body>,
    /// Between it and the beacon node, when duties are counted.
    pub(super) witness: Option<Witness>,
}

/// What runs in a seat.
pub(super) enum Body {
    Qemu { vm: Box<Vm>, p2p_port: u16, page_port: u16, code: String, timed: Instant },
    Native(Box<Member>),
    Charon(Box<CharonMember>),
}

impl Body {
    pub(super) fn p2p_port(&self) -> u16 {
        match self {
            Self::Qemu { p2p_port, .. } => *p2p_port,
            Self::Native(member) => member.p2p_port(),
            Self::Charon(member) => member.p2p_port(),
        }
    }

    /// The page of a Hearth member.
    pub(super) fn page(&self) -> anyhow::Result<Option<Page>> {
        Ok(match self {
            Self::Qemu { page_port, code, .. } => {
                let page = Page::new(SocketAddr::from((Ipv4Addr::LOCALHOST, *page_port)));
                Some(page.with_claim_code(code.clone()))
            }
            Self::Native(member) => Some(member.page()?),
            Self::Charon(_) => None,
        })
    }
}

impl Seat {
    fn beacon_url(&self, chain: &Devnet, guest: bool) -> String {
        match (&self.witness, guest) {
            (Some(witness), true) => format!("http://{HOST_FROM_GUEST}:{}", witness.port()),
            (Some(witness), false) => witness.url(),
            (None, true) => chain.beacon_url_for_guest(),
            (None, false) => chain.beacon_url(),
        }
    }

    pub(super) fn page(&self) -> anyhow::Result<Option<Page>> {
        self.body.as_ref().map_or(Ok(None), Body::page)
    }

    /// What a Hearth member's page says; none for others, and while it is away.
    pub(super) fn status(&self) -> Option<BoxStatus> {
        self.page().ok()??.status().ok()
    }

    /// What takes part in the duties for this member, while it runs and is of a kind that can be frozen.
    pub(super) fn duty_process(&mut self) -> Option<&mut Process> {
        match &mut self.body {
            Some(Body::Native(member)) => member.node().as_mut(),
            Some(Body::Charon(member)) => member.process(),
            Some(Body::Qemu { .. }) | None => None,
        }
    }

    /// The Charon in this seat.
    pub(super) fn charon(&self) -> Option<&CharonMember> {
        match &self.body {
            Some(Body::Charon(member)) => Some(member),
            Some(Body::Qemu { .. } | Body::Native(_)) | None => None,
        }
    }

    /// Whether it can be killed and started again within a slot or two; a box that boots under emulation cannot.
    pub(super) fn can_restart(&self) -> bool {
        matches!(self.body, Some(Body::Native(_) | Body::Charon(_)))
    }

    /// Where the validator API of a Hearth is that a stock client signs for.
    fn api_address(&self) -> Option<SocketAddr> {
        match (&self.occupant, &self.body) {
            (occupant, Some(Body::Native(member))) if occupant.has_client() => Some(member.validator_api()),
            (_, _) => None,
        }
    }

    /// Starts the client behind a Hearth's validator API. It waits by itself until the API is open.
    fn start_client(&mut self, chain: &Devnet, dir: &Path, api: SocketAddr) -> anyhow::Result<()> {
        let scribe = Scribe::start(&format!("http://{api}"))?;
        let home = self.home(dir).join("client");
        let client = StockClient::start(&self.name, &home, &self.folder, chain, &scribe.url());
        self.client =
            Some(client.with_context(|| format!("starting the validator client of {}", self.name))?);
        self.scribe = Some(scribe);
        Ok(())
    }

    /// Starts a client that has no keys: its owner lets it ask the signer, and brings what it needs to it.
    fn start_remote_client(
        &mut self,
        chain: &Devnet,
        dir: &Path,
        api: SocketAddr,
        page: &Page,
        public_keys: Vec<String>,
    ) -> anyhow::Result<()> {
        let Some(Body::Native(member)) = &self.body else {
            bail!("only a native member can have a client that asks its signer");
        };
        let socket = member.signer_remote_socket();
        let mut order = RemoteClientOrder {
            name: "prysm".to_owned(),
            may: BTreeSet::from([RemoteRight::Sign]),
            addresses: Vec::new(),
            code: None,
        };
        let seen = member.screen()?.len();
        match page.let_in(&order) {
            Err(PageError::Refused { problem, .. }) if problem.code == "confirm_on_screen" => {}
            Err(error) => return Err(error.into()),
            Ok(_) => bail!("a client was let in without the code from the box's screen"),
        }
        order.code = Some(member.code_on_screen(seen)?);
        let made = page.let_in(&order)?;
        let scribe = Scribe::start(&format!("http://{api}"))?;
        let home = self.home(dir).join("client");
        let remote = RemoteSigner::open(&home.join("remote"), &socket, &made)?;
        let (url, signer) = (scribe.url(), remote.url().to_owned());
        let client = StockClient::start_with_signer(&self.name, &home, chain, &url, &signer, public_keys);
        self.client =
            Some(client.with_context(|| format!("starting the validator client of {}", self.name))?);
        self.scribe = Some(scribe);
        self.remote = Some(remote);
        Ok(())
    }

    /// Kills it and its client at once.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(client) = &mut self.client {
            client.power_cut()?;
        }
        match &mut self.body {
            Some(Body::Native(member)) => member.power_cut()?,
            Some(Body::Charon(member)) => member.power_cut()?,
            Some(Body::Qemu { vm, .. }) => vm.power_cut()?,
            None => {}
        }
        Ok(())
    }

    /// Starts it again after [`Self::kill`].
    pub(super) fn power_on(&mut self) -> anyhow::Result<()> {
        match &mut self.body {
            Some(Body::Native(member)) => member.power_on()?,
            Some(Body::Charon(member)) => member.power_on()?,
            Some(Body::Qemu { .. }) | None => {}
        }
        if let Some(client) = &mut self.client {
            client.power_on()?;
        }
        Ok(())
    }

    /// Ends it for the rest of the run.
    pub(super) fn switch_off(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.client = None;
        self.remote = None;
        self.scribe = None;
        self.body = None;
        Ok(())
    }

    /// The shares that its owner handed in.
    pub(super) fn share_keys(&self) -> anyhow::Result<Vec<threshold::SecretKey>> {
        Ok(self.folder.share_keys()?)
    }

    /// The cluster lock, as its owner has it.
    pub(super) fn lock_json(&self) -> anyhow::Result<serde_json::Value> {
        Ok(self.folder.lock_json()?)
    }

    pub(super) fn is_on(&self) -> bool {
        self.body.is_some()
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        match &mut self.body {
            Some(Body::Qemu { vm, timed, .. }) => {
                vm.check_alive()?;
                boot::keep_time_now_and_then(vm, timed)?;
            }
            Some(Body::Native(member)) => member.check_alive()?,
            Some(Body::Charon(member)) => member.check_alive()?,
            None => {}
        }
        if let Some(client) = &mut self.client {
            client.check_alive()?;
        }
        if let Some(remote) = &mut self.remote {
            remote.check_alive()?;
        }
        Ok(())
    }

    /// Where its files are.
    fn home(&self, dir: &Path) -> PathBuf {
        dir.join(self.name.replace(' ', "-"))
    }

    /// Where its logs are.
    fn logs(&self) -> Option<PathBuf> {
        match self.body.as_ref()? {
            Body::Qemu { vm, .. } => Some(vm.serial_log().to_owned()),
            Body::Native(member) => Some(member.dir().to_owned()),
            Body::Charon(member) => Some(member.log()),
        }
    }
}

/// All members.
pub(super) struct Cluster {
    pub(super) seats: Vec<Seat>,
    /// The Hearth member that plays the box.
    page_seat: Option<usize>,
    relay: Option<Relay>,
    pub(super) threshold: u8,
}

impl Cluster {
    /// Empty seats, one folder of `create cluster` each.
    pub(super) fn new(plan: &Plan, folders: Vec<NodeFolder>) -> Self {
        let page_seat = plan.page_seat();
        let seats = plan.occupants.iter().zip(folders).zip(1_u8..).enumerate();
        let seats = seats.map(|(position, ((occupant, folder), number))| {
            let name = match occupant {
                Occupant::Box => "the box".to_owned(),
                Occupant::Hearth | Occupant::HearthWithClient | Occupant::HearthWithRemoteClient
                    if page_seat == Some(position) =>
                {
                    "hearth".to_owned()
                }
                Occupant::Hearth => format!("member-{number}"),
                Occupant::HearthWithClient => format!("member-{number}-vc"),
                Occupant::HearthWithRemoteClient => format!("member-{number}-vc-signer"),
                Occupant::Charon(_) => format!("charon-{number}"),
            };
            Seat {
                number,
                name,
                occupant: occupant.clone(),
                folder,
                body: None,
                client: None,
                remote: None,
                scribe: None,
                witness: None,
            }
        });
        Self { seats: seats.collect(), page_seat, relay: None, threshold: plan.threshold }
    }

    /// Fills the box's seat.
    pub(super) fn seat_box(&mut self, body: Body) {
        if let Some(seat) = self.page_seat {
            self.seats[seat].body = Some(body);
        }
    }

    /// Puts a witness between each member and the beacon node.
    pub(super) fn witness_all(&mut self, chain: &Devnet) -> anyhow::Result<()> {
        for seat in &mut self.seats {
            seat.witness = Some(Witness::start(&chain.beacon_url())?);
        }
        Ok(())
    }

    /// What the beacon node accepted from each member until now.
    pub(super) fn handed_in(&self) -> ByMember {
        let seats = self.seats.iter();
        seats.filter_map(|seat| Some((seat.number, seat.witness.as_ref()?.seen().accepted))).collect()
    }

    /// Requests that the beacon node accepted from members and that could not be read here.
    pub(super) fn unreadable(&self) -> u64 {
        self.seats.iter().filter_map(|seat| Some(seat.witness.as_ref()?.seen().unreadable)).sum()
    }

    /// Starts whoever does not run yet. The chain must run: Charon asks it at once.
    pub(super) fn start(&mut self, chain: &Devnet, dir: &Path, binaries: &Path) -> anyhow::Result<()> {
        let first_charon = self.seats.iter().find_map(|seat| match &seat.occupant {
            Occupant::Charon(charon) => Some(charon),
            Occupant::Box
            | Occupant::Hearth
            | Occupant::HearthWithClient
            | Occupant::HearthWithRemoteClient => None,
        });
        if let Some(charon) = first_charon {
            self.relay = Some(Relay::start(charon, &dir.join("relay"))?);
            say::detail("charon relay: answers");
        }
        for seat in self.seats.iter_mut().filter(|seat| seat.body.is_none()) {
            ensure!(!stopped(), "stopped");
            let home = seat.home(dir);
            match (&seat.occupant, &self.relay) {
                (Occupant::Charon(charon), Some(relay)) => {
                    let url = seat.beacon_url(chain, false);
                    let path = seat.folder.path();
                    let member = CharonMember::start(&seat.name, &home, charon, path, chain, &url, relay)?;
                    let api = member.api_url();
                    seat.body = Some(Body::Charon(Box::new(member)));
                    seat.client = Some(StockClient::start(
                        &seat.name,
                        &home.join("client"),
                        &seat.folder,
                        chain,
                        &api,
                    )?);
                    say::detail(&format!("{}: Charon and its validator client started", seat.name));
                }
                (Occupant::Hearth | Occupant::HearthWithClient | Occupant::HearthWithRemoteClient, _) => {
                    seat.body = Some(Body::Native(Box::new(Member::start(&seat.name, &home, binaries)?)));
                }
                (Occupant::Charon(_), None) | (Occupant::Box, _) => {}
            }
        }
        Ok(())
    }

    /// Every Hearth member gets its shares, or a validator client that has them, and learns of the others.
    pub(super) fn join_all(&mut self, chain: &Devnet, dir: &Path, slot_seconds: u64) -> anyhow::Result<()> {
        let lock = self.seats[0].folder.lock()?;
        let view = lock.verify(&[]).context("the cluster lock just made does not verify")?;
        let clock = ChainClock {
            genesis_time: chain.genesis_time()?,
            slot_ms: slot_seconds * 1000,
            slots_per_epoch: chain.config().slots_per_epoch,
            preset: ChainPreset::Mainnet,
        };
        let genesis_validators_root = chain.api().genesis_validators_root()?;
        let ports: Vec<u16> =
            self.seats.iter().map(|seat| seat.body.as_ref().map_or(0, Body::p2p_port)).collect();
        for (position, seat) in self.seats.iter_mut().enumerate() {
            ensure!(!stopped(), "stopped");
            let Some(page) = seat.page()? else { continue };
            let guest = matches!(seat.body, Some(Body::Qemu { .. }));
            let host = if guest { HOST_FROM_GUEST } else { "127.0.0.1" };
            let others = view.operators.iter().filter(|operator| operator.index != position);
            let peers = others.map(|operator| {
                format!("/ip4/{host}/tcp/{}/p2p/{}", ports[operator.index], operator.peer_id)
            });
            let facts = ChainFacts {
                genesis_validators_root: genesis_validators_root.clone(),
                clock,
                beacon_nodes: vec![seat.beacon_url(chain, guest)],
            };
            let name = seat.name.clone();
            // A share is in one place: with whoever signs with it.
            if seat.occupant != Occupant::HearthWithClient {
                seat.folder
                    .import_shares(&page, seat.number, &facts)
                    .with_context(|| format!("importing the shares of {name}"))?;
            }
            let signing = match seat.api_address() {
                Some(listen) => Signing::ValidatorClient { listen },
                None => Signing::BuiltIn,
            };
            let proposals = Proposals { builder_api: chain.config().builder, ..Proposals::default() };
            seat.folder
                .join_proposing(&page, &facts, peers.collect(), signing, proposals)
                .with_context(|| format!("joining with {name}"))?;
            match signing {
                Signing::BuiltIn => say::detail(&format!("{name}: shares sealed, cluster joined")),
                Signing::ValidatorClient { listen } if seat.occupant == Occupant::HearthWithRemoteClient => {
                    let own = usize::from(seat.number).saturating_sub(1);
                    let shares = lock
                        .validators
                        .iter()
                        .filter_map(|validator| validator.public_shares.get(own).map(ToString::to_string));
                    seat.start_remote_client(chain, dir, listen, &page, shares.collect())?;
                    say::detail(&format!(
                        "{name}: shares sealed, cluster joined, Prysm's validator client asks the signer over mutual TLS"
                    ));
                }
                Signing::ValidatorClient { listen } => {
                    seat.start_client(chain, dir, listen)?;
                    say::detail(&format!("{name}: cluster joined, Prysm's validator client has the shares"));
                }
            }
        }
        Ok(())
    }

    /// The page of the Hearth member that plays the box.
    pub(super) fn page(&self) -> anyhow::Result<Page> {
        let seat = self.page_seat.and_then(|seat| self.seats.get(seat));
        let page = seat.context("no Hearth member in this cluster")?.page()?;
        page.context("the Hearth member does not run")
    }

    /// The page seat's number, from 1.
    pub(super) fn page_number(&self) -> Option<u8> {
        self.page_seat.and_then(|seat| self.seats.get(seat)).map(|seat| seat.number)
    }

    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(relay) = &mut self.relay {
            relay.check_alive()?;
        }
        self.seats.iter_mut().try_for_each(Seat::check_alive)
    }

    pub(super) fn say_addresses(&self, chain: &Devnet) -> anyhow::Result<()> {
        eprintln!();
        if let Ok(page) = self.page() {
            say::good(&format!("the box's page: https://{}", page.address()));
        }
        for seat in &self.seats {
            let logs = seat.logs().map(|logs| logs.display().to_string()).unwrap_or_default();
            match &seat.body {
                Some(Body::Qemu { code, .. }) => say::detail(&format!("claim code {code} · console {logs}")),
                Some(Body::Native(member)) => {
                    say::detail(&format!("{}: https://{} · logs {logs}", seat.name, member.page_address()))
                }
                Some(Body::Charon(member)) => say::detail(&format!(
                    "{}: Charon {} · validator API {} · log {logs}",
                    seat.name,
                    member.charon().version(),
                    member.api_url()
                )),
                None => {}
            }
        }
        say::detail(&format!("beacon node {} · chain logs {}", chain.beacon_url(), chain.dir().display()));
        eprintln!();
        Ok(())
    }

    /// Ends the box as a power cut would; the others end when dropped.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        for seat in &mut self.seats {
            if let Some(Body::Qemu { vm, .. }) = &mut seat.body {
                vm.power_cut()?;
            }
        }
        Ok(())
    }
}
