//! Servers, peers and networks that fail in the middle of a meeting. Nothing hangs, everything is
//! said, nothing stays.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcp_punch::rendezvous::{Answer, Event, Purpose, Request, Session, frame};
use tcp_punch::sys::clock;

use crate::meet::{Server, code, meet, network, talk};
use crate::middle::{Deed, Middle};
use crate::network::{Host, PATIENCE};
use crate::program::{Ended, Program};

const CODE: &str = "4711-guitar-umbrella";
const SERVER_AT: &str = "192.0.2.254:3478";

/// It ended with this status and said this in the first of its two last lines.
fn assert_ends(ended: &Ended, status: i32, happened: &str) {
    assert_eq!(ended.status, status, "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let [.., said, todo] = lines[..] else { panic!("not two lines: {ended:?}") };
    assert!(said.starts_with("tcp-punch: ") && said.contains(happened), "{ended:?}");
    assert!(todo.starts_with("  ") && !todo.trim().is_empty(), "{ended:?}");
}

/// Runs it to its end, within so many seconds.
fn within(seconds: u64, program: Program) -> Ended {
    let began = Instant::now();
    let ended = program.end();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(seconds), "{took:?}: {ended:?}");
    ended
}

/// A peer that does as the test says.
struct Peer {
    stream: TcpStream,
    session: Session,
}

impl Peer {
    fn join(host: &Host, code: &str) -> Self {
        let stream = host.run(|| TcpStream::connect(SERVER_AT)).expect("the server is there");
        stream.set_read_timeout(Some(Duration::from_millis(10))).expect("a valid timeout");
        let purpose = Purpose::Code(code.parse().expect("a code"));
        let session = Session::new(purpose, [5; 32], clock::now()).expect("a session");
        Self { stream, session }
    }

    fn send(&mut self, bytes: &[u8]) {
        let bytes = [&self.session.output(clock::now()), bytes].concat();
        self.stream.write_all(&bytes).expect("it listens");
    }

    fn meets(mut self) -> Self {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.send(&[]);
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => panic!("the server closed"),
                Ok(length) => self.session.handle(&piece[..length], clock::now()).expect("sense"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            while let Some(event) = self.session.poll() {
                if event == Event::Keyed {
                    return self;
                }
            }
        }
        panic!("nobody came")
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_that_refuses_or_keeps_silent() {
    let pair = network(&[]);
    meet(&pair.a, &[]).end().assert_complaint(
        4,
        "nobody listens at 192.0.2.254:3478",
        "check --server, or start it there: tcp-punch serve",
    );
    // One host's packets get lost, the other one's server accepts and says nothing.
    let server = Server::start(&pair.network.server());
    server.signal(Signal::SIGSTOP);
    pair.network.router_a().must("iptables -I FORWARD -d 192.0.2.254 -j DROP");
    let programs = [meet(&pair.a, &[]), meet(&pair.b, &[])];
    let [a, b] = programs.map(|program| within(8, program));
    assert_ends(&a, 4, "the server 192.0.2.254:3478 did not answer within 5");
    assert_ends(&b, 4, "the server has not answered for 5s");
    for host in [&pair.a.host, &pair.b.host] {
        host.assert_quiet();
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_that_is_killed_and_comes_back() {
    let pair = network(&[]);
    for (signal, said) in [
        (Signal::SIGKILL, "the server 192.0.2.254:3478 closed the connection"),
        (Signal::SIGTERM, "the server is shutting down"),
    ] {
        let server = Server::start(&pair.network.server());
        let a = meet(&pair.a, &[]);
        code(&a);
        server.end(signal);
        assert_ends(&within(2, a), 4, said);
    }
    // A new one knows no number, so that who comes first waits there.
    let _server = Server::start(&pair.network.server());
    talk(meet(&pair.a, &[CODE]), meet(&pair.b, &[CODE]));
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_that_dies_when_both_reports_are_through() {
    let pair = network(&[]);
    let mut reports = 0;
    let server = Middle::start(&pair.network.server(), move |_, answer| {
        reports += usize::from(matches!(answer, Answer::Relayed(_)));
        Deed { dies: reports == 2, ..Deed::pass(&answer) }
    });
    talk(meet(&pair.a, &[CODE]), meet(&pair.b, &[CODE]));
    drop(server);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn who_waits_is_interrupted_or_killed() {
    let pair = network(&[]);
    let _server = Server::start(&pair.network.server());
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGKILL, 137)]
    {
        let a = meet(&pair.a, &[]);
        let code = code(&a);
        a.signal(signal);
        let ended = within(2, a);
        assert_eq!(ended.status, status, "{ended:?}");
        let said = format!("interrupted by signal {}", signal as i32);
        assert!(signal == Signal::SIGKILL || ended.stderr.contains(&said), "{ended:?}");
        pair.a.host.assert_quiet();
        // The number is not spent: the other one waits, and whoever has lost it comes back.
        if signal == Signal::SIGKILL {
            talk(meet(&pair.b, &[&code]), meet(&pair.a, &[&code]));
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_peer_that_goes_after_it_came() {
    let pair = network(&[]);
    let _server = Server::start(&pair.network.server());
    let a = meet(&pair.a, &[]);
    drop(Peer::join(&pair.b.host, &code(&a)).meets());
    assert_ends(&within(2, a), 4, "the peer left");
    pair.a.host.assert_quiet();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_peer_that_is_killed_before_the_instant() {
    let pair = network(&[]);
    let (tell, told) = std::sync::mpsc::channel::<Pid>();
    let mut reports = 0;
    let _server = Middle::start(&pair.network.server(), move |_, answer| {
        reports += usize::from(matches!(answer, Answer::Relayed(_)));
        // One end has the other's report by then.
        if reports == 2
            && let Ok(peer) = told.recv()
        {
            kill(peer, Signal::SIGKILL).expect("it runs");
            reports += 1;
        }
        Deed::pass(&answer)
    });
    let programs = [&pair.a, &pair.b].map(|end| meet(end, &[CODE, "--timeout", "2s"]));
    tell.send(programs[1].pid()).expect("it waits");
    let [a, b] = programs.map(|program| within(8, program));
    assert_eq!(b.status, 137);
    // It depends on whose report came first.
    assert!([4, 6].contains(&a.status), "{a:?}");
    assert_ends(&a, a.status, "");
    pair.a.host.assert_quiet();
    pair.b.host.assert_quiet();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_interrupt_while_the_peer_tells_nothing() {
    let pair = network(&[]);
    let _server = Server::start(&pair.network.server());
    let a = meet(&pair.a, &[]);
    let _peer = Peer::join(&pair.b.host, &code(&a)).meets();
    a.await_stderr("the peer is there");
    a.signal(Signal::SIGINT);
    assert_eq!(within(2, a).status, 130);
    pair.a.host.assert_quiet();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_peer_that_tells_nothing_or_loses_its_network() {
    let pair = network(&[]);
    // It keeps every report to itself.
    let _server = Middle::start(&pair.network.server(), |_, answer| match answer {
        Answer::Relayed(_) => Deed::say(&[]),
        answer => Deed::pass(&answer),
    });
    let programs = [meet(&pair.a, &[CODE]), meet(&pair.b, &[CODE])];
    programs[0].await_stderr("the peer is there");
    pair.a.host.must("ip link set dev eth0 down");
    let [a, b] = programs.map(|program| within(12, program));
    assert_ends(&a, 4, "the server has not answered for 5s");
    assert_ends(&b, 4, "the peer came, and told nothing within 8");
    pair.b.host.assert_quiet();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_network_that_changes_between_discovery_and_instant() {
    let pair = network(&[]);
    let host = pair.a.host.clone();
    let mut changed = false;
    let _server = Middle::start(&pair.network.server(), move |_, answer| {
        if matches!(answer, Answer::Relayed(_)) && !changed {
            changed = true;
            host.must("ip route add unreachable 203.0.113.0/24");
        }
        Deed::pass(&answer)
    });
    let programs = [&pair.a, &pair.b].map(|end| meet(end, &[CODE, "--timeout", "2s"]));
    let [a, b] = programs.map(|program| within(8, program));
    assert_ends(&a, 5, "no route to 203.0.113.1");
    assert_ends(&b, 6, "the peer sent no SYN: no route to 203.0.113.1");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_wrong_word_a_third_party_and_a_code_that_is_spent() {
    let pair = network(&[]);
    let _server = Server::start(&pair.network.server());
    let a = meet(&pair.a, &[CODE]);
    let b = meet(&pair.b, &["4711-guitar-zodiac"]);
    for program in [a, b] {
        assert_ends(&within(5, program), 7, "whoever is there does not have the same code");
    }
    within(2, meet(&pair.b, &[CODE])).assert_complaint(
        4,
        "somebody else used this code; make a new one",
        "make a new code: tcp-punch meet, without one",
    );
    // A third one does not disturb two who have met.
    let code = "4712-guitar-umbrella";
    let (a, b) = (meet(&pair.a, &[code]), meet(&pair.b, &[code]));
    a.await_stderr("connected");
    let third = within(2, meet(&pair.b, &[code]));
    assert_ends(&third, 4, "somebody else used this code");
    talk(a, b);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_that_lies_about_our_address() {
    let pair = network(&[]);
    for lie in ["0.0.0.0:40000", "224.0.0.1:40000", "198.51.100.1:0"] {
        let observed: SocketAddr = lie.parse().expect("an address");
        let _server = Middle::start(&pair.network.server(), move |_, answer| match answer {
            Answer::Welcome { .. } => Deed::pass(&Answer::Welcome {
                observed,
                other_port: None,
                other_address: Vec::new(),
            }),
            answer => Deed::pass(&answer),
        });
        let a = within(2, meet(&pair.a, &[]));
        assert_ends(&a, 4, &format!("the server says that this host appears as {lie}, which "));
    }
    // Somebody else's, told of both.
    let _server = Middle::start(&pair.network.server(), |client, answer| match answer {
        Answer::Welcome { .. } => Deed::pass(&Answer::Welcome {
            observed: SocketAddr::new("192.0.2.77".parse().expect("an address"), client.port()),
            other_port: None,
            other_address: Vec::new(),
        }),
        answer => Deed::pass(&answer),
    });
    let programs = [&pair.a, &pair.b].map(|end| meet(end, &[CODE, "--timeout", "2s"]));
    for ended in programs.map(|program| within(8, program)) {
        assert_ends(&ended, 6, "none arrived: ");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nonsense_from_the_server_or_the_peer() {
    let pair = network(&[]);
    let said: [(&[u8], &str); 4] = [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "understand: a message of 21331 bytes was announced"),
        (&[0xff; 4000], "understand: a message of 65535 bytes was announced"),
        (&[0, 4, 0x2a, 0x2a, 0x2a, 0x2a], "understand: a message makes no sense"),
        // Listening.
        (&[0, 1, 7], "the server speaks out of turn"),
    ];
    for (bytes, happened) in said {
        let _server = Middle::start(&pair.network.server(), move |_, _| Deed::say(bytes));
        assert_ends(&within(2, meet(&pair.a, &[CODE])), 4, happened);
    }
    {
        let _server = Middle::start(&pair.network.server(), |_, answer| {
            let bytes = frame(&answer).expect("it came as one");
            Deed::say(&[&bytes[..], &bytes].concat())
        });
        assert_ends(&within(2, meet(&pair.a, &[CODE])), 4, "the server speaks out of turn");
    }
    let _server = Server::start(&pair.network.server());
    let a = meet(&pair.a, &[]);
    let mut peer = Peer::join(&pair.b.host, &code(&a)).meets();
    peer.send(&frame(&Request::Relay(vec![0x2a; 900])).expect("it fits"));
    assert_ends(&within(2, a), 7, "whoever is there does not have the same code");
    pair.a.host.assert_quiet();
}
