//! `tcp-punch meet`: the same code on both sides, and the connection stands.

use super::args::{MeetArgs, MeetingArgs};
use super::countdown::Countdown;
use super::destination::Prepared;
use super::how::{self, How};
use super::interrupt::{self, Interrupt};
use super::punch::{destination_failure, distinct, narrow, privilege};
use super::records::{self, Records};
use super::{Failure, Status, choice, datapath, outcome, server};
use crate::engine::{Meet, MeetError, Met, Progress, Step};
use crate::rendezvous::{AgreementError, Code, Purpose, SessionError};
use crate::sys::capability;
use std::io::Write;
use std::net::SocketAddr;

/// Runs it. Returns the exit status: of the command if there is one.
///
/// # Errors
/// The failure to print, with its exit status.
pub fn meet(args: &MeetArgs) -> Result<u8, Failure> {
    let code = args.code.as_deref().map(code).transpose()?;
    Ready::judge(&args.meeting)?.run(|| purpose(code))
}

/// A meeting, its options judged. Nothing has been made or asked for yet.
pub(super) struct Ready<'a> {
    args: &'a MeetingArgs,
    how: How,
    server: SocketAddr,
    destination: Prepared,
}

impl<'a> Ready<'a> {
    pub(super) fn judge(args: &'a MeetingArgs) -> Result<Self, Failure> {
        // Keys come of the meeting, so every strategy has one.
        let how = how::judge(&args.how, true)?;
        let destination = choice::destination(&args.destination)?;
        distinct(&args.records)?;
        let server = server::server(&args.server)?;
        let destination = destination.prepare().map_err(|error| destination_failure(&error))?;
        capability::require().map_err(|error| privilege(&error))?;
        datapath::check(how.datapath)?;
        Ok(Self { args, how, server, destination })
    }

    /// Meets whom `purpose` names.
    pub(super) fn run(
        self,
        purpose: impl FnOnce() -> Result<Purpose, Failure>,
    ) -> Result<u8, Failure> {
        let Self { args, how, server, destination } = self;
        let mut meet = with(Meet::new(server, purpose()?), &how);
        meet = meet.stun(how::stun_servers(&args.how, None)?);
        if args.no_proof {
            meet = meet.without_proof();
        }
        if let Some(path) = &args.records.pcap {
            meet = meet.pcap(records::create("--pcap", path)?);
        }
        let records =
            Records::open(args.records.report.as_deref(), args.records.ladder.as_deref())?;
        narrow(true)?;
        let signals = interrupt::caught()?;
        let meet = meet.interrupt(interrupt::descriptor(&signals)?);
        conclude(meet, args.records.quiet, records, destination, signals)
    }
}

/// Meets, writes down how it went and hands the connection over.
fn conclude(
    meet: Meet,
    quiet: bool,
    mut records: Records,
    destination: Prepared,
    signals: Interrupt,
) -> Result<u8, Failure> {
    let met = meet.run(&mut Speaker::new(quiet).listener());
    match met {
        Ok(met) => {
            // The program that gets the connection shall die of signals as any other does.
            drop(signals);
            if !quiet {
                eprintln!("{}", line(&met));
            }
            records.write(&met.connection.report);
            destination.deliver(met.connection.fd).map_err(|error| destination_failure(&error))
        }
        Err(failed) => {
            if let Some(report) = &failed.report {
                records.write(report);
            }
            if let (MeetError::Interrupted, Some(signal)) = (&failed.error, signals.caught()) {
                eprintln!("tcp-punch: interrupted by signal {signal}");
                return Ok(128 + signal);
            }
            Err(Failure::new(status(&failed.error), &failed.error, failed.error.advice()))
        }
    }
}

fn code(text: &str) -> Result<Code, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(error, "type the code as the other side shows it, as 7-guitar-umbrella")
    })
}

fn purpose(code: Option<Code>) -> Result<Purpose, Failure> {
    let Some(code) = code else {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| {
            Failure::new(Status::Internal, format!("no randomness: {error}"), "wait for it")
        })?;
        return Ok(Purpose::NewCode(random));
    };
    Ok(Purpose::Code(code))
}

/// The options of the punch.
pub(super) fn with(meet: Meet, how: &How) -> Meet {
    let mut meet =
        meet.timeout(how.timeout).strategies(how.strategies).budget(how.budget).opener(how.opener);
    meet = meet.spread(how.spread).models(how.ours.clone(), how.theirs.clone());
    meet = meet.datapath(how.datapath);
    if how.opener_lead != How::USUAL_LEAD {
        meet = meet.opener_lead(how.opener_lead);
    }
    if how.anyway {
        meet = meet.anyway();
    }
    meet
}

/// Says how it goes.
pub(super) struct Speaker {
    quiet: bool,
    countdown: Countdown<std::io::Stderr>,
}

impl Speaker {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, countdown: Countdown::on_stderr() }
    }

    pub(super) fn listener(mut self) -> impl FnMut(Step) {
        move |step| match step {
            // Alone on the first line, for programs; whoever makes a code has to see it.
            Step::Coded(code) => {
                let _ = writeln!(std::io::stderr(), "{}", code);
                self.say("on the other side: tcp-punch meet with this code");
            }
            Step::Met(_) => self.say("the peer is there"),
            Step::Agreed(ways) => ways.iter().for_each(|way| tracing::info!("trying {way}")),
            Step::Punch(Progress::Planned(plan)) => self.say(&plan),
            Step::Punch(Progress::Waiting(remaining)) => self.countdown.tick(remaining),
            Step::Punch(Progress::Fired) => self.countdown.clear(),
        }
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("tcp-punch: {text}");
        }
    }
}

/// The one line about a connection that stands.
pub(super) fn line(met: &Met) -> String {
    let way = met.connection.report.ways.iter().find(|way| way.chosen);
    let way = way.map(|way| format!(", by {}", way.kind)).unwrap_or_default();
    outcome::line(&met.connection.report) + &way
}

/// The exit status of a meeting that failed.
pub(super) fn status(error: &MeetError) -> Status {
    match error {
        MeetError::Session(SessionError::WrongCode | SessionError::Altered)
        | MeetError::NotAllowed(_)
        | MeetError::Repeated
        | MeetError::NotLetIn
        | MeetError::Stranger => Status::Refused,
        MeetError::Agreement(AgreementError::NoPair { .. } | AgreementError::NoStrategy) => {
            Status::Impossible
        }
        MeetError::Hopeless(error) => outcome::status(error),
        MeetError::Failed(_) => Status::TimedOut,
        MeetError::Local(_) => Status::Usage,
        MeetError::Call(failed) if failed.is_permission() => Status::Privilege,
        MeetError::Call(_) | MeetError::ClockSet(_) | MeetError::Interrupted => Status::Internal,
        MeetError::Route(_)
        | MeetError::NobodyListens(_)
        | MeetError::Silent { .. }
        | MeetError::Closed(_)
        | MeetError::Session(_)
        | MeetError::PeerLeft
        | MeetError::PeerSilent(_)
        | MeetError::Agreement(_)
        | MeetError::NoClock => Status::Rendezvous,
    }
}
