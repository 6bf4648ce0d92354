//! An explicit port mapping: the router is asked for one, by PCP (RFC 6887), NAT-PMP (RFC 6886) or
//! UPnP-IGD, and then forwards a port of its outer address to this host.

mod course;
mod error;
mod held;
mod outer;
mod request;
mod thread;
mod upnp;

pub use error::MappingError;
pub use request::{MapRequest, MappingProtocol};

use self::thread::{Granted, Holder};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// A mapping that the router made for this process. Dropping it takes it back, and waits for that
/// half a second at most. After a kill it ends with its lifetime.
#[derive(Debug)]
pub struct PortMapping {
    granted: Granted,
    holder: Holder,
}

/// A mapping that is being asked for, on a thread of its own. Dropping it takes back what came of
/// it.
#[derive(Debug)]
pub struct PendingMapping {
    result: Receiver<Result<Granted, MappingError>>,
    holder: Option<Holder>,
}

impl PortMapping {
    /// Asks the router, and waits for what comes of it.
    ///
    /// # Errors
    /// [`MappingError`].
    pub fn request(asked: MapRequest) -> Result<Self, MappingError> {
        let mut pending = Self::request_in_background(asked)?;
        let result = pending.result.recv().map_err(|_| MappingError::Ended)?;
        pending.settle(result)
    }

    /// Asks the router on a thread of its own, which runs at the priority of the caller: ask before
    /// anything raises that. Nothing is sent before the request is known to be sound.
    ///
    /// # Errors
    /// [`MappingError`], of what needs no answer: an address that has no mappings, no router.
    pub fn request_in_background(asked: MapRequest) -> Result<PendingMapping, MappingError> {
        let (result, holder) = thread::start(asked)?;
        Ok(PendingMapping { result, holder: Some(holder) })
    }

    /// The router's outer address and the port of it that leads here.
    #[must_use]
    pub fn external(&self) -> SocketAddr {
        self.granted.external.into()
    }

    /// By which protocol it was made.
    #[must_use]
    pub fn protocol(&self) -> MappingProtocol {
        self.granted.protocol
    }

    /// The router that made it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.granted.gateway
    }

    /// How long the router keeps it from when it was made or renewed.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.granted.lifetime
    }

    /// When it ends unless it is renewed. RFC 6887 section 11.2.1 renews after half of the time.
    #[must_use]
    pub fn expires(&self) -> Instant {
        self.granted.made + self.granted.lifetime
    }

    /// Makes it last its lifetime from now on. The external address may have changed. A router that
    /// is gone is given up after some seconds.
    ///
    /// # Errors
    /// [`MappingError`]; it then ends when it would have ended.
    pub fn renew(&mut self) -> Result<(), MappingError> {
        self.granted = self.holder.renew()?;
        Ok(())
    }

    /// Takes it back, as dropping it does.
    pub fn release(self) {}
}

impl PendingMapping {
    /// What came of it, or nothing yet. Once it has given something it gives no more.
    pub fn poll(&mut self) -> Option<Result<PortMapping, MappingError>> {
        self.holder.as_ref()?;
        match self.result.try_recv() {
            Ok(result) => Some(self.settle(result)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(MappingError::Ended)),
        }
    }

    /// Waits for what comes of it.
    ///
    /// # Errors
    /// [`MappingError`]; [`MappingError::Late`] if nothing came by then, and what still comes is
    /// taken back.
    pub fn join(mut self, deadline: Instant) -> Result<PortMapping, MappingError> {
        let wait = deadline.saturating_duration_since(Instant::now());
        match self.result.recv_timeout(wait) {
            Ok(result) => self.settle(result),
            Err(RecvTimeoutError::Timeout) => Err(MappingError::Late),
            Err(RecvTimeoutError::Disconnected) => Err(MappingError::Ended),
        }
    }

    fn settle(
        &mut self,
        result: Result<Granted, MappingError>,
    ) -> Result<PortMapping, MappingError> {
        let holder = self.holder.take().ok_or(MappingError::Ended)?;
        result.map(|granted| PortMapping { granted, holder })
    }
}
