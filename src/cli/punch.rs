//! The main form: from arguments to a punch.

use super::args::{PunchArgs, RecordArgs};
use super::countdown::Countdown;
use super::destination::{DestinationError, Prepared};
use super::how::{self, How};
use super::records::{self, Records};
use super::{Failure, Status, choice, datapath, endpoint, interrupt, outcome, secret, stun, when};
use crate::engine::{Progress, Punch, PunchError};
use crate::nat::PortModel;
use crate::punch::Key;
use crate::sys::capability::{self, CapabilityError};
use crate::sys::clock;
use crate::wire::WallTime;
use nix::unistd::geteuid;
use std::net::SocketAddr;
use std::path::Path;

/// Everything that a punch needs, judged and open, before the first packet.
#[derive(Debug)]
pub struct Ready {
    /// What the engine runs.
    pub punch: Punch,
    /// Where the connection goes.
    pub destination: Prepared,
    /// Where the attempt is written down.
    pub records: Records,
    /// Servers that tell how this side's router numbers its ports, and how the peer's does.
    pub survey: Option<(Vec<SocketAddr>, PortModel)>,
}

/// Runs the main form for a program that started at `now`. Returns the exit status: of the
/// command if there is one.
///
/// # Errors
/// The failure to print, with its exit status.
pub fn punch(args: &PunchArgs, now: WallTime) -> Result<u8, Failure> {
    let Ready { mut punch, destination, mut records, survey } = prepare(args, now)?;
    narrow(punch.binds_low_ports() || survey.is_some())?;
    let signals = interrupt::caught()?;
    // Open until the punch is over: their mappings are those that it uses.
    let mut held = None;
    if let Some((servers, theirs)) = survey {
        let (ours, connections) = stun::measure(&servers, &punch, args.records.quiet)?;
        punch = punch.models(ours, theirs);
        held = Some(connections);
    }
    let punch = punch.interrupt(interrupt::descriptor(&signals)?);
    let mut countdown = Countdown::on_stderr();
    let punched = punch.run(&mut |progress| match progress {
        Progress::Planned(plan) if !args.records.quiet => eprintln!("tcp-punch: {plan}"),
        Progress::Planned(_) => {}
        Progress::Waiting(remaining) => countdown.tick(remaining),
        Progress::Fired => countdown.clear(),
    });
    drop(countdown);
    drop(held);
    match punched {
        Ok(connection) => {
            // The program that gets the connection shall die of signals as any other does.
            drop(signals);
            if !args.records.quiet {
                eprintln!("{}", outcome::line(&connection.report));
            }
            records.write(&connection.report);
            destination.deliver(connection.fd).map_err(|error| destination_failure(&error))
        }
        Err(failed) => {
            if let Some(report) = &failed.report {
                records.write(report);
            }
            let status = outcome::status(&failed.error);
            if let (PunchError::Interrupted, Some(signal)) = (&failed.error, signals.caught()) {
                eprintln!("tcp-punch: interrupted by signal {signal}");
                return Ok(128 + signal);
            }
            Err(Failure::new(status, &failed.error, failed.error.advice()))
        }
    }
}

/// Reads and judges every argument, checks the capabilities, opens the files.
///
/// # Errors
/// Usage failures first, since they can be mended without privilege; then a missing capability;
/// then files that cannot be created. Nothing is created before everything else is right.
pub fn prepare(args: &PunchArgs, now: WallTime) -> Result<Ready, Failure> {
    let missing = |option, what| {
        Failure::usage(
            format!("{option} is missing"),
            format!("give {what}; tcp-punch --help has examples"),
        )
    };
    let peer = args.peer.as_deref().ok_or_else(|| {
        missing("--peer", "the peer's public address, as in --peer 203.0.113.7:40000")
    })?;
    let at = args
        .at
        .as_deref()
        .ok_or_else(|| missing("--at", "the same instant on both ends, as in --at every:10s"))?;
    let at = when::resolve(when::parse(at)?, now)?;
    let how = how::judge(&args.how, args.key.is_some() || args.key_env.is_some())?;
    let destination = choice::destination(&args.destination)?;
    distinct(&args.records)?;
    let key = key(args)?;
    let local = args.local.as_deref().map(endpoint::local).transpose()?;
    let peer = endpoint::peer(peer, local.and_then(|local| local.ip))?;
    let local_ip = local.and_then(|local| local.ip);
    let servers = how::stun_servers(&args.how, local_ip)?;
    // Resolving a name may have taken its time.
    when::check(at, clock::now().max(now))?;
    let mut destination = destination.prepare().map_err(|error| destination_failure(&error))?;
    if let Some(name) = &args.key_env {
        destination = destination.without_variable(name);
    }
    capability::require().map_err(|error| privilege(&error))?;
    datapath::check(how.datapath)?;

    let How { timeout, opener_lead, opener, strategies, spread, ours, theirs, budget, .. } = how;
    let mut punch = Punch::new(peer, at).timeout(timeout).opener(opener).opener_lead(opener_lead);
    punch = punch.strategies(strategies).spread(spread).budget(budget).datapath(how.datapath);
    let told = ours.is_some() || theirs.is_some();
    let [ours, theirs] = [ours, theirs].map(|model| model.unwrap_or(PortModel::Preserving));
    if told {
        punch = punch.models(ours, theirs.clone());
    }
    let survey = (!servers.is_empty()).then_some((servers, theirs));
    if how.anyway {
        punch = punch.anyway();
    }
    if let Some(local) = local {
        punch = punch.local_port(local.port);
        if let Some(ip) = local.ip {
            punch = punch.local_ip(ip);
        }
    }
    if let Some(key) = key {
        punch = punch.key(key);
    }
    if let Some(path) = &args.records.pcap {
        punch = punch.pcap(records::create("--pcap", path)?);
    }
    let records = Records::open(args.records.report.as_deref(), args.records.ladder.as_deref())?;
    Ok(Ready { punch, destination, records, survey })
}

/// Keeps only the capabilities that the punch and the hand-over need.
///
/// # Errors
/// A privilege failure.
pub(super) fn narrow(low_ports: bool) -> Result<(), Failure> {
    let mut later = Vec::new();
    if geteuid().is_root() {
        later.extend(capability::CHANGING_USER);
    }
    if low_ports {
        later.push(capability::BINDING_LOW_PORTS);
    }
    capability::narrow(&later).map_err(|error| privilege(&error))
}

fn key(args: &PunchArgs) -> Result<Option<Key>, Failure> {
    match (&args.key, &args.key_env) {
        (None, None) => Ok(None),
        (Some(path), None) => secret::from_file(path).map(Some),
        (None, Some(name)) => secret::from_env(name).map(Some),
        (Some(_), Some(_)) => Err(Failure::usage(
            "--key and --key-env exclude each other",
            "give the secret in one place",
        )),
    }
}

/// Two records in one file would overwrite each other.
pub(super) fn distinct(args: &RecordArgs) -> Result<(), Failure> {
    let files: Vec<(&str, &Path)> =
        [("--pcap", &args.pcap), ("--report", &args.report), ("--ladder", &args.ladder)]
            .into_iter()
            .filter_map(|(option, path)| Some((option, path.as_deref()?)))
            .collect();
    for (i, (option, path)) in files.iter().enumerate() {
        if let Some((other, _)) = files[..i].iter().find(|(_, earlier)| earlier == path) {
            return Err(Failure::usage(
                format!("{other} and {option} name the same file"),
                "give each its own",
            ));
        }
        if *path == Path::new("-") && *option != "--report" {
            return Err(Failure::usage(
                format!("{option} does not write to standard error"),
                "name a file; only --report takes -",
            ));
        }
    }
    Ok(())
}

/// Two lines about a destination, before the punch or after it.
pub fn destination_failure(error: &DestinationError) -> Failure {
    let status = match error.exit_status() {
        2 => Status::Usage,
        3 => Status::Privilege,
        8 => Status::HandOver,
        _ => Status::Internal,
    };
    Failure::new(status, error, error.advice())
}

pub(super) fn privilege(error: &CapabilityError) -> Failure {
    let todo = match error {
        CapabilityError::Missing { setcap, .. } if !setcap.is_empty() => {
            format!("run it with sudo, or once: {setcap}")
        }
        CapabilityError::Missing { .. } => "run it with sudo".to_owned(),
        CapabilityError::System { .. } => {
            "run it outside of a sandbox that forbids capget and capset".to_owned()
        }
    };
    Failure::new(Status::Privilege, error, todo)
}
