//! The real server over the loopback interface: what it answers, to whom, and what it puts up with.

#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tcp_punch::rendezvous::{
    Answer, Identity, Origin, Place, Reaction, Refusal, Request, frame, greeting,
};
use tcp_punch::sys::clock;
use tcp_punch::wire::stun::{TransactionId, binding_request};

mod bus;
mod served;

use served::*;

#[test]
fn both_ports_answer_stun_with_where_we_come_from() {
    let server = Server::start(&[]);
    for port in [0, 1] {
        let mut client = server.connect(port);
        for _ in 0..3 {
            let binding = client.binding();
            assert_eq!(binding.external, client.stream.local_addr().unwrap());
            assert_eq!(binding.origin, Some(server.addresses[port]));
            assert_eq!(binding.other, None, "one address has no other");
        }
    }
}

#[test]
fn with_another_address_it_is_told_and_open() {
    let server = Server::start(&["--alt-addr", "127.0.0.2"]);
    assert_eq!(server.addresses.len(), 4);
    let other = |port: usize| SocketAddr::new([127, 0, 0, 2].into(), server.addresses[port].port());
    assert_eq!(server.connect(0).binding().other, Some(other(1)));
    assert_eq!(Client::of(TcpStream::connect(other(1)).unwrap()).binding().origin, Some(other(1)));
    let mut client = server.connect(0);
    client.stream.write_all(&greeting()).unwrap();
    let welcome = Answer::Welcome {
        observed: client.stream.local_addr().unwrap(),
        other_port: Some(server.addresses[1]),
        other_address: vec![other(0), other(1)],
    };
    assert_eq!(client.hears(), welcome);
}

#[test]
fn one_socket_for_both_ip_versions_shows_ipv4_addresses_as_such() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("not tested: this host has no IPv6");
        return;
    }
    let server = Server::of(&mut command(&["--listen", "[::]:0", "--alt-port", "0"]));
    let port = server.addresses[0].port();
    for host in ["127.0.0.1", "::1"] {
        let to = SocketAddr::new(host.parse().unwrap(), port);
        let mut client = Client::of(TcpStream::connect(to).unwrap());
        assert_eq!(client.binding().external, client.stream.local_addr().unwrap());
        let mut client = Client::of(TcpStream::connect(to).unwrap());
        client.stream.write_all(&greeting()).unwrap();
        let Answer::Welcome { observed, other_port, .. } = client.hears() else { panic!() };
        assert_eq!(observed, client.stream.local_addr().unwrap());
        assert_eq!(other_port, Some(SocketAddr::new(to.ip(), server.addresses[1].port())));
    }
}

#[test]
fn two_meet_and_a_third_is_refused() {
    let server = Server::start(&["--metrics", "127.0.0.1:0"]);
    let (mut a, mut b, mut c) = (server.greet(0), server.greet(1), server.greet(0));
    let number = allocate(&mut a);
    assert_eq!(server.metric("tcp_punch_waiting"), 1);
    assert_eq!(b.asks(&join(number)), Answer::Met { opening: b"first".to_vec() });
    assert_eq!(a.hears(), Answer::Met { opening: b"second".to_vec() });
    c.says(&join(number));
    c.is_ended(Some(Refusal::Occupied));
    for bytes in [vec![1; 4000], vec![2], Vec::new()] {
        b.says(&Request::Relay(bytes.clone()));
        assert_eq!(a.hears(), Answer::Relayed(bytes.clone()));
        a.says(&Request::Relay(bytes.clone()));
        assert_eq!(b.hears(), Answer::Relayed(bytes));
    }
    drop(a);
    assert_eq!(b.hears(), Answer::Left);
    assert_eq!(server.metric("tcp_punch_meetings_total"), 1);
    assert_eq!(server.metric("tcp_punch_relayed_bytes_total"), 2 * 4001);
    assert_eq!(server.metric("tcp_punch_refusals_total{reason=\"occupied\"}"), 1);
}

#[test]
fn the_first_flight_may_come_in_one_piece() {
    let server = Server::start(&[]);
    let mut first = server.greet(0);
    let number = allocate(&mut first);
    let mut client = server.connect(0);
    let mut flight = greeting();
    for sent_ns in 0..8 {
        flight.extend(frame(&Request::Clock { sent_ns }).unwrap());
    }
    flight.extend(frame(&join(number)).unwrap());
    flight.extend(frame(&Request::Relay(b"report".to_vec())).unwrap());
    client.stream.write_all(&flight).unwrap();
    assert!(matches!(client.hears(), Answer::Welcome { .. }));
    for sent_ns in 0..8 {
        let Answer::Clock(times) = client.hears() else { panic!() };
        assert_eq!(times.sent_ns, sent_ns);
    }
    assert_eq!(client.hears(), Answer::Met { opening: b"first".to_vec() });
    assert_eq!(first.hears(), Answer::Met { opening: b"second".to_vec() });
    assert_eq!(first.hears(), Answer::Relayed(b"report".to_vec()));
}

#[test]
fn the_clock_is_read_between_question_and_answer() {
    let server = Server::start(&[]);
    let mut client = server.greet(0);
    for _ in 0..20 {
        let sent_ns = clock::now().unix_ns();
        let Answer::Clock(times) = client.asks(&Request::Clock { sent_ns }) else { panic!() };
        let back = clock::now().unix_ns();
        let order = [sent_ns, times.received_ns, times.answered_ns, back];
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(times.sent_ns, sent_ns);
    }
}

#[test]
fn a_listener_is_called_and_comes() {
    let server = Server::start(&[]);
    let home = Identity::generate([5; 32]);
    let (mut listener, mut caller) = (server.greet(0), server.greet(1));
    let Answer::Challenge(challenge) = listener.asks(&Request::Listen(home.public())) else {
        panic!()
    };
    assert_eq!(listener.asks(&Request::Prove(home.prove(challenge))), Answer::Listening);
    caller.says(&Request::Call { name: home.public(), opening: b"caller".to_vec() });
    let Answer::Called { ticket, opening } = listener.hears() else { panic!() };
    assert_eq!(opening, b"caller");
    let mut comes = server.greet(0);
    let place = Place::Ticket(ticket);
    assert_eq!(
        comes.asks(&Request::Join { place, opening: b"home".to_vec() }),
        Answer::Met { opening: b"caller".to_vec() }
    );
    assert_eq!(caller.hears(), Answer::Met { opening: b"home".to_vec() });
}

#[test]
fn a_probe_comes_from_where_it_was_asked_to_and_its_end_is_told() {
    let server = Server::start(&["--alt-addr", "127.0.0.2"]);
    let mut client = server.greet(0);
    let mapping = client.stream.local_addr().unwrap();
    let probed =
        |client: &mut Client, from| match client.asks(&Request::Probe { id: 4, from, mapping }) {
            Answer::Probed { id: 4, reaction, .. } => reaction,
            other => panic!("{other:?}"),
        };
    // Nobody listens there.
    for from in [Origin::OtherPort, Origin::OtherAddress] {
        assert_eq!(probed(&mut client, from), Reaction::Reset, "{from:?}");
    }
    // A client that both listens on a port and has connected from it.
    let (listener, mut stream) = listen_and_connect(server.addresses[0]);
    let mapping = listener.local_addr().unwrap();
    stream.write_all(&greeting()).unwrap();
    let mut client = Client::of(stream);
    assert!(matches!(client.hears(), Answer::Welcome { .. }));
    let other = SocketAddr::new([127, 0, 0, 2].into(), server.addresses[0].port());
    for (from, address) in [(Origin::OtherPort, server.addresses[1]), (Origin::OtherAddress, other)]
    {
        client.says(&Request::Probe { id: 5, from, mapping });
        let (mut knock, from) = listener.accept().unwrap();
        assert_eq!(from, address);
        let reset = knock.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(reset, Err(ErrorKind::ConnectionReset));
        let Answer::Probed { id: 5, reaction: Reaction::Answered, .. } = client.hears() else {
            panic!()
        };
    }
}

/// A listener, and a connection from its own port.
fn listen_and_connect(to: SocketAddr) -> (TcpListener, TcpStream) {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, getsockname,
        listen, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    let make = || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
        socket
    };
    let listener = make();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    bind(listener.as_raw_fd(), &SockaddrStorage::from(any)).unwrap();
    let own: SockaddrStorage = getsockname(listener.as_raw_fd()).unwrap();
    let stream = make();
    bind(stream.as_raw_fd(), &own).unwrap();
    connect(stream.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    listen(&listener, Backlog::new(8).unwrap()).unwrap();
    (TcpListener::from(listener), TcpStream::from(stream))
}

#[test]
fn a_probe_towards_somebody_else_is_refused() {
    let server = Server::start(&[]);
    let victim = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = server.greet_from(1);
    for mapping in [victim.local_addr().unwrap(), elsewhere.stream.local_addr().unwrap()] {
        let mut client = server.greet(0);
        client.says(&Request::Probe { id: 1, from: Origin::OtherPort, mapping });
        client.is_ended(Some(Refusal::NotYours));
    }
    victim.set_nonblocking(true).unwrap();
    assert_eq!(victim.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn nonsense_ends_its_connection_and_nothing_else() {
    let server = Server::start(&["--metrics", "127.0.0.1:0"]);
    let mut waiting = server.greet_from(1);
    let number = allocate(&mut waiting);
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x01\xff\xf0\x21\x12\xa4\x42abcdefghijkl",
        b"\xff\xff\xff\xff",
    ] {
        let mut client = server.connect(0);
        client.stream.write_all(bytes).unwrap();
        client.is_ended(None);
    }
    let mut other_version = server.connect(0);
    other_version.stream.write_all(b"TCPP\x02").unwrap();
    other_version.is_ended(Some(Refusal::NotUnderstood));
    for bytes in [&b"\xff\xff"[..], b"\x00\x01\xff", b"\x00\x00", b"\x00\x04\x01\x7fab"] {
        let mut client = server.greet(0);
        client.stream.write_all(bytes).unwrap();
        client.is_ended(Some(Refusal::NotUnderstood));
    }
    // Random bytes, of which some connections carry the beginning of something sensible.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..60 {
        let mut client = if round % 2 == 0 { server.connect(0) } else { server.greet(1) };
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(3000)
        .collect();
        // The server may have ended it before everything is written.
        let _ = client.stream.write_all(&noise);
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        while client.stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {}
    }
    let mut second = server.greet_from(2);
    assert_eq!(second.asks(&join(number)), Answer::Met { opening: b"first".to_vec() });
    drop((second, waiting));
    server.serves();
}

#[test]
fn slow_ones_are_ended_after_ten_seconds_and_who_waits_is_not() {
    let server = Server::start(&[]);
    let began = Instant::now();
    let mut waiting = server.greet(0);
    allocate(&mut waiting);
    let mut silent = server.connect(0);
    let mut half_greeting = server.connect(0);
    half_greeting.stream.write_all(b"TCP").unwrap();
    let mut half_frame = server.greet(0);
    half_frame.stream.write_all(&[0]).unwrap();
    let mut half_stun = server.connect(0);
    half_stun.stream.write_all(b"\x00\x01\x00\x00\x21").unwrap();
    for slow in [&mut silent, &mut half_greeting, &mut half_frame, &mut half_stun] {
        slow.is_ended(None);
    }
    assert!(began.elapsed() >= Duration::from_millis(9900), "{:?}", began.elapsed());
    assert!(matches!(waiting.asks(&Request::Clock { sent_ns: 0 }), Answer::Clock(_)));
}

#[test]
fn who_reads_nothing_is_heard_no_more_and_others_are() {
    let server = Server::start(&["--quota", "requests=100000000"]);
    let mut slow = server.connect(0);
    let id = TransactionId::new([1; 12]);
    let requests = binding_request(id).repeat(3000);
    slow.stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    // Its socket buffers are full at some time, since the server stops to read.
    let stopped = (0..2000).any(|_| slow.stream.write_all(&requests).is_err());
    assert!(stopped, "the server has read {} bytes", 2000 * requests.len());
    server.serves();
    // Ten seconds after the last byte it could send, the server gives up.
    let began = Instant::now();
    let ended = loop {
        match slow.stream.write(&requests) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => break error.kind(),
        }
        assert!(began.elapsed() < Duration::from_secs(60));
    };
    assert!(matches!(ended, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{ended:?}");
}

/// More answers than any buffer holds: the server stops to read, and goes on when the client does.
#[test]
fn who_asks_much_before_it_reads_gets_every_answer() {
    const REQUESTS: usize = 700_000;
    let server = Server::start(&["--quota", "requests=100000000"]);
    let mut client = server.connect(0);
    client.binding();
    // So that no more than a part of the answers is on its way.
    setsockopt(&client.stream, sockopt::RcvBuf, &65_536).unwrap();
    let id = TransactionId::new([1; 12]);
    let request = binding_request(id);
    client.stream.write_all(&request).unwrap();
    let mut piece = vec![0; 64 << 10];
    let answer = client.stream.read(&mut piece).unwrap();
    client.stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let (requests, mut sent, mut received) = (request.repeat(REQUESTS), 0, 0);
    while sent < requests.len() {
        match client.stream.write(&requests[sent..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Only what has been asked can come.
                let most = received + (1 << 20);
                while received < most.min(sent / request.len() * answer) {
                    received += client.stream.read(&mut piece).unwrap();
                }
            }
            Err(error) => panic!("after {sent} bytes: {error}"),
        }
    }
    while received < REQUESTS * answer {
        match client.stream.read(&mut piece).unwrap() {
            0 => panic!("{received} bytes of {}", REQUESTS * answer),
            length => received += length,
        }
    }
}

#[test]
fn a_refusal_is_followed_by_an_orderly_end_whatever_else_was_sent() {
    let server = Server::start(&[]);
    let mut client = server.greet(0);
    let mut bytes = b"\xff\xff".to_vec();
    bytes.resize(40_000, 0);
    client.stream.write_all(&bytes).unwrap();
    assert_eq!(client.hears(), Answer::Refused(Refusal::NotUnderstood));
    assert_eq!(client.stream.read(&mut [0]).map_err(|error| error.kind()), Ok(0));
}

#[test]
fn one_address_has_its_share_and_is_told() {
    let quota = "connections=4,waiting=2,meetings=3";
    let server = Server::start(&["--quota", quota, "--metrics", "127.0.0.1:0"]);
    let mut clients: Vec<Client> = (0..4).map(|_| server.greet(0)).collect();
    let mut fifth = server.connect(0);
    fifth.stream.write_all(&greeting()).unwrap();
    fifth.is_ended(Some(Refusal::TooMany));
    drop(server.greet_from(1));
    allocate(&mut clients[0]);
    allocate(&mut clients[1]);
    clients[2].says(&Request::Allocate);
    clients[2].is_ended(Some(Refusal::TooMany));
    clients[3].says(&join(99));
    clients[3].is_ended(Some(Refusal::TooMany));
    assert_eq!(server.metric("tcp_punch_connections_turned_away_total"), 1);
    assert_eq!(server.metric("tcp_punch_refusals_total{reason=\"too_many\"}"), 3);
    let mut elsewhere = server.greet_from(2);
    allocate(&mut elsewhere);
}

#[test]
fn a_full_server_says_so_and_takes_the_next_when_one_has_gone() {
    let server = Server::start(&["--capacity", "2"]);
    let (first, _second) = (server.greet(0), server.greet(0));
    let mut third = server.connect(0);
    third.stream.write_all(&greeting()).unwrap();
    third.is_ended(Some(Refusal::Full));
    drop(first);
    let began = Instant::now();
    loop {
        let mut next = server.connect(0);
        next.stream.write_all(&greeting()).unwrap();
        match next.hears() {
            Answer::Welcome { .. } => break,
            Answer::Refused(Refusal::Full) => assert!(began.elapsed() < PATIENCE),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn one_too_many_is_told_although_its_greeting_comes_late() {
    let server = Server::start(&["--capacity", "1", "--metrics", "127.0.0.1:0"]);
    let _first = server.greet(0);
    let mut second = server.connect(0);
    while server.metric("tcp_punch_connections_turned_away_total") == 0 {}
    // Another round of everything that the server has to do.
    server.metric("tcp_punch_connections_turned_away_total");
    second.stream.write_all(&greeting()).unwrap();
    second.is_ended(Some(Refusal::Full));
}

#[test]
fn too_few_descriptors_are_survived() {
    let mut limited = Command::new("prlimit");
    limited.args(["--nofile=24", env!("CARGO_BIN_EXE_tcp-punch"), "serve"]);
    limited.args(["--listen", "127.0.0.1:0", "--alt-port", "0"]).stderr(Stdio::null());
    let server = Server::of(&mut limited);
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect(0)).collect();
    clients.drain(..30);
    for client in &mut clients {
        client.binding();
    }
}

#[test]
fn a_signal_ends_it_in_order_and_everybody_is_told() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(&[]);
        let (mut a, mut b, mut idle) = (server.greet(0), server.greet(1), server.greet(0));
        let number = allocate(&mut a);
        b.asks(&join(number));
        a.hears();
        let stun = server.connect(0);
        let began = Instant::now();
        let address = server.addresses[0];
        let ends = std::thread::spawn(move || {
            for client in [&mut a, &mut b, &mut idle] {
                client.is_ended(Some(Refusal::GoingDown));
            }
        });
        let status = server.signal(signal);
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        ends.join().unwrap();
        drop(stun);
        assert!(TcpStream::connect(address).is_err());
    }
}

#[test]
fn it_starts_again_on_the_same_port_at_once() {
    let mut server = Server::start(&[]);
    let [first, second] = server.addresses[..] else { panic!() };
    let mut client = server.greet(0);
    allocate(&mut client);
    server.signal(Signal::SIGTERM);
    let listen = first.to_string();
    let port = second.port().to_string();
    let again = Server::of(&mut command(&["--listen", &listen, "--alt-port", &port]));
    again.serves();
}

#[test]
fn a_port_in_use_is_said_in_two_lines() {
    let server = Server::start(&[]);
    let taken = server.addresses[0].to_string();
    let mut command = command(&["--listen", &taken, "--alt-port", "0"]);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let port = server.addresses[0].port();
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!(
            "tcp-punch: {taken} is in use by another program\n  \
             see who has it with: ss -tlnp 'sport = :{port}', or choose another port\n"
        )
    );
}

#[test]
fn wrong_options_are_said_in_two_lines() {
    for (words, says) in [
        (&["--listen", "3478"][..], "--listen \"3478\" is no address with a port"),
        (&["--listen", "192.0.2.1:0"], "192.0.2.1:0 is not an address of this host"),
        (&["--listen", "127.0.0.1:0", "--alt-addr", "192.0.2.1"], "is not an address of this host"),
        (&["--quota", "all"], "--quota \"all\" is not understood"),
        (&["--bus", "x:4222"], "--bus \"x:4222\" is no nats://HOST:PORT"),
    ] {
        let output = command(words).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 2, "{stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn metrics_are_at_their_path_alone() {
    let server = Server::start(&["--metrics", "127.0.0.1:0"]);
    for request in ["GET / HTTP/1.1\r\n\r\n", "POST /metrics HTTP/1.1\r\n\r\n", "x\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.metrics.unwrap()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
    }
    drop(server.greet(0));
    assert!(server.metric("tcp_punch_connections_total") > 0);
}

#[test]
fn it_holds_no_capability() {
    let server = Server::start(&[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}

#[test]
fn the_log_has_neither_codes_nor_addresses_of_clients() {
    let words = ["--listen", "127.0.0.1:0", "--alt-port", "0", "--log", "json", "-vv"];
    let mut command = command(&words);
    command.stderr(Stdio::piped());
    let mut server = Server::of(&mut command);
    let mut client = server.greet_from(77);
    client.says(&Request::Join { place: Place::Number(424_242), opening: b"hush".to_vec() });
    assert!(matches!(client.asks(&Request::Clock { sent_ns: 0 }), Answer::Clock(_)));
    let mut stderr = server.process.stderr.take().unwrap();
    server.signal(Signal::SIGTERM);
    let mut log = String::new();
    stderr.read_to_string(&mut log).unwrap();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    assert!(log.contains("ready") && log.contains("stopped"), "{log}");
    assert!(!log.contains("424242") && !log.contains("127.0.9.77"), "{log}");
}
