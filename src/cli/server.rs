//! Which rendezvous server.

use super::Failure;
use super::args::ServerArgs;
use super::configuration::Configuration;
use super::endpoint::{resolve, split};
use super::folder::Folder;
use std::net::SocketAddr;

/// The environment variable that names the server.
pub const VARIABLE: &str = "TCP_PUNCH_SERVER";
/// RFC 8489 section 18.6: the server speaks STUN, too.
pub const PORT: u16 = 3478;

const WRITE: &str = "write HOST, HOST:PORT or [IPV6]:PORT, for example --server punch.example.org";

/// A server as somebody named it; well-formed.
#[derive(Clone, Debug)]
pub struct Named {
    /// Where it was named.
    place: String,
    text: String,
}

/// The server from the option, the environment or the configuration file, the first that names
/// one.
///
/// # Errors
/// A usage failure: none named, malformed.
pub fn named(args: &ServerArgs) -> Result<Named, Failure> {
    let variable = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let (place, text) = match (&args.server, variable) {
        (Some(text), _) => ("--server".to_owned(), text.clone()),
        (None, Some(text)) => (VARIABLE.to_owned(), text),
        (None, None) => configured()?,
    };
    let text =
        if text.ends_with(']') || !text.contains(':') { format!("{text}:{PORT}") } else { text };
    split(&place, &text, WRITE)?;
    Ok(Named { place, text })
}

fn configured() -> Result<(String, String), Failure> {
    let path = Folder::find().ok().map(|folder| folder.file("config"));
    if let Some(path) = &path
        && let Some(server) = Configuration::read(path)?.server
    {
        return Ok((format!("{}: server", path.display()), server));
    }
    let file = path.map(|path| format!(", or write server = HOST to {}", path.display()));
    Err(Failure::usage(
        "no server is named",
        format!(
            "give --server HOST or set {VARIABLE}{}; to run one: tcp-punch serve",
            file.unwrap_or_default()
        ),
    ))
}

impl Named {
    /// Its address; an IPv4 one is preferred, since it is IPv4 that has NATs to be measured.
    ///
    /// # Errors
    /// A usage failure: no address.
    pub fn resolve(&self) -> Result<SocketAddr, Failure> {
        let (host, port) = split(&self.place, &self.text, WRITE)?;
        let server = resolve(&self.place, host, port, None)?;
        Ok(SocketAddr::new(server.ip().to_canonical(), server.port()))
    }
}

/// [`named`], resolved.
///
/// # Errors
/// As both.
pub fn server(args: &ServerArgs) -> Result<SocketAddr, Failure> {
    named(args)?.resolve()
}
