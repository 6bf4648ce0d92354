//! A server of the real program, and a client that says what it is told to.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tcp_punch::rendezvous::{Answer, Frames, Place, Refusal, Request, frame, greeting};
use tcp_punch::wire::stun::{Binding, Response, TransactionId, binding_request};

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
}

pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-punch"));
    command.arg("serve").args(words).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

impl Server {
    pub(crate) fn start(words: &[&str]) -> Self {
        let mut command = command(&["--listen", "127.0.0.1:0", "--alt-port", "0"]);
        Self::of(command.args(words))
    }

    pub(crate) fn of(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let line = line.trim_end().strip_prefix("ready: ").unwrap();
        let (addresses, metrics) = line.split_once("; metrics: ").unwrap_or((line, ""));
        let addresses = addresses.split(' ').map(|address| address.parse().unwrap()).collect();
        Self { process, addresses, metrics: metrics.parse().ok() }
    }

    pub(crate) fn connect(&self, port: usize) -> Client {
        Client::of(TcpStream::connect(self.addresses[port]).unwrap())
    }

    pub(crate) fn greet(&self, port: usize) -> Client {
        let mut client = self.connect(port);
        client.stream.write_all(&greeting()).unwrap();
        assert!(matches!(client.hears(), Answer::Welcome { .. }));
        client
    }

    /// From another address of the loopback interface.
    pub(crate) fn greet_from(&self, host: u8) -> Client {
        let from = SocketAddr::new(Ipv4Addr::new(127, 0, 9, host).into(), 0);
        let mut client = Client::of(connect_from(from, self.addresses[0]));
        client.stream.write_all(&greeting()).unwrap();
        assert!(matches!(client.hears(), Answer::Welcome { .. }));
        client
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.metrics.unwrap()).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("# EOF\n"), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in: {text}")).parse().unwrap()
    }

    /// Still there, and does its work.
    pub(crate) fn serves(&self) {
        assert_eq!(self.connect(0).binding().external.ip(), self.addresses[0].ip());
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
        self.process.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
    };
    use std::os::fd::AsRawFd;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    TcpStream::from(socket)
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) frames: Frames,
}

impl Client {
    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, frames: Frames::default() }
    }

    pub(crate) fn says(&mut self, request: &Request) {
        self.stream.write_all(&frame(request).unwrap()).unwrap();
    }

    pub(crate) fn asks(&mut self, request: &Request) -> Answer {
        self.says(request);
        self.hears()
    }

    /// The next answer; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = self.frames.take().unwrap() {
                return Some(answer);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(length) => self.frames.extend(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn hears(&mut self) -> Answer {
        self.next().expect("an answer")
    }

    /// The connection ends, after this word if there is one.
    pub(crate) fn is_ended(&mut self, why: Option<Refusal>) {
        if let Some(why) = why {
            assert_eq!(self.hears(), Answer::Refused(why));
        }
        assert_eq!(self.next(), None);
    }

    pub(crate) fn binding(&mut self) -> Binding {
        let id = TransactionId::new([7; 12]);
        self.stream.write_all(&binding_request(id)).unwrap();
        // Any public address: that ours are the loopback's is no nonsense to this client.
        let mut response = Response::new(id, self.stream.peer_addr().unwrap());
        loop {
            let mut piece = [0; 4096];
            let length = self.stream.read(&mut piece).unwrap();
            assert_ne!(length, 0, "the connection ended");
            if let Some(binding) = response.push(&piece[..length]).unwrap() {
                return binding;
            }
        }
    }
}

pub(crate) fn allocate(client: &mut Client) -> u32 {
    match client.asks(&Request::Allocate) {
        Answer::Allocated(number) => {
            let (place, opening) = (Place::Number(number), b"first".to_vec());
            client.says(&Request::Join { place, opening });
            number
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn join(number: u32) -> Request {
    Request::Join { place: Place::Number(number), opening: b"second".to_vec() }
}
