//! nats-server, which joins servers.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::crowd::{Share, crowd};
use crate::served::{Server, processor_seconds, resident};

const PATIENCE: Duration = Duration::from_secs(10);
/// Debian has it where only root's PATH leads.
const PROGRAMS: [&str; 2] = ["nats-server", "/usr/sbin/nats-server"];

/// Servers that NATS joins, all on this machine.
pub(crate) struct Joined {
    pub(crate) servers: Vec<Server>,
    nats: Nats,
}

impl Joined {
    pub(crate) fn start(count: usize) -> Result<Self, Box<dyn Error>> {
        let nats = Nats::start()?;
        let url = format!("nats://127.0.0.1:{}", nats.port);
        let servers = (0..count).map(|_| Server::start(&["--bus", &url]));
        let joined = Self { servers: servers.collect::<Result<_, _>>()?, nats };
        joined.know_each_other()?;
        Ok(joined)
    }

    /// Of a crowd that waits at all of them, and that others meet by way of the next one each.
    pub(crate) fn shares(&self, count: usize) -> Vec<Share> {
        let servers = self.servers.len();
        let addresses = self.servers.iter().map(|it| it.address).cycle();
        let share = |(nth, (here, there))| {
            let count = count / servers + usize::from(nth < count % servers);
            Share { count, here, there }
        };
        addresses.clone().zip(addresses.skip(1)).take(servers).enumerate().map(share).collect()
    }

    /// Bytes of all servers and of nats-server.
    pub(crate) fn resident(&self) -> Result<f64, Box<dyn Error>> {
        let servers = self.servers.iter().map(Server::resident);
        Ok(servers.sum::<Result<f64, _>>()? + resident(self.nats.process.id())?)
    }

    /// What nats-server has used.
    pub(crate) fn bus_seconds(&self) -> Result<f64, Box<dyn Error>> {
        processor_seconds(self.nats.process.id())
    }

    /// Each has measured the other's clock: until then nobody meets.
    fn know_each_other(&self) -> Result<(), Box<dyn Error>> {
        let until = Instant::now() + PATIENCE;
        loop {
            match crowd(&self.shares(self.servers.len()), || Ok(())) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => sleep(Duration::from_millis(100)),
            }
        }
    }
}

/// NATS on a port of the loopback interface.
struct Nats {
    process: Child,
    port: u16,
}

impl Nats {
    fn start() -> Result<Self, Box<dyn Error>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let start = |program: &&str| {
            Command::new(program)
                .args(["-a", "127.0.0.1", "-p", &port.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()
        };
        let process = PROGRAMS.iter().find_map(start).ok_or("nats-server is not installed")?;
        let nats = Self { process, port };
        let until = Instant::now() + PATIENCE;
        loop {
            let mut line = String::new();
            let said = TcpStream::connect(("127.0.0.1", port))
                .and_then(|stream| BufReader::new(stream).read_line(&mut line));
            match said {
                Ok(_) if line.starts_with("INFO ") => return Ok(nats),
                _ if Instant::now() > until => return Err("nats-server does not listen".into()),
                _ => sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
