//! The rendezvous server under measurement, and its clients.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use nix::unistd::{SysconfVar, sysconf};
use tcp_punch::rendezvous::{Answer, Frames};

const PATIENCE: Duration = Duration::from_secs(60);

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
        resident(self.process.id())
    }

    pub(crate) fn processor_seconds(&self) -> Result<f64, Box<dyn Error>> {
        processor_seconds(self.process.id())
    }
}

/// What of a process is in memory, in bytes.
pub(crate) fn resident(process: u32) -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
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
