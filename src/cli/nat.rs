//! `nat`: what this host's routers do with TCP, and what that means.

use super::args::NatArgs;
use super::exit::one_line;
use super::{Failure, Status, endpoint, stun};
use crate::engine::{Discovered, Discovery, DiscoveryError, Waiting};
use crate::nat::{
    Filtering, Finding, MappingBehaviour, Nats, Passage, PortModel, Unsolicited, Verdict, Way,
};
use std::fmt::Write as _;

/// Where [`NatArgs::server`] comes from if it is not given.
const VARIABLE: &str = "TCP_PUNCH_SERVER";

/// More servers tell nothing more, and each takes entries in the router.
const MOST_SERVERS: usize = 8;

/// Measures, and prints what was found.
///
/// # Errors
/// Usage failures for servers and addresses that cannot be; a rendezvous failure when no server
/// tells anything.
pub fn run(args: &NatArgs) -> Result<u8, Failure> {
    let discovery = prepare(args, std::env::var(VARIABLE).ok().as_deref())?;
    let found = discovery
        .run(&mut |Waiting::ForReaction| {
            if !args.quiet {
                eprintln!(
                    "tcp-punch: a router says nothing to a SYN that nobody asked for; it may do \
                     so for six seconds (RFC 5382)"
                );
            }
        })
        .map_err(|error| Failure::new(status(&error), &error, error.advice()))?;
    for warning in &found.warnings {
        tracing::warn!("{}", one_line(warning));
    }
    let text = if args.json {
        let document = serde_json::to_string_pretty(&found).map_err(|error| {
            Failure::new(Status::Internal, format!("the report: {error}"), "report this as a bug")
        })?;
        document + "\n"
    } else if args.quiet {
        format!("{}\n", found.meaning.first().map_or("", String::as_str))
    } else {
        text(&found, args.verbose > 0)
    };
    super::print(text.as_bytes())?;
    Ok(Status::Done as u8)
}

fn prepare(args: &NatArgs, variable: Option<&str>) -> Result<Discovery, Failure> {
    let local = args.local.as_deref().map(endpoint::local).transpose()?;
    let ip = local.and_then(|local| local.ip);
    let named = args.server.as_deref().map(|text| ("--server", text));
    // Whoever names STUN servers and nothing else wants those alone.
    let otherwise = variable.filter(|text| args.stun.is_empty() && !text.is_empty());
    let server = named
        .or(otherwise.map(|text| (VARIABLE, text)))
        .map(|(option, text)| stun::server_of(option, text, ip))
        .transpose()?;
    if server.is_none() && args.stun.is_empty() {
        return Err(Failure::usage(
            "there is no server to ask",
            format!(
                "name one with --server HOST or in {VARIABLE}, or STUN servers with --stun HOST"
            ),
        ));
    }
    if args.stun.len() > MOST_SERVERS {
        return Err(Failure::usage(
            format!("--stun names {} servers", args.stun.len()),
            format!("name at most {MOST_SERVERS}: two that have two addresses tell everything"),
        ));
    }
    let stun: Vec<_> =
        args.stun.iter().map(|text| stun::server(text, ip)).collect::<Result<_, _>>()?;
    let mut discovery = Discovery::new(server, stun);
    if let Some(local) = local {
        discovery = discovery.local_port(local.port);
        if let Some(ip) = local.ip {
            discovery = discovery.local_ip(ip);
        }
    }
    Ok(discovery)
}

fn status(error: &DiscoveryError) -> Status {
    match error {
        DiscoveryError::NoServer => Status::Usage,
        DiscoveryError::Survey(_) | DiscoveryError::Route(_) => Status::Rendezvous,
        DiscoveryError::Call(failed) if failed.is_permission() => Status::Privilege,
        DiscoveryError::Call(_) => Status::Internal,
    }
}

/// For people: what it is, what it means, what would make it better.
fn text(found: &Discovered, verbose: bool) -> String {
    let nat = &found.nat;
    let external: Vec<String> = nat.external.iter().map(ToString::to_string).collect();
    let mut text =
        format!("{:<16} {} inside, {} outside\n", "addresses", nat.local, external.join(" and "));
    let mut line = |name: &str, (value, confidence, because): (String, f64, &str)| {
        let sure = if confidence > 0.0 {
            format!("  ({:.0} % sure)", (confidence * 100.0).floor())
        } else {
            String::new()
        };
        let _ = writeln!(text, "{name:<16} {value}{sure}");
        if verbose || confidence == 0.0 {
            let _ = writeln!(text, "{:16}   {}", "", one_line(because));
        }
    };
    line("mapping", words(&nat.mapping, |it| mapping(*it).to_owned()));
    line("filtering", words(&nat.filtering, |it| filtering(*it).to_owned()));
    line("ports", words(&nat.allocation, |it| model(&it.model)));
    line("unasked SYN", words(&nat.unsolicited_syn, |it| unsolicited(*it).to_owned()));
    line("crossed SYN", words(&nat.crossed_syn, |it| passage(*it).to_owned()));
    line("mid-stream ACK", words(&nat.mid_stream, |it| passage(*it).to_owned()));
    line("hairpin", words(&nat.hairpin, |it| passage(*it).to_owned()));
    let _ = writeln!(text, "{:<16} {}", "NATs", nats(&nat.nats));
    for (title, sentences) in
        [("What it means", &found.meaning), ("What would help", &found.advice)]
    {
        if !sentences.is_empty() {
            let _ = writeln!(text, "\n{title}");
        }
        for sentence in sentences {
            let _ = writeln!(text, "  {}", one_line(sentence));
        }
    }
    if verbose {
        let _ = writeln!(text, "\nPeers by their routers");
        for it in &found.prospects {
            let verdict = match (it.verdict, it.way, it.tuples) {
                (Verdict::Yes, Some(way), Some(tuples)) => {
                    let name = match way {
                        Way::Syn => "syn",
                        Way::SynAck => "syn-ack",
                        Way::MidStream => "mid-stream",
                    };
                    match tuples {
                        1 => format!("yes, {name}"),
                        _ => format!("yes, {name}, a search of {tuples} pairs of ports"),
                    }
                }
                (Verdict::Yes, ..) => "yes".to_owned(),
                (Verdict::No, ..) => format!("no: {}", it.because),
                (Verdict::Unknown, ..) => format!("unknown: {}", it.because),
            };
            let _ = writeln!(text, "  {:<14} {} ({})", it.peer, verdict, it.description);
        }
    }
    text
}

fn words<T>(finding: &Finding<T>, say: impl Fn(&T) -> String) -> (String, f64, &str) {
    let value = finding.value.as_ref().map_or_else(|| "unknown".to_owned(), say);
    (value, finding.confidence, &finding.because)
}

fn mapping(mapping: MappingBehaviour) -> &'static str {
    match mapping {
        MappingBehaviour::EndpointIndependent => "endpoint-independent: one for all destinations",
        MappingBehaviour::AddressDependent => "address-dependent: one for each destination address",
        MappingBehaviour::AddressAndPortDependent => {
            "address- and port-dependent: one for each destination"
        }
    }
}

fn filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "endpoint-independent: anybody may send to a mapping",
        Filtering::AddressDependent => "address-dependent: only addresses that were sent to",
        Filtering::AddressAndPortDependent => "address- and port-dependent: only who was sent to",
    }
}

fn model(model: &PortModel) -> String {
    match model {
        PortModel::Preserving => "kept".to_owned(),
        model => format!("{model}"),
    }
}

fn unsolicited(reaction: Unsolicited) -> &'static str {
    match reaction {
        Unsolicited::Silence => "dropped silently",
        Unsolicited::Reset => "answered with a reset at once",
        Unsolicited::Icmp => "answered with an ICMP error at once",
        Unsolicited::Held => "held for six seconds, as RFC 5382 asks",
        Unsolicited::Answered => "answered with a SYN-ACK: a listener, or a forwarded port",
    }
}

fn passage(passage: Passage) -> &'static str {
    match passage {
        Passage::Passes => "passes",
        Passage::Blocked => "does not pass",
    }
}

fn nats(nats: &Nats) -> String {
    let many = match (nats.at_least, nats.at_most) {
        (least, Some(most)) if least == most => most.to_string(),
        (least, Some(most)) => format!("{least} to {most}"),
        (least, None) => format!("{least} or more"),
    };
    let place = nats.outermost_hop.map(|hop| format!(", the outermost at hop {hop}"));
    many + &place.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> NatArgs {
        let mut args = NatArgs::default();
        for pair in words.chunks(2) {
            match pair {
                ["--server", it] => args.server = Some((*it).to_owned()),
                ["--stun", it] => args.stun.push((*it).to_owned()),
                ["--local", it] => args.local = Some((*it).to_owned()),
                other => panic!("{other:?}"),
            }
        }
        args
    }

    #[test]
    fn a_server_comes_from_the_option_or_the_variable() {
        assert!(prepare(&args(&["--server", "192.0.2.1"]), None).is_ok());
        assert!(prepare(&args(&["--stun", "192.0.2.1"]), None).is_ok());
        assert!(prepare(&args(&[]), Some("192.0.2.1:99")).is_ok());
        for (words, variable, says) in [
            (&[][..], None, "there is no server to ask"),
            (&[], Some(""), "there is no server to ask"),
            (&[], Some("a b"), "TCP_PUNCH_SERVER \"a b:3478\" is not an address and a port"),
            (&["--server", ""], None, "--server \"\" names no server"),
            (&["--server", "0.0.0.0"], None, "--server 0.0.0.0 is no address of a host"),
            (&["--server", "192.0.2.1", "--local", "0"], None, "--local port 0 stands for no port"),
        ] {
            let failure = prepare(&args(words), variable).unwrap_err();
            assert_eq!((failure.status, &*failure.happened), (Status::Usage, says));
        }
        let many = ["--stun", "192.0.2.1"].repeat(9);
        assert!(prepare(&args(&many), None).is_err());
    }
}
