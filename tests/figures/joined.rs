//! Meetings between peers of two servers, which nats-server joins.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tcp_punch::sys::raise_descriptor_limit;

use crate::sample::Sample;
use crate::served::{Server, gather, meet_all, processor_seconds};
use crate::table::{Measured, Row};

const MEETINGS: usize = 10_000;
/// What this process and a server need besides one for each peer.
const RESERVED: usize = 1500;
const PATIENCE: Duration = Duration::from_secs(10);
/// Debian has it where only root's PATH leads.
const PROGRAMS: [&str; 2] = ["nats-server", "/usr/sbin/nats-server"];

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let limit = usize::try_from(raise_descriptor_limit()?)?.saturating_sub(RESERVED);
    let count = MEETINGS.min(limit);
    let nats = Nats::start()?;
    let url = format!("nats://127.0.0.1:{}", nats.port);
    let [here, there] = [Server::start(&["--bus", &url])?, Server::start(&["--bus", &url])?];
    know_each_other(&here, &there)?;

    let waiting = gather(count, here.address)?;
    let used = || -> Result<[f64; 3], Box<dyn Error>> {
        let bus = processor_seconds(nats.process.id())?;
        Ok([here.processor_seconds()?, there.processor_seconds()?, bus])
    };
    let before = used()?;
    let (times, took) = meet_all(waiting, there.address)?;
    let after = used()?;
    let us = |nth: usize| (after[nth] - before[nth]) * 1e6 / count as f64;
    let rate = count as f64 / took.as_secs_f64();
    let times: Sample = times.into_iter().collect();
    Ok(Measured {
        rows: vec![Row {
            figure: "servers joined by NATS: meetings a second across two".into(),
            measured: format!("{rate:.0}, all {count} met"),
            alternative: "-".into(),
            ratio: "-".into(),
            bar: "-",
            met: true,
        }],
        samples: vec![
            times.summary("second peer's SYN to both reports delivered, two servers", "ms"),
        ],
        notes: vec![format!(
            "joined servers: as above, but each second peer is a client of another server, and \
             both servers, nats-server and all peers are on this machine; a meeting took {:.0} us \
             of processor time of the first peer's server, {:.0} us of the second's, {:.0} us of \
             nats-server",
            us(0),
            us(1),
            us(2),
        )],
    })
}

/// Each has measured the other's clock: until then nobody meets.
fn know_each_other(here: &Server, there: &Server) -> Result<(), Box<dyn Error>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match meet_all(gather(1, here.address)?, there.address) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)),
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
