//! One server, its clients, and its clock.

use super::client::{Client, Heard, Line, join};
use crate::rendezvous::server::{AddressLimits, Addresses, Limits, Server};
use crate::rendezvous::{Answer, Identity, Refusal, Request};
use std::net::SocketAddr;
use std::time::Duration;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Where clients come from.
pub(super) const AT: [&str; 4] =
    ["198.51.100.1:40000", "198.51.100.2:40000", "198.51.100.3:40000", "[2001:db8::1]:40000"];

/// Limits that are soon reached.
pub(super) fn small() -> Limits {
    let address =
        AddressLimits { connections: 3, waiting: 2, meetings: 4, probes: 2, requests: 1000 };
    Limits { address, connections: 10, ..Limits::default() }
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) now: Duration,
}

impl World {
    pub(super) fn new(limits: Limits) -> Self {
        let other = "203.0.113.3".parse().unwrap();
        let addresses = Addresses { ports: [3478, 3479], main: None, others: vec![other] };
        Self { server: Server::new(addresses, limits, [7; 32]), now: Duration::ZERO }
    }

    pub(super) fn small() -> Self {
        Self::new(small())
    }

    pub(super) fn connect(&mut self, from: &str) -> Result<Client, Refusal> {
        let remote: SocketAddr = from.parse().unwrap();
        let v6 = remote.is_ipv6() && !from.contains("ffff");
        let local = if v6 { "[2001:db8::2]:3478" } else { "203.0.113.2:3478" };
        let id = self.server.connect(remote, local.parse().unwrap(), self.now)?;
        Ok(Client { at: 0, id })
    }

    pub(super) fn greets(&mut self, client: Client) -> Vec<Line> {
        self.server.greet(client.id, self.now);
        self.heard()
    }

    /// A client that has said its greeting and had its welcome.
    pub(super) fn client(&mut self, from: &str) -> Client {
        let client = self.connect(from).unwrap();
        let heard = self.greets(client);
        assert!(matches!(&heard[..], [(_, Heard::Answer(Answer::Welcome { .. }))]), "{heard:?}");
        client
    }

    /// Clients of one address each.
    pub(super) fn clients<const N: usize>(&mut self) -> [Client; N] {
        std::array::from_fn(|nth| self.client(AT[nth]))
    }

    /// Two who have met under number 1.
    pub(super) fn pair(&mut self) -> [Client; 2] {
        let [a, b] = self.clients();
        assert_eq!(self.says(a, Request::Allocate), [a.is_given(1)]);
        assert_eq!(self.says(a, join(1, b"a")), []);
        assert_eq!(self.says(b, join(1, b"b")), [a.meets(b"b"), b.meets(b"a")]);
        [a, b]
    }

    /// What is heard when this client has proved that the name is its own.
    pub(super) fn proves(&mut self, client: Client, name: &Identity) -> Vec<Line> {
        let heard = self.says(client, Request::Listen(name.public()));
        let challenge = client.challenge_in(&heard);
        self.says(client, Request::Prove(name.prove(challenge)))
    }

    /// A client that listens under its name.
    pub(super) fn listener(&mut self, from: &str, name: &Identity) -> Client {
        let client = self.client(from);
        assert_eq!(self.proves(client, name), [client.gets(Answer::Listening)]);
        client
    }

    pub(super) fn says(&mut self, client: Client, request: Request) -> Vec<Line> {
        self.server.handle(client.id, request, self.now);
        self.heard()
    }

    /// A message of the client has begun, and is not over.
    pub(super) fn begins_message(&mut self, client: Client) {
        self.server.unfinished(client.id, true, self.now);
    }

    /// The rest of the message has come.
    pub(super) fn ends_message(&mut self, client: Client) {
        self.server.unfinished(client.id, false, self.now);
    }

    pub(super) fn goes(&mut self, client: Client) -> Vec<Line> {
        self.server.disconnect(client.id, self.now);
        self.heard()
    }

    pub(super) fn after(&mut self, span: Duration) -> Vec<Line> {
        self.now += span;
        self.server.handle_timeout(self.now);
        self.heard()
    }

    pub(super) fn heard(&mut self) -> Vec<Line> {
        std::iter::from_fn(|| self.server.poll())
            .map(|output| Client::line(0, output).expect("there is no bus"))
            .collect()
    }
}
