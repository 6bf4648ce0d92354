//! One end: a process of its own on its host, as in reality, which does its job and tells how it
//! went on standard output.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, accept, bind, connect, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use tcp_punch::Punch;
use tcp_punch::engine::{Datapath, Opener, PunchError};
use tcp_punch::punch::{Budget, Key, Strategies};
use tcp_punch::sys::clock;
use tcp_punch::wire::WallTime;

use crate::job::{How, Job, Outcome, Then, Tuning, Way};

/// Large enough that system calls do not bound the throughput.
const BUFFER: usize = 256 << 10;

/// A connection that moves nothing for so long is broken.
const STALLED: Duration = Duration::from_secs(10);

/// The whole of an end's process.
pub(crate) fn serve(job: &str) -> Result<(), Box<dyn Error>> {
    let job: Job = serde_json::from_str(job)?;
    let mut outcome = Outcome::default();
    match establish(&job, &mut outcome) {
        Ok(fd) => {
            outcome.fd_ns = Some(clock::now().ns_since(at(&job)));
            if let Err(error) = make_use(fd.into(), &job, &mut outcome) {
                outcome.error = Some(format!("{:?}: {error}", job.then));
            }
        }
        Err(error) => outcome.error = Some(format!("{}: {error}", job.how.name())),
    }
    serde_json::to_writer(io::stdout(), &outcome)?;
    Ok(())
}

fn at(job: &Job) -> WallTime {
    WallTime::from_unix_ns(job.at_ns)
}

fn establish(job: &Job, outcome: &mut Outcome) -> Result<OwnedFd, Box<dyn Error>> {
    let patience = Duration::from_millis(job.patience_ms);
    match job.how {
        How::Punch { .. } | How::Tuned(_) => {
            let mut punch = Punch::new(job.peer, at(job)).local_port(job.port).timeout(patience);
            match job.how {
                How::Punch { opener: false } => punch = punch.opener(Opener::Off),
                How::Tuned(tuning) => punch = tuned(punch, tuning),
                _ => {}
            }
            if let Some(key) = job.key {
                punch = punch.key(Key::from_bytes(key));
            }
            if let Some([ours, theirs]) = &job.models {
                punch = punch.models(ours.parse()?, theirs.parse()?);
            }
            match punch.run(&mut |_| {}) {
                Ok(connection) => {
                    outcome.report = Some(connection.report);
                    Ok(connection.fd)
                }
                Err(failure) => {
                    outcome.late = matches!(failure.error, PunchError::Late { .. });
                    let error = failure.error.to_string();
                    outcome.report = failure.report.map(|report| *report);
                    Err(error.into())
                }
            }
        }
        How::Connect => {
            let socket = bound(job.port)?;
            limit(&socket, patience)?;
            outcome.late = clock::now() >= at(job);
            sleep_until(at(job))?;
            connect(socket.as_raw_fd(), &SockaddrStorage::from(job.peer))?;
            Ok(socket)
        }
        How::ConnectLoop { pause_ms } => {
            outcome.late = clock::now() >= at(job);
            sleep_until(at(job))?;
            let deadline = Instant::now() + patience;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if left < Duration::from_millis(1) {
                    return Err("not within the patience".into());
                }
                let socket = bound(job.port)?;
                limit(&socket, left)?;
                if connect(socket.as_raw_fd(), &SockaddrStorage::from(job.peer)).is_ok() {
                    return Ok(socket);
                }
                drop(socket);
                thread::sleep(Duration::from_millis(pause_ms));
            }
        }
        How::Accept => {
            let listener = bound(job.port)?;
            listen(&listener, Backlog::new(1)?)?;
            outcome.late = clock::now() >= at(job);
            let patience = clock::now().until(at(job)) + patience;
            setsockopt(&listener, sockopt::ReceiveTimeout, &time_val(patience))?;
            let fd = accept(listener.as_raw_fd())?;
            // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
            #[expect(unsafe_code, reason = "accept(2) returns a bare number")]
            let socket = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
            Ok(socket)
        }
    }
}

fn tuned(mut punch: Punch, tuning: Tuning) -> Punch {
    if let Some([syn, syn_ack, mid_stream]) = tuning.strategies {
        punch = punch.strategies(Strategies::Only { syn, syn_ack, mid_stream });
    }
    if let Some([packets, entries, rate]) = tuning.budget {
        punch = punch.budget(Budget { packets, entries, rate });
    }
    punch = punch.datapath(match tuning.datapath {
        None => Datapath::Auto,
        Some(Way::Packet) => Datapath::Packet,
        Some(Way::Ebpf) => Datapath::Ebpf,
    });
    if tuning.anyway { punch.anyway() } else { punch }
}

pub(crate) fn bound(port: u16) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let any = SocketAddr::from(([0, 0, 0, 0], port));
    bind(socket.as_raw_fd(), &SockaddrStorage::from(any))?;
    Ok(socket)
}

/// connect(2) waits no longer than the send timeout.
fn limit(socket: &OwnedFd, patience: Duration) -> nix::Result<()> {
    setsockopt(socket, sockopt::SendTimeout, &time_val(patience))
}

fn time_val(duration: Duration) -> TimeVal {
    TimeVal::microseconds(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

fn sleep_until(at: WallTime) -> nix::Result<()> {
    let until = TimeSpec::nanoseconds(at.unix_ns());
    let flags = ClockNanosleepFlags::TIMER_ABSTIME;
    loop {
        match clock_nanosleep(ClockId::CLOCK_REALTIME, flags, &until) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn make_use(mut stream: TcpStream, job: &Job, outcome: &mut Outcome) -> io::Result<()> {
    stream.set_read_timeout(Some(STALLED))?;
    stream.set_write_timeout(Some(STALLED))?;
    match job.then {
        Then::Close => {}
        Then::Exchange { bytes } => {
            // Whoever answers in the peer's place says nothing.
            stream.set_read_timeout(Some(Duration::from_millis(job.patience_ms)))?;
            stream.write_all(&vec![b'.'; bytes])?;
            let mut read = vec![0; bytes];
            stream.read_exact(&mut read)?;
            outcome.received = bytes as u64;
            let patience = Instant::now() + Duration::from_secs(5);
            let mut info = tcp_info(&stream)?;
            while info.tcpi_unacked > 0 && Instant::now() < patience {
                thread::sleep(Duration::from_millis(1));
                info = tcp_info(&stream)?;
            }
            outcome.retransmissions = Some(info.tcpi_total_retrans);
        }
        Then::Send { ms } => {
            let chunk = vec![b'.'; BUFFER];
            let end = Instant::now() + Duration::from_millis(ms);
            while Instant::now() < end {
                stream.write_all(&chunk)?;
            }
            stream.shutdown(std::net::Shutdown::Write)?;
            // The receiver closes when it has everything.
            stream.read_to_end(&mut Vec::new())?;
        }
        Then::Receive => {
            let mut buffer = vec![0; BUFFER];
            let mut began = None;
            loop {
                let read = stream.read(&mut buffer)?;
                let began = began.get_or_insert_with(Instant::now);
                if read == 0 {
                    outcome.receiving_ns = began.elapsed().as_nanos() as u64;
                    break;
                }
                outcome.received += read as u64;
            }
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "nix has no TCP_INFO")]
fn tcp_info(stream: &TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info is integers throughout, for which zero is a value, and the kernel writes at
    // most the length given.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        let result = libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        );
        Errno::result(result)?;
        Ok(info)
    }
}
