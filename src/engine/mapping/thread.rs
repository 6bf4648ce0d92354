//! The thread that asks for a mapping, holds it and takes it back.

use super::course::Course;
use super::held::Held;
use super::{MapRequest, MappingError, MappingProtocol};
use crate::sys::{self, CallFailed, privilege};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::num::NonZeroU16;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a router made.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    pub(super) external: SocketAddrV4,
    pub(super) protocol: MappingProtocol,
    pub(super) gateway: Ipv4Addr,
    pub(super) lifetime: Duration,
    pub(super) made: Instant,
}

/// The thread's other end. When this is dropped the thread takes the mapping back and ends.
#[derive(Debug)]
pub(super) struct Holder {
    renewals: Option<UnboundedSender<Renewal>>,
    ended: Receiver<()>,
}

type Renewal = Sender<Result<Granted, MappingError>>;
type Outcome = Sender<Result<Granted, MappingError>>;

/// A router takes a mapping back within milliseconds; one that does not answer must not hold
/// anybody up, and the mapping expires.
const TAKEN_BACK_WITHIN: Duration = Duration::from_millis(500);

/// UPnP's XML needs little, and a punch locks all memory that there is.
const STACK: usize = 512 << 10;

impl Holder {
    pub(super) fn renew(&self) -> Result<Granted, MappingError> {
        let (sender, receiver) = channel();
        let renewals = self.renewals.as_ref().ok_or(MappingError::Ended)?;
        renewals.send(sender).map_err(|_| MappingError::Ended)?;
        receiver.recv().map_err(|_| MappingError::Ended)?
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.renewals = None;
        // Nothing is ever sent: this ends with the thread.
        let _ = self.ended.recv_timeout(TAKEN_BACK_WITHIN);
    }
}

/// Starts the thread, where there is a router to ask.
pub(super) fn start(
    asked: MapRequest,
) -> Result<(Receiver<Result<Granted, MappingError>>, Holder), MappingError> {
    let local = match asked.local {
        SocketAddr::V4(local) if !local.ip().is_unspecified() => local,
        SocketAddr::V4(_) => return Err(MappingError::NotOurs(asked.local)),
        SocketAddr::V6(_) => return Err(MappingError::Ipv6(asked.local.ip())),
    };
    let port = NonZeroU16::new(local.port()).ok_or(MappingError::NotOurs(asked.local))?;
    let found = match asked.gateway {
        Some(router) => Some(router),
        None => match sys::gateway(asked.destination, Some(*local.ip())) {
            // The kernel knows no such source address.
            Err(CallFailed { errno: Errno::EINVAL, .. }) => {
                return Err(MappingError::NotOurs(asked.local));
            }
            found => found?,
        },
    };
    let gateway = found.ok_or(MappingError::NoRouter(*local.ip()))?;
    let mut nonce = [[0; 4]; 3];
    getrandom::fill(nonce.as_flattened_mut())
        .map_err(|_| CallFailed { call: "getrandom", errno: Errno::EIO })?;
    let nonce = nonce.map(u32::from_ne_bytes);
    let from_local = source_towards(gateway) == Some(*local.ip());

    let no_thread = |error: std::io::Error| MappingError::NoThread(error.kind());
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(STACK)
        .build()
        .map_err(no_thread)?;
    let (outcome, result) = channel();
    let (renewals, renewal) = unbounded_channel();
    let (until_the_end, ended) = channel::<()>();
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let thread =
        std::thread::Builder::new().name("mapping".into()).stack_size(STACK).spawn(move || {
            let _until_the_end = until_the_end;
            if let Err(error) = privilege::drop_all_but_changing_user() {
                tracing::debug!("{error}");
            }
            run(
                &runtime,
                &outcome,
                renewal,
                || Course::start(asked, local, port, gateway, from_local, nonce),
                gateway,
            );
            // A search that nobody waits for any more ends by itself.
            runtime.shutdown_background();
        });
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    thread.map_err(no_thread)?;
    Ok((result, Holder { renewals: Some(renewals), ended }))
}

/// The address from which this host talks to the router if nobody says otherwise.
fn source_towards(gateway: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((gateway, crab_nat::GATEWAY_PORT)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(own) => Some(*own.ip()),
        SocketAddr::V6(_) => None,
    }
}

fn run(
    runtime: &Runtime,
    outcome: &Outcome,
    mut renewals: UnboundedReceiver<Renewal>,
    course: impl FnOnce() -> Course,
    gateway: Ipv4Addr,
) {
    runtime.block_on(async {
        let mut course = course();
        if let Some(held) = obtain(&mut course, outcome, &mut renewals).await {
            hold(held, gateway, outcome, renewals).await;
        }
        course.withdraw().await;
    });
}

async fn obtain(
    course: &mut Course,
    outcome: &Outcome,
    renewals: &mut UnboundedReceiver<Renewal>,
) -> Option<Held> {
    loop {
        let offer = tokio::select! {
            offer = course.next() => offer,
            // There are none yet: it is that nobody waits any more.
            _ = renewals.recv() => return None,
        };
        match offer {
            // Never given up half-way, so that what is made is known.
            Ok(offer) => match course.take(offer).await {
                Some(held) => return Some(held),
                None => continue,
            },
            Err(error) => {
                let _ = outcome.send(Err(error));
                return None;
            }
        }
    }
}

async fn hold(
    mut held: Held,
    gateway: Ipv4Addr,
    outcome: &Outcome,
    mut renewals: UnboundedReceiver<Renewal>,
) {
    let granted = |held: &Held| Granted {
        external: held.external(),
        protocol: held.protocol(),
        gateway,
        lifetime: held.lifetime(),
        made: Instant::now(),
    };
    let first = granted(&held);
    tracing::debug!("router {gateway} mapped {} by {}", first.external, first.protocol);
    let _ = outcome.send(Ok(first));
    while let Some(reply) = renewals.recv().await {
        let renewed = held.renew(gateway).await.map(|()| granted(&held));
        let _ = reply.send(renewed);
    }
    held.release().await;
}
