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
    /// The connection stood at this end: it was lost, or not proven.
    pub stood: bool,
    /// Who said that the peer cannot be reached.
    pub unreachable: Option<IpAddr>,
    /// Where else at the peer's address segments came from.
    pub other_port: Option<SocketAddr>,
    /// What this end makes of it alone.
    pub verdict: String,
}

impl Seen {
    /// The longest verdict in bytes.
    pub const LONGEST_VERDICT: usize = 240;

    /// What an attempt saw.
    pub fn of(evidence: &Evidence) -> Self {
        Self::with_verdict(evidence, &evidence.verdict())
    }

    /// The connection stood at this end, and `verdict` says what became of it.
    pub fn stood(evidence: &Evidence, verdict: &str) -> Self {
        Self { stood: true, ..Self::with_verdict(evidence, verdict) }
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
            stood: false,
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

const FIREWALL: &str = "the firewalls on that side have to let in what answers connections from \
                        within, or try --strategy mid-stream";

/// What happened between the ends of one pair and what to do, from our evidence and the peer's.
/// `None` for the peer's: it sent none, or did not try this pair.
pub fn joined(ours: &Seen, theirs: Option<&Seen>) -> Joined {
    let Some(theirs) = theirs else {
        return Joined::new(
            format!("{}, and the peer did not say what it saw", alone(ours)),
            "start both ends again: the peer left, lost the server or was interrupted",
        );
    };
    if let Some(cause) = plain_cause(ours, theirs) {
        return cause;
    }
    let (ours_came, theirs_came) = (theirs.peer_syns > 0, ours.peer_syns > 0);
    match (ours_came, theirs_came) {
        (true, true) => Joined::new(
            format!(
                "both ends heard each other's SYNs ({} here, {} there), and neither heard an answer",
                ours.peer_syns, theirs.peer_syns
            ),
            "something lets SYNs through and drops what answers them: check the firewalls of both \
             ends, or try --strategy mid-stream",
        ),
        (true, false) => Joined::new(
            format!(
                "the peer heard {} of ours and answered; of its {} and its answers nothing reached \
                 us{}",
                many(theirs.peer_syns, "SYN"),
                many(theirs.sent, "SYN"),
                but_resets(ours)
            ),
            format!("something before us drops what comes in, a filter or a router's; {FIREWALL}"),
        ),
        (false, true) => Joined::new(
            format!(
                "we heard {} of the peer's and answered; of our {} and our answers nothing reached \
                 the peer{}",
                many(ours.peer_syns, "SYN"),
                many(ours.sent, "SYN"),
                but_resets(theirs)
            ),
            format!(
                "something before the peer drops what comes in, a filter or a router's; {FIREWALL}"
            ),
        ),
        (false, false) => unheard(ours, theirs),
    }
}

/// Causes that one end knows for sure.
fn plain_cause(ours: &Seen, theirs: &Seen) -> Option<Joined> {
    match (ours.stood, theirs.stood) {
        (true, true) => {
            return Some(Joined::new(
                format!("the connection stood: here, {}; there, {}", ours.verdict, theirs.verdict),
                "start both ends again",
            ));
        }
        (true, false) | (false, true) => {
            let (where_it, where_not) =
                if ours.stood { ("here", "there") } else { ("there", "here") };
            return Some(Joined::new(
                format!(
                    "the connection stood {where_it}, and its last answer was not heard {where_not}"
                ),
                "start both ends again; if it is always so, a firewall on that side drops answers",
            ));
        }
        (false, false) if ours.peer_syns > 0 || theirs.peer_syns > 0 => return None,
        (false, false) => {}
    }
    Some(match (ours.sent, theirs.sent) {
        (0, 0) => Joined::new(
            format!("neither end sent a SYN: here, {}; there, {}", ours.verdict, theirs.verdict),
            "mend that first",
        ),
        (0, _) => Joined::new(format!("we sent no SYN: {}", ours.verdict), "mend that first"),
        (_, 0) => Joined::new(
            format!("the peer sent no SYN: {}", theirs.verdict),
            "mend that there first",
        ),
        _ if ours.own_syns > 0 || theirs.own_syns > 0 => {
            let whose = if ours.own_syns > 0 { "our own SYN" } else { "the peer's own SYN" };
            Joined::new(
                format!("{whose} came back to its sender"),
                "the address is that host's own, or a router sends it back: another way has to do",
            )
        }
        _ => {
            if let Some(other) = ours.other_port {
                mapped_otherwise("the peer's SYNs come", other, "its router", "there")
            } else if let Some(other) = theirs.other_port {
                mapped_otherwise("our SYNs come to the peer", other, "our router", "here")
            } else if ours.wrong_key > 0 || theirs.wrong_key > 0 {
                let whom = if ours.wrong_key > 0 { "we were" } else { "the peer was" };
                Joined::new(
                    format!("{whom} answered by somebody who does not hold the key"),
                    "another host has that address: another way has to do, or other ports",
                )
            } else {
                return None;
            }
        }
    })
}

fn mapped_otherwise(come: &str, from: SocketAddr, router: &str, place: &str) -> Joined {
    Joined::new(
        format!("{come} from {from}, and not from where they were to come"),
        format!(
            "{router} does not map as it was measured: run tcp-punch nat {place} and try again, or \
             ask that router for a port mapping"
        ),
    )
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

fn but_resets(seen: &Seen) -> String {
    if seen.resets == 0 { String::new() } else { format!(" but {}", many(seen.resets, "reset")) }
}

fn many(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(sent: u64, peer_syns: u64) -> Seen {
        Seen::of(&Evidence { sent, peer_syns, ..Evidence::default() })
    }

    fn happened(ours: &Seen, theirs: &Seen) -> String {
        joined(ours, Some(theirs)).happened
    }

    #[test]
    fn who_heard_whom_tells_where_it_is_lost() {
        for (ours, theirs, said) in [
            (seen(5, 0), seen(4, 0), "5 SYNs left here and 4 there, and none arrived"),
            (
                seen(5, 0),
                seen(4, 3),
                "the peer heard 3 SYNs of ours and answered; of its 4 SYNs and its answers nothing \
                 reached us",
            ),
            (
                seen(5, 2),
                seen(1, 0),
                "we heard 2 SYNs of the peer's and answered; of our 5 SYNs and our answers nothing \
                 reached the peer",
            ),
            (
                seen(5, 2),
                seen(4, 3),
                "both ends heard each other's SYNs (2 here, 3 there), and neither heard an answer",
            ),
        ] {
            assert_eq!(happened(&ours, &theirs), said);
        }
    }

    #[test]
    fn what_one_end_knows_for_sure_comes_first() {
        let silent = seen(5, 0);
        let with = |change: fn(&mut Evidence)| {
            let mut evidence = Evidence { sent: 5, ..Evidence::default() };
            change(&mut evidence);
            Seen::of(&evidence)
        };
        let elsewhere = with(|it| it.other_port = Some("203.0.113.2:777".parse().unwrap()));
        let wrong_key = with(|it| it.wrong_key = 2);
        let own = with(|it| it.own_syns = 1);
        let reset = with(|it| it.resets = 3);
        let rejected = with(|it| it.unreachable = Some([192, 0, 2, 1].into()));
        let stood = Seen::stood(&Evidence::default(), "the peer did not prove itself");
        let failed = Seen::with_verdict(&Evidence::default(), "the interface went away");
        for (ours, theirs, said) in [
            (&elsewhere, &silent, "the peer's SYNs come from 203.0.113.2:777"),
            (&silent, &elsewhere, "our SYNs come to the peer from 203.0.113.2:777"),
            (&silent, &wrong_key, "the peer was answered by somebody who does not hold the key"),
            (&wrong_key, &silent, "we were answered by somebody"),
            (&silent, &own, "the peer's own SYN came back"),
            (&reset, &silent, "none arrived; 3 resets came back here and 0 there"),
            (&silent, &rejected, "none arrived: 192.0.2.1 called the peer's undeliverable"),
            (&stood, &stood, "stood: here, the peer did not prove itself; there, the peer did not"),
            (&stood, &silent, "stood here, and its last answer was not heard there"),
            (&silent, &stood, "stood there, and its last answer was not heard here"),
            (&failed, &silent, "we sent no SYN: the interface went away"),
            (&silent, &failed, "the peer sent no SYN: the interface went away"),
        ] {
            let happened = happened(ours, theirs);
            assert!(happened.contains(said), "{happened}");
        }
    }

    #[test]
    fn an_end_without_the_other_says_what_it_saw() {
        let joined = joined(&seen(5, 0), None);
        assert_eq!(
            joined.happened,
            "5 SYNs left and nothing came back, and the peer did not say what it saw"
        );
    }

    #[test]
    fn an_account_fits_into_a_frame_and_cannot_steer_a_terminal() {
        let verdict = "\u{1b}[2J".to_owned() + &"ü".repeat(1000);
        let evidence = Evidence {
            sent: u64::MAX,
            peer_syns: u64::MAX,
            resets: u64::MAX,
            wrong_key: u64::MAX,
            stray: u64::MAX,
            own_syns: u64::MAX,
            unreachable: Some([0xffff; 8].into()),
            other_port: Some(([0xffff; 8], 0xffff).into()),
            ..Evidence::default()
        };
        let seen = Seen::with_verdict(&evidence, &verdict);
        let account = Account { pairs: vec![Some(seen); 9] };
        let bytes = account.to_bytes();
        assert!(bytes.len() <= super::super::Report::MOST_BYTES, "{} bytes", bytes.len());
        let back = Account::from_bytes(&bytes).unwrap();
        assert_eq!(back.pairs, account.pairs[..8]);
        let raw = Seen { verdict: "a\u{1b}b".into(), ..Seen::default() };
        let bytes = Account { pairs: vec![None, Some(raw)] }.to_bytes();
        let back = Account::from_bytes(&bytes).unwrap();
        assert_eq!(back.pairs[1].as_ref().unwrap().verdict, "a b");
        assert_eq!(Account::from_bytes(&[9]), Err(NoAccount));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(account) = Account::from_bytes(&noise) {
                for seen in account.pairs.iter().flatten() {
                    let _ = joined(seen, Some(seen));
                }
            }
        }
    }
}
