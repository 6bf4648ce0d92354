//! A server that does not do as it should: it passes on what an honest one says, or something else.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread;

use tcp_punch::rendezvous::{Answer, Frames, frame};

use crate::meet::{SERVER, Server};
use crate::network::Host;

/// Where the honest one listens.
const HONEST: u16 = 4000;

/// What is done with an answer on its way.
pub(crate) struct Deed {
    /// Sent in its place.
    pub(crate) bytes: Vec<u8>,
    /// Then the server dies.
    pub(crate) dies: bool,
}

impl Deed {
    /// Passes it on.
    pub(crate) fn pass(answer: &Answer) -> Self {
        Self { bytes: frame(answer).expect("it came as one"), dies: false }
    }

    /// Sends something else.
    pub(crate) fn say(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), dies: false }
    }
}

type Meddle = dyn FnMut(SocketAddr, Answer) -> Deed + Send;

struct Shared {
    meddle: Mutex<Box<Meddle>>,
    /// Everybody who is connected.
    open: Mutex<Vec<TcpStream>>,
}

/// The server in the middle, until it is dropped. It answers no STUN.
pub(crate) struct Middle {
    listener: TcpListener,
    shared: Arc<Shared>,
    _honest: Server,
}

impl Middle {
    /// `meddle` gets each answer with the client whom it is for.
    pub(crate) fn start(
        host: &Host,
        meddle: impl FnMut(SocketAddr, Answer) -> Deed + Send + 'static,
    ) -> Self {
        let honest = Server::start_at(host, HONEST);
        let shared =
            Arc::new(Shared { meddle: Mutex::new(Box::new(meddle)), open: Mutex::default() });
        let listener = host.run(|| {
            let listener = TcpListener::bind((SERVER, 3478)).expect("a free port");
            let (accepting, shared) = (listener.try_clone().expect("a descriptor"), &shared);
            let shared = Arc::clone(shared);
            // In this namespace, too.
            thread::spawn(move || {
                while let Ok((stream, client)) = accepting.accept() {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || serve(&stream, client, &shared));
                }
            });
            listener
        });
        Self { listener, shared, _honest: honest }
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        self.shared.die();
    }
}

impl Shared {
    fn die(&self) {
        for stream in self.open.lock().expect("nobody panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(client: &TcpStream, from: SocketAddr, shared: &Shared) {
    let mut first = [0];
    if client.peek(&mut first).is_err() || first[0] < 0x40 {
        return;
    }
    let honest = TcpStream::connect((SERVER, HONEST)).expect("it listens");
    let copies = [client, &honest].map(|it| it.try_clone().expect("a descriptor"));
    shared.open.lock().expect("nobody panics").extend(copies);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*client, &mut &honest);
            let _ = honest.shutdown(Shutdown::Both);
        });
        let _ = pass_on(&honest, client, from, shared);
        let _ = client.shutdown(Shutdown::Both);
    });
}

fn pass_on(
    mut honest: &TcpStream,
    mut client: &TcpStream,
    from: SocketAddr,
    shared: &Shared,
) -> io::Result<()> {
    let (mut frames, mut piece) = (Frames::default(), [0; 4096]);
    loop {
        let length = honest.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        frames.extend(&piece[..length]);
        while let Some(mut answer) = frames.take::<Answer>().expect("it is honest") {
            if let Answer::Welcome { observed, other_port, .. } = &mut answer {
                (*observed, *other_port) = (from, None);
            }
            let deed = (shared.meddle.lock().expect("nobody panics"))(from, answer);
            client.write_all(&deed.bytes)?;
            if deed.dies {
                shared.die();
                return Ok(());
            }
        }
    }
}
