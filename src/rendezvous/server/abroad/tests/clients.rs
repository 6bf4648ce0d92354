//! The clients of the servers: how they come, wait, meet and talk.

use super::world::{SECOND, World};
use crate::rendezvous::server::tests::client::{Client, Heard, Line, join, relay};
use crate::rendezvous::{Answer, Identity, Request};

/// One who waits under a number.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) client: Client,
    pub(super) number: u32,
}

impl World {
    /// A client of this server that has been welcomed.
    pub(super) fn client(&mut self, at: usize) -> Client {
        self.clients += 1;
        let remote = format!("198.51.{}.{}:40000", self.clients / 200, self.clients % 200);
        let (remote, local) = (remote.parse().unwrap(), "203.0.113.2:3478".parse().unwrap());
        let id = self.tell(at, |server, now| {
            let id = server.connect(remote, local, now).unwrap();
            server.greet(id, now);
            id
        });
        let client = Client { at, id };
        let welcome = self.heard.pop();
        assert!(
            matches!(welcome, Some((to, Heard::Answer(Answer::Welcome { .. }))) if to == client),
            "{welcome:?}"
        );
        client
    }

    /// It says something, of which nothing has arrived elsewhere yet.
    pub(super) fn asks(&mut self, client: Client, request: Request) {
        self.tell(client.at, |server, now| server.handle(client.id, request, now));
    }

    pub(super) fn goes(&mut self, client: Client) {
        self.tell(client.at, |server, now| server.disconnect(client.id, now));
    }

    /// What was heard since the last time, after everything has arrived.
    pub(super) fn heard(&mut self) -> Vec<Line> {
        self.settle();
        std::mem::take(&mut self.heard)
    }

    pub(super) fn says(&mut self, client: Client, request: Request) -> Vec<Line> {
        self.asks(client, request);
        self.heard()
    }

    /// The number that a client is given.
    pub(super) fn allocates(&mut self, client: Client) -> u32 {
        match self.says(client, Request::Allocate)[..] {
            [(_, Heard::Answer(Answer::Allocated(number)))] => number,
            ref other => panic!("{other:?}"),
        }
    }

    /// What is heard when a client has proved that the name is its own.
    pub(super) fn proves(&mut self, client: Client, name: &Identity) -> Vec<Line> {
        let heard = self.says(client, Request::Listen(name.public()));
        let challenge = client.challenge_in(&heard);
        self.says(client, Request::Prove(name.prove(challenge)))
    }

    /// A client that listens under its name.
    pub(super) fn listener(&mut self, at: usize, name: &Identity) -> Client {
        let client = self.client(at);
        assert_eq!(self.proves(client, name), [client.gets(Answer::Listening)]);
        client
    }

    /// A client that waits under a number which this server keeps.
    pub(super) fn waiter(&mut self, at: usize, keeper: usize) -> Waiting {
        let number = self.numbers_of(keeper).next().unwrap();
        self.waiter_under(at, number)
    }

    pub(super) fn waiter_under(&mut self, at: usize, number: u32) -> Waiting {
        let client = self.client(at);
        assert_eq!(self.says(client, join(number, b"a")), []);
        Waiting { client, number }
    }

    /// Two that have met.
    pub(super) fn pair(&mut self, at: [usize; 2]) -> [Client; 2] {
        let [a, b] = [self.waiter_under(at[0], 77).client, self.client(at[1])];
        self.asks(b, join(77, b"b"));
        self.meet(a, b);
        [a, b]
    }

    /// Another client comes, of this server, and finds the one who waits.
    pub(super) fn is_found_from(&mut self, at: usize, waiting: Waiting) {
        let finder = self.client(at);
        self.asks(finder, join(waiting.number, b"b"));
        self.have_met(waiting.client, finder);
    }

    /// Both have met just now, and can talk until one leaves.
    pub(super) fn have_met(&mut self, a: Client, b: Client) {
        self.meet(a, b);
        self.talk_and_part(a, b);
    }

    /// Each hears once that it meets the other.
    fn meet(&mut self, a: Client, b: Client) {
        let heard = self.heard();
        for met in [a.meets(b"b"), b.meets(b"a")] {
            assert_eq!(heard.iter().filter(|it| **it == met).count(), 1, "{heard:?}");
        }
    }

    pub(super) fn talk_and_part(&mut self, a: Client, b: Client) {
        assert_eq!(self.says(a, relay(b"to b")), [b.hears(b"to b")]);
        assert_eq!(self.says(b, relay(b"to a")), [a.hears(b"to a")]);
        self.goes(a);
        assert_eq!(self.heard(), [b.is_left()]);
        assert_eq!(self.says(b, relay(b"too late")), []);
        self.goes(b);
        assert_eq!(self.heard(), []);
    }

    /// Nothing is left of those who waited, once all numbers have rested.
    pub(super) fn forgets_everybody(&mut self) {
        self.pass(62 * SECOND);
        for server in self.servers.iter().flatten() {
            assert_eq!(server.places.len(), 0);
            assert!(server.away.is_empty() && server.rung.is_empty());
        }
    }
}
