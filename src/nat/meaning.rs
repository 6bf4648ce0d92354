//! What a router's behaviour means to whoever wants to punch, and what would make it better: in
//! sentences.

use super::behaviour::{Boundary, Filtering, Nat, Passage, Unsolicited};
use super::fit::MappingBehaviour;
use super::model::PortModel;
use super::prospect::{Prospect, Verdict, Way};

/// What it means, a sentence each, the most important first.
pub fn meaning(nat: &Nat, prospects: &[Prospect]) -> Vec<String> {
    let mut meaning = vec![what_it_is(nat)];
    let names = |verdict: Verdict, searched: Option<bool>| -> Vec<&str> {
        let fits = |it: &&Prospect| {
            let search = it.tuples.is_some_and(|tuples| tuples > 1);
            it.verdict == verdict && searched.is_none_or(|searched| searched == search)
        };
        prospects.iter().filter(fits).map(|it| it.peer).collect()
    };
    let all = prospects.iter().all(|it| it.verdict == Verdict::Yes);
    let at_once = names(Verdict::Yes, Some(false));
    let searched = names(Verdict::Yes, Some(true));
    if all {
        meaning.push("This host can punch with peers behind every kind of router.".into());
    }
    if !at_once.is_empty() {
        meaning.push(format!("One tuple is enough with: {}.", at_once.join(", ")));
    }
    if !searched.is_empty() {
        meaning.push(format!("Ports have to be searched with: {}.", searched.join(", ")));
    }
    for (verdict, words) in
        [(Verdict::No, "No punch succeeds with"), (Verdict::Unknown, "Unknown with")]
    {
        let names = names(verdict, None);
        if !names.is_empty() {
            meaning.push(format!("{words}: {}.", names.join(", ")));
        }
    }
    if prospects.iter().any(|it| matches!(it.way, Some(Way::SynAck | Way::MidStream))) {
        meaning.push("Where SYNs are blocked both ends need a shared key.".into());
    }
    if nat.unsolicited_syn.value == Some(Unsolicited::Reset) {
        meaning.push(
            "A peer's SYN that comes too early draws a reset, which may close the peer's own \
             mapping: the openers matter."
                .into(),
        );
    }
    meaning
}

fn what_it_is(nat: &Nat) -> String {
    match (nat.boundary, nat.nats.at_least, nat.nats.at_most) {
        (Boundary::Open, ..) => "No NAT and no firewall: anybody can connect to this host.".into(),
        (Boundary::Firewall, ..) => {
            "No NAT, but a stateful firewall that lets in only what was asked for.".into()
        }
        (Boundary::NoNat, ..) => "No NAT; whether there is a firewall is unknown.".into(),
        (Boundary::Nat, least, Some(most)) if least == most => match most {
            1 => "This host is behind one NAT.".into(),
            2 => "This host is behind two NATs, the outer one a carrier's.".into(),
            many => format!("This host is behind {many} NATs."),
        },
        (Boundary::Nat, least, Some(most)) => {
            format!("This host is behind {least} to {most} NATs.")
        }
        (Boundary::Nat, least, None) => format!("This host is behind at least {least} NAT."),
    }
}

/// What would make it better, a sentence each; nothing where nothing would.
pub fn advice(nat: &Nat) -> Vec<String> {
    let mut advice = Vec::new();
    let mut say = |text: &str| advice.push(text.to_owned());
    if nat.nats.at_least > 1 {
        say("A public IPv4 address from the provider, or IPv6, would save the carrier's NAT; a \
             port forwarded at home does not reach beyond it.");
    }
    match nat.allocation.value.as_ref().map(|allocation| &allocation.model) {
        Some(PortModel::LinuxRandom) => {
            say("On the router, MASQUERADE without --random keeps ports, and nothing has to be \
             searched; until then punch from a local port of 512 to 1023.")
        }
        Some(PortModel::Random(_) | PortModel::Parity(_) | PortModel::Sequential(_)) => say(
            "A router that keeps ports or has endpoint-independent mapping (RFC 5382 REQ-1) would \
             spare the search; so does a forwarded port.",
        ),
        _ => {}
    }
    if let Some(MappingBehaviour::AddressDependent) = nat.mapping.value {
        say(
            "Each destination address has its own port: tell the peer the one measured by a server \
             at the peer's own address, or search.",
        );
    }
    if nat.crossed_syn.value == Some(Passage::Blocked) {
        say(
            "Let the router pass SYNs to connections that this host has opened (RFC 5382 REQ-2: a \
             simultaneous open); until then give both ends a key.",
        );
    }
    if nat.crossed_syn.value == Some(Passage::Blocked)
        && nat.mid_stream.value == Some(Passage::Blocked)
    {
        say("net.netfilter.nf_conntrack_tcp_loose=1 on the router lets connections begin with an \
             ACK, the last resort where both routers block SYNs.");
    }
    if nat.unsolicited_syn.value == Some(Unsolicited::Reset) {
        say(
            "Dropping unasked SYNs on the router instead of resetting them (RFC 5382 REQ-4) makes \
             a punch forgive late clocks.",
        );
    }
    if nat.filtering.value == Some(Filtering::EndpointIndependent) && nat.boundary == Boundary::Open
    {
        say("A peer can simply connect to this host; nothing has to be punched.");
    }
    if nat.filtering.value.is_none() && nat.mapping.value.is_none() {
        say("Name more servers, at other addresses, to know more.");
    }
    advice
}
