//! The rendezvous server: drives its states ([`crate::rendezvous::server`]) with sockets.
//!
//! One thread does it all, and each connection is a task of a few hundred bytes. No packet goes to
//! an address that has not proven itself: a TCP handshake comes before anything that the server
//! says, and a [probe](crate::rendezvous::Request::Probe) goes only to the very address that asks,
//! after it has sent a handshake, a greeting and the request.

mod accept;
mod bus;
mod connection;
mod hub;
mod metrics;
mod probe;

pub use bus::{BusAddress, BusError, NoBusAddress};

use crate::rendezvous::server::{Addresses, Limits, Server};
use crate::sys::{CallFailed, ListenError, listen_at, raise_descriptor_limit, watch_readable};
use bus::Bus;
use hub::Shared;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

/// A client that has vanished, or whose router has forgotten it, is found out after two minutes;
/// and a router forgets no connection that is heard of every minute (RFC 5382, REQ-5: 2 h; many
/// forget after 5 min).
const KEEPALIVE_IDLE: u32 = 60;
const KEEPALIVE_INTERVAL: u32 = 15;
const KEEPALIVE_COUNT: u32 = 4;

/// Descriptors that are not for clients: listeners, probes, metrics, the runtime's own.
const RESERVED_DESCRIPTORS: u64 = 1400;

/// Deadlines are looked at no more often than this, and no less.
const TICK: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// At the end clients have so long to take leave.
const FAREWELL: Duration = Duration::from_millis(1500);

/// Where to serve, and whom how much.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address and first port; port 0 takes any.
    pub listen: SocketAddr,
    /// The second port, at the same address.
    pub other_port: u16,
    /// Other addresses of this host, where both ports are open, too.
    pub other_ips: Vec<IpAddr>,
    /// Where figures are told to Prometheus.
    pub metrics: Option<SocketAddr>,
    /// NATS servers of one cluster, which join this server to others; none: it is alone.
    pub bus: Vec<BusAddress>,
    /// Whom how much. The descriptor limit may lower it.
    pub limits: Limits,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A system call failed.
    #[error(transparent)]
    Call(#[from] CallFailed),
    /// There is no randomness.
    #[error("no random numbers: {0}")]
    Random(String),
    /// The runtime could not start.
    #[error("the event loop cannot start: {0}")]
    Runtime(#[from] io::Error),
    /// Other servers cannot be joined.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl ServeError {
    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        match self {
            Self::Listen(error) => error.advice(),
            Self::Call(error) => error.advice(),
            Self::Random(_) => "this kernel is too old, or a sandbox forbids getrandom(2)".into(),
            Self::Bus(BusError::Unreachable { .. }) => {
                "see that nats-server runs there and lets this host in".into()
            }
            Self::Bus(BusError::Full(_)) => "have the others on another bus".into(),
            Self::Runtime(_) => "see the limits on open files and memory: ulimit -a".into(),
        }
    }
}

/// A server whose ports are open and that does not answer yet.
#[derive(Debug)]
pub struct Bound {
    listeners: Vec<TcpListener>,
    metrics: Option<TcpListener>,
    addresses: Addresses,
    bus: Vec<BusAddress>,
    limits: Limits,
}

impl Bound {
    /// Opens every port. Afterwards no privilege is needed, unless a port is below 1024: probes
    /// leave from it.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn new(config: &Config) -> Result<Self, ServeError> {
        let mut limits = config.limits;
        let descriptors = raise_descriptor_limit()?.saturating_sub(RESERVED_DESCRIPTORS).max(64);
        limits.connections =
            limits.connections.min(usize::try_from(descriptors).unwrap_or(usize::MAX));
        let one = listen(config.listen)?;
        let address = local(&one)?;
        let other = listen(SocketAddr::new(address.ip(), config.other_port))?;
        let ports = [address.port(), local(&other)?.port()];
        let mut listeners = vec![one, other];
        let everywhere = address.ip().is_unspecified();
        for ip in &config.other_ips {
            if everywhere {
                // Listened on already; whether it is ours shows in passing.
                listen_at(SocketAddr::new(*ip, 0))?;
            } else {
                for port in ports {
                    listeners.push(listen(SocketAddr::new(*ip, port))?);
                }
            }
        }
        let metrics = config.metrics.map(listen).transpose()?;
        let addresses = Addresses {
            ports,
            main: (!everywhere).then_some(address.ip()),
            others: config.other_ips.clone(),
        };
        Ok(Self { listeners, metrics, addresses, bus: config.bus.clone(), limits })
    }

    /// Where clients connect.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Where Prometheus does.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// How many clients there may be at once.
    pub fn capacity(&self) -> usize {
        self.limits.connections
    }

    /// Joins other servers if that is wanted, calls `ready`, and unless that says no serves until
    /// `stop` is readable; then tells every client.
    ///
    /// # Errors
    /// [`ServeError::Runtime`], [`ServeError::Random`], [`ServeError::Bus`].
    pub fn run(self, stop: OwnedFd, ready: impl FnOnce(&Self) -> bool) -> Result<(), ServeError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| ServeError::Random(error.to_string()))?;
        let shared = Shared::new(Server::new(self.addresses.clone(), self.limits, seed));
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(async {
            let stop = watch_readable(stop)?;
            let bus = match &self.bus[..] {
                [] => None,
                addresses => tokio::select! {
                    bus = Bus::join(addresses, &shared) => Some(bus?),
                    _ = stop.readable() => return Ok(()),
                },
            };
            match ready(&self) {
                true => self.serve(&shared, &stop, bus).await,
                false => Ok(()),
            }
        })
    }

    async fn serve(
        self,
        shared: &Shared,
        stop: &AsyncFd<OwnedFd>,
        bus: Option<Bus>,
    ) -> Result<(), ServeError> {
        let mut tasks = Vec::new();
        for listener in self.listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.push(tokio::spawn(accept::accept(listener, shared.clone())));
        }
        if let Some(listener) = self.metrics {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.push(tokio::spawn(metrics::serve(listener, shared.clone())));
        }
        tokio::spawn(tick(shared.clone()));
        let _ = stop.readable().await?;
        for task in tasks {
            task.abort();
        }
        farewell(shared).await;
        if let Some(bus) = bus {
            bus.leave(shared).await;
        }
        Ok(())
    }
}

/// Ends what has taken too long, for good.
async fn tick(shared: Shared) {
    loop {
        let wait = {
            let mut hub = shared.lock();
            let now = hub.now();
            hub.server.handle_timeout(now);
            hub.pump(0);
            let next = hub.server.poll_timeout().unwrap_or(Duration::MAX);
            next.saturating_sub(now).clamp(TICK[0], TICK[1])
        };
        sleep(wait).await;
    }
}

async fn farewell(shared: &Shared) {
    {
        let mut hub = shared.lock();
        hub.server.shut_down();
        hub.pump(0);
    }
    let end = Instant::now() + FAREWELL;
    while !shared.lock().outboxes.is_empty() && Instant::now() < end {
        sleep(Duration::from_millis(5)).await;
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let listener = match listen_at(address) {
        // A kernel without IPv6.
        Err(ListenError::Call(CallFailed { errno: Errno::EAFNOSUPPORT, .. }))
            if address.is_ipv6() && address.ip().is_unspecified() =>
        {
            listen_at(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))?
        }
        other => other?,
    };
    let named = |call| move |errno| CallFailed { call, errno };
    // Accepted connections inherit these (tcp(7)).
    setsockopt(&listener, sockopt::TcpNoDelay, &true).map_err(named("setsockopt(TCP_NODELAY)"))?;
    setsockopt(&listener, sockopt::KeepAlive, &true).map_err(named("setsockopt(SO_KEEPALIVE)"))?;
    setsockopt(&listener, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)
        .and_then(|()| setsockopt(&listener, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL))
        .and_then(|()| setsockopt(&listener, sockopt::TcpKeepCount, &KEEPALIVE_COUNT))
        .map_err(named("setsockopt(TCP_KEEPIDLE)"))?;
    Ok(listener)
}

fn local(listener: &TcpListener) -> Result<SocketAddr, ServeError> {
    Ok(listener.local_addr()?)
}
