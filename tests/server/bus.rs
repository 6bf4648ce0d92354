//! Servers joined through Debian's nats-server.

use crate::served::{Client, PATIENCE, Server, allocate, command, join};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tcp_punch::rendezvous::{Answer, ClockShift, Identity, Place, Refusal, Request};

/// Debian has it where only root's PATH leads.
const PROGRAMS: [&str; 2] = ["nats-server", "/usr/sbin/nats-server"];

/// NATS on a port of the loopback interface.
struct Nats {
    process: Child,
    port: u16,
}

impl Nats {
    /// `None`, and said so, where it is not installed.
    fn start(options: &[&str]) -> Option<Self> {
        // Nobody else asks for this port in between: it is not one that the kernel gives out soon.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::on(port, options)
    }

    fn on(port: u16, options: &[&str]) -> Option<Self> {
        let start = |program: &&str| {
            Command::new(program)
                .args(["-a", "127.0.0.1", "-p", &port.to_string()])
                .args(options)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()
        };
        let Some(process) = PROGRAMS.iter().find_map(start) else {
            assert!(std::env::var_os("CI").is_none(), "nats-server is not installed");
            eprintln!("skipped: nats-server is not installed");
            return None;
        };
        let nats = Self { process, port };
        eventually("nats-server listens", || {
            let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("INFO ")
        });
        Some(nats)
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn server(&self) -> Server {
        Server::start(&["--bus", &self.url(), "--metrics", "127.0.0.1:0"])
    }

    /// Servers that know each other.
    fn servers<const N: usize>(&self) -> [Server; N] {
        let servers = [(); N].map(|()| self.server());
        for server in &servers {
            knows(server, N - 1);
        }
        servers
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(20));
    }
}

fn knows(server: &Server, others: usize) {
    eventually("servers know of each other", || {
        server.metric("tcp_punch_joined_servers") == others as u64
    });
}

/// The second peer hears of the other clock, unless both are at one server.
fn met(client: &mut Client, opening: &[u8]) -> Option<ClockShift> {
    let shift = match client.hears() {
        Answer::Shifted(shift) => Some(shift),
        answer => {
            assert_eq!(answer, Answer::Met { opening: opening.to_vec() });
            return None;
        }
    };
    assert_eq!(client.hears(), Answer::Met { opening: opening.to_vec() });
    shift
}

/// They meet, tell each other, and the first leaves.
fn meet(first: &Server, second: &Server) {
    let (mut a, mut b) = (first.greet(0), second.greet(0));
    let number = allocate(&mut a);
    b.says(&join(number));
    let shift = met(&mut b, b"first");
    assert_eq!(met(&mut a, b"second"), None);
    assert_eq!(shift.is_some(), !std::ptr::eq(first, second));
    // All servers of this test have the same clock.
    if let Some(shift) = shift {
        assert!(shift.ahead_ns.unsigned_abs() <= shift.bound_ns, "{shift:?}");
    }
    for bytes in [vec![1; 4000], vec![2], Vec::new()] {
        for (from, to) in [(0, 1), (1, 0)] {
            let both = [&mut a, &mut b];
            both[from].says(&Request::Relay(bytes.clone()));
            assert_eq!(both[to].hears(), Answer::Relayed(bytes.clone()));
        }
    }
    let mut late = second.greet(0);
    late.says(&join(number));
    late.is_ended(Some(Refusal::Occupied));
    drop(a);
    assert_eq!(b.hears(), Answer::Left);
}

fn listen(server: &Server, home: &Identity) -> Client {
    let mut listener = server.greet(0);
    let Answer::Challenge(challenge) = listener.asks(&Request::Listen(home.public())) else {
        panic!()
    };
    assert_eq!(listener.asks(&Request::Prove(home.prove(challenge))), Answer::Listening);
    listener
}

fn call(server: &Server, home: &Identity) -> Client {
    let mut caller = server.greet(0);
    caller.says(&Request::Call { name: home.public(), opening: b"caller".to_vec() });
    caller
}

#[test]
fn peers_of_any_two_servers_meet_and_when_one_is_killed_the_others_go_on() {
    let Some(nats) = Nats::start(&[]) else { return };
    let [one, two, mut three] = nats.servers();
    for first in [&one, &two, &three] {
        for second in [&one, &two, &three] {
            meet(first, second);
        }
    }

    let mut waits = three.greet(0);
    let lost = allocate(&mut waits);
    let (mut met_by_three, mut meets) = (one.greet(0), three.greet(0));
    let number = allocate(&mut met_by_three);
    meets.says(&join(number));
    met(&mut meets, b"first");
    met(&mut met_by_three, b"second");
    three.signal(Signal::SIGKILL);
    assert_eq!(waits.next(), None, "the connection ends");
    assert_eq!(met_by_three.hears(), Answer::Left);

    for first in [&one, &two] {
        knows(first, 1);
        for second in [&one, &two] {
            meet(first, second);
        }
    }
    // Who waited there comes to another server with the same code.
    let mut again = two.greet(0);
    again.says(&join(lost));
    let mut peer = one.greet(0);
    peer.says(&join(lost));
    // Either may have been first.
    let shifts = [met(&mut peer, b"second"), met(&mut again, b"second")];
    assert_eq!(shifts.iter().flatten().count(), 1, "{shifts:?}");

    let four = nats.server();
    knows(&four, 2);
    meet(&four, &one);
}

#[test]
fn numbers_are_unique_over_all_servers() {
    let Some(nats) = Nats::start(&[]) else { return };
    let servers: [Server; 3] = nats.servers();
    let mut clients: Vec<Client> = (0..12).map(|n| servers[n % 3].greet(0)).collect();
    let mut numbers: Vec<u32> = clients.iter_mut().map(allocate).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 12, "{numbers:?}");
}

#[test]
fn who_listens_at_one_server_is_called_at_another_until_that_is_killed() {
    let Some(nats) = Nats::start(&[]) else { return };
    let [mut one, two] = nats.servers();
    let home = Identity::generate([5; 32]);
    let mut listener = listen(&one, &home);
    let mut caller = call(&two, &home);
    let Answer::Called { ticket, .. } = listener.hears() else { panic!() };
    let mut comes = one.greet(0);
    let place = Place::Ticket(ticket);
    comes.says(&Request::Join { place, opening: b"home".to_vec() });
    assert!(met(&mut comes, b"caller").is_some());
    assert_eq!(met(&mut caller, b"home"), None);

    let mut caller = call(&two, &home);
    assert!(matches!(listener.hears(), Answer::Called { .. }));
    one.signal(Signal::SIGKILL);
    caller.is_ended(Some(Refusal::NobodyThere));
    // It comes back at the other.
    let mut listener = listen(&two, &home);
    let _caller = call(&two, &home);
    assert!(matches!(listener.hears(), Answer::Called { .. }));
}

#[test]
fn a_server_that_is_stopped_says_so_at_once() {
    let Some(nats) = Nats::start(&[]) else { return };
    let [one, mut two] = nats.servers();
    let (mut a, mut b) = (one.greet(0), two.greet(0));
    let number = allocate(&mut a);
    b.says(&join(number));
    met(&mut b, b"first");
    met(&mut a, b"second");
    assert!(two.signal(Signal::SIGTERM).success());
    b.is_ended(Some(Refusal::GoingDown));
    a.stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    assert_eq!(a.hears(), Answer::Left, "long before it is missed");
}

#[test]
fn meetings_on_one_server_go_on_without_the_bus_and_others_when_it_is_back() {
    let Some(nats) = Nats::start(&[]) else { return };
    let [one, two] = nats.servers();
    let (mut a, mut b) = (one.greet(0), one.greet(0));
    let number = allocate(&mut a);
    b.says(&join(number));
    met(&mut b, b"first");
    met(&mut a, b"second");
    let port = nats.port;
    drop(nats);
    knows(&one, 0);
    a.says(&Request::Relay(vec![1]));
    assert_eq!(b.hears(), Answer::Relayed(vec![1]));
    meet(&one, &one);

    let _nats = Nats::on(port, &[]).unwrap();
    knows(&one, 1);
    knows(&two, 1);
    meet(&one, &two);
}

#[test]
fn without_a_bus_where_one_is_asked_for_there_is_no_server() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bus = format!("nats://punch:secret@{unused}");
    let words = ["--listen", "127.0.0.1:0", "--alt-port", "0", "-v", "--bus", &bus];
    let output = command(&words).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(4), 0), "{said}");
    assert!(said.contains(&format!("no bus at nats://{unused}: ")), "{said}");
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn a_bus_that_wants_a_password_gets_it_and_nobody_else() {
    let Some(nats) = Nats::start(&["--user", "punch", "--pass", "guarded"]) else { return };
    let address = SocketAddr::from(([127, 0, 0, 1], nats.port));
    for (bus, status) in [("punch:wrong@", Some(4)), ("", Some(4))] {
        let bus = format!("nats://{bus}{address}");
        let words = ["--listen", "127.0.0.1:0", "--alt-port", "0", "-vv", "--bus", &bus];
        let output = command(&words).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), status, "{said}");
        assert!(!said.contains("wrong"), "{said}");
    }
    let bus = format!("nats://punch:guarded@{address}");
    let words = ["--listen", "127.0.0.1:0", "--alt-port", "0", "-vv", "--bus", &bus];
    let mut server = Server::of(command(&words).stderr(Stdio::piped()));
    meet(&server, &server);
    let mut said = server.process.stderr.take().unwrap();
    assert!(server.signal(Signal::SIGTERM).success());
    let mut log = String::new();
    said.read_to_string(&mut log).unwrap();
    assert!(log.contains("joined other servers") && !log.contains("guarded"), "{log}");
}

#[test]
fn nonsense_on_the_bus_changes_nothing() {
    let Some(nats) = Nats::start(&[]) else { return };
    let [one, two] = nats.servers();
    let mut stranger = TcpStream::connect(("127.0.0.1", nats.port)).unwrap();
    stranger.write_all(b"CONNECT {\"verbose\":false}\r\n").unwrap();
    for payload in [&b""[..], b"\x01", b"\x02abc", &[0xff; 9000], &[1; 300]] {
        let head = format!("PUB tcp-punch.1.all {}\r\n", payload.len());
        stranger.write_all(&[head.as_bytes(), payload, b"\r\n"].concat()).unwrap();
    }
    stranger.write_all(b"PING\r\n").unwrap();
    let mut lines = BufReader::new(&stranger).lines();
    assert!(lines.any(|line| line.unwrap() == "PONG"));
    meet(&one, &two);
}

#[test]
fn a_server_that_hangs_is_missed_and_taken_back() {
    let Some(nats) = Nats::start(&[]) else { return };
    let [one, two] = nats.servers();
    let (mut a, mut b) = (one.greet(0), two.greet(0));
    let number = allocate(&mut a);
    b.says(&join(number));
    met(&mut b, b"first");
    met(&mut a, b"second");
    let process = Pid::from_raw(two.process.id().try_into().unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    assert_eq!(a.hears(), Answer::Left);
    knows(&one, 0);
    kill(process, Signal::SIGCONT).unwrap();
    knows(&one, 1);
    meet(&one, &two);
}
