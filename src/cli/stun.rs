//! `--stun`: the servers that tell how the routers translate us.

use super::endpoint::{resolve, split};
use super::{Failure, Status};
use crate::engine::{Held, Punch, Survey, SurveyError};
use crate::nat::{self, PortModel};
use crate::wire::Nonsense;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// RFC 8489 section 18.6.
const PORT: u16 = 3478;

/// Reads `--stun HOST[:PORT]` and resolves a name; of its addresses one of the IP version of
/// `local` is preferred.
///
/// # Errors
/// A usage failure for malformed text, a name without an address, and an address that stands for
/// no host.
pub fn server(text: &str, local: Option<IpAddr>) -> Result<SocketAddr, Failure> {
    server_of("--stun", text, local)
}

/// Likewise, what stands behind another option or in a variable.
///
/// # Errors
/// As [`server`].
pub fn server_of(option: &str, text: &str, local: Option<IpAddr>) -> Result<SocketAddr, Failure> {
    let write = match option.starts_with('-') {
        true => {
            format!("write HOST, HOST:PORT or [IPV6]:PORT, for example {option} stun.example.org")
        }
        false => format!("set it to HOST, HOST:PORT or [IPV6]:PORT: {option}=stun.example.org"),
    };
    if text.is_empty() {
        return Err(Failure::usage(format!("{option} \"\" names no server"), write));
    }
    let with_port = if text.ends_with(']') || !text.contains(':') {
        Cow::Owned(format!("{text}:{PORT}"))
    } else {
        Cow::Borrowed(text)
    };
    let (host, port) = split(option, &with_port, &write)?;
    let mut server = resolve(option, host, port, local)?;
    if let ip @ IpAddr::V4(_) = server.ip().to_canonical() {
        server = SocketAddr::new(ip, server.port());
    }
    match (Nonsense::of(server, server), local) {
        (Some(why), _) => Err(Failure::usage(format!("{option} {} {why}", server.ip()), write)),
        (None, Some(local)) if local.is_ipv4() != server.is_ipv4() => {
            let error = SurveyError::OtherFamily { server, local };
            Err(Failure::usage(&error, error.advice()))
        }
        (None, _) => Ok(server),
    }
}

/// Surer than this nobody needs to be.
const SURE: f64 = 0.9;

/// Asks the servers how this side's router numbers the ports that `punch` will use, and says so.
/// The connections that come with it keep the mappings alive.
///
/// # Errors
/// When no server tells anything.
pub fn measure(
    servers: &[SocketAddr],
    punch: &Punch,
    quiet: bool,
) -> Result<(PortModel, Held), Failure> {
    let (local_ip, local_port) = punch.local();
    let mut survey = Survey::new(servers.iter().copied(), local_port).neighbours(2).privileged(2);
    if let Some(ip) = local_ip {
        survey = survey.local_ip(ip);
    }
    let (observations, held) = survey
        .run_and_hold()
        .map_err(|error| Failure::new(Status::Rendezvous, &error, error.advice()))?;
    let Some(fit) = nat::fit(&observations) else {
        return Err(Failure::new(
            Status::Rendezvous,
            "the STUN servers told no external port",
            "name another server with --stun",
        ));
    };
    let model = fit.prudent_model(local_port, punch.instant());
    if !quiet {
        eprintln!("tcp-punch: this side's router: {fit}");
        if fit.probability < SURE {
            eprintln!("  name a second --stun server, at another address, to know more");
        }
        for external in &fit.addresses {
            eprintln!("tcp-punch: its address is {external}; the peer gives --peer-model {model}");
        }
    }
    Ok((model, held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        for (text, is) in [
            ("203.0.113.7", "203.0.113.7:3478"),
            ("203.0.113.7:80", "203.0.113.7:80"),
            ("[2001:db8::1]", "[2001:db8::1]:3478"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[::ffff:203.0.113.7]", "203.0.113.7:3478"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(server(text, None).map(|it| it.to_string()), Ok(is.to_owned()));
        }
    }

    #[test]
    fn a_name_is_resolved_in_the_ip_version_of_the_local_address() {
        let local = "192.0.2.1".parse().unwrap();
        let found = server("localhost:3479", Some(local)).unwrap();
        assert_eq!(found, "127.0.0.1:3479".parse().unwrap());
    }

    #[test]
    fn what_names_no_server() {
        for (text, says) in [
            ("", "--stun \"\" names no server"),
            ("a b", "--stun \"a b:3478\" is not an address and a port"),
            ("203.0.113.7:", "--stun port \"\" is not a number"),
            ("203.0.113.7:0", "--stun port 0 stands for no port"),
            ("203.0.113.7:70000", "--stun port 70000 is above 65535"),
            ("300.1.1.1", "--stun \"300.1.1.1:3478\" is not an address and a port"),
            ("2001:db8::1", "--stun \"2001:db8::1\" needs brackets around the IPv6 address"),
            ("[2001:db8::1", "--stun \"[2001:db8::1\" has no closing bracket"),
            ("0.0.0.0", "--stun 0.0.0.0 is no address of a host"),
            ("[::]:80", "--stun :: is no address of a host"),
            ("224.0.0.1", "--stun 224.0.0.1 is no address of a host"),
            ("255.255.255.255", "--stun 255.255.255.255 is no address of a host"),
        ] {
            assert_eq!(server(text, None).expect_err(text).happened, says);
        }
        let failure = server("stun.invalid", None).expect_err("no such name");
        assert!(failure.happened.starts_with("--stun stun.invalid cannot be resolved"));
        let failure = server("[2001:db8::1]", Some([192, 0, 2, 1].into())).expect_err("IPv6");
        assert_eq!(
            failure.happened,
            "STUN server [2001:db8::1]:3478 cannot be reached from 192.0.2.1"
        );
    }
}
