//! From the start of the second peer's program to bytes both ways, no address and no instant typed.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::network::{Host, Network};
use crate::sample::Sample;
use crate::server::ADDRESS;
use crate::table::{Measured, Row};

const PRESERVING: usize = 100;
const RANDOM: usize = 100;
/// The first peer has been there for a while, as a person needs to read a code out.
const READING: Duration = Duration::from_millis(700);
/// A meeting that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// The product's own server, until it is dropped.
struct Rendezvous(Child);

impl Rendezvous {
    fn start(host: &Host) -> io::Result<Self> {
        let mut command = host.command(binary()?);
        let child = command.arg("serve").stderr(Stdio::null()).spawn()?;
        let server = Self(child);
        let began = Instant::now();
        while host.run(|| TcpStream::connect((ADDRESS, 3478)).is_err()) {
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

fn binary() -> io::Result<String> {
    std::env::var("TCP_PUNCH_BIN").map_err(|_| io::Error::other("TCP_PUNCH_BIN is not set"))
}

/// One `tcp-punch meet`.
struct Peer {
    child: Child,
    /// Open until the end, or the other side would end, too.
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    errors: Receiver<String>,
}

impl Peer {
    fn start(host: &Host, code: Option<&str>) -> io::Result<Self> {
        let mut command = host.command(binary()?);
        command.args(["meet", "--server", ADDRESS]).args(code);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take();
        if let Some(stdin) = &mut stdin {
            // It waits in the pipe for the connection.
            stdin.write_all(b"x")?;
        }
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let (said, errors) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        Ok(Self { stdout: child.stdout.take(), child, stdin, errors })
    }

    /// Waits for the other's byte.
    fn hear(&mut self, deadline: Instant) -> Result<Instant, String> {
        // It stays open: a program whose output nobody reads ends the connection.
        let stdout = self.stdout.as_mut().ok_or("no pipe")?;
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timely = tcp_punch::sys::wait_readable(&[stdout.as_fd()], None, remaining);
        timely.map_err(|error| error.to_string())?;
        if Instant::now() >= deadline {
            return Err(self.said("nothing came in time"));
        }
        let mut byte = [0];
        match stdout.read_exact(&mut byte) {
            Ok(()) => Ok(Instant::now()),
            Err(_) => Err(self.said("it ended")),
        }
    }

    fn said(&mut self, what: &str) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines: Vec<String> = self.errors.iter().collect();
        format!("{what}: {}", lines.join(" / "))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From the second peer's start to bytes both ways.
fn meet(network: &Network) -> Result<f64, String> {
    let text = |error: io::Error| error.to_string();
    let mut a = Peer::start(&network.host_a(), None).map_err(text)?;
    let code = a.errors.recv_timeout(PATIENCE).map_err(|_| "no code came".to_owned())?;
    thread::sleep(READING);
    let began = Instant::now();
    let mut b = Peer::start(&network.host_b(), Some(&code)).map_err(text)?;
    let deadline = began + PATIENCE;
    let heard = [a.hear(deadline), b.hear(deadline)];
    match heard {
        [Ok(a), Ok(b)] => Ok(a.max(b).duration_since(began).as_secs_f64() * 1e3),
        [Err(why), Ok(_)] => Err(format!("host-a: {why}")),
        [Ok(_), Err(why)] => Err(format!("host-b: {why}")),
        [Err(a), Err(b)] => Err(format!("host-a: {a}; host-b: {b}")),
    }
}

struct Case {
    figure: &'static str,
    nat: &'static str,
    count: usize,
    bar: &'static str,
    most_ms: f64,
    alternative: &'static str,
}

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let mut measured = Measured::default();
    for case in [
        Case {
            figure: "meet, preserving routers: second program started to bytes both ways",
            nat: "masquerade",
            count: PRESERVING,
            bar: ">= 99 %, p50 <= 150 ms",
            most_ms: 150.0,
            alternative: "published: libp2p DCUtR 300 ms, warpgate 2,640 ms",
        },
        Case {
            figure: "meet, both random-fully",
            nat: "random-fully",
            count: RANDOM,
            bar: ">= 99 %, p50 <= 1 s",
            most_ms: 1000.0,
            alternative: "published: never",
        },
    ] {
        let options = ["--delay", "10ms", "--server", ADDRESS];
        let network =
            Network::up([&options[..], &["--nat-a", case.nat, "--nat-b", case.nat]].concat());
        // By IPv6 there would be nothing to punch but firewalls.
        for host in [network.host_a(), network.host_b()] {
            host.must("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
        }
        let server = Rendezvous::start(&network.server())?;
        let (mut times, mut failures) = (Vec::new(), Vec::new());
        for _ in 0..case.count {
            network.flush_routers();
            match meet(&network) {
                Ok(ms) => times.push(ms),
                Err(why) => failures.push(why),
            }
        }
        drop(server);
        let (met, times) = (times.len(), times.into_iter().collect::<Sample>());
        measured.rows.push(Row {
            figure: case.figure.into(),
            measured: format!(
                "{met}/{}; p50 {:.0} ms, p95 {:.0} ms",
                case.count,
                times.median(),
                times.percentile(95)
            ),
            alternative: case.alternative.into(),
            ratio: "-".into(),
            bar: case.bar,
            met: met * 100 >= case.count * 99 && times.median() <= case.most_ms,
        });
        measured.samples.push(times.summary(case.figure, "ms"));
        measured.notes.extend(failures.into_iter().take(5).map(|why| format!("failed: {why}")));
    }
    measured.notes.push(
        "meet: the program's own start, the server (20 ms there and back), key exchange, clock, \
         the survey of the router, the punch and both ends' proofs are all in it"
            .into(),
    );
    Ok(measured)
}
