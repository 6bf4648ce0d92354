//! What a NAT is like, in the words of RFC 4787 and RFC 5382, and as text on the command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use tcp_punch::nat::PortPool;

/// How much of a remote endpoint tells one thing from another: mappings (RFC 4787 section 4.1) or
/// packets that may come in (section 5). From loose to strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dependence {
    EndpointIndependent,
    Address,
    AddressAndPort,
}

/// How an external port is chosen (RFC 4787 section 4.2).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ports {
    /// The internal port, unless it is taken.
    Preserving,
    /// The one after the last, counted in places of the pool.
    Sequential { step: i16, rate: f64, first: Option<u16> },
    /// A random one of the internal port's parity.
    Parity,
    /// A random one.
    Random,
}

/// What happens to an inbound SYN after the inside's SYN, where a simultaneous open begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SynIn {
    Allow,
    /// It takes part in the state and is dropped after, as a rule in netfilter's FORWARD does.
    Block,
    /// It is dropped before anything sees it.
    Ignore,
}

/// How an unsolicited packet is met (RFC 5382 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsolicited {
    Drop,
    Rst,
    /// ICMP Port Unreachable at once.
    Icmp,
    /// The same after six seconds, unless the inside's SYN comes meanwhile (REQ-4).
    Hold,
}

/// The behaviour of one NAT.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    pub(crate) mapping: Dependence,
    pub(crate) filtering: Dependence,
    pub(crate) ports: Ports,
    pub(crate) pool: PortPool,
    pub(crate) syn_in: SynIn,
    pub(crate) unsolicited: Unsolicited,
    /// An inbound RST ends a connection that the outside has not answered.
    pub(crate) rst_kills: bool,
    /// Sequence numbers from inside get a random offset, as pf's `modulate state` does.
    pub(crate) rewrite_seq: bool,
    /// TCP options other than the MSS are blanked.
    pub(crate) strip_options: bool,
    /// An ACK from inside makes a mapping, as netfilter's `tcp_loose` has it.
    pub(crate) loose: bool,
    /// RFC 5382 REQ-8.
    pub(crate) hairpin: bool,
    /// Connections that the table holds.
    pub(crate) entries: usize,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut spec = Self {
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressAndPort,
            ports: Ports::Preserving,
            pool: PortPool::range(1, 65_535).map_err(|error| error.to_string())?,
            syn_in: SynIn::Allow,
            unsolicited: Unsolicited::Drop,
            rst_kills: true,
            rewrite_seq: false,
            strip_options: false,
            loose: true,
            hairpin: false,
            entries: 262_144,
        };
        let (mut pool, mut kind) = (None, "preserving");
        let (mut step, mut rate, mut first) = (None, None, None);
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| format!("`{pair}` is not KEY=VALUE"))?;
            match key {
                "mapping" => {
                    spec.mapping =
                        one_of(key, value, &names_of_dependence(["eim", "adm", "apdm"]))?;
                }
                "filtering" => {
                    spec.filtering =
                        one_of(key, value, &names_of_dependence(["eif", "adf", "apdf"]))?;
                }
                "ports" => kind = value,
                "pool" => pool = Some(value.replace('+', ",").parse().map_err(wrong(pair))?),
                "step" => step = Some(value.parse().map_err(wrong(pair))?),
                "rate" => rate = Some(value.parse().map_err(wrong(pair))?),
                "first" => first = Some(value.parse().map_err(wrong(pair))?),
                "syn-in" => {
                    let names = [
                        ("allow", SynIn::Allow),
                        ("block", SynIn::Block),
                        ("ignore", SynIn::Ignore),
                    ];
                    spec.syn_in = one_of(key, value, &names)?;
                }
                "unsolicited" => {
                    let names = [
                        ("drop", Unsolicited::Drop),
                        ("rst", Unsolicited::Rst),
                        ("icmp", Unsolicited::Icmp),
                        ("hold", Unsolicited::Hold),
                    ];
                    spec.unsolicited = one_of(key, value, &names)?;
                }
                "rst-kills" => spec.rst_kills = yes_or_no(key, value)?,
                "rewrite-seq" => spec.rewrite_seq = yes_or_no(key, value)?,
                "strip-options" => spec.strip_options = yes_or_no(key, value)?,
                "loose" => spec.loose = yes_or_no(key, value)?,
                "hairpin" => spec.hairpin = yes_or_no(key, value)?,
                "entries" => spec.entries = value.parse().map_err(wrong(pair))?,
                _ => return Err(format!("a NAT has no property `{key}`")),
            }
        }
        if kind != "sequential" && (step.is_some() || rate.is_some() || first.is_some()) {
            return Err("step, rate and first belong to ports=sequential".into());
        }
        spec.ports = match kind {
            "preserving" => Ports::Preserving,
            "sequential" => {
                let (step, rate) = (step.unwrap_or(1), rate.unwrap_or(0.0));
                if step == 0 || !(0.0..=1e6).contains(&rate) {
                    return Err("step is not 0, and rate is from 0 to 1000000".into());
                }
                Ports::Sequential { step, rate, first }
            }
            "parity" => Ports::Parity,
            "random" => Ports::Random,
            // What makes a block is its pool (RFC 7422, RFC 7597).
            "block" if pool.is_some() => Ports::Random,
            "block" => return Err("ports=block needs pool=".into()),
            _ => {
                return Err(format!(
                    "ports= is preserving, sequential, parity, block or random, not `{kind}`"
                ));
            }
        };
        spec.pool = match (pool, &spec.ports) {
            (Some(pool), _) => pool,
            (None, Ports::Preserving) => spec.pool,
            // No service is looked for among these (RFC 6056 section 3.2).
            (None, _) => PortPool::range(1024, 65_535).map_err(|error| error.to_string())?,
        };
        if let Ports::Sequential { first: Some(first), .. } = spec.ports
            && !spec.pool.contains(first)
        {
            return Err(format!("first={first} is not in the pool"));
        }
        Ok(spec)
    }
}

fn wrong<E: std::fmt::Display>(pair: &str) -> impl Fn(E) -> String {
    move |error| format!("`{pair}`: {error}")
}

fn names_of_dependence([one, two, three]: [&str; 3]) -> [(&str, Dependence); 3] {
    [
        (one, Dependence::EndpointIndependent),
        (two, Dependence::Address),
        (three, Dependence::AddressAndPort),
    ]
}

fn one_of<T: Copy>(key: &str, value: &str, names: &[(&str, T)]) -> Result<T, String> {
    names.iter().find(|(name, _)| *name == value).map(|(_, it)| *it).ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        format!("{key}= is one of {}, not `{value}`", names.join(", "))
    })
}

fn yes_or_no(key: &str, value: &str) -> Result<bool, String> {
    one_of(key, value, &[("yes", true), ("no", false)])
}

/// One `--nat`: a NAT at the attachment of a router.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Site {
    pub(crate) netns: PathBuf,
    /// The address that it translates to.
    pub(crate) external: Ipv4Addr,
    /// Where it answers from on its inner side, if it is a router of its own.
    pub(crate) hop: Option<Ipv4Addr>,
    pub(crate) spec: Spec,
}

impl FromStr for Site {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not NETNS=EXTERNAL[@HOP]:SPEC");
        let (netns, rest) = text.split_once('=').ok_or_else(form)?;
        let (addresses, spec) = rest.split_once(':').ok_or_else(form)?;
        let (external, hop) = match addresses.split_once('@') {
            Some((external, hop)) => (external, Some(hop.parse().map_err(|_| form())?)),
            None => (addresses, None),
        };
        Ok(Self {
            netns: PathBuf::from("/run/netns").join(netns),
            external: external.parse().map_err(|_| form())?,
            hop,
            spec: spec.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_has_a_word() {
        let spec: Spec = "mapping=apdm,filtering=adf,ports=random,pool=4096-4111+8192-8207,\
                          syn-in=block,unsolicited=hold,rst-kills=no,rewrite-seq=yes,\
                          strip-options=yes,loose=no,hairpin=yes,entries=4096"
            .parse()
            .unwrap();
        let expected = Spec {
            mapping: Dependence::AddressAndPort,
            filtering: Dependence::Address,
            ports: Ports::Random,
            pool: "4096-4111,8192-8207".parse().unwrap(),
            syn_in: SynIn::Block,
            unsolicited: Unsolicited::Hold,
            rst_kills: false,
            rewrite_seq: true,
            strip_options: true,
            loose: false,
            hairpin: true,
            entries: 4096,
        };
        assert_eq!(spec, expected);
        let spec: Spec = "ports=sequential,step=-2,rate=50,first=40001".parse().unwrap();
        assert_eq!(spec.ports, Ports::Sequential { step: -2, rate: 50.0, first: Some(40_001) });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "mapping",
            "mapping=eif",
            "ports=odd",
            "ports=block",
            "ports=sequential,step=0",
            "ports=sequential,rate=-1",
            "ports=sequential,rate=NaN",
            "ports=sequential,pool=1024-2048,first=9",
            "rate=5",
            "pool=9-1",
            "hairpin=maybe",
            "colour=blue",
        ] {
            assert!(wrong.parse::<Spec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sites() {
        let site: Site = "x-router-a=198.51.100.1@100.64.0.1:mapping=apdm".parse().unwrap();
        assert_eq!(site.netns, PathBuf::from("/run/netns/x-router-a"));
        assert_eq!(site.external, Ipv4Addr::new(198, 51, 100, 1));
        assert_eq!(site.hop, Some(Ipv4Addr::new(100, 64, 0, 1)));
        assert_eq!("a=192.0.2.1:".parse::<Site>().unwrap().hop, None);
        for wrong in ["", "a=", "a=1.2.3:", "a=1.2.3.4", "a=1.2.3.4@:"] {
            assert!(wrong.parse::<Site>().is_err(), "{wrong}");
        }
    }
}
