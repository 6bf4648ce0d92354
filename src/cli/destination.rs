//! Where the connection goes.
//!
//! [`Destination::prepare`] comes before the punch and finds out everything that can be wrong, so
//! that a punched connection is not lost to a misspelt command. [`Prepared::deliver`] comes after.

mod command;
mod error;
mod join;
mod listen;

pub use crate::sys::child::Passing;
pub use error::DestinationError;
pub use join::{JoinError, Local, join, join_until};
pub use listen::{LocalListener, NoClient};

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::sys::eventfd::EventFd;
use nix::unistd::dup2_stdout;

use crate::sys::{descriptor, privilege};
use command::Command;

/// Where the connection goes, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Joined to standard input and output.
    Stdio,
    /// Given to a command.
    Command {
        /// The command and its arguments.
        argv: Vec<OsString>,
        /// How it gets the connection.
        passing: Passing,
        /// The user it runs as, a name or a number. `None`: who called sudo, else who we are.
        user: Option<String>,
    },
    /// Sent to whoever listens on this Unix stream socket.
    PassFd(PathBuf),
    /// Sent over standard output, a Unix stream socket.
    FdPass,
    /// Joined to a local service, `HOST:PORT`.
    Connect(String),
    /// Joined to the first client of a local port, `HOST:PORT`.
    Listen(String),
}

impl Destination {
    /// Checks and readies everything that can be before there is a connection.
    ///
    /// # Errors
    /// [`DestinationError`], with exit status 2, or 3 where a privilege is missing.
    pub fn prepare(self) -> Result<Prepared, DestinationError> {
        let ready = match self {
            Self::Stdio => Ready::Stdio,
            Self::Command { argv, passing, user } => {
                Ready::Command(Command::prepare(argv, passing, user)?)
            }
            Self::PassFd(path) => Ready::Socket(connect_unix(path)?),
            Self::FdPass if descriptor::is_unix_stream(io::stdout().as_fd()) => Ready::FdPass,
            Self::FdPass => return Err(DestinationError::StdoutNotSocket),
            Self::Connect(service) => match resolve(&service) {
                Ok(addresses) => Ready::Connect { service, addresses },
                Err(source) => {
                    return Err(DestinationError::Address { text: service, source });
                }
            },
            Self::Listen(text) => Ready::Listen(LocalListener::bind(&text)?),
        };
        Ok(Prepared(ready))
    }
}

/// A destination that waits for its connection.
#[derive(Debug)]
pub struct Prepared(Ready);

#[derive(Debug)]
enum Ready {
    Stdio,
    Command(Command),
    Socket(UnixStream),
    FdPass,
    Connect { service: String, addresses: Vec<SocketAddr> },
    Listen(LocalListener),
}

impl Prepared {
    /// The addresses on which a local client is awaited; none unless the destination listens.
    #[must_use]
    pub fn listening_on(&self) -> Vec<SocketAddr> {
        match &self.0 {
            Ready::Listen(listener) => listener.addresses(),
            _ => Vec::new(),
        }
    }

    /// Keeps an environment variable from the command: the secret that was read from it.
    #[must_use]
    pub fn without_variable(mut self, name: &OsStr) -> Self {
        if let Ready::Command(command) = &mut self.0 {
            command.forget_variable(name);
        }
        self
    }

    /// Drops every privilege, hands the connection over and stays as long as that takes.
    /// Returns the exit status: a command's own, or 0.
    ///
    /// Capabilities belong to threads and a child's life is tied to the thread that made it: call
    /// this on the main thread, when no other is left. `connection` must be the only descriptor of
    /// its socket, or the peer does not see the end. Standard output is used up by
    /// [`Destination::Stdio`]: afterwards descriptor 1 is `/dev/null`.
    ///
    /// # Errors
    /// [`DestinationError`], with exit status 8, or 1 where a stream broke on the way.
    pub fn deliver(self, connection: OwnedFd) -> Result<u8, DestinationError> {
        descriptor::set_close_on_exec(&connection)
            .and_then(|()| descriptor::set_blocking(&connection))
            .map_err(|source| DestinationError::Descriptor { source })?;
        // A command's user is changed first, which takes a privilege.
        if !matches!(self.0, Ready::Command(_)) {
            drop_privileges()?;
        }
        match self.0 {
            Ready::Command(command) => return command.run(connection),
            Ready::Stdio => join(connection, standard_streams()?)?,
            Ready::Socket(socket) => send(socket.as_fd(), &connection)?,
            Ready::FdPass => send(io::stdout().as_fd(), &connection)?,
            Ready::Connect { service, addresses } => {
                let stream = TcpStream::connect(&addresses[..])
                    .map_err(|source| DestinationError::Service { service, source })?;
                join(connection, Local::Socket(stream.into()))?;
            }
            Ready::Listen(listener) => {
                let client = listener.first_client(connection.as_fd())?;
                join(connection, Local::Socket(client.into()))?;
            }
        }
        Ok(0)
    }
}

/// Drops every privilege of this thread and joins a connection to a local service, `HOST:PORT`,
/// until either ends or something is written to `stop`.
///
/// # Errors
/// [`DestinationError`], with exit status 8, or 1 where a stream broke on the way.
pub fn serve(service: &str, connection: OwnedFd, stop: &EventFd) -> Result<(), DestinationError> {
    privilege::drop_all()?;
    let failed = |source| DestinationError::Service { service: service.to_owned(), source };
    let stream = resolve(service).and_then(|at| TcpStream::connect(&at[..])).map_err(failed)?;
    Ok(join_until(connection, Local::Socket(stream.into()), stop)?)
}

fn drop_privileges() -> Result<(), DestinationError> {
    privilege::raise_for_hand_over()?;
    privilege::forbid_gaining()?;
    privilege::drop_all()?;
    tracing::debug!("capabilities dropped");
    Ok(())
}

fn send(socket: std::os::fd::BorrowedFd<'_>, connection: &OwnedFd) -> Result<(), DestinationError> {
    descriptor::send(socket, connection.as_fd()).map_err(|source| DestinationError::Send { source })
}

/// Standard input and output as descriptors to be closed. Descriptor 1 then is `/dev/null`, so that
/// closing the other really ends the stream and its number is not taken by something else.
fn standard_streams() -> Result<Local, DestinationError> {
    let streams = || -> io::Result<Local> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        let null = std::fs::File::options().write(true).open("/dev/null")?;
        dup2_stdout(&null)?;
        Ok(Local::Streams { input, output })
    };
    streams().map_err(|source| DestinationError::StandardStreams { source })
}

fn connect_unix(path: PathBuf) -> Result<UnixStream, DestinationError> {
    let not_connected = |path, source| DestinationError::PassFd { path, source };
    match std::fs::metadata(&path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(DestinationError::NotASocket { path })
        }
        Ok(_) => UnixStream::connect(&path).map_err(|source| not_connected(path, source)),
        Err(source) => Err(not_connected(path, source)),
    }
}

/// The addresses that `HOST:PORT` names, at least one.
fn resolve(text: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = text.to_socket_addrs()?.collect();
    if addresses.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn refused(destination: Destination) -> DestinationError {
        let error = destination.prepare().unwrap_err();
        for line in [error.to_string(), error.advice()] {
            assert!(!line.is_empty() && !line.contains('\n'), "one line: {line}");
        }
        error
    }

    #[test]
    fn a_path_is_tried_before_the_punch() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);

        let error = refused(Destination::PassFd(path("absent")));
        assert_eq!(error.exit_status(), 2);
        std::fs::write(path("file"), "").unwrap();
        let error = refused(Destination::PassFd(path("file")));
        assert!(matches!(error, DestinationError::NotASocket { .. }), "{error}");
        let _datagram = UnixDatagram::bind(path("datagram")).unwrap();
        let error = refused(Destination::PassFd(path("datagram")));
        assert!(matches!(error, DestinationError::PassFd { .. }), "{error}");
        drop(UnixListener::bind(path("left")).unwrap());
        let error = refused(Destination::PassFd(path("left")));
        assert!(error.to_string().contains("Connection refused"), "{error}");

        let _listener = UnixListener::bind(path("socket")).unwrap();
        assert!(Destination::PassFd(path("socket")).prepare().is_ok());
    }

    #[test]
    fn an_address_is_resolved_before_the_punch() {
        for text in ["localhost", "127.0.0.1:port", "127.0.0.1:70000", "", ":80"] {
            let error = refused(Destination::Connect(text.into()));
            assert_eq!(error.exit_status(), 2);
            let error = refused(Destination::Listen(text.into()));
            assert_eq!(error.exit_status(), 2);
        }
        assert!(Destination::Connect("localhost:22".into()).prepare().is_ok());
        assert!(Destination::Connect("[::1]:22".into()).prepare().is_ok());
    }

    #[test]
    fn an_address_in_use_is_found_before_the_punch() {
        let first = Destination::Listen("127.0.0.1:0".into()).prepare().unwrap();
        let address = first.listening_on()[0].to_string();
        let error = refused(Destination::Listen(address.clone()));
        assert!(error.to_string().contains(&address), "{error}");
        assert_eq!(error.exit_status(), 2);
    }
}
