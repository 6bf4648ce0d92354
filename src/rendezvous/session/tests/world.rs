//! A server, sessions that talk to it, and what may happen to their messages.

use super::super::*;
use crate::rendezvous::ClockTimes;
use crate::rendezvous::server::{Addresses, ConnectionId, Limits, Output, Said, Server, Stream};
use std::collections::BTreeMap;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// To the server, or back.
pub(super) const WAY: Duration = Duration::from_millis(10);
/// The server's clock is ahead of the clients' by this.
pub(super) const AHEAD_NS: i64 = 500_000_000;

pub(super) struct Client {
    pub(super) session: Session,
    pub(super) id: ConnectionId,
    pub(super) said: Stream,
    pub(super) events: Vec<Event>,
    /// Why it has ended.
    pub(super) over: Option<SessionError>,
}

impl Client {
    pub(super) fn told(&self) -> Vec<&Told> {
        let mut all = Vec::new();
        for event in &self.events {
            if let Event::Told(told) = event {
                all.push(told);
            }
        }
        all
    }

    pub(super) fn code(&self) -> Code {
        let code =
            |event: &Event| if let Event::Coded(code) = event { Some(code.clone()) } else { None };
        self.events.iter().find_map(code).expect("it has a code")
    }
}

#[derive(Debug)]
pub(super) enum Parcel {
    ToServer(Vec<u8>),
    Gone,
    ToClient(Vec<u8>),
}

type Tamper = Box<dyn FnMut(usize, Answer) -> Vec<Answer>>;

/// A server, its clients and the parcels on their way.
pub(super) struct World {
    pub(super) server: Server,
    pub(super) clients: Vec<Client>,
    pub(super) start: WallTime,
    pub(super) now: WallTime,
    pub(super) parcels: BTreeMap<(WallTime, u64), (usize, Parcel)>,
    pub(super) posted: u64,
    /// What becomes of answers before they leave.
    pub(super) tamper: Tamper,
}

impl World {
    pub(super) fn new() -> Self {
        let addresses = Addresses { ports: [3478, 3479], main: None, others: Vec::new() };
        let start = WallTime::from_unix_ns(1_790_000_000_000_000_000);
        Self {
            server: Server::new(addresses, Limits::default(), [7; 32]),
            clients: Vec::new(),
            start,
            now: start,
            parcels: BTreeMap::new(),
            posted: 0,
            tamper: Box::new(|_, answer| vec![answer]),
        }
    }

    pub(super) fn uptime(&self) -> Duration {
        self.start.until(self.now)
    }

    pub(super) fn connect(&mut self) -> ConnectionId {
        let remote = SocketAddr::from(([198, 51, 100, 1], 40_000 + self.clients.len() as u16));
        let local = SocketAddr::from(([192, 0, 2, 254], 3478));
        self.server.connect(remote, local, self.uptime()).unwrap()
    }

    pub(super) fn client(&mut self, purpose: Purpose) -> usize {
        let id = self.connect();
        let random = [self.clients.len() as u8 + 1; 32];
        let session = Session::new(purpose, random, self.now).unwrap();
        let said = Stream::default();
        self.clients.push(Client { session, id, said, events: Vec::new(), over: None });
        self.clients.len() - 1
    }

    pub(super) fn post(&mut self, client: usize, parcel: Parcel) {
        self.posted += 1;
        self.parcels.insert((self.now.after(WAY), self.posted), (client, parcel));
    }

    /// Lets each client do what it has to do now.
    pub(super) fn proceed(&mut self) {
        for nth in 0..self.clients.len() {
            let client = &mut self.clients[nth];
            if client.over.is_some() {
                continue;
            }
            if let Err(error) = client.session.handle_timeout(self.now) {
                client.over = Some(error);
            }
            self.send(nth);
        }
    }

    pub(super) fn send(&mut self, nth: usize) {
        let client = &mut self.clients[nth];
        client.events.extend(std::iter::from_fn(|| client.session.poll()));
        let bytes = client.session.output(self.now);
        let over = client.over.is_some();
        if !bytes.is_empty() {
            self.post(nth, Parcel::ToServer(bytes));
        }
        if over {
            self.post(nth, Parcel::Gone);
        }
    }

    pub(super) fn deliver(&mut self, nth: usize, parcel: Parcel) {
        let uptime = self.uptime();
        let client = &mut self.clients[nth];
        match parcel {
            Parcel::ToServer(bytes) => {
                client.said.extend(&bytes);
                while let Ok(Some(said)) = self.clients[nth].said.take() {
                    let id = self.clients[nth].id;
                    match said {
                        Said::Greeting => self.server.greet(id, uptime),
                        Said::Request(request) => self.server.handle(id, request, uptime),
                        Said::Stun(_) => unreachable!("no client here speaks STUN"),
                    }
                }
                self.answer();
            }
            Parcel::Gone => {
                self.server.disconnect(client.id, uptime);
                self.answer();
            }
            Parcel::ToClient(bytes) if client.over.is_none() => {
                if let Err(error) = client.session.handle(&bytes, self.now) {
                    client.over = Some(error);
                }
                self.send(nth);
            }
            Parcel::ToClient(_) => {}
        }
    }

    /// Sends what the server answers.
    pub(super) fn answer(&mut self) {
        while let Some(output) = self.server.poll() {
            let ns = self.now.unix_ns() + AHEAD_NS;
            let (to, answer) = match output {
                Output::Answer { to, answer } => (to, answer),
                Output::Clock { to, sent_ns } => {
                    let times = ClockTimes { sent_ns, received_ns: ns, answered_ns: ns };
                    (to, Answer::Clock(times))
                }
                Output::Close(_)
                | Output::Probe { .. }
                | Output::Publish { .. }
                | Output::AskClock(_) => continue,
            };
            let Some(nth) = self.clients.iter().position(|it| it.id == to) else { continue };
            for answer in (self.tamper)(nth, answer) {
                self.post(nth, Parcel::ToClient(frame(&answer).unwrap()));
            }
        }
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, span: Duration) {
        let until = self.now.after(span);
        loop {
            self.proceed();
            let alive = self.clients.iter().filter(|it| it.over.is_none());
            let due = alive.map(|it| it.session.poll_timeout());
            let arrives = self.parcels.keys().next().map(|(at, _)| *at);
            let Some(next) = due.chain(arrives).min().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            while let Some(first) = self.parcels.first_entry().filter(|it| it.key().0 <= self.now) {
                let (nth, parcel) = first.remove();
                self.deliver(nth, parcel);
            }
            self.server.handle_timeout(self.uptime());
            self.answer();
        }
        self.now = until;
    }

    /// The program there ends.
    pub(super) fn leave(&mut self, client: usize) {
        self.clients[client].over = Some(SessionError::OutOfTurn);
        self.post(client, Parcel::Gone);
    }

    pub(super) fn tell(&mut self, client: usize, told: &Told) {
        self.clients[client].session.tell(told).unwrap();
    }

    pub(super) fn over(&self, client: usize) -> String {
        self.clients[client].over.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}
