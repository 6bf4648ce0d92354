//! Where peers meet: places with the number of a code, and places made for one call.

use super::bus::{Node, Seat};
use crate::rendezvous::{Place, Ticket};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// Who waits at a place.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) who: Seat,
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

/// All places that this server keeps, also for clients of others.
#[derive(Debug)]
pub(super) struct Places {
    numbers: HashMap<u32, Held>,
    tickets: HashMap<Ticket, Waiter>,
    /// Numbers are given out from `first` on, each so much after the one before.
    first: u32,
    step: u32,
    /// Every number of ours below it is in `numbers` or free.
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
            first: 1,
            step: 1,
            next: 1,
            free: BTreeSet::new(),
            resting: VecDeque::new(),
            rest,
        }
    }

    /// From now on the numbers that are given out leave `share` when divided by `shares`, less one.
    pub(super) fn give_out(&mut self, share: u8, shares: u16) {
        let (first, step) = (u32::from(share) + 1, u32::from(shares));
        if (first, step) != (self.first, self.step) {
            (self.first, self.step, self.next) = (first, step, first);
            self.free.clear();
        }
    }

    /// The least number that nobody uses, so that codes stay short.
    pub(super) fn allocate(&mut self, waiter: Waiter) -> Option<u32> {
        let number = match self.free.pop_first() {
            Some(number) => number,
            None => {
                // Somebody may have come to a number that was not given out.
                while self.numbers.contains_key(&self.next) {
                    self.next = self.next.checked_add(self.step)?;
                }
                let number = self.next;
                self.next = self.next.checked_add(self.step)?;
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
    pub(super) fn speak(&mut self, place: Place, who: Seat, opening: &[u8]) -> bool {
        let Place::Number(number) = place else { return false };
        match self.numbers.get_mut(&number) {
            Some(Held::Waiting(waiter)) if waiter.who == who && waiter.opening.is_empty() => {
                waiter.opening = opening.to_vec();
                true
            }
            _ => false,
        }
    }

    /// Whether this one waits there.
    pub(super) fn has(&self, place: Place, who: Seat) -> bool {
        let Place::Number(number) = place else { return false };
        matches!(self.numbers.get(&number), Some(Held::Waiting(waiter)) if waiter.who == who)
    }

    /// Somebody comes; `opening` is kept if it waits.
    pub(super) fn come(
        &mut self,
        place: Place,
        who: Seat,
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

    /// The one who waits there goes. What it had to say; `None` if it does not wait there.
    pub(super) fn leave(&mut self, place: Place, who: Seat, now: Duration) -> Option<Vec<u8>> {
        let number = match place {
            Place::Ticket(ticket) => {
                self.tickets.get(&ticket).filter(|waiter| waiter.who == who)?;
                return self.tickets.remove(&ticket).map(|waiter| waiter.opening);
            }
            Place::Number(number) => number,
        };
        match self.numbers.get_mut(&number) {
            Some(Held::Waiting(waiter)) if waiter.who == who => {
                let opening = std::mem::take(&mut waiter.opening);
                self.lay_to_rest(number, false, now);
                Some(opening)
            }
            _ => None,
        }
    }

    /// Those who wait here for whom `gone` holds are forgotten: their server has died.
    pub(super) fn forget(&mut self, gone: impl Fn(u32, Node) -> bool, now: Duration) {
        let waits = |held: &Held, number: u32| matches!(held, Held::Waiting(waiter) if gone(number, waiter.who.node));
        let numbers = self.numbers.iter().filter(|(number, held)| waits(held, **number));
        let numbers: Vec<u32> = numbers.map(|(number, _)| *number).collect();
        for number in numbers {
            self.lay_to_rest(number, false, now);
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
                let ours = number >= self.first && (number - self.first).is_multiple_of(self.step);
                if ours && number < self.next {
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
        let ours = |n: u32| {
            (self.first..self.next).contains(&n) && (n - self.first).is_multiple_of(self.step)
        };
        let used = self.numbers.keys().filter(|n| ours(**n)).count();
        used + self.free.len() == ((self.next - self.first) / self.step) as usize
            && self.free.iter().all(|number| !self.numbers.contains_key(number))
    }
}
