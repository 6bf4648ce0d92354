//! Somebody outside who tells from which port a connection comes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

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

    /// The external port of a new connection of this host.
    pub(crate) fn port_seen(&self, host: &Host) -> io::Result<u16> {
        host.run(|| {
            let mut stream = TcpStream::connect_timeout(&self.0, PATIENCE)?;
            let mut port = [0; 2];
            stream.read_exact(&mut port)?;
            Ok(u16::from_be_bytes(port))
        })
    }
}
