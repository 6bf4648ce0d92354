//! Why a punch failed: what happened, and what to do.

use super::report::Report;
use crate::punch::{Budget, Cause, Evidence, PlanError, StrategyError};
use crate::sys::ebpf::EbpfError;
use crate::sys::{CallFailed, GuardError, RouteError};
use crate::wire::Tuple;

/// A punch that failed, with the report of what it saw.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Why.
    pub error: PunchError,
    /// What happened until then; absent when nothing did.
    pub report: Option<Box<Report>>,
}

/// Why a punch failed.
#[derive(Debug, thiserror::Error)]
pub enum PunchError {
    /// There is no way to the peer.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The local port cannot be used.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A connection between the same endpoints exists already.
    #[error("a connection {0} exists already")]
    TupleInUse(Tuple),
    /// This kernel cannot install a connection.
    #[error("this kernel has no TCP_REPAIR")]
    NoRepair,
    /// The datapath that was asked for cannot be used here.
    #[error("--datapath ebpf: {0}")]
    Datapath(#[from] EbpfError),
    /// The strategies asked for need a key.
    #[error(transparent)]
    Strategy(#[from] StrategyError),
    /// The models or the budget make no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan is not worth its packets.
    #[error("the search is not worth it: {plan}")]
    Unlikely {
        /// It, in words.
        plan: String,
        /// The budget that would make it likely, if one would.
        needed: Option<Budget>,
    },
    /// The instant has passed before anything could be sent.
    #[error("the instant passed {late_ms} ms ago")]
    Late {
        /// How long ago, milliseconds.
        late_ms: u64,
    },
    /// A system call failed.
    #[error(transparent)]
    Call(#[from] CallFailed),
    /// The pcap file could not be written.
    #[error("the capture file cannot be written: {0}")]
    Pcap(std::io::Error),
    /// Nobody completed the handshake in time.
    #[error("{}", .0.verdict())]
    TimedOut(Box<Evidence>),
    /// Somebody answered who is not the peer.
    #[error("{}", .0.verdict())]
    Refused(Box<Evidence>),
    /// Nothing could be sent.
    #[error("no SYN could be sent: {0}")]
    NothingSent(CallFailed),
    /// The SYN left; what should have followed could not be sent.
    #[error("the SYN left, but nothing after it could be sent: {0}")]
    CutOff(CallFailed),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The connection stood, but the kernel did not take it.
    #[error("the connection stood but could not be installed: {0}")]
    HandOver(CallFailed),
}

impl PunchError {
    /// `fired`: whether the SYN left; `send_error`: why the last segment did not.
    pub(super) fn expired(
        evidence: &Evidence,
        fired: bool,
        send_error: Option<CallFailed>,
    ) -> Self {
        match (evidence.cause(), send_error) {
            (Cause::Silence, Some(error)) if fired => Self::CutOff(error),
            (Cause::Silence, Some(error)) => Self::NothingSent(error),
            (Cause::WrongKey | Cause::Ourselves, _) => Self::Refused(Box::new(evidence.clone())),
            _ => Self::TimedOut(Box::new(evidence.clone())),
        }
    }

    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        use nix::errno::Errno;
        match self {
            Self::Route(RouteError::None(_)) => "check the address, and that the network is up (ip route)".into(),
            Self::Route(RouteError::Ourselves(_)) => "give the peer's public address, not your own".into(),
            Self::Route(RouteError::Broadcast(_)) => "give the address of one host".into(),
            Self::Route(RouteError::NotOurs(_)) => {
                "give --local one of this host's addresses (ip address), or a port alone".into()
            }
            Self::Route(RouteError::Down(name)) => format!("bring it up: ip link set {name} up"),
            Self::Strategy(_) => "give both sides the same secret with --key, or leave --strategy at auto".into(),
            Self::Guard(error) => error.advice(),
            Self::Datapath(error) => error.advice(),
            Self::Plan(PlanError::BudgetTooSmall(_)) => "give a larger --budget on both sides, or none".into(),
            Self::Plan(_) => "correct --nat-model or --peer-model".into(),
            Self::Unlikely { needed: Some(budget), .. } => {
                format!("raise the budget on both sides: --budget {budget}; or go on with --anyway")
            }
            Self::Unlikely { needed: None, .. } => {
                "no budget makes it likely; go on with --anyway, or let one side use a router that keeps ports".into()
            }
            Self::TupleInUse(_) => "end it first, or choose another port with --local PORT".into(),
            Self::NoRepair => "use a kernel built with CONFIG_CHECKPOINT_RESTORE, as distributions build theirs".into(),
            Self::Late { .. } => "agree on an instant some seconds ahead".into(),
            Self::Pcap(_) => "give --pcap a file that can be written".into(),
            Self::TimedOut(evidence) | Self::Refused(evidence) => evidence.advice(),
            Self::Interrupted => "run it again on both sides".into(),
            Self::HandOver(_) => "run tcp-punch doctor; another program may have taken the port".into(),
            Self::NothingSent(failed) | Self::CutOff(failed) if failed.errno == Errno::EPERM => {
                "a firewall rule of this host drops what we send: see nft list ruleset, chain output".into()
            }
            Self::Route(RouteError::Call(failed)) | Self::Call(failed)
            | Self::NothingSent(failed) | Self::CutOff(failed) => failed.advice(),
        }
    }
}
