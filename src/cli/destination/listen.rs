//! A local port that takes one client.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::{DestinationError, resolve};

/// Idle seconds after which the kernel asks whether the peer is still there. Short enough for
/// a NAT that forgets an idle connection after a minute.
const KEEPALIVE_SECONDS: u32 = 20;

/// A listener on every address of a name: a client of `localhost` may come by either IP version.
#[derive(Debug)]
pub struct LocalListener {
    listeners: Vec<TcpListener>,
}

/// Why no client came.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    /// The connection was lost first.
    #[error("the connection was lost while waiting for a local client")]
    PeerGone,
    /// A system call failed.
    #[error("waiting for a local client: {0}")]
    Call(#[from] io::Error),
}

impl LocalListener {
    /// Binds `HOST:PORT` and listens. Port 0 takes any free port.
    ///
    /// # Errors
    /// The address does not resolve, or an address of it cannot be listened on.
    pub fn bind(text: &str) -> Result<Self, DestinationError> {
        let addresses = resolve(text).map_err(|source| DestinationError::Address {
            text: text.to_owned(),
            source,
        })?;
        let mut listeners: Vec<TcpListener> = Vec::new();
        let mut unavailable = None;
        for mut address in addresses {
            let first = listeners.first().and_then(|it| it.local_addr().ok());
            if let (0, Some(first)) = (address.port(), first) {
                address.set_port(first.port());
            }
            // The standard library sets SO_REUSEADDR, so an earlier run's TIME_WAIT is no obstacle.
            let bound = TcpListener::bind(address)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
            match bound {
                Ok(listener) => listeners.push(listener),
                // The other IP version, on a host that has only one.
                Err(source) if is_unavailable(&source) => {
                    unavailable = Some(DestinationError::Listen { address, source });
                }
                Err(source) => return Err(DestinationError::Listen { address, source }),
            }
        }
        match unavailable {
            Some(error) if listeners.is_empty() => Err(error),
            _ => Ok(Self { listeners }),
        }
    }

    /// The addresses that are listened on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Waits for the first client, as long as the connection holds; then listens no more.
    ///
    /// An end of the peer's stream is no reason to give up: it may only have nothing to say, and
    /// bytes that it sent before wait in the socket. Whether it still is there the keepalive
    /// probes find out, which also keep the NATs' mappings alive.
    ///
    /// # Errors
    /// [`NoClient`].
    pub fn first_client(self, connection: BorrowedFd<'_>) -> Result<TcpStream, NoClient> {
        keep_alive(connection).map_err(io::Error::from)?;
        let mut waiting = vec![PollFd::new(connection, PollFlags::empty())];
        waiting.extend(
            self.listeners
                .iter()
                .map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
        );
        loop {
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            }
            if waiting[0].any().unwrap_or(true) {
                return Err(NoClient::PeerGone);
            }
            for listener in &self.listeners {
                match listener.accept() {
                    Ok((client, address)) => {
                        tracing::debug!(%address, "local client");
                        return Ok(client);
                    }
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::WouldBlock
                                | ErrorKind::ConnectionAborted
                                | ErrorKind::Interrupted
                        ) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

fn is_unavailable(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

fn keep_alive(connection: BorrowedFd<'_>) -> nix::Result<()> {
    setsockopt(&connection, sockopt::KeepAlive, &true)?;
    setsockopt(&connection, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS)?;
    setsockopt(&connection, sockopt::TcpKeepInterval, &KEEPALIVE_SECONDS)
}
