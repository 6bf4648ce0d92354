//! The programs of a meeting: two peers that are told nothing but a code, and their server.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tcp_punch::sys::wait_readable;

use crate::network::{Host, PATIENCE};

const PORT: u16 = 3478;
/// How long a program has to end when its input has.
const ENDING: Duration = Duration::from_secs(1);

/// The product's own server, until it is dropped.
pub(crate) struct Rendezvous(Child);

impl Rendezvous {
    /// With the first address as its own, and the other, if there is one, for a second look.
    pub(crate) fn start(host: &Host, addresses: &[&str]) -> io::Result<Self> {
        Self::of(host.command(binary()?), host, addresses, &[])
    }

    /// Likewise, by a command to which the product's arguments are added, these among them.
    pub(crate) fn of(
        mut command: Command,
        host: &Host,
        addresses: &[&str],
        arguments: &[&str],
    ) -> io::Result<Self> {
        let at =
            |address: &&str| Ok(SocketAddr::new(address.parse().map_err(io::Error::other)?, PORT));
        let ends = addresses.iter().map(at).collect::<io::Result<Vec<_>>>()?;
        let main = ends.first().ok_or_else(|| io::Error::other("a server needs an address"))?;
        command.args(["serve", "-q", "--listen", &main.to_string()]).args(arguments);
        command.args(addresses.iter().skip(1).flat_map(|other| ["--alt-addr", *other]));
        let server = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let began = Instant::now();
        while host.run(|| ends.iter().any(|end| TcpStream::connect(end).is_err())) {
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other("the server does not listen"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn binary() -> io::Result<String> {
    std::env::var("TCP_PUNCH_BIN").map_err(|_| io::Error::other("TCP_PUNCH_BIN is not set"))
}

/// One `tcp-punch meet`.
pub(crate) struct Peer {
    child: Child,
    /// Open until the end, or the other side would end, too.
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    lines: Receiver<String>,
}

/// What came of waiting for the other's byte.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// It came.
    Byte(Instant),
    /// Not yet.
    Nothing,
    /// The program ended without it.
    End,
}

impl Peer {
    pub(crate) fn start(host: &Host, server: &str, arguments: &[&str]) -> io::Result<Self> {
        let mut command = host.command(binary()?);
        command.args(["meet", "--server", server]).args(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take();
        if let Some(stdin) = &mut stdin {
            // It waits in the pipe for the connection.
            stdin.write_all(b"x")?;
        }
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let (said, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        Ok(Self { stdout: child.stdout.take(), child, stdin, lines })
    }

    /// The code that it made.
    pub(crate) fn code(&self) -> io::Result<String> {
        // What a verbose program says before it is said in several words.
        let is_code = |line: &String| !line.contains(' ') && line.matches('-').count() == 2;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.map_err(|_| io::Error::other("no code came"))?;
            if is_code(&line) {
                return Ok(line);
            }
        }
    }

    /// Waits for the other's byte.
    pub(crate) fn hear(&mut self, deadline: Instant) -> io::Result<Heard> {
        // It stays open: a program whose output nobody reads ends the connection.
        let stdout = self.stdout.as_mut().ok_or_else(|| io::Error::other("no pipe"))?;
        let remaining = deadline.saturating_duration_since(Instant::now());
        wait_readable(&[stdout.as_fd()], None, remaining).map_err(io::Error::other)?;
        if Instant::now() >= deadline {
            return Ok(Heard::Nothing);
        }
        match stdout.read_exact(&mut [0]) {
            Ok(()) => Ok(Heard::Byte(Instant::now())),
            Err(_) => Ok(Heard::End),
        }
    }

    /// Closes its input, and ends it if it does not end by itself.
    pub(crate) fn end(&mut self) {
        drop(self.stdin.take());
        let began = Instant::now();
        while began.elapsed() < ENDING && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// All that it has said, which ends it.
    pub(crate) fn said(&mut self) -> String {
        self.end();
        let lines: Vec<String> = self.lines.iter().collect();
        lines.join(" / ")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
