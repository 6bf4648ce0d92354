//! What servers say to each other: in order between two of them, else in any order.

use crate::rendezvous::server::{BusMessage, Node, Word};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// From one server to another.
pub(super) type Way = (usize, usize);

pub(super) struct Bus {
    ways: BTreeMap<Way, VecDeque<Word>>,
    cut_off: BTreeSet<usize>,
    held_up: BTreeSet<Way>,
    /// Decides which word arrives next.
    dice: u64,
}

impl Bus {
    pub(super) fn new(dice: u64) -> Self {
        Self { ways: BTreeMap::new(), cut_off: BTreeSet::new(), held_up: BTreeSet::new(), dice }
    }

    /// A word is said, and read as it is written.
    pub(super) fn carry(&mut self, from: usize, to: usize, word: Word) {
        if self.is_cut_off(from) || self.is_cut_off(to) {
            return;
        }
        let bytes = BusMessage { from: Node(0), word }.to_bytes().unwrap();
        let word = BusMessage::from_bytes(&bytes).unwrap().word;
        self.ways.entry((from, to)).or_default().push_back(word);
    }

    /// Where something arrives next.
    pub(super) fn next(&mut self) -> Option<Way> {
        self.ways.retain(|_, words| !words.is_empty());
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let ways = self.ways.keys().filter(|way| !self.held_up.contains(way));
        let ways: Vec<&Way> = ways.collect();
        let nth = (self.dice >> 33) as usize;
        ways.get(nth % ways.len().max(1)).map(|way| **way)
    }

    /// The next word on this way.
    pub(super) fn take(&mut self, way: Way) -> Option<Word> {
        self.ways.get_mut(&way)?.pop_front()
    }

    pub(super) fn is_cut_off(&self, server: usize) -> bool {
        self.cut_off.contains(&server)
    }

    /// What is on its way to this server is lost, and all that would follow.
    pub(super) fn cut_off(&mut self, server: usize) {
        self.lose(server);
        self.cut_off.insert(server);
    }

    pub(super) fn join(&mut self, server: usize) {
        self.cut_off.remove(&server);
    }

    /// The server is there no more.
    pub(super) fn forget(&mut self, server: usize) {
        self.lose(server);
        self.cut_off.remove(&server);
    }

    fn lose(&mut self, server: usize) {
        self.ways.retain(|(_, to), _| *to != server);
    }

    /// Nothing arrives on this way until it is freed.
    pub(super) fn hold_up(&mut self, way: Way) {
        self.held_up.insert(way);
    }

    pub(super) fn free(&mut self, way: Way) {
        self.held_up.remove(&way);
    }
}
