//! A service that is called under a long-lived key, for as long as it is to be.

use super::stream::Stream;
use super::{Meet, MeetError, Met, Step};
use crate::rendezvous::{
    Backoff, Exchange, Heard, Identity, Listener, ListenerError, PublicKey, Purpose, Refusal,
    SessionError,
};
use crate::sys::{CallFailed, NetworkChange, wait_readable, wait_writable};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

/// Who exposes: decides who may call and how it is punched, and takes the connections. It is asked
/// on many threads at once.
pub trait Host: Send + Sync {
    /// Where the server is. Asked before each connection to it: its name may have another address
    /// by now.
    ///
    /// # Errors
    /// Why it is not known, in words.
    fn server(&self) -> Result<SocketAddr, String>;
    /// Who may call. Asked for each call.
    fn allowed(&self) -> Vec<PublicKey>;
    /// The options of a punch.
    fn prepare(&self, meet: Meet) -> Meet;
    /// Hears how it goes.
    fn hear(&self, what: Happening);
    /// Takes a connection, and stays as long as that takes: the thread is the call's own.
    fn take(&self, met: Met);
}

/// What happens to who exposes.
#[derive(Debug)]
pub enum Happening {
    /// Calls come in.
    Listening {
        /// By way of this server.
        server: SocketAddr,
        /// After they were lost.
        again: bool,
    },
    /// They do not, as said; it is tried again until they do. Told once.
    Lost(Lost),
    /// A call led to nothing. The caller, if it was heard.
    Failed(Option<PublicKey>, MeetError),
    /// A call was not taken: so many are under way.
    TooMany(usize),
}

/// Why no calls come in.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Nobody knows where the server is.
    #[error("{0}")]
    Nowhere(String),
    /// There is no connection to it.
    #[error(transparent)]
    Line(#[from] MeetError),
    /// What it said there.
    #[error(transparent)]
    Listener(#[from] ListenerError),
}

/// Listens under a key and takes calls. Build it, then [`Expose::run`] it.
pub struct Expose {
    identity: Identity,
    host: Arc<dyn Host>,
    interrupt: OwnedFd,
    /// Where the kernel does not tell, it takes a keepalive to notice.
    changes: Option<NetworkChange>,
    began: Instant,
    backoff: Backoff,
    /// Whether it has been said that the server is lost.
    is_lost: bool,
    calls: Calls,
}

/// Meetings at once. Each has some ten sockets and as many threads as there are ways to the peer.
const MEETINGS: usize = 64;
/// Connections at once, meetings among them: five descriptors each.
const CONNECTIONS: usize = 512;
/// Calls that are known again if somebody who has overheard one brings it a second time. Whoever
/// still has an older one makes this host survey its routers once, and nothing else.
const OPENINGS: usize = 1024;
/// A meeting that is interrupted ends within that.
const ENDING: Duration = Duration::from_secs(2);
/// A network that changes again and again does not have the server asked more often.
const SETTLING: Duration = Duration::from_secs(1);

impl Expose {
    /// Listens for calls of `identity` until `interrupt` becomes readable.
    ///
    /// # Errors
    /// The kernel's, out of descriptors.
    pub fn new(
        identity: Identity,
        host: Arc<dyn Host>,
        interrupt: OwnedFd,
    ) -> Result<Self, CallFailed> {
        let changes = NetworkChange::watch().inspect_err(|error| tracing::debug!("{error}")).ok();
        Ok(Self {
            calls: Calls::new()?,
            identity,
            host,
            interrupt,
            changes,
            began: Instant::now(),
            backoff: Backoff::default(),
            is_lost: false,
        })
    }

    /// Runs until it is interrupted. Connections that were taken stay with those who took them.
    ///
    /// Needs what [`Meet::run`] needs.
    ///
    /// # Errors
    /// [`Lost`], where to try again is no use: somebody else has the same key.
    pub fn run(mut self) -> Result<(), Lost> {
        loop {
            match self.listen() {
                Ok(()) => break,
                Err(Lost::Listener(lost @ ListenerError::Refused(Refusal::Replaced))) => {
                    return Err(lost.into());
                }
                Err(lost) if !self.is_lost => {
                    self.is_lost = true;
                    self.host.hear(Happening::Lost(lost));
                }
                Err(lost) => tracing::debug!("{lost}"),
            }
            let wait = self.backoff.next(getrandom::u32().unwrap_or_default());
            if self.pause(wait)? {
                break;
            }
        }
        self.calls.end();
        Ok(())
    }

    /// One connection to the server: until it is lost, or the caller asks to stop.
    fn listen(&mut self) -> Result<(), Lost> {
        let server = self.host.server().map_err(Lost::Nowhere)?;
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut stream = Stream::open(SocketAddr::new(any, 0), server)?;
        while !stream.is_connected()? {
            let most = stream.until_given_up();
            if wait_writable(stream.as_fd(), &[], Some(self.interrupt.as_fd()), most)
                .map_err(MeetError::from)?
            {
                return Ok(());
            }
        }
        let mut listener = Listener::new(self.identity.clone(), self.began.elapsed())?;
        let mut piece = [0; 4096];
        loop {
            while let Some(length) = stream.read(&mut piece)? {
                listener.handle(&piece[..length], self.began.elapsed())?;
            }
            while let Some(heard) = listener.poll() {
                match heard {
                    Heard::Listening => {
                        self.backoff.reset();
                        let again = std::mem::take(&mut self.is_lost);
                        self.host.hear(Happening::Listening { server, again });
                    }
                    Heard::Called { ticket, opening } => {
                        tracing::debug!(?ticket, "called");
                        match self.calls.admit(&self.identity, &self.host.allowed(), &opening) {
                            Ok(allowed) => {
                                let purpose = Purpose::Take(self.identity.clone(), ticket);
                                let meet = Meet::new(server, purpose);
                                self.calls.begin(&self.host, meet.allowed(allowed));
                            }
                            Err(error) => self.host.hear(Happening::Failed(None, error)),
                        }
                    }
                }
            }
            if self.changes.as_ref().is_some_and(NetworkChange::happened) {
                tracing::debug!("the network has changed");
                listener.ask(self.began.elapsed())?;
            }
            stream.send(listener.output(self.began.elapsed())?)?;
            let most = listener.poll_timeout().saturating_sub(self.began.elapsed());
            if self.wait(Some(&stream), most)? {
                return Ok(());
            }
        }
    }

    /// Waits before the next attempt; less long if the network changes. Returns whether the caller
    /// asked to stop.
    fn pause(&self, wait: Duration) -> Result<bool, Lost> {
        let over = Instant::now() + wait;
        let settled = Instant::now() + wait.min(SETTLING);
        loop {
            let now = Instant::now();
            let changed =
                now >= settled && self.changes.as_ref().is_some_and(NetworkChange::happened);
            if changed || now >= over {
                return Ok(false);
            }
            let interrupted = if now < settled {
                let interrupt = Some(self.interrupt.as_fd());
                wait_readable(&[], interrupt, settled - now).map_err(MeetError::from)?
            } else {
                self.wait(None, over - now)?
            };
            if interrupted {
                return Ok(true);
            }
        }
    }

    fn wait(&self, stream: Option<&Stream>, most: Duration) -> Result<bool, Lost> {
        let interrupt = Some(self.interrupt.as_fd());
        let mut readable: Vec<BorrowedFd> = self.changes.iter().map(AsFd::as_fd).collect();
        let waited = match stream {
            Some(stream) if stream.wants_to_write() => {
                wait_writable(stream.as_fd(), &readable, interrupt, most)
            }
            stream => {
                readable.extend(stream.map(AsFd::as_fd));
                wait_readable(&readable, interrupt, most)
            }
        };
        Ok(waited.map_err(MeetError::from)?)
    }
}

/// Calls that were taken.
struct Calls {
    /// Readable once all meetings have to end.
    stopped: PipeReader,
    stop: PipeWriter,
    meetings: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    /// Openings of those who are let in, the latest last.
    heard: VecDeque<Vec<u8>>,
    /// Every meeting holds a copy.
    held: Sender<()>,
    over: Receiver<()>,
}

/// One of a number, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one_more(of: &Arc<AtomicUsize>, most: usize) -> Result<Self, usize> {
        let counted = Self(Arc::clone(of));
        match of.fetch_add(1, Ordering::Relaxed) {
            before if before < most => Ok(counted),
            before => Err(before),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Calls {
    fn new() -> Result<Self, CallFailed> {
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let (held, over) = mpsc::channel();
        let zero = || Arc::new(AtomicUsize::new(0));
        let heard = VecDeque::new();
        Ok(Self { stopped, stop, meetings: zero(), connections: zero(), heard, held, over })
    }

    /// Who may come in by this call: nobody, if a stranger makes it. It hears that, and makes this
    /// host do nothing else.
    fn admit(
        &mut self,
        ours: &Identity,
        allowed: &[PublicKey],
        opening: &[u8],
    ) -> Result<Vec<PublicKey>, MeetError> {
        let caller = Exchange::caller(ours, opening).map_err(SessionError::from)?;
        if !allowed.contains(&caller) {
            return Ok(Vec::new());
        }
        if self.heard.iter().any(|before| before == opening) {
            return Err(MeetError::Repeated);
        }
        if self.heard.len() == OPENINGS {
            self.heard.pop_front();
        }
        self.heard.push_back(opening.to_vec());
        Ok(vec![caller])
    }

    /// Takes a call, on a thread of its own.
    fn begin(&self, host: &Arc<dyn Host>, meet: Meet) {
        let counted = Counted::one_more(&self.meetings, MEETINGS)
            .and_then(|meeting| Ok((meeting, Counted::one_more(&self.connections, CONNECTIONS)?)));
        let (meeting, connection) = match counted {
            Ok(counted) => counted,
            Err(under_way) => return host.hear(Happening::TooMany(under_way)),
        };
        let meet = match self.stopped.try_clone() {
            Ok(stopped) => host.prepare(meet).interrupt(stopped.into()),
            Err(error) => return host.hear(Happening::Failed(None, failed(error).into())),
        };
        let held = self.held.clone();
        let run = {
            let host = Arc::clone(host);
            move || {
                let mut caller = None;
                let met = meet.run(&mut |step| {
                    if let Step::Met(key) = step {
                        caller = key;
                    }
                });
                drop((meeting, held));
                match met {
                    Ok(met) => host.take(met),
                    Err(failure) if matches!(failure.error, MeetError::Interrupted) => {}
                    Err(failure) => host.hear(Happening::Failed(caller, failure.error)),
                }
                drop(connection);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("call".into()).spawn(run) {
            host.hear(Happening::Failed(None, failed(error).into()));
        }
    }

    /// Ends all meetings, and waits until they have.
    fn end(self) {
        drop((self.stop, self.held));
        // Nothing is ever sent: this ends when the last meeting has.
        let _ = self.over.recv_timeout(ENDING);
    }
}

fn failed(error: io::Error) -> CallFailed {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    CallFailed { call: "pipe or thread", errno }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(byte: u8) -> Identity {
        Identity::generate([byte; 32])
    }

    fn opening(caller: u8, random: u8) -> Vec<u8> {
        let call = Exchange::as_caller(&identity(caller), identity(1).public(), [random; 32]);
        call.unwrap().opening().unwrap().to_vec()
    }

    #[test]
    fn who_is_listed_comes_in_by_its_own_call_and_once() {
        let mut calls = Calls::new().unwrap();
        let friends = [identity(2).public(), identity(3).public()];
        let mut admit = |opening: &[u8]| calls.admit(&identity(1), &friends, opening);
        for random in [7, 8] {
            assert_eq!(admit(&opening(2, random)).unwrap(), [friends[0]]);
        }
        assert_eq!(admit(&opening(3, 9)).unwrap(), [friends[1]]);
        assert!(matches!(admit(&opening(2, 7)), Err(MeetError::Repeated)));
        for _ in 0..2 {
            assert_eq!(admit(&opening(4, 9)).unwrap(), [], "a stranger");
        }
        assert!(matches!(admit(b"nonsense"), Err(MeetError::Session(_))));
    }

    #[test]
    fn a_bounded_number_of_calls_is_remembered() {
        let mut calls = Calls::new().unwrap();
        let mut admit = |nth: usize| {
            let mut random = [0; 32];
            random[..8].copy_from_slice(&nth.to_be_bytes());
            let call = Exchange::as_caller(&identity(2), identity(1).public(), random).unwrap();
            let friends = [identity(2).public()];
            calls.admit(&identity(1), &friends, call.opening().unwrap()).is_ok()
        };
        assert!((0..OPENINGS).all(&mut admit));
        assert!(!admit(0));
        assert!(admit(OPENINGS) && admit(0));
        assert_eq!(calls.heard.len(), OPENINGS);
    }
}
