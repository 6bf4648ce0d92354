//! The bus that joins servers: NATS.
//!
//! Each server subscribes to what is said to all and to what is said to it. Nothing is stored
//! there; a message that is lost is lost. What a server must know of others is said again every
//! second, and when the connection to NATS was lost everything begins anew.

use super::hub::Shared;
use crate::rendezvous::server::{Audience, BUS_VERSION, BusMessage, Node, Word};
use crate::rendezvous::{ClockExchange, ClockTimes};
use crate::sys::clock;
use crate::wire::WallTime;
use async_nats::{Client, ConnectOptions, Event, Message, ServerAddr, Subscriber};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

/// To reach NATS when the server starts.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that wait to leave: a second's worth of meetings on a busy server. More are lost, and
/// counted.
const MAX_UNSENT: usize = 16 << 10;
/// Likewise of those that have come in.
const MAX_UNREAD: usize = 64 << 10;
/// At the end, for what still has to leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// Where NATS is.
#[derive(Clone, PartialEq, Eq)]
pub struct BusAddress(ServerAddr);

/// What is no address of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no nats://HOST:PORT")]
pub struct NoBusAddress;

impl FromStr for BusAddress {
    type Err = NoBusAddress;

    fn from_str(text: &str) -> Result<Self, NoBusAddress> {
        let wanted = |it: &ServerAddr| {
            matches!(it.scheme(), "nats" | "tls") && !it.host().is_empty() && it.port() != 0
        };
        text.contains("://")
            .then(|| text.parse().ok())
            .flatten()
            .filter(wanted)
            .map(Self)
            .ok_or(NoBusAddress)
    }
}

/// Without name and password.
impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host();
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{host}{close}:{}", self.0.scheme(), self.0.port())
    }
}

impl fmt::Debug for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why the server cannot be joined to others.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nobody answers there, or not as NATS does.
    #[error("no bus at {at}: {why}")]
    Unreachable {
        /// Where.
        at: String,
        /// What the library says.
        why: String,
    },
    /// All shares of the numbers are taken.
    #[error("{0} servers are joined by this bus already")]
    Full(u16),
}

/// What leaves for other servers.
#[derive(Debug)]
pub(super) struct Outgoing {
    messages: mpsc::Sender<(Audience, Vec<u8>)>,
    pub(super) lost: AtomicU64,
}

impl Outgoing {
    pub(super) fn say(&self, to: Audience, message: &BusMessage) {
        let sent = match message.to_bytes() {
            Ok(bytes) => self.messages.try_send((to, bytes)).is_ok(),
            Err(_) => false,
        };
        if !sent && self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("a message to another server was lost: the bus is too slow");
        }
    }
}

/// The connection to NATS.
#[derive(Debug)]
pub(super) struct Bus {
    publisher: JoinHandle<()>,
    reader: JoinHandle<()>,
}

fn subject(audience: Option<Node>) -> String {
    match audience {
        Some(node) => format!("tcp-punch.{BUS_VERSION}.to.{node}"),
        None => format!("tcp-punch.{BUS_VERSION}.all"),
    }
}

impl Bus {
    /// Joins the servers that are there. Returns when this one may give out numbers.
    pub(super) async fn join(addresses: &[BusAddress], shared: &Shared) -> Result<Self, BusError> {
        let (tell, events) = mpsc::unbounded_channel();
        let mut options = ConnectOptions::new()
            .name("tcp-punch")
            .no_echo()
            .connection_timeout(PATIENCE)
            .subscription_capacity(MAX_UNREAD)
            .event_callback(move |event| {
                let _ = tell.send(event);
                async {}
            });
        let named = addresses.iter().find_map(|it| it.0.username().zip(it.0.password()));
        if let Some((user, password)) = named {
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        let unreachable = |why: String| BusError::Unreachable {
            at: addresses.iter().map(BusAddress::to_string).collect::<Vec<_>>().join(" "),
            why,
        };
        // The library logs addresses, so that they must not have a password in them.
        let bare = addresses.iter().map(BusAddress::to_string).collect::<Vec<_>>();
        let connect = timeout(PATIENCE * 2, options.connect(&bare[..])).await;
        let client = connect
            .map_err(|_| unreachable("it does not answer".into()))?
            .map_err(|error| unreachable(error.to_string()))?;
        let node = shared.lock().server.node();
        let all = client.subscribe(subject(None)).await;
        let all = all.map_err(|error| unreachable(error.to_string()))?;
        let ours = client.subscribe(subject(Some(node))).await;
        let ours = ours.map_err(|error| unreachable(error.to_string()))?;
        client.flush().await.map_err(|error| unreachable(error.to_string()))?;
        let (messages, queue) = mpsc::channel(MAX_UNSENT);
        let publisher = tokio::spawn(publish(client, queue));
        shared.lock().bus = Some(Outgoing { messages, lost: AtomicU64::new(0) });
        let reader = tokio::spawn(read(all, ours, events, shared.clone()));
        wait_for_share(shared).await?;
        tracing::info!(%node, others = shared.lock().server.others(), "joined other servers");
        Ok(Self { publisher, reader })
    }

    /// After the last word.
    pub(super) async fn leave(self, shared: &Shared) {
        self.reader.abort();
        // The publisher ends when nobody can give it anything to say.
        shared.lock().bus = None;
        let _ = timeout(FAREWELL, self.publisher).await;
    }
}

async fn wait_for_share(shared: &Shared) -> Result<(), BusError> {
    {
        let mut hub = shared.lock();
        let now = hub.now();
        hub.server.join_bus(now);
        hub.pump(0);
    }
    loop {
        let wait = {
            let mut hub = shared.lock();
            let now = hub.now();
            hub.server.handle_timeout(now);
            hub.pump(0);
            if hub.server.is_joined() {
                return Ok(());
            }
            if hub.server.has_no_room() {
                return Err(BusError::Full(crate::rendezvous::server::SHARES));
            }
            let next = hub.server.poll_timeout().unwrap_or_default();
            next.saturating_sub(now)
        };
        sleep(wait.clamp(Duration::from_millis(1), Duration::from_millis(50))).await;
    }
}

/// Carries what leaves until there will be nothing more.
async fn publish(client: Client, mut queue: mpsc::Receiver<(Audience, Vec<u8>)>) {
    while let Some((to, bytes)) = queue.recv().await {
        // What was said meanwhile is no longer true when NATS is back.
        if client.connection_state() != async_nats::connection::State::Connected {
            continue;
        }
        let subject = match to {
            Audience::All => subject(None),
            Audience::One(node) => subject(Some(node)),
        };
        if let Err(error) = client.publish(subject, bytes.into()).await {
            tracing::debug!(%error, "a message to another server was lost");
        }
    }
    let _ = client.flush().await;
}

/// Takes in what comes, for good.
async fn read(
    mut all: Subscriber,
    mut ours: Subscriber,
    mut events: mpsc::UnboundedReceiver<Event>,
    shared: Shared,
) {
    let mut lost = false;
    loop {
        tokio::select! {
            // In the order in which a server that says it knows nobody speaks: first to all.
            biased;
            Some(message) = all.next() => hear(&message, &shared),
            Some(message) = ours.next() => hear(&message, &shared),
            Some(event) = events.recv() => notice(&event, &mut lost, &shared),
            else => break,
        }
    }
    tracing::error!("the bus is gone for good; meetings on this server go on");
}

fn hear(message: &Message, shared: &Shared) {
    let received_ns = clock::now().unix_ns();
    let Ok(BusMessage { from, word }) = BusMessage::from_bytes(&message.payload) else {
        tracing::debug!("a message on the bus is not understood");
        return;
    };
    let mut hub = shared.lock();
    let now = hub.now();
    match word {
        Word::AskClock(sent_ns) => {
            let answered_ns = clock::now().unix_ns();
            let times = ClockTimes { sent_ns, received_ns, answered_ns };
            hub.publish(Audience::One(from), Word::Clock(times));
        }
        Word::Clock(times) => {
            let exchange = ClockExchange::of(&times, WallTime::from_unix_ns(received_ns));
            hub.server.measured(from, exchange, now);
        }
        word => hub.server.handle_bus(BusMessage { from, word }, now),
    }
    hub.pump(received_ns);
}

fn notice(event: &Event, lost: &mut bool, shared: &Shared) {
    let mut hub = shared.lock();
    let now = hub.now();
    match event {
        // The first one tells nothing new.
        Event::Connected if !*lost => {}
        Event::Connected => {
            *lost = false;
            tracing::info!("the bus is back");
            hub.server.join_bus(now);
        }
        Event::Disconnected if !*lost => {
            *lost = true;
            tracing::warn!("the bus is gone; meetings on this server go on");
            hub.server.lose_bus(now);
        }
        // Messages were lost: nobody knows which.
        Event::SlowConsumer(_) => {
            tracing::warn!("messages of other servers were lost: this one is too slow");
            hub.server.lose_bus(now);
            hub.server.join_bus(now);
        }
        Event::ServerError(error) => tracing::warn!(%error, "the bus refuses something"),
        Event::ClientError(error) => tracing::debug!(%error, "the bus"),
        _ => {}
    }
    hub.pump(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_password_and_has_a_scheme() {
        let address: BusAddress = "nats://punch:secret@[2001:db8::1]:4223".parse().unwrap();
        assert_eq!(format!("{address} {address:?}").matches("secret").count(), 0);
        assert_eq!(address.to_string(), "nats://[2001:db8::1]:4223");
        assert_eq!("nats://localhost".parse::<BusAddress>().unwrap().0.port(), 4222);
        for wrong in ["localhost:4222", "http://localhost", "nats://", "nats://x:y", ""] {
            assert_eq!(wrong.parse::<BusAddress>(), Err(NoBusAddress), "{wrong}");
        }
    }
}
