//! The ways to the peer, tried together: the first on which both ends prove who they are wins.

use super::door::Door;
use super::proof::{Proofs, Unproven};
use crate::engine::{Connection, Failure, Progress, Punch, PunchError, Report};
use crate::sys::CallFailed;
use nix::errno::Errno;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the peer has to prove itself on a connection that stands at our end: until it stands
/// at the peer's, whose segments may be lost a few times.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one attempt tells.
pub(super) enum News {
    /// How it goes.
    Progress(Progress),
    /// How the attempt on this pair ended.
    Ended(usize, Result<Box<Connection>, Fault>),
}

/// Why a pair led to nothing.
pub(super) enum Fault {
    /// The punch failed.
    Punch(Failure),
    /// It did not, but.
    Unproven(Unproven, Box<Report>),
}

impl Fault {
    /// In words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Punch(failure) if matches!(failure.error, PunchError::Interrupted) => {
                "another way was faster".into()
            }
            Self::Punch(failure) => failure.error.to_string(),
            Self::Unproven(why, _) => why.to_string(),
        }
    }

    pub(super) fn report(&self) -> Option<&Report> {
        match self {
            Self::Punch(failure) => failure.report.as_deref(),
            Self::Unproven(_, report) => Some(report),
        }
    }
}

/// Attempts under way, one thread each. Dropping them ends them.
pub(super) struct Attempts {
    news: Receiver<News>,
    /// Readable when there is news.
    bell: PipeReader,
    /// Closing it interrupts all.
    stop: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

impl Attempts {
    /// Begins all of them.
    pub(super) fn begin(
        all: Vec<Attempt>,
        proofs: Option<&Proofs>,
        chooses: bool,
    ) -> Result<Self, CallFailed> {
        let (stopped, stop) = pipe()?;
        let (bell, ringer) = pipe()?;
        let (sender, news) = mpsc::channel();
        let turn = chooses.then(|| Arc::new(Mutex::new(false)));
        let mut attempts = Self { news, bell, stop: Some(stop), threads: Vec::new() };
        for (nth, one) in all.into_iter().enumerate() {
            let stopped = stopped.try_clone().map_err(failed)?;
            let teller =
                Teller { sender: sender.clone(), bell: ringer.try_clone().map_err(failed)? };
            let (proofs, turn) = (proofs.cloned(), turn.clone());
            let run = move || {
                let ended = one.run(proofs.as_ref(), turn.as_deref(), &stopped, &teller);
                teller.tell(News::Ended(nth, ended));
            };
            let name = format!("attempt {nth}");
            let thread = std::thread::Builder::new().name(name).spawn(run).map_err(failed)?;
            attempts.threads.push(thread);
        }
        Ok(attempts)
    }

    /// What has been told since.
    pub(super) fn poll(&mut self) -> Option<News> {
        let news = self.news.try_recv().ok()?;
        // As many bytes as there were news; there is at least this one.
        let _ = io::Read::read(&mut self.bell, &mut [0]);
        Some(news)
    }
}

impl AsFd for Attempts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            // A panic there has been printed, and there is nothing of it to be taken along.
            let _ = thread.join();
        }
    }
}

struct Teller {
    sender: Sender<News>,
    bell: PipeWriter,
}

impl Teller {
    fn tell(&self, news: News) {
        // Nobody listens any more: then nobody wants to know.
        if self.sender.send(news).is_ok() {
            let _ = (&self.bell).write_all(&[0]);
        }
    }
}

/// One way to try.
pub(super) enum Attempt {
    Punch(Box<Punch>),
    Door(Door),
}

impl Attempt {
    fn run(
        self,
        proofs: Option<&Proofs>,
        turn: Option<&Mutex<bool>>,
        stopped: &PipeReader,
        teller: &Teller,
    ) -> Result<Box<Connection>, Fault> {
        let mut prove = |connection| prove(connection, proofs, turn, stopped);
        match self {
            Self::Door(door) => door.open(stopped.as_fd(), &mut prove),
            Self::Punch(punch) => {
                let interrupt = stopped.as_fd().try_clone_to_owned().map_err(|error| {
                    Fault::Punch(Failure { error: PunchError::Call(failed(error)), report: None })
                })?;
                let punched = punch
                    .interrupt(interrupt)
                    .run(&mut |progress| teller.tell(News::Progress(progress)));
                prove(punched.map_err(Fault::Punch)?)
            }
        }
    }
}

fn prove(
    connection: Connection,
    proofs: Option<&Proofs>,
    turn: Option<&Mutex<bool>>,
    stopped: &PipeReader,
) -> Result<Box<Connection>, Fault> {
    let Some(proofs) = proofs else { return Ok(Box::new(connection)) };
    // The end that chooses speaks on one connection at a time, and the next has its turn only
    // where this one was not the peer's. One that panicked chose nothing.
    let mut chosen = turn.map(|turn| turn.lock().unwrap_or_else(|broken| broken.into_inner()));
    let Connection { fd, report } = connection;
    let proven = match chosen.as_deref() {
        Some(true) => Err(Unproven::NotChosen),
        _ => proofs.exchange(fd, PATIENCE, stopped.as_fd()),
    };
    if let Some(chosen) = chosen.as_deref_mut() {
        *chosen |= proven.is_ok();
    }
    match proven {
        Ok(fd) => Ok(Box::new(Connection { fd, report })),
        Err(why) => Err(Fault::Unproven(why, Box::new(report))),
    }
}

fn pipe() -> Result<(PipeReader, PipeWriter), CallFailed> {
    io::pipe().map_err(failed)
}

fn failed(error: io::Error) -> CallFailed {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    CallFailed { call: "pipe or thread", errno }
}
