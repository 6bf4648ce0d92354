//! Where peers meet: places with the number of a code, and places made for one call.

use super::ConnectionId;
use crate::rendezvous::{Place, Ticket};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// Who waits at a place.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) who: ConnectionId,
    /// The first message of its key exchange.
    pub(super) opening: Vec<u8>,
}

/// What becomes of one who comes to a place.
#[derive(Debug)]
pub(super) enum Coming {
    /// Nobody was there: it waits.
    Waits,
    /// Somebody was. The place is used up.
    Meets(Waiter),
    /// Two have met there lately.
    Occupied,
    /// A ticket that was never given out, or whose caller has gone.
    Unknown,
}

#[derive(Debug)]
enum Held {
    Waiting(Waiter),
    /// Not given out again before this time, so that a late peer meets no stranger.
    Resting {
        until: Duration,
        /// Two met there: a third learns that it is too late.
        met: bool,
    },
}

/// All places. Who comes finds one by [`Places::come`] and nowhere else: places on other servers
/// would be found there, too.
#[derive(Debug)]
pub(super) struct Places {
    numbers: HashMap<u32, Held>,
    tickets: HashMap<Ticket, Waiter>,
    /// Every number below it is in `numbers` or free.
    next: u32,
    free: BTreeSet<u32>,
    resting: VecDeque<(Duration, u32)>,
    rest: Duration,
}

impl Places {
    pub(super) fn new(rest: Duration) -> Self {
        Self {
            numbers: HashMap::new(),
            tickets: HashMap::new(),
            next: 1,
            free: BTreeSet::new(),
            resting: VecDeque::new(),
            rest,
        }
    }

    /// The least number that nobody uses, so that codes stay short.
    pub(super) fn allocate(&mut self, waiter: Waiter) -> Option<u32> {
        let number = match self.free.pop_first() {
            Some(number) => number,
            None => {
                // Somebody may have come to a number that was not given out.
                while self.numbers.contains_key(&self.next) {
                    self.next = self.next.checked_add(1)?;
                }
                let number = self.next;
                self.next = self.next.checked_add(1)?;
                number
            }
        };
        self.numbers.insert(number, Held::Waiting(waiter));
        Some(number)
    }

    /// Has a caller wait.
    pub(super) fn open(&mut self, ticket: Ticket, waiter: Waiter) {
        self.tickets.insert(ticket, waiter);
    }

    /// Gives the opening of one who waits at a place without any. Whether that was so.
    pub(super) fn speak(&mut self, place: Place, who: ConnectionId, opening: &[u8]) -> bool {
        let Place::Number(number) = place else { return false };
        match self.numbers.get_mut(&number) {
            Some(Held::Waiting(waiter)) if waiter.who == who && waiter.opening.is_empty() => {
                waiter.opening = opening.to_vec();
                true
            }
            _ => false,
        }
    }

    /// Somebody comes; `opening` is kept if it waits.
    pub(super) fn come(
        &mut self,
        place: Place,
        who: ConnectionId,
        opening: &[u8],
        now: Duration,
    ) -> Coming {
        let number = match place {
            Place::Number(number) => number,
            Place::Ticket(ticket) => {
                return self.tickets.remove(&ticket).map_or(Coming::Unknown, Coming::Meets);
            }
        };
        match self.numbers.remove(&number) {
            Some(Held::Waiting(waiter)) => {
                self.lay_to_rest(number, true, now);
                Coming::Meets(waiter)
            }
            Some(held @ Held::Resting { met: true, .. }) => {
                self.numbers.insert(number, held);
                Coming::Occupied
            }
            // Who lost its connection while it waited comes back to its number.
            Some(Held::Resting { met: false, .. }) | None => {
                self.free.remove(&number);
                let waiter = Waiter { who, opening: opening.to_vec() };
                self.numbers.insert(number, Held::Waiting(waiter));
                Coming::Waits
            }
        }
    }

    /// The one who waits there goes.
    pub(super) fn leave(&mut self, place: Place, who: ConnectionId, now: Duration) {
        match place {
            Place::Ticket(ticket) => {
                if self.tickets.get(&ticket).is_some_and(|waiter| waiter.who == who) {
                    self.tickets.remove(&ticket);
                }
            }
            Place::Number(number) => {
                let here = |held: &Held| matches!(held, Held::Waiting(waiter) if waiter.who == who);
                if self.numbers.get(&number).is_some_and(here) {
                    self.lay_to_rest(number, false, now);
                }
            }
        }
    }

    fn lay_to_rest(&mut self, number: u32, met: bool, now: Duration) {
        let until = now + self.rest;
        self.numbers.insert(number, Held::Resting { until, met });
        self.resting.push_back((until, number));
    }

    /// When a number is free again.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.resting.front().map(|(until, _)| *until)
    }

    /// Frees the numbers that have rested.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        while let Some((at, number)) = self.resting.front().copied()
            && at <= now
        {
            self.resting.pop_front();
            // Somebody may have come back to it meanwhile, and left again.
            let rested = |held: &Held| matches!(held, Held::Resting { until, .. } if *until <= now);
            if self.numbers.get(&number).is_some_and(rested) {
                self.numbers.remove(&number);
                if number != 0 && number < self.next {
                    self.free.insert(number);
                }
            }
        }
    }

    /// Numbers in use, resting ones included, and tickets.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len() + self.tickets.len()
    }

    /// Whether every number below the next is either used or free.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        let used = self.numbers.keys().filter(|n| (1..self.next).contains(n)).count();
        used + self.free.len() == self.next as usize - 1
            && self.free.iter().all(|number| !self.numbers.contains_key(number))
    }
}
