//! The rendezvous server under measurement, and its clients.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use nix::unistd::{SysconfVar, sysconf};
use tcp_punch::rendezvous::{Answer, Frames, Place, Request, frame, greeting};

/// Within the quotas that the server has by default.
pub(crate) const PER_ADDRESS: usize = 60;
/// A SPAKE2 message.
const OPENING: usize = 33;
/// A sealed report with its candidates.
pub(crate) const REPORT: usize = 600;
/// As many as a client sends in its first flight.
pub(crate) const CLOCKS: i64 = 8;
/// Meetings under way at once.
pub(crate) const THREADS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// Has so many peers wait, each under a number of its own.
pub(crate) fn gather(count: usize, server: SocketAddr) -> Result<Vec<(Peer, u32)>, Box<dyn Error>> {
    let mut waiting = Vec::with_capacity(count);
    for index in 0..count {
        let mut peer = Peer::connect(source(0, index), server)?;
        let mut flight = greeting();
        flight.extend(frame(&Request::Allocate)?);
        peer.stream.write_all(&flight)?;
        waiting.push(peer);
    }
    let allocated = |mut peer: Peer| -> Result<(Peer, u32), Box<dyn Error>> {
        match (peer.hears()?, peer.hears()?) {
            (Answer::Welcome { .. }, Answer::Allocated(number)) => {
                let (place, opening) = (Place::Number(number), vec![7; OPENING]);
                peer.stream.write_all(&frame(&Request::Join { place, opening })?)?;
                Ok((peer, number))
            }
            other => Err(format!("instead of a number: {other:?}").into()),
        }
    };
    waiting.into_iter().map(allocated).collect()
}

/// Has a second peer meet each who waits, by way of this server. What each meeting took, in
/// milliseconds, and all together.
pub(crate) fn meet_all(
    waiting: Vec<(Peer, u32)>,
    server: SocketAddr,
) -> Result<(Vec<f64>, Duration), Box<dyn Error>> {
    let queue = Mutex::new(waiting.into_iter().enumerate());
    let began = Instant::now();
    let times: Vec<f64> = thread::scope(|scope| {
        let work = || -> Result<Vec<f64>, String> {
            let mut times = Vec::new();
            loop {
                let next = queue.lock().map_err(|error| error.to_string())?.next();
                let Some((index, (first, number))) = next else { return Ok(times) };
                let began = Instant::now();
                meet(first, number, source(1, index), server).map_err(|error| error.to_string())?;
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let done = threads.into_iter().map(|thread| thread.join().map_err(|_| "a panic")?);
        done.collect::<Result<Vec<_>, _>>().map(|times| times.concat())
    })?;
    Ok((times, began.elapsed()))
}

/// 127.0.0.0/8 belongs to every host: a part of it for those who wait, another for those who come.
fn source(part: u32, index: usize) -> SocketAddr {
    let host = u32::try_from(index / PER_ADDRESS).unwrap_or(0);
    let ip = Ipv4Addr::from(0x7f40_0000 + (part << 20) + host + 1);
    SocketAddr::new(ip.into(), 0)
}

/// A second peer meets the one who waits, and both deliver their reports.
fn meet(
    mut first: Peer,
    number: u32,
    from: SocketAddr,
    server: SocketAddr,
) -> Result<(), Box<dyn Error>> {
    let mut second = Peer::connect(from, server)?;
    let report = frame(&Request::Relay(vec![9; REPORT]))?;
    let mut flight = greeting();
    for sent_ns in 0..CLOCKS {
        flight.extend(frame(&Request::Clock { sent_ns })?);
    }
    let place = Place::Number(number);
    flight.extend(frame(&Request::Join { place, opening: vec![8; OPENING] })?);
    second.stream.write_all(&flight)?;
    let met =
        |answer: Answer| matches!(answer, Answer::Met { opening } if opening.len() == OPENING);
    if !met(first.hears()?) {
        return Err("the first did not meet".into());
    }
    first.stream.write_all(&report)?;
    for _ in 0..=CLOCKS {
        second.hears()?;
    }
    let mut answer = second.hears()?;
    if matches!(answer, Answer::Shifted(_)) {
        answer = second.hears()?;
    }
    if !met(answer) {
        return Err("the second did not meet".into());
    }
    second.stream.write_all(&report)?;
    for peer in [&mut first, &mut second] {
        match peer.hears()? {
            Answer::Relayed(bytes) if bytes.len() == REPORT => {}
            other => return Err(format!("instead of a report: {other:?}").into()),
        }
    }
    Ok(())
}

pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    frames: Frames,
}

impl Peer {
    pub(crate) fn connect(from: SocketAddr, to: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, frames: Frames::default() })
    }

    pub(crate) fn hears(&mut self) -> Result<Answer, Box<dyn Error>> {
        loop {
            if let Some(answer) = self.frames.take()? {
                return Ok(answer);
            }
            let mut piece = [0; 2048];
            match self.stream.read(&mut piece)? {
                0 => return Err("the server ended the connection".into()),
                length => self.frames.extend(&piece[..length]),
            }
        }
    }
}

pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(options: &[&str]) -> Result<Self, Box<dyn Error>> {
        let binary = std::env::var("TCP_PUNCH_BIN")?;
        let mut process = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--alt-port", "0"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().ok_or("no standard output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.split(' ').nth(1).ok_or("no address")?.trim().parse()?;
        Ok(Self { process, address })
    }

    /// Bytes.
    pub(crate) fn resident(&self) -> Result<f64, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024.0)
    }

    pub(crate) fn processor_seconds(&self) -> Result<f64, Box<dyn Error>> {
        processor_seconds(self.process.id())
    }
}

/// What a process has used in user and kernel mode: fields 14 and 15 of proc(5)'s stat.
pub(crate) fn processor_seconds(process: u32) -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks: f64 = ticks.collect::<Result<Vec<_>, _>>()?.iter().sum();
    let hertz = sysconf(SysconfVar::CLK_TCK)?.ok_or("no clock ticks")?;
    Ok(ticks / hertz as f64)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
