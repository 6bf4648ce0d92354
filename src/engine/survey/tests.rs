use super::*;
use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

/// A Binding success response with the transaction of `request`.
fn success(request: &[u8], attributes: &[(u16, SocketAddr)]) -> Vec<u8> {
    let mut bytes = vec![1, 1, 0, 12 * attributes.len() as u8];
    bytes.extend(&request[4..20]);
    for (kind, address) in attributes {
        let IpAddr::V4(ip) = address.ip() else { panic!("IPv4 in these tests") };
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 8, 0, 1]);
        bytes.extend(address.port().to_be_bytes());
        bytes.extend(ip.octets());
    }
    bytes
}

const MAPPED: u16 = 0x0001;
const OTHER: u16 = 0x802c;

/// Answers every request with what `answer` makes of it and of who asks.
fn serve(
    listener: TcpListener,
    answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + Sync + 'static,
) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut request = [0; 20];
                if stream.read_exact(&mut request).is_ok() {
                    let _ = stream.write_all(&answer(&request, from));
                    // The other end is to close first, as it would a real server.
                    let _ = stream.read(&mut request);
                }
            });
        }
    });
    address
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// A local port that nobody listens on: it is below those that the kernel hands out.
fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 20).unwrap();
    20_000 + process * 600 + TAKEN.fetch_add(30, Ordering::Relaxed)
}

fn survey(server: SocketAddr) -> Survey {
    Survey::new([server], free_port()).timeout(Duration::from_millis(300))
}

fn error_of(server: SocketAddr) -> SurveyError {
    survey(server).run().expect_err("no samples")
}

/// Listeners on two addresses and two ports, as RFC 5780 wants them: primary first.
fn quartet() -> [TcpListener; 4] {
    loop {
        let primary = listener();
        let port = primary.local_addr().unwrap().port();
        let Some(next) = port.checked_add(1) else { continue };
        let others = ["127.0.0.1", "127.0.0.2", "127.0.0.2"].into_iter().zip([next, port, next]);
        let others: Result<Vec<_>, _> = others.map(TcpListener::bind).collect();
        if let Ok([a, b, c]) = others.map(|others| <[_; 3]>::try_from(others).unwrap()) {
            return [primary, a, b, c];
        }
    }
}

#[test]
fn every_local_port_asks_every_address_of_the_server_in_order() {
    let listeners = quartet();
    let addresses: Vec<_> = listeners.iter().map(|it| it.local_addr().unwrap()).collect();
    let other = addresses[3];
    for listener in listeners {
        serve(listener, move |request, from| success(request, &[(MAPPED, from), (OTHER, other)]));
    }
    let first = free_port();
    let survey = Survey::new([addresses[0]], first).neighbours(2);
    let sources = survey.sources.clone();
    let samples = survey.run().unwrap();
    let expected: Vec<(u16, SocketAddr)> =
        sources.iter().flat_map(|port| addresses.iter().map(|to| (*port, *to))).collect();
    let seen: Vec<_> = samples.iter().map(|it| (it.local.port(), it.destination)).collect();
    assert_eq!(seen, expected);
    assert!(samples.iter().all(|sample| sample.external == sample.local), "{samples:?}");
    assert!(samples.windows(2).all(|pair| pair[0].at < pair[1].at), "{samples:?}");
}

#[test]
fn the_first_ports_connections_end_in_order_and_the_others_in_resets() {
    let (ended, end) = channel();
    let listener = listener();
    let server = listener.local_addr().unwrap();
    thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, from) = listener.accept().unwrap();
            let ended = ended.clone();
            thread::spawn(move || {
                let mut request = [0; 20];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(&success(&request, &[(MAPPED, from)])).unwrap();
                let result = stream.read(&mut request).map_err(|error| error.kind());
                ended.send((from.port(), result)).unwrap();
            });
        }
    });
    let (first, further) = (free_port(), free_port());
    let samples = Survey::new([server], first).source(further).run().unwrap();
    assert_eq!(samples.len(), 2);
    let ends: HashMap<_, _> = end.iter().collect();
    assert_eq!(ends[&first], Ok(0));
    assert_eq!(ends[&further], Err(ErrorKind::ConnectionReset));
}

#[test]
fn connections_that_are_held_stay_open() {
    let (ended, end) = channel();
    let listener = listener();
    let server = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        let mut request = [0; 20];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&success(&request, &[(MAPPED, from)])).unwrap();
        ended.send(stream.read(&mut request).map_err(|error| error.kind())).unwrap();
    });
    let (samples, held) = survey(server).run_and_hold().unwrap();
    assert_eq!(samples.len(), 1);
    assert!(end.recv_timeout(Duration::from_millis(50)).is_err(), "closed though held");
    drop(held);
    assert_eq!(end.recv(), Ok(Ok(0)), "an ordinary end, not a reset");
}

#[test]
fn a_dead_server_among_others_is_left_out() {
    let server = serve(listener(), |request, from| success(request, &[(MAPPED, from)]));
    let dead = SocketAddr::new(server.ip(), free_port());
    let mute = listener();
    let servers = [dead, mute.local_addr().unwrap(), server];
    let began = Instant::now();
    let samples = Survey::new(servers, free_port()).run().unwrap();
    assert_eq!(samples.iter().map(|it| it.destination).collect::<Vec<_>>(), [server]);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_answers_otherwise_is_named() {
    for (answer, says) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "an HTTP server answers there, not a STUN server"),
        (b"\x01\x01\x00", "closed the connection after 3 bytes of a response"),
        (b"", "closed the connection after 0 bytes of a response"),
    ] {
        let listener = listener();
        let server = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 20]).unwrap();
            stream.write_all(answer).unwrap();
        });
        let error = error_of(server);
        assert!(error.to_string().ends_with(says), "{error}");
        assert!(error.to_string().contains(&server.to_string()), "{error}");
    }
}

#[test]
fn a_server_that_lies_is_not_believed() {
    let server =
        serve(listener(), |request, _| success(request, &[(MAPPED, "0.0.0.0:1".parse().unwrap())]));
    let error = error_of(server).to_string();
    assert!(error.ends_with("we come from 0.0.0.0:1, which is no address of a host"), "{error}");
}

#[test]
fn nobody_there_is_a_refusal() {
    let server = SocketAddr::new([127, 0, 0, 1].into(), free_port());
    assert_eq!(error_of(server), SurveyError::Refused(server));
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let listener = listener();
    let (server, within) = (listener.local_addr().unwrap(), Duration::from_millis(300));
    let began = Instant::now();
    assert_eq!(error_of(server), SurveyError::Mute { server, within });
    assert!(began.elapsed() >= within);
}

#[test]
fn a_server_that_answers_over_udp_alone_is_said_to() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut request = [0; 20];
        let (_, from) = socket.recv_from(&mut request).unwrap();
        socket.send_to(&success(&request, &[(MAPPED, from)]), from).unwrap();
    });
    assert_eq!(error_of(server), SurveyError::OnlyUdp(server));
}

#[test]
fn the_first_local_port_has_to_be_usable_and_the_others_need_not() {
    let server = serve(listener(), |request, from| success(request, &[(MAPPED, from)]));
    let taken = listener();
    let taken = taken.local_addr().unwrap().port();
    let samples = Survey::new([server], free_port()).source(taken).run().unwrap();
    assert_eq!(samples.len(), 1);
    let error = Survey::new([server], taken).run().unwrap_err();
    assert_eq!(error, SurveyError::Local(GuardError::PortInUse(taken)));
}

#[test]
fn what_cannot_be_asked_is_said() {
    assert_eq!(Survey::new([], 40000).run(), Err(SurveyError::NoServer));
    let (server, local) = ("[2001:db8::1]:3478".parse().unwrap(), [127, 0, 0, 1].into());
    let survey = Survey::new([server], 40000).local_ip(local);
    assert_eq!(survey.run(), Err(SurveyError::OtherFamily { server, local }));
}

#[test]
fn further_ports_are_of_both_parities_and_like_the_first() {
    for first in [1, 1000, 1023, 1024, 40000, 65535] {
        let sources = Survey::new([], first).neighbours(3).sources;
        assert_eq!(sources.iter().collect::<HashSet<_>>().len(), 4, "{sources:?}");
        assert!(sources.iter().all(|port| (*port < 1024) == (first < 1024)), "{sources:?}");
        assert_eq!(sources.iter().filter(|port| **port % 2 == 0).count(), 2, "{sources:?}");
    }
    let privileged = Survey::new([], 40000).privileged(u16::MAX).sources;
    assert_eq!(privileged[0], 40000);
    assert!(privileged[1..].iter().all(|port| (512..1024).contains(port)), "{privileged:?}");
}
