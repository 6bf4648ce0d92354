//! How one mapping comes about: every protocol is tried at once, and one of them makes it.
//!
//! Two protocols that both map a port at one router map it twice, or share one mapping that either
//! takes from the other. So NAT-PMP and UPnP first ask for the outer address, which makes nothing
//! and has to be known anyway; only the first of them goes on, and only when PCP, which answers
//! with address and mapping at once, has had its chance.

use super::held::{ASKED_AGAIN, Held, NOT_AWAITED, refused};
use super::outer::Outer;
use super::request::MapRequest;
use super::upnp::{GROUP, Igd};
use super::{MappingError, MappingProtocol};
use crab_nat::pcp::{self, BaseMapRequest, DropMappingRange};
use crab_nat::{InternetProtocol, PortMappingOptions, natpmp};
use std::collections::VecDeque;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// A router on the local network that speaks PCP or NAT-PMP answers within milliseconds. So long
/// an offer waits for PCP, and so much later UPnP's search begins: it makes a router send documents
/// about itself, twice, and a small one is busy with that.
const HEAD_START: Duration = Duration::from_millis(20);

/// A router that has offered a mapping and been asked for it has that long.
const MADE_WITHIN: Duration = Duration::from_secs(2);

/// What a protocol found.
enum Offer {
    /// PCP: the mapping.
    Made(Held),
    /// NAT-PMP: the outer address.
    NatPmp(Ipv4Addr),
    /// UPnP: the router.
    Upnp(Igd),
}

/// From whom, and what: an error, or silence.
type Answer = (MappingProtocol, Result<Offer, Option<MappingError>>);

/// A request under way.
pub(super) struct Course {
    asked: MapRequest,
    local: SocketAddrV4,
    port: NonZeroU16,
    gateway: Ipv4Addr,
    nonce: pcp::Nonce,
    deadline: Instant,
    answers: JoinSet<Answer>,
    /// PCP was asked for a mapping and has said nothing.
    pcp_pending: bool,
    offers: VecDeque<Offer>,
    /// By when the first of them is taken, PCP or not.
    taken_by: Option<Instant>,
    refusals: Vec<MappingError>,
}

impl Course {
    /// Asks by every protocol. `from_local` says whether what this host sends to the router comes
    /// from the local address: PCP and NAT-PMP map the sender's address and no other.
    pub(super) fn start(
        asked: MapRequest,
        local: SocketAddrV4,
        port: NonZeroU16,
        gateway: Ipv4Addr,
        from_local: bool,
        nonce: pcp::Nonce,
    ) -> Self {
        let mut answers = JoinSet::new();
        let mut pcp_pending = false;
        let deadline = Instant::now() + asked.patience;
        for protocol in &asked.protocols {
            match protocol {
                MappingProtocol::Pcp | MappingProtocol::NatPmp if !from_local => {
                    tracing::debug!("{protocol} would map another address of this host's");
                }
                MappingProtocol::Pcp => {
                    pcp_pending = true;
                    answers.spawn(ask_pcp(base(gateway, local, port), nonce, options(&asked)));
                }
                MappingProtocol::NatPmp => {
                    answers.spawn(ask_nat_pmp(gateway));
                }
                MappingProtocol::UpnpIgd => {
                    // Some routers answer only what is sent to the group, some only what is sent
                    // to them.
                    let others = asked.protocols.iter().any(|it| *it != MappingProtocol::UpnpIgd);
                    let wait = if others { HEAD_START } else { Duration::ZERO };
                    for address in [gateway, GROUP] {
                        answers.spawn(search_upnp(asked.clone(), gateway, address, wait));
                    }
                }
            }
        }
        Self {
            asked,
            local,
            port,
            gateway,
            nonce,
            deadline,
            answers,
            pcp_pending,
            offers: VecDeque::new(),
            taken_by: None,
            refusals: Vec::new(),
        }
    }

    /// The next offer to take, or why there is none.
    async fn offer(&mut self) -> Option<Offer> {
        loop {
            let until = match (self.taken_by, self.pcp_pending) {
                (None, _) => self.deadline,
                (Some(by), true) => by.min(self.deadline),
                (Some(_), false) => Instant::now(),
            };
            match timeout_at(until, self.answers.join_next()).await {
                Ok(Some(Ok((protocol, answer)))) => {
                    if protocol == MappingProtocol::Pcp {
                        self.pcp_pending = false;
                    }
                    match answer {
                        Ok(made @ Offer::Made(_)) => return Some(made),
                        Ok(offer) => {
                            tracing::debug!("router {} offers {protocol}", self.gateway);
                            self.offers.push_back(offer);
                            self.taken_by.get_or_insert(Instant::now() + HEAD_START);
                        }
                        Err(Some(error)) => self.note(error),
                        Err(None) => tracing::debug!("{protocol}: no answer"),
                    }
                }
                Ok(Some(Err(error))) => tracing::debug!("asking the router: {error}"),
                Ok(None) | Err(_) => return self.offers.pop_front(),
            }
        }
    }

    /// Waits for an offer that can be taken. It may be given up anywhere: nothing is made but by
    /// PCP, which [`Self::withdraw`] takes back.
    pub(super) async fn next(&mut self) -> Result<Taken, MappingError> {
        loop {
            let Some(offer) = self.offer().await else { return Err(self.failure()) };
            let (protocol, external) = match &offer {
                Offer::Made(held) => (held.protocol(), *held.external().ip()),
                Offer::NatPmp(external) => (MappingProtocol::NatPmp, *external),
                Offer::Upnp(igd) => (MappingProtocol::UpnpIgd, igd.external),
            };
            let gateway = self.gateway;
            let error = match Outer::of(external) {
                Outer::Public => return Ok(Taken(offer)),
                Outer::BehindNat => MappingError::SecondNat { gateway, protocol, external },
                Outer::Nonsense => MappingError::NoOuterAddress { gateway, protocol, external },
            };
            self.note(error);
            if let Offer::Made(held) = offer {
                held.release().await;
            }
        }
    }

    /// Makes the mapping. Nothing if the router then would not, and the next offer is due.
    pub(super) async fn take(&mut self, Taken(offer): Taken) -> Option<Held> {
        let made = match offer {
            Offer::Made(held) => Ok(held),
            Offer::NatPmp(external) => self.map_by_nat_pmp(external).await,
            Offer::Upnp(igd) => {
                igd.map(&self.asked, self.gateway, self.local).await.map(Held::Upnp)
            }
        };
        // Who has not answered by now is asked no more.
        match made {
            Ok(held) => {
                self.answers.abort_all();
                Some(held)
            }
            Err(error) => {
                self.note(error);
                None
            }
        }
    }

    async fn map_by_nat_pmp(&self, external: Ipv4Addr) -> Result<Held, MappingError> {
        let (gateway, port) = (self.gateway, self.port);
        let asking =
            natpmp::port_mapping(gateway.into(), InternetProtocol::Tcp, port, options(&self.asked));
        let why: Box<dyn Display + Send> = match timeout(MADE_WITHIN, asking).await {
            Ok(Ok(mapping)) => return Ok(Held::NatPmp(mapping, external)),
            Ok(Err(failure)) => Box::new(failure),
            Err(_) => Box::new("it answers no more"),
        };
        // It may have made it all the same.
        let (tcp, once) = (InternetProtocol::Tcp, Some(NOT_AWAITED));
        let _ = natpmp::try_drop_mapping(gateway.into(), tcp, Some(port), once).await;
        Err(refused(gateway, MappingProtocol::NatPmp, &*why))
    }

    /// Takes back what PCP was asked for, if it said nothing: it may have made it.
    pub(super) async fn withdraw(&mut self) {
        if std::mem::take(&mut self.pcp_pending) {
            self.answers.abort_all();
            let range = DropMappingRange::Single {
                internal_port: self.port,
                protocol: InternetProtocol::Tcp,
            };
            let (gateway, client) = (self.gateway.into(), (*self.local.ip()).into());
            let _ =
                pcp::try_drop_mapping(gateway, client, self.nonce, range, Some(NOT_AWAITED)).await;
        }
    }

    fn note(&mut self, error: MappingError) {
        tracing::debug!("{error}");
        self.refusals.push(error);
    }

    fn failure(&mut self) -> MappingError {
        let silent = MappingError::Silent { gateway: self.gateway, within: self.asked.patience };
        // The first of those that tell most.
        self.refusals.drain(..).rev().max_by_key(MappingError::weight).unwrap_or(silent)
    }
}

/// An offer with a good address.
pub(super) struct Taken(Offer);

fn base(gateway: Ipv4Addr, local: SocketAddrV4, port: NonZeroU16) -> BaseMapRequest {
    BaseMapRequest::new(gateway.into(), (*local.ip()).into(), InternetProtocol::Tcp, port)
}

fn options(asked: &MapRequest) -> PortMappingOptions {
    PortMappingOptions {
        external_port: asked.external_port,
        lifetime_seconds: Some(asked.lifetime_seconds()),
        timeout_config: Some(ASKED_AGAIN),
    }
}

async fn ask_pcp(base: BaseMapRequest, nonce: pcp::Nonce, options: PortMappingOptions) -> Answer {
    let protocol = MappingProtocol::Pcp;
    let IpAddr::V4(gateway) = base.gateway.into() else { return (protocol, Err(None)) };
    let answer = pcp::port_mapping(base, Some(nonce), None, options).await;
    let answer = answer.map(|mapping| Offer::Made(Held::Pcp(mapping))).map_err(|failure| {
        match failure {
            // Nobody there, or somebody of NAT-PMP alone.
            pcp::Failure::Timeout | pcp::Failure::UnsupportedVersion(_) => None,
            pcp::Failure::Socket(error) if is_refusal(&error) => None,
            pcp::Failure::NetworkFailure(_) => Some(offline(gateway, protocol)),
            other => Some(refused(gateway, protocol, &other)),
        }
    });
    (protocol, answer)
}

async fn ask_nat_pmp(gateway: Ipv4Addr) -> Answer {
    let protocol = MappingProtocol::NatPmp;
    let answer = natpmp::external_address(gateway.into(), Some(ASKED_AGAIN)).await;
    let answer = answer.map(Offer::NatPmp).map_err(|failure| match failure {
        natpmp::Failure::Timeout | natpmp::Failure::UnsupportedVersion(_) => None,
        natpmp::Failure::Socket(error) if is_refusal(&error) => None,
        natpmp::Failure::NetworkFailure => Some(offline(gateway, protocol)),
        other => Some(refused(gateway, protocol, &other)),
    });
    (protocol, answer)
}

async fn search_upnp(
    asked: MapRequest,
    gateway: Ipv4Addr,
    address: Ipv4Addr,
    wait: Duration,
) -> Answer {
    sleep(wait).await;
    let searched = spawn_blocking(move || Igd::search(&asked, gateway, address)).await;
    // What answers nonsense must not end the others.
    let found = searched.unwrap_or_else(|error| {
        tracing::debug!("searching the router: {error}");
        Err(None)
    });
    (MappingProtocol::UpnpIgd, found.map(Offer::Upnp))
}

/// The router has no outer address, or none that it thinks anything of.
fn offline(gateway: Ipv4Addr, protocol: MappingProtocol) -> MappingError {
    MappingError::NoOuterAddress { gateway, protocol, external: Ipv4Addr::UNSPECIFIED }
}

/// ICMP port unreachable: the router is there, and no such program on it.
fn is_refusal(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionRefused
}
