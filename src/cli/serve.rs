//! `serve`: the rendezvous server.

use super::args::ServeArgs;
use super::interrupt::Interrupt;
use super::{Failure, Status, log, print};
use crate::engine::serve::{Bound, BusAddress, BusError, Config, ServeError};
use crate::rendezvous::server::{AddressLimits, Limits};
use crate::sys::capability::BINDING_LOW_PORTS;
use crate::sys::{ListenError, privilege};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::prelude::*;

const WRITE_ADDRESS: &str = "write ADDRESS:PORT or [IPV6]:PORT, for example [::]:3478";
const WRITE_PORT: &str = "choose a port from 1 to 65535, other than the first";
const WRITE_QUOTA: &str =
    "write connections=512,waiting=64,meetings=120,probes=240,requests=1000 or some of it";

/// A server tells of its start and its end, unlike a punch; with `-v` of every refusal,
/// without saying whose.
pub fn start_log(args: &ServeArgs) {
    let level = match (args.quiet, args.verbose) {
        (false, 0) => LevelFilter::from_level(Level::INFO),
        (quiet, verbose) => log::level(quiet, verbose),
    };
    if args.log == "json" {
        let _ = tracing_subscriber::fmt()
            .json()
            .with_writer(io::stderr)
            .with_max_level(level)
            .with_target(false)
            .finish()
            .with(log::ours(level))
            .try_init();
    } else {
        // systemd's journal and its like add the time.
        log::start(level);
    }
}

/// Serves until a signal ends it.
///
/// # Errors
/// A usage failure for a wrong option; whatever keeps the ports from being opened.
pub fn serve(args: &ServeArgs) -> Result<u8, Failure> {
    let config = read(args)?;
    let interrupt = Interrupt::catch().map_err(internal)?;
    let stop = interrupt.descriptor().map_err(internal)?;
    let bound = Bound::new(&config).map_err(failure)?;
    let addresses = bound.local_addresses();
    let low = addresses.iter().any(|address| address.port() < 1024);
    let keep: &[_] = if low { &[BINDING_LOW_PORTS] } else { &[] };
    privilege::forbid_gaining().and_then(|()| privilege::drop_all_but(keep)).map_err(|error| {
        Failure::new(Status::Internal, error, "run it as an ordinary user, who has none to drop")
    })?;
    let mut announced = Ok(());
    let done = bound.run(stop, |bound| {
        announced = announce(bound, &addresses);
        announced.is_ok()
    });
    // Taken, so that it does not end the process when it is let through again.
    interrupt.caught();
    done.map_err(failure)?;
    announced?;
    tracing::info!("stopped");
    Ok(0)
}

/// One line on standard output, for scripts; the same in the log; and systemd is told.
fn announce(bound: &Bound, addresses: &[SocketAddr]) -> Result<(), Failure> {
    let list = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" ");
    let mut line = format!("ready: {list}");
    if let Some(metrics) = bound.metrics_address() {
        line += &format!("; metrics: {metrics}");
    }
    line.push('\n');
    print(line.as_bytes())?;
    tracing::info!(addresses = list, capacity = bound.capacity(), "ready");
    notify_systemd();
    Ok(())
}

/// `READY=1`, as sd_notify(3) sends it.
fn notify_systemd() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        match path.as_bytes().strip_prefix(b"@") {
            Some(name) => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(b"READY=1", &address)
            }
            None => socket.send_to(b"READY=1", &path),
        }
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd could not be told that the server is ready");
    }
}

fn read(args: &ServeArgs) -> Result<Config, Failure> {
    let listen = address("--listen", &args.listen)?;
    let other_port = args.alt_port.parse().ok().filter(|port| *port != listen.port() || *port == 0);
    let Some(other_port) = other_port else {
        return Err(Failure::usage(
            format!("--alt-port \"{}\" is no second port", args.alt_port),
            WRITE_PORT,
        ));
    };
    let mut other_ips: Vec<IpAddr> = Vec::new();
    for text in &args.alt_addr {
        let wrong = |what: &str| {
            Failure::usage(
                format!("--alt-addr \"{text}\" {what}"),
                "give another address of this host, without a port; ip address lists them",
            )
        };
        let ip: IpAddr = text.parse().map_err(|_| wrong("is no address"))?;
        let ip = ip.to_canonical();
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(wrong("is no single address"));
        }
        if ip == listen.ip() {
            return Err(wrong("is the address of --listen"));
        }
        if other_ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(wrong("is the second one of its IP version"));
        }
        other_ips.push(ip);
    }
    let metrics = args.metrics.as_deref().map(|text| address("--metrics", text)).transpose()?;
    let connections = args.capacity.parse().ok().filter(|capacity| *capacity > 0);
    let Some(connections) = connections else {
        return Err(Failure::usage(
            format!("--capacity \"{}\" is no number of clients", args.capacity),
            "write a number above zero, for example 120000",
        ));
    };
    let bus: Result<Vec<BusAddress>, Failure> = args.bus.iter().map(|text| bus(text)).collect();
    let address = quota(args.quota.as_deref().unwrap_or_default())?;
    let limits = Limits { address, connections, ..Limits::default() };
    Ok(Config { listen, other_port, other_ips, metrics, bus: bus?, limits })
}

fn bus(text: &str) -> Result<BusAddress, Failure> {
    // It may hold a password.
    let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    text.parse().map_err(|error| {
        Failure::usage(format!("--bus \"{shown}\" {error}"), "write nats://HOST:PORT")
    })
}

fn address(option: &str, text: &str) -> Result<SocketAddr, Failure> {
    let address: SocketAddr = text.parse().map_err(|_| {
        Failure::usage(format!("{option} \"{text}\" is no address with a port"), WRITE_ADDRESS)
    })?;
    if address.ip().is_multicast() {
        return Err(Failure::usage(
            format!("{option} {} is a multicast address", address.ip()),
            WRITE_ADDRESS,
        ));
    }
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn quota(text: &str) -> Result<AddressLimits, Failure> {
    let mut limits = AddressLimits::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let wrong = || Failure::usage(format!("--quota \"{part}\" is not understood"), WRITE_QUOTA);
        let (name, number) = part.split_once('=').ok_or_else(wrong)?;
        let number: u32 = number.parse().map_err(|_| wrong())?;
        match name {
            "connections" => limits.connections = number,
            "waiting" => limits.waiting = number,
            "meetings" => limits.meetings = number,
            "probes" => limits.probes = number,
            "requests" => limits.requests = number,
            _ => return Err(wrong()),
        }
    }
    Ok(limits)
}

fn failure(error: ServeError) -> Failure {
    let status = match &error {
        ServeError::Listen(ListenError::Privileged(_)) => Status::Privilege,
        ServeError::Listen(ListenError::NotOurs(_)) => Status::Usage,
        ServeError::Bus(BusError::Unreachable { .. }) => Status::Rendezvous,
        _ => Status::Internal,
    };
    Failure::new(status, &error, error.advice())
}

fn internal(error: impl Display) -> Failure {
    Failure::new(
        Status::Internal,
        error,
        "run tcp-punch doctor, which checks what this host can do",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Args, Command};
    use clap::Parser;

    fn config(words: &[&str]) -> Result<Config, Failure> {
        let words = ["tcp-punch", "serve"].iter().chain(words);
        match Args::try_parse_from(words).unwrap().command {
            Some(Command::Serve(args)) => read(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_options_it_serves_the_ports_of_stun_everywhere() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen, "[::]:3478".parse().unwrap());
        assert_eq!((config.other_port, config.metrics), (3479, None));
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn the_help_names_the_quotas_as_they_are() {
        let limits = AddressLimits::default();
        let said = format!(
            "connections={},waiting={},meetings={},probes={},requests={}",
            limits.connections, limits.waiting, limits.meetings, limits.probes, limits.requests
        );
        assert!(WRITE_QUOTA.contains(&said), "{said}");
        assert_eq!(quota(&said), Ok(limits));
        assert_eq!(quota("probes=1").unwrap().probes, 1);
    }

    #[test]
    fn wrong_options_are_named() {
        for (words, says) in [
            (&["--listen", "3478"][..], "--listen \"3478\" is no address with a port"),
            (&["--listen", "224.0.0.1:1"], "--listen 224.0.0.1 is a multicast address"),
            (&["--alt-port", "3478"], "--alt-port \"3478\" is no second port"),
            (&["--alt-port", "70000"], "--alt-port \"70000\" is no second port"),
            (&["--alt-addr", "0.0.0.0"], "--alt-addr \"0.0.0.0\" is no single address"),
            (&["--alt-addr", "example.org"], "--alt-addr \"example.org\" is no address"),
            (
                &["--listen", "192.0.2.1:1", "--alt-addr", "192.0.2.1"],
                "--alt-addr \"192.0.2.1\" is the address of --listen",
            ),
            (
                &["--alt-addr", "192.0.2.1", "--alt-addr", "192.0.2.2"],
                "--alt-addr \"192.0.2.2\" is the second one of its IP version",
            ),
            (&["--metrics", "9100"], "--metrics \"9100\" is no address with a port"),
            (&["--quota", "people=3"], "--quota \"people=3\" is not understood"),
            (&["--quota", "waiting=-1"], "--quota \"waiting=-1\" is not understood"),
            (&["--bus", "localhost:4222"], "--bus \"localhost:4222\" is no nats://HOST:PORT"),
            (&["--bus", "nats://u:secret@"], "--bus \"\" is no nats://HOST:PORT"),
            (&["--capacity", "0"], "--capacity \"0\" is no number of clients"),
        ] {
            let failure = config(words).expect_err("should be refused");
            assert_eq!((failure.happened.as_str(), failure.status), (says, Status::Usage));
        }
    }
}
