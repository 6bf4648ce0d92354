//! What both ends saw of a punch that failed, put together.

use super::report::shortened;
use crate::punch::Evidence;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// What one end saw on one pair of candidates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// SYNs and SYN-ACKs that it sent, answers not counted.
    pub sent: u64,
    /// SYNs of the peer, and what serves as one, that came in.
    pub peer_syns: u64,
    /// Resets that came in.
    pub resets: u64,
    /// Segments whose sender did not hold the key.
    pub wrong_key: u64,
    /// Segments of no use.
    pub stray: u64,
    /// Its own SYNs that came back.
    pub own_syns: u64,
    /// The ports were searched.
    pub searched: bool,
    /// Who said that the peer cannot be reached.
    pub unreachable: Option<IpAddr>,
    /// Where else at the peer's address segments came from.
    pub other_port: Option<SocketAddr>,
    /// What this end makes of it alone.
    pub verdict: String,
}

impl Seen {
    /// The longest verdict in characters.
    pub const LONGEST_VERDICT: usize = 240;

    /// What an attempt saw.
    pub fn of(evidence: &Evidence) -> Self {
        Self::with_verdict(evidence, &evidence.verdict())
    }

    /// What an attempt saw that ended for another reason: this host failed, it was interrupted.
    pub fn with_verdict(evidence: &Evidence, verdict: &str) -> Self {
        Self {
            sent: evidence.sent,
            peer_syns: evidence.peer_syns,
            resets: evidence.resets,
            wrong_key: evidence.wrong_key,
            stray: evidence.stray,
            own_syns: evidence.own_syns,
            searched: evidence.searched,
            unreachable: evidence.unreachable,
            other_port: evidence.other_port,
            verdict: shortened(verdict, Self::LONGEST_VERDICT),
        }
    }
}

/// What an end saw on all pairs of an agreement, in their order. Sealed for the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// One each; `None` where this end did not try.
    pub pairs: Vec<Option<Seen>>,
}

/// The bytes are no account of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the peer says of its attempt makes no sense")]
pub struct NoAccount;

const VERSION: u8 = 1;

impl Account {
    /// The bytes to be sealed: some 300 a pair at most.
    pub fn to_bytes(&self) -> Vec<u8> {
        let pairs = &self.pairs[..self.pairs.len().min(super::Agreement::MOST_PAIRS)];
        // Nothing here fails to be written: a vector grows.
        postcard::to_extend(&pairs, vec![VERSION]).unwrap_or_default()
    }

    /// The peer's account, as it was opened.
    ///
    /// # Errors
    /// [`NoAccount`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoAccount> {
        let (version, rest) = bytes.split_first().ok_or(NoAccount)?;
        if *version != VERSION {
            return Err(NoAccount);
        }
        let (mut pairs, _): (Vec<Option<Seen>>, _) =
            postcard::take_from_bytes(rest).map_err(|_| NoAccount)?;
        pairs.truncate(super::Agreement::MOST_PAIRS);
        for seen in pairs.iter_mut().flatten() {
            seen.verdict = shortened(&seen.verdict, Seen::LONGEST_VERDICT);
        }
        Ok(Self { pairs })
    }
}

/// Why nothing stands, from both ends' evidence; sentences without their full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// What happened.
    pub happened: String,
    /// What to do.
    pub advice: String,
}

impl Joined {
    fn new(happened: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { happened: happened.into(), advice: advice.into() }
    }
}

impl fmt::Display for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.happened, self.advice)
    }
}

const FIREWALL: &str = "check its firewall, and the host's: it has to let answers to its own \
                        connections in";
const PORT_OTHERWISE: &str = "its router does not map as it was measured: run tcp-punch nat there \
                              and try again, or ask that router for a port mapping";

/// What happened between the ends of one pair and what to do, from our evidence and the peer's.
/// `None` for the peer's: it sent none, or did not try this pair.
pub fn joined(ours: &Seen, theirs: Option<&Seen>) -> Joined {
    let Some(theirs) = theirs else {
        return Joined::new(
            format!("{}, and the peer did not say what it saw", alone(ours)),
            "start both ends again: the peer left, lost the server or was interrupted",
        );
    };
    let sent = |seen: &Seen| many(seen.sent, "SYN");
    if let Some(cause) = plain_cause(ours, theirs) {
        return cause;
    }
    let (ours_came, theirs_came) = (theirs.peer_syns > 0, ours.peer_syns > 0);
    match (ours_came, theirs_came) {
        (true, true) => Joined::new(
            format!(
                "both ends heard each other's SYNs ({} here, {} there), and neither was answered",
                ours.peer_syns, theirs.peer_syns
            ),
            "something lets SYNs through and drops what answers them: check the firewalls of both \
             ends, or try --strategy mid-stream",
        ),
        (true, false) => Joined::new(
            format!(
                "{} of our {} reached the peer; of its {} and its answers nothing reached us{}",
                theirs.peer_syns,
                sent(ours),
                sent(theirs),
                resets_here(ours)
            ),
            format!(
                "something before us drops what comes in: our router's filter or port; {FIREWALL}"
            ),
        ),
        (false, true) => Joined::new(
            format!(
                "{} of the peer's {} reached us and were answered; of our {} and our answers \
                 nothing reached the peer{}",
                ours.peer_syns,
                sent(theirs),
                sent(ours),
                resets_there(theirs)
            ),
            format!(
                "something before the peer drops what comes in: its router's filter or port; {FIREWALL}"
            ),
        ),
        (false, false) => unheard(ours, theirs),
    }
}

/// Causes that one end knows for sure.
fn plain_cause(ours: &Seen, theirs: &Seen) -> Option<Joined> {
    let heard = ours.peer_syns > 0 || theirs.peer_syns > 0;
    if ours.sent == 0 && theirs.sent == 0 && !heard {
        return Some(Joined::new(
            format!("neither end sent a SYN: here, {}; there, {}", ours.verdict, theirs.verdict),
            "mend that first",
        ));
    }
    if ours.sent == 0 && !heard {
        return Some(Joined::new(format!("we sent no SYN: {}", ours.verdict), "mend that first"));
    }
    if theirs.sent == 0 && !heard {
        return Some(Joined::new(
            format!("the peer sent no SYN: {}", theirs.verdict),
            "mend that there first",
        ));
    }
    if heard {
        return None;
    }
    let both = "the address is this host's own, or a router sends it back: leave this way out";
    if ours.own_syns > 0 || theirs.own_syns > 0 {
        let whose = if ours.own_syns > 0 { "our own SYN" } else { "the peer's own SYN" };
        return Some(Joined::new(format!("{whose} came back to its sender"), both));
    }
    if let Some(other) = ours.other_port {
        return Some(Joined::new(
            format!("the peer's SYNs come from {other}, not from where it was to be reached"),
            PORT_OTHERWISE,
        ));
    }
    if let Some(other) = theirs.other_port {
        return Some(Joined::new(
            format!("our SYNs reach the peer from {other}, not from where we were to be reached"),
            PORT_OTHERWISE.replace("its router", "our router").replace("there ", "here "),
        ));
    }
    if ours.wrong_key > 0 || theirs.wrong_key > 0 {
        let whom = if ours.wrong_key > 0 { "we were" } else { "the peer was" };
        return Some(Joined::new(
            format!("{whom} answered by somebody who does not hold the key"),
            "another host has that address: leave this way out, or use other ports",
        ));
    }
    None
}

/// Nothing of either end reached the other.
fn unheard(ours: &Seen, theirs: &Seen) -> Joined {
    let left =
        format!("{} left here and {} there, and none arrived", many(ours.sent, "SYN"), theirs.sent);
    match (ours.unreachable, theirs.unreachable) {
        (Some(here), Some(there)) => {
            return Joined::new(
                format!("{left}: {here} called ours undeliverable, and {there} the peer's"),
                "check both addresses, and the routes between them",
            );
        }
        (Some(here), None) => {
            return Joined::new(
                format!("{left}: {here} called ours undeliverable"),
                "check the peer's address and the route to it, and what that router rejects",
            );
        }
        (None, Some(there)) => {
            return Joined::new(
                format!("{left}: {there} called the peer's undeliverable"),
                "check our address and the route to us, and what that router rejects",
            );
        }
        (None, None) => {}
    }
    let searched = ours.searched || theirs.searched;
    if ours.resets > 0 || theirs.resets > 0 {
        let resets =
            format!("{} came back here and {} there", many(ours.resets, "reset"), theirs.resets);
        let advice = if searched {
            "no searched ports met: raise --budget, or ask a router for a port mapping"
        } else {
            "the SYNs met routers where no mapping was open: the ports are others than measured, \
             or the opener did not open them (--opener); run tcp-punch nat at both ends"
        };
        return Joined::new(format!("{left}; {resets}"), advice);
    }
    let advice = if searched {
        "no searched ports met, or filters drop what comes in: raise --budget, try --strategy \
         mid-stream, or ask a router for a port mapping"
    } else {
        "a filter drops what comes in, or a router maps to other ports than measured: run \
         tcp-punch nat at both ends; a port mapping on either router, or IPv6, is a way round it"
    };
    Joined::new(left, advice)
}

/// What one end knows without the other.
fn alone(seen: &Seen) -> String {
    if seen.verdict.is_empty() {
        format!("{} left", many(seen.sent, "SYN"))
    } else {
        seen.verdict.clone()
    }
}

fn resets_here(ours: &Seen) -> String {
    if ours.resets == 0 { String::new() } else { format!(" but {}", many(ours.resets, "reset")) }
}

fn resets_there(theirs: &Seen) -> String {
    resets_here(theirs)
}

fn many(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
