//! What the rendezvous server holds and does: peers that wait, and meetings a second.

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
use tcp_punch::sys::raise_descriptor_limit;

use crate::sample::Sample;
use crate::table::{Measured, Row};

const WANTED: usize = 100_000;
/// The server keeps 1400 for itself; this process needs some, too.
const RESERVED: u64 = 1500;
/// Within the quotas that the server has by default.
const PER_ADDRESS: usize = 60;
/// A SPAKE2 message.
const OPENING: usize = 33;
/// A sealed report with its candidates.
const REPORT: usize = 600;
/// As many as a client sends in its first flight.
const CLOCKS: i64 = 8;
/// Meetings under way at once.
const THREADS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const GIB: f64 = (1 << 30) as f64;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let limit = raise_descriptor_limit()?.saturating_sub(RESERVED);
    let count = WANTED.min(usize::try_from(limit)?);
    let server = Server::start()?;
    let empty = server.resident()?;
    let mut waiting = Vec::with_capacity(count);
    let began = Instant::now();
    for index in 0..count {
        let mut peer = Peer::connect(source(0, index), server.address)?;
        let mut flight = greeting();
        flight.extend(frame(&Request::Allocate)?);
        peer.stream.write_all(&flight)?;
        waiting.push(peer);
    }
    let mut numbers = Vec::with_capacity(count);
    for peer in &mut waiting {
        match (peer.hears()?, peer.hears()?) {
            (Answer::Welcome { .. }, Answer::Allocated(number)) => {
                let (place, opening) = (Place::Number(number), vec![7; OPENING]);
                peer.stream.write_all(&frame(&Request::Join { place, opening })?)?;
                numbers.push(number);
            }
            other => return Err(format!("instead of a number: {other:?}").into()),
        }
    }
    let gathering = began.elapsed();
    let full = server.resident()?;
    let each = (full - empty) / count as f64;
    let all = empty + each * WANTED as f64;

    let before = server.processor_seconds()?;
    let queue = Mutex::new(waiting.into_iter().zip(numbers).enumerate());
    let began = Instant::now();
    let times: Vec<f64> = thread::scope(|scope| {
        let work = || -> Result<Vec<f64>, String> {
            let mut times = Vec::new();
            loop {
                let next = queue.lock().map_err(|error| error.to_string())?.next();
                let Some((index, (first, number))) = next else { return Ok(times) };
                let began = Instant::now();
                meet(first, number, source(1, index), server.address)
                    .map_err(|error| error.to_string())?;
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let done = threads.into_iter().map(|thread| thread.join().map_err(|_| "a panic")?);
        done.collect::<Result<Vec<_>, _>>().map(|times| times.concat())
    })?;
    let took = began.elapsed().as_secs_f64();
    let processor = server.processor_seconds()? - before;
    let rate = count as f64 / took;
    let alone = count as f64 / processor;

    let times: Sample = times.into_iter().collect();
    let measured = if count == WANTED {
        format!("{:.0} MiB", all / f64::from(1 << 20))
    } else {
        format!("{:.0} MiB, from {count} at {each:.0} bytes each", all / f64::from(1 << 20))
    };
    let mut notes = vec![format!(
        "server: one process on one thread, its peers on {THREADS} threads of another on the same \
         machine, over the loopback interface, from addresses with {PER_ADDRESS} peers each; \
         {count} peers connected, were welcomed and given a number in {:.1} s; a meeting is a \
         second peer that connects, asks the clock {CLOCKS} times, joins, and a report of {REPORT} \
         bytes each way; the server itself used {:.0} us of processor time for each",
        gathering.as_secs_f64(),
        processor * 1e6 / count as f64,
    )];
    if count < WANTED {
        notes.push(format!(
            "server: the limit on open files here allows {count} peers; the memory of {WANTED} is \
             that of the server without any and {WANTED} times what each added"
        ));
    }
    Ok(Measured {
        rows: vec![
            Row {
                figure: format!("server: memory with {WANTED} waiting peers"),
                measured,
                alternative: "-".into(),
                ratio: "-".into(),
                bar: "<= 1 GiB",
                met: all <= GIB,
            },
            Row {
                figure: "server: meetings a second".into(),
                measured: format!(
                    "{rate:.0}, all {count} met; {alone:.0} a second of its processor time"
                ),
                alternative: "-".into(),
                ratio: "-".into(),
                bar: ">= 2000",
                met: rate >= 2000.0,
            },
        ],
        samples: vec![times.summary("second peer's SYN to both reports delivered", "ms")],
        notes,
    })
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
    if !met(second.hears()?) {
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

struct Peer {
    stream: TcpStream,
    frames: Frames,
}

impl Peer {
    fn connect(from: SocketAddr, to: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, frames: Frames::default() })
    }

    fn hears(&mut self) -> Result<Answer, Box<dyn Error>> {
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

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Result<Self, Box<dyn Error>> {
        let binary = std::env::var("TCP_PUNCH_BIN")?;
        let mut process = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--alt-port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().ok_or("no standard output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.split(' ').nth(1).ok_or("no address")?.trim().parse()?;
        Ok(Self { process, address })
    }

    fn read(&self, file: &str) -> std::io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.process.id()))
    }

    /// Bytes.
    fn resident(&self) -> Result<f64, Box<dyn Error>> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024.0)
    }

    /// In user and kernel mode: fields 14 and 15 of proc(5)'s stat.
    fn processor_seconds(&self) -> Result<f64, Box<dyn Error>> {
        let stat = self.read("stat")?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        let ticks: f64 = ticks.collect::<Result<Vec<_>, _>>()?.iter().sum();
        let hertz = sysconf(SysconfVar::CLK_TCK)?.ok_or("no clock ticks")?;
        Ok(ticks / hertz as f64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
