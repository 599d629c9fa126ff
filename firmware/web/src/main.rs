//! The owner's page: one TLS port on the home network that shows the box and passes the owner's wishes on.
//!
//! It holds no key share, opened or sealed for longer than a request takes, and decides nothing about signing: the
//! daemons behind their control sockets do. Whoever breaks in here can lie to the owner and can send what the owner
//! could send, but cannot sign and cannot read a share that is already in: shares pass through sealed to the signer. What is
//! imported *after* a break-in is another matter, because this process also shows the key that shares are sealed to and could
//! show its own (docs/threat-model.md).

mod claim;
mod cluster_edit;
mod clusters;
mod config;
mod disks;
mod facts;
mod key_generation;
mod moving;
mod notice;
mod owner;
mod recovery;
mod remote;
mod server;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipc::Client;
use tokio::net::TcpListener;

use crate::claim::Claim;
use crate::config::Config;
use crate::notice::Notice;
use crate::recovery::Keeper;
use crate::server::Web;

/// Connections at once, for everybody together.
const MAX_CONNECTIONS: usize = 128;
/// How long a visitor may take over the TLS handshake, and over sending the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the daemons may take for one answer.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(30);

/// The owner's page.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration.
    #[arg(long, default_value = "/usr/lib/hearth/web.toml")]
    config: PathBuf,
    /// Serves nothing: shows on the box's screen what the page has left there to be shown, and ends.
    #[arg(long)]
    show: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.show {
        return show(&Config::load(&arguments.config)?);
    }
    ipc::logging::start("info");
    ipc::service::end_on_panic();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(run(&arguments.config))
}

/// What `screen.service` runs, as another user than the page's.
fn show(config: &Config) -> anyhow::Result<()> {
    let path = config.notice.as_deref().context("the configuration has no `notice`")?;
    print!("{}", notice::read(path)?.sentences(&config.name));
    Ok(())
}

async fn run(config_path: &Path) -> anyhow::Result<()> {
    let config = Config::load(config_path)?;
    let code = claim::load_or_create(&config.state_dir)
        .with_context(|| format!("cannot keep the claim code in {}", config.state_dir.display()))?;
    let tls = tls::load_or_create(&config.state_dir, &config.name)?;
    let listener = listener(&config)?;
    let web = Arc::new(Web {
        machine: facts::read(Path::new("/"), &config.name),
        node: Client::new(config.node_socket).with_timeout(DAEMON_TIMEOUT),
        signer: Client::new(config.signer_socket).with_timeout(DAEMON_TIMEOUT),
        recovery: Keeper::new(config.recovery_socket),
        claim: Mutex::new(Claim::new(&code)),
    });

    // The box's own screen is the one place where the code is shown. It is not ours to write on (decision 0304).
    let notice = Notice::new(&tls.fingerprint, &code).context("the claim code is none")?;
    match &config.notice {
        Some(path) => {
            // A page without its code on the screen still shows the box.
            if let Err(error) = notice.leave(path) {
                tracing::error!(%error, path = %path.display(), "the claim code is not shown on the screen");
            }
        }
        None => print!("{}", notice.sentences(&config.name)),
    }
    let stop = ipc::service::asked_to_stop();
    ipc::service::ready("serving the page");
    tokio::spawn(ipc::service::watchdog(|| async { true }));

    tokio::select! {
        () = serve(listener, tls.config, server::router(web)) => {}
        () = stop => {}
    }
    Ok(())
}

/// The port that systemd opened for us (we could not: it is below 1024), or the configured address when run by hand.
fn listener(config: &Config) -> anyhow::Result<TcpListener> {
    let inherited =
        listenfd::ListenFd::from_env().take_tcp_listener(0).context("the socket from systemd is not TCP")?;
    let listener = match (inherited, config.listen) {
        (Some(listener), _) => listener,
        (None, Some(address)) => std::net::TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {address}; is it in use?"))?,
        (None, None) => anyhow::bail!("systemd passed no socket and the configuration has no `listen`"),
    };
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, router: axum::Router) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: give the others time to end.
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let _place = place;
            let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS"),
                Err(_) => return tracing::debug!(%peer, "too slow over the TLS handshake"),
            };
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_headers(64)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                .await;
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "connection ended badly");
            }
        });
    }
}
