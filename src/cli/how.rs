//! How a punch is done: the options that every form of it has.

use super::args::HowArgs;
use super::{Failure, datapath, model, opener, race, span, stun};
use crate::engine::{Datapath, Opener};
use crate::nat::PortModel;
use crate::punch::{Budget, Strategies};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The options, judged.
#[derive(Clone, Debug)]
pub struct How {
    /// Patience after the instant.
    pub timeout: Duration,
    /// The opener leaves so long before the instant.
    pub opener_lead: Duration,
    /// Its hop limit.
    pub opener: Opener,
    /// What is raced.
    pub strategies: Strategies,
    /// How many consecutive ports.
    pub spread: u16,
    /// How our router numbers ports, if that was told.
    pub ours: Option<PortModel>,
    /// How the peer's does.
    pub theirs: Option<PortModel>,
    /// What a search may cost.
    pub budget: Budget,
    /// Whether it is begun however unlikely success is.
    pub anyway: bool,
    /// How packets are caught.
    pub datapath: Datapath,
}

impl How {
    /// What `--opener-lead` is by default.
    pub const USUAL_LEAD: Duration = Duration::from_millis(250);
}

/// A router's mapping of an unanswered SYN lives 120 s on Linux; the instant must find it alive.
const LONGEST_LEAD: Duration = Duration::from_secs(60);
/// Nobody needs more to know a router, and each is asked some ten times.
const MOST_SERVERS: usize = 8;

/// Judges the options of an end that has a key or has none.
///
/// # Errors
/// Usage failures.
pub fn judge(args: &HowArgs, key: bool) -> Result<How, Failure> {
    let timeout = span::parse("--timeout", &args.timeout)?;
    if timeout.is_zero() {
        return Err(Failure::usage(
            "--timeout is zero",
            "give the peer's packets time to arrive, as in --timeout 10s",
        ));
    }
    let opener_lead = span::parse("--opener-lead", &args.opener_lead)?;
    if opener_lead > LONGEST_LEAD {
        return Err(Failure::usage(
            format!("--opener-lead {} is too long", span::say(opener_lead)),
            "give at most 1m: routers forget a half-open connection after two minutes",
        ));
    }
    let opener = opener::parse(&args.opener)?;
    let strategies = race::strategies(&args.strategy, key)?;
    let spread = race::spread(&args.spread)?;
    let model = |option, text: &Option<String>| {
        text.as_deref().map(|text| model::one(option, text)).transpose()
    };
    let ours = model("--nat-model", &args.nat_model)?;
    let theirs = model("--peer-model", &args.peer_model)?;
    if args.stun.len() > MOST_SERVERS {
        return Err(Failure::usage(
            format!("--stun names {} servers", args.stun.len()),
            format!("name at most {MOST_SERVERS}: two that have two addresses tell everything"),
        ));
    }
    let budget = args.budget.as_deref().map(model::budget).transpose()?.unwrap_or_default();
    Ok(How {
        timeout,
        opener_lead,
        opener,
        strategies,
        spread,
        ours,
        theirs,
        budget,
        anyway: args.anyway,
        datapath: datapath::parse(&args.datapath)?,
    })
}

/// Resolves the STUN servers, of the IP version of `local` where it is given.
///
/// # Errors
/// A usage failure.
pub fn stun_servers(args: &HowArgs, local: Option<IpAddr>) -> Result<Vec<SocketAddr>, Failure> {
    args.stun.iter().map(|server| stun::server(server, local)).collect()
}
