//! Which rendezvous server.

use super::Failure;
use super::args::ServerArgs;
use super::endpoint::{resolve, split};
use std::borrow::Cow;
use std::net::SocketAddr;

/// The environment variable that names the server.
pub const VARIABLE: &str = "TCP_PUNCH_SERVER";
/// RFC 8489 section 18.6: the server speaks STUN, too.
pub const PORT: u16 = 3478;

const WRITE: &str = "write HOST, HOST:PORT or [IPV6]:PORT, for example --server punch.example.org";

/// The server from the option or the environment, resolved; an IPv4 address is preferred, since it
/// is IPv4 that has NATs to be measured.
///
/// # Errors
/// A usage failure: none named, malformed, no address.
pub fn server(args: &ServerArgs) -> Result<SocketAddr, Failure> {
    let variable = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let (option, text) = match (&args.server, variable) {
        (Some(text), _) => ("--server", text.clone()),
        (None, Some(text)) => (VARIABLE, text),
        (None, None) => {
            return Err(Failure::usage(
                "no server is named",
                format!("give --server HOST or set {VARIABLE}; to run one: tcp-punch serve"),
            ));
        }
    };
    let with_port = if text.ends_with(']') || !text.contains(':') {
        Cow::Owned(format!("{text}:{PORT}"))
    } else {
        Cow::Borrowed(text.as_str())
    };
    let (host, port) = split(option, &with_port, WRITE)?;
    let server = resolve(option, host, port, None)?;
    Ok(SocketAddr::new(server.ip().to_canonical(), server.port()))
}
