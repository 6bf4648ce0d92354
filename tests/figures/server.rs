//! Somebody outside who tells from which port a connection comes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, connect};

use crate::end::bound;
use crate::network::{Host, Network};

/// The address for `network.sh --server`, apart from those of the hops.
pub(crate) const ADDRESS: &str = "192.0.2.254";
const PORT: u16 = 3478;
const PATIENCE: Duration = Duration::from_secs(5);

/// It listens as long as its network stands.
pub(crate) struct Server(SocketAddr);

impl Server {
    pub(crate) fn start(network: &Network) -> io::Result<Self> {
        let address = SocketAddr::new(ADDRESS.parse().map_err(io::Error::other)?, PORT);
        let listener = network.server().run(|| TcpListener::bind(address))?;
        thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                let _ = stream.write_all(&from.port().to_be_bytes());
            }
        });
        Ok(Self(address))
    }

    /// The external port of a new mapping of this host: from a port never used before, since the
    /// kernel's choice may repeat one, whose mapping would still be there.
    pub(crate) fn port_seen(&self, host: &Host) -> io::Result<u16> {
        static NEXT: AtomicU16 = AtomicU16::new(40_000);
        host.run(|| {
            let socket = bound(NEXT.fetch_add(1, Ordering::Relaxed))?;
            connect(socket.as_raw_fd(), &SockaddrStorage::from(self.0))?;
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut port = [0; 2];
            stream.read_exact(&mut port)?;
            Ok(u16::from_be_bytes(port))
        })
    }
}
