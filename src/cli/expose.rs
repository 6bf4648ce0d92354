//! `tcp-punch expose`: a service of this host, reachable under a long-lived key.

use super::args::ExposeArgs;
use super::destination::{self, Destination, DestinationError, JoinError};
use super::how::{self, How};
use super::peers::{self, Peers};
use super::punch::{destination_failure, privilege};
use super::server::{self, Named};
use super::{Failure, Status, datapath, identity, interrupt, log, meet};
use crate::engine::{Expose, Happening, Host, Lost, Meet, MeetError, Met};
use crate::rendezvous::PublicKey;
use crate::sys::capability::{self, BINDING_LOW_PORTS, NEEDED};
use crate::sys::privilege::drop_all_but;
use caps::Capability;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::Level;
use tracing::level_filters::LevelFilter;

/// Connections that are ended from here are over within that.
const ENDING: Duration = Duration::from_secs(1);

/// A service tells of its callers, unlike a punch.
pub fn start_log(args: &ExposeArgs) {
    log::start(match (args.quiet, args.verbose) {
        (true, _) => LevelFilter::from_level(Level::WARN),
        (false, 0) => LevelFilter::from_level(Level::INFO),
        (false, verbose) => log::level(false, verbose),
    });
}

/// Runs until a signal ends it.
///
/// # Errors
/// The failure to print, with its exit status.
pub fn expose(args: &ExposeArgs) -> Result<u8, Failure> {
    // Keys come of the meeting, so every strategy has one.
    let how = how::judge(&args.how, true)?;
    let service = Destination::Connect(args.to.clone()).prepare();
    service.map_err(|error| destination_failure(&error))?;
    let server = server::named(&args.server)?;
    let peers = peers::of(&args.identity)?;
    if peers.keys().is_empty() {
        return Err(Failure::usage(
            format!("nobody may call: {} names no peer", peers.path().display()),
            "add a line for each: NAME KEY, as tcp-punch key prints it there",
        ));
    }
    capability::require().map_err(|error| privilege(&error))?;
    datapath::check(how.datapath)?;
    let kept = identity::identity(args.identity.identity.as_deref())?;
    if kept.made {
        eprintln!("tcp-punch: made a key pair in {}", kept.path.display());
    }
    eprintln!("tcp-punch: this is {}", kept.identity.public());
    // Not CAP_IPC_LOCK: a search would lock the memory of all threads.
    let [raw, admin] = NEEDED;
    drop_all_but(&[raw, admin, BINDING_LOW_PORTS, Capability::CAP_SYS_NICE, Capability::CAP_BPF])
        .map_err(|error| {
        let todo = "run it outside of a sandbox that forbids capset";
        Failure::new(Status::Privilege, error, todo)
    })?;
    let signals = interrupt::caught()?;
    let owner = Arc::new(Owner {
        service: args.to.clone(),
        how,
        server,
        peers: Mutex::new(peers),
        joined: Mutex::default(),
        over: Condvar::new(),
    });
    let stop = interrupt::descriptor(&signals)?;
    let host: Arc<dyn Host> = Arc::<Owner>::clone(&owner);
    let expose = Expose::new(kept.identity, host, stop)
        .map_err(|error| Failure::new(Status::Internal, &error, error.advice()))?;
    let ended = expose.run();
    owner.end_all();
    // Taken from the kernel, or it would end us once signals are let through again.
    let _ = signals.caught();
    match ended {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(0)
        }
        Err(lost) => Err(Failure::new(Status::Rendezvous, &lost, advice(&lost))),
    }
}

fn advice(lost: &Lost) -> String {
    match lost {
        Lost::Line(error) => error.advice(),
        Lost::Listener(_) => "give each host a key pair of its own".into(),
        Lost::Nowhere(_) => "check --server, and that names are resolved".into(),
    }
}

/// Whose service it is.
struct Owner {
    service: String,
    how: How,
    server: Named,
    /// As they were read last.
    peers: Mutex<Peers>,
    joined: Mutex<Joined>,
    /// One of them has ended.
    over: Condvar,
}

/// Connections under way, and what ends each.
#[derive(Default)]
struct Joined {
    next: u64,
    stops: BTreeMap<u64, Arc<EventFd>>,
}

impl Owner {
    fn joined(&self) -> MutexGuard<'_, Joined> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a caller is called here.
    fn name(&self, key: Option<PublicKey>) -> String {
        let Some(key) = key else { return "a caller".into() };
        self.peers().name_of(key).map_or_else(|| key.to_string(), str::to_owned)
    }

    fn join(&self, connection: OwnedFd) -> Result<(), DestinationError> {
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
            .map_err(|error| DestinationError::Broken(JoinError::Setup(error.into())))?;
        let stop = Arc::new(stop);
        let number = {
            let mut joined = self.joined();
            joined.next += 1;
            let number = joined.next;
            joined.stops.insert(number, Arc::clone(&stop));
            number
        };
        let ended = destination::serve(&self.service, connection, &stop);
        self.joined().stops.remove(&number);
        self.over.notify_all();
        ended
    }

    /// Ends every connection with a reset: a stream that is cut must not look complete.
    fn end_all(&self) {
        let joined = self.joined();
        for stop in joined.stops.values() {
            // A counter at zero takes a one.
            let _ = stop.write(1);
        }
        let _ = self.over.wait_timeout_while(joined, ENDING, |joined| !joined.stops.is_empty());
    }
}

impl Host for Owner {
    fn server(&self) -> Result<SocketAddr, String> {
        self.server.resolve().map_err(|failure| failure.happened)
    }

    /// The file is read again for each call: who is added is let in, and who is struck out is not.
    fn allowed(&self) -> Vec<PublicKey> {
        let mut peers = self.peers();
        match Peers::read(peers.path()) {
            Ok(read) => *peers = read,
            Err(failure) => {
                tracing::warn!("{}; those that it named before may call", failure.happened);
            }
        }
        peers.keys()
    }

    fn prepare(&self, meet: Meet) -> Meet {
        meet::with(meet, &self.how)
    }

    fn hear(&self, what: Happening) {
        match what {
            Happening::Listening { server, again: false } => {
                tracing::info!("called by way of {server}");
            }
            // Who was told of the loss is told of its end.
            Happening::Listening { server, again: true } => {
                tracing::warn!("called again by way of {server}");
            }
            Happening::Lost(lost) => {
                tracing::warn!("{lost}; trying until it works ({})", advice(&lost));
            }
            Happening::Failed(_, error @ MeetError::NotAllowed(_)) => {
                let path = self.peers().path().display().to_string();
                tracing::warn!("{error}, which is not in {path}");
            }
            Happening::Failed(caller, error) => {
                let caller = self.name(caller);
                tracing::warn!("{caller} called: {error} ({})", error.advice());
            }
            Happening::TooMany(under_way) => {
                tracing::warn!("a call was not taken: {under_way} are under way");
            }
        }
    }

    fn take(&self, met: Met) {
        let caller = self.name(met.peer);
        let line = meet::line(&met);
        tracing::info!("{caller}: {}", line.strip_prefix("tcp-punch: ").unwrap_or(&line));
        match self.join(met.connection.fd) {
            Ok(()) => tracing::info!("{caller}: done"),
            Err(error) => tracing::warn!("{caller}: {error}"),
        }
    }
}
