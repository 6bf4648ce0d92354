//! Figures for Prometheus, in the OpenMetrics text format.

use super::hub::{Hub, Shared};
use crate::rendezvous::server::Counts;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// A request line and its headers; Prometheus sends some hundred bytes.
const MAX_REQUEST: usize = 8 << 10;
/// For request and answer together.
const PATIENCE: Duration = Duration::from_secs(5);
/// After an error of accept(2).
const PAUSE: Duration = Duration::from_millis(100);

/// Answers one after the other, for good.
pub(super) async fn serve(listener: TcpListener, shared: Shared) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = timeout(PATIENCE, answer(&stream, &shared)).await;
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn answer(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        stream.readable().await?;
        match stream.try_read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => request.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let (status, body) = if request.starts_with(b"GET /metrics ") {
        ("200 OK", text(&shared.lock()))
    } else {
        ("404 Not Found", "figures are at /metrics\n".to_owned())
    };
    let response = format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut rest = response.as_bytes();
    while !rest.is_empty() {
        stream.writable().await?;
        match stream.try_write(rest) {
            Ok(length) => rest = &rest[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

type Label = [(&'static str, &'static str); 1];

/// Everything as it is now.
fn text(hub: &Hub) -> String {
    let counts = hub.server.counts();
    let mut registry = Registry::with_prefix("tcp_punch");
    for (name, help, value) in [
        ("connections", "Connections accepted", counts.connections),
        ("connections_turned_away", "Connections that were one too many", counts.turned_away),
        ("requests", "Requests of clients", counts.requests),
        ("stun_messages", "STUN messages", counts.stun),
        ("meetings", "Pairs of peers that met", counts.meetings),
        ("calls", "Calls passed on to who listens", counts.calls),
        ("relayed_bytes", "Sealed bytes passed from peer to peer", counts.relayed_bytes),
        ("timeouts", "Connections ended because their time was over", counts.timeouts),
        ("slow_readers", "Clients cut off because they did not read", hub.cut_off),
        (
            "bus_messages_lost",
            "Messages to other servers that could not leave",
            hub.bus.as_ref().map_or(0, |bus| bus.lost.load(Ordering::Relaxed)),
        ),
        ("accept_errors", "Errors of accept(2)", hub.accept_errors),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    for (name, help, value) in [
        ("open_connections", "Connections open now", counts.open),
        ("waiting", "Peers that wait for another now", counts.waiting),
        ("joined_servers", "Other servers on the bus now", hub.server.others() as u64),
        ("listening", "Names under which somebody listens now", counts.listening),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let probes = Family::<Label, Counter>::default();
    for ((_, reaction), count) in Counts::REACTIONS.iter().zip(counts.probes) {
        probes.get_or_create(&[("reaction", *reaction)]).inc_by(count);
    }
    registry.register("probes", "Probes by what came of them", probes);
    let refusals = Family::<Label, Counter>::default();
    for ((_, reason), count) in Counts::REFUSALS.iter().zip(counts.refusals) {
        refusals.get_or_create(&[("reason", *reason)]).inc_by(count);
    }
    registry.register("refusals", "Refusals by reason", refusals);
    let mut text = String::new();
    // A String takes everything.
    let _ = encode(&mut text, &registry);
    text
}
