//! A report as a packet ladder: who sent what when, and what of it arrived.
//!
//! One report shows this host's side alone: when a packet left or came, but not when the peer saw
//! it. Two reports of the same punch give both times of every packet.

mod lines;
mod pairing;
mod picture;

use crate::engine::Report;
use crate::engine::report::{Direction, Event};

/// Rows that a ladder draws; a flood is cut in its middle.
pub const MOST_ROWS: usize = 160;

/// A drawn attempt: [`Ladder::text`] for terminals, [`Ladder::svg`] for files.
#[derive(Clone, Debug)]
pub struct Ladder {
    title: Vec<String>,
    left: String,
    right: String,
    /// Both ends reported, so that the right one's times are known.
    both: bool,
    rows: Vec<Row>,
    omitted: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Row {
    Arrow(Arrow),
    Mark { side: Side, at_ns: i64, text: &'static str },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }
}

/// One packet between the two lifelines.
#[derive(Clone, Debug, PartialEq)]
struct Arrow {
    from: Side,
    sent_ns: Option<i64>,
    arrived_ns: Option<i64>,
    label: String,
    what: String,
    kind: Kind,
    /// It goes all the way between the ends, as far as is known: it was not made by a router and
    /// did not die on the way.
    whole: bool,
}

/// What a packet is, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syn,
    Ack,
    Reset,
    Icmp,
}

impl Row {
    /// When the row stands in the ladder: at its first known moment.
    fn at_ns(&self) -> i64 {
        match self {
            Row::Mark { at_ns, .. } => *at_ns,
            Row::Arrow(arrow) => arrow.sent_ns.or(arrow.arrived_ns).unwrap_or(0),
        }
    }
}

impl Ladder {
    /// One end's view.
    pub fn of_one(report: &Report) -> Self {
        let numbers = Numbers::of(report);
        let mut rows: Vec<Row> = report
            .timeline
            .iter()
            .map(|event| Row::Arrow(numbers.arrow(event, Side::Left)))
            .collect();
        rows.extend(marks(report, Side::Left, 0));
        Self::finish(
            vec![report.verdict.clone()],
            [format!("this host {}", report.tuple.local), format!("peer {}", report.tuple.remote)],
            false,
            rows,
            report.timeline_dropped,
        )
    }

    /// Both ends of one punch, `a` on the left. Times are relative to `a`'s instant; the two
    /// clocks are taken to agree.
    pub fn of_both(a: &Report, b: &Report) -> Self {
        let later = b.fired.asked_ns.saturating_sub(a.fired.asked_ns);
        let numbers = Numbers::of(a);
        let ends = [a.fd_ns, b.fd_ns.map(|ns| ns.saturating_add(later))];
        let mut rows: Vec<Row> = pairing::pair(&a.timeline, &b.timeline, later, ends)
            .into_iter()
            .map(|pair| Row::Arrow(numbers.joined(&pair)))
            .collect();
        rows.extend(marks(a, Side::Left, 0));
        rows.extend(marks(b, Side::Right, later));
        Self::finish(
            vec![format!("A: {}", a.verdict), format!("B: {}", b.verdict)],
            [format!("A {}", a.tuple.local), format!("B {}", b.tuple.local)],
            true,
            rows,
            a.timeline_dropped.saturating_add(b.timeline_dropped),
        )
    }

    fn finish(
        title: Vec<String>,
        [left, right]: [String; 2],
        both: bool,
        mut rows: Vec<Row>,
        dropped: u64,
    ) -> Self {
        rows.sort_by_key(Row::at_ns);
        let mut omitted = usize::try_from(dropped).unwrap_or(usize::MAX);
        if rows.len() > MOST_ROWS {
            let surplus = rows.len() - MOST_ROWS;
            // The beginning says most; the end says how it came out.
            let start = MOST_ROWS * 3 / 4;
            rows.drain(start..start + surplus);
            omitted = omitted.saturating_add(surplus);
        }
        Self { title, left, right, both, rows, omitted }
    }

    /// The row before which packets were left out.
    fn cut(&self) -> Option<usize> {
        match self.omitted {
            0 => None,
            _ if self.rows.len() < MOST_ROWS => Some(self.rows.len()),
            _ => Some(MOST_ROWS * 3 / 4),
        }
    }
}

fn marks(report: &Report, side: Side, later: i64) -> impl Iterator<Item = Row> {
    [(report.established_ns, "established"), (report.fd_ns, "descriptor ready")]
        .into_iter()
        .filter_map(move |(at, text)| {
            Some(Row::Mark { side, at_ns: at?.saturating_add(later), text })
        })
}

/// Both initial sequence numbers, to show numbers relative to them as tcpdump does.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    ours: Option<u32>,
    theirs: Option<u32>,
}

impl Numbers {
    fn of(report: &Report) -> Self {
        let find = |direction, pick: fn(&Event) -> Option<u32>| {
            report
                .timeline
                .iter()
                .filter(|e| e.direction == direction && e.flags.contains('S'))
                .find_map(pick)
        };
        // What we acknowledged is the peer's number even if a stranger's SYN came first.
        let acknowledged = find(Direction::Sent, |e| e.ack).map(|ack| ack.wrapping_sub(1));
        Self {
            ours: find(Direction::Sent, |e| e.seq),
            theirs: acknowledged.or_else(|| find(Direction::Received, |e| e.seq)),
        }
    }

    /// The arrow of one end's event; that end is `side`.
    fn arrow(&self, event: &Event, side: Side) -> Arrow {
        let (from, sent_ns, arrived_ns) = match event.direction {
            Direction::Sent => (side, Some(event.at_ns), None),
            Direction::Received => (side.other(), None, Some(event.at_ns)),
        };
        Arrow {
            from,
            sent_ns,
            arrived_ns,
            label: self.label(event, from),
            what: event.what.clone(),
            kind: kind(&event.flags),
            whole: event.flags != "icmp" && !falls_short(event),
        }
    }

    fn joined(&self, pair: &pairing::Pair<'_>) -> Arrow {
        Arrow {
            from: pair.from,
            sent_ns: pair.sent_ns,
            arrived_ns: pair.arrived_ns,
            whole: pair.sent_ns.is_some() && (pair.arrived_ns.is_some() || pair.unseen),
            ..self.arrow(pair.event, pair.side)
        }
    }

    fn label(&self, event: &Event, from: Side) -> String {
        let (sender, receiver) = match from {
            Side::Left => (self.ours, self.theirs),
            Side::Right => (self.theirs, self.ours),
        };
        let mut label = name(&event.flags);
        if let Some(seq) = event.seq {
            label += &format!(" seq {}", relative(seq, sender));
        }
        if let Some(ack) = event.ack {
            label += &format!(" ack {}", relative(ack, receiver));
        }
        // A packet that is meant to die on the way shows how far it goes.
        if falls_short(event) {
            label += &format!(" ttl {}", event.ttl);
        }
        label
    }
}

/// Whether it left with a hop limit that only an opener or a probe has.
fn falls_short(event: &Event) -> bool {
    event.direction == Direction::Sent && event.ttl < 32
}

/// `number` counted from `start`, or as it is when it has nothing to do with it.
fn relative(number: u32, start: Option<u32>) -> u32 {
    match start.map(|start| number.wrapping_sub(start)) {
        Some(distance) if distance < 1 << 30 => distance,
        _ => number,
    }
}

fn kind(flags: &str) -> Kind {
    match flags {
        "icmp" => Kind::Icmp,
        _ if flags.contains('R') => Kind::Reset,
        "S" => Kind::Syn,
        _ => Kind::Ack,
    }
}

/// tcpdump's letters as words.
fn name(flags: &str) -> String {
    if flags == "icmp" {
        return "ICMP".to_owned();
    }
    let words: Vec<&str> = flags
        .chars()
        .map(|letter| match letter {
            'S' => "SYN",
            'F' => "FIN",
            'R' => "RST",
            'P' => "DATA",
            '.' => "ACK",
            _ => "?",
        })
        .collect();
    if words.is_empty() { "no flags".to_owned() } else { words.join("-") }
}

/// Nanoseconds as milliseconds with three places.
fn ms(ns: i64) -> String {
    let us = ns.div_euclid(1000);
    let sign = if us < 0 { "-" } else { "" };
    let us = us.unsigned_abs();
    format!("{sign}{}.{:03}", us / 1000, us % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn reports() -> (Report, Report) {
        (
            serde_json::from_str(include_str!("../../docs/report.example.json")).unwrap(),
            serde_json::from_str(include_str!("../../tests/data/report.peer.json")).unwrap(),
        )
    }

    #[test]
    fn numbers_are_relative_across_the_wrap() {
        assert_eq!(relative(3, Some(u32::MAX)), 4);
        assert_eq!(relative(0, Some(7)), 0);
        assert_eq!(relative(1 << 31, Some(7)), 1 << 31);
        assert_eq!(relative(9, None), 9);
    }

    #[test]
    fn flags_and_times_are_words() {
        assert_eq!(name("S."), "SYN-ACK");
        assert_eq!(name("R"), "RST");
        assert_eq!(name(""), "no flags");
        assert_eq!(ms(-250_000_000), "-250.000");
        assert_eq!(ms(17_900), "0.017");
        assert_eq!(ms(-500), "-0.001");
    }

    #[test]
    fn a_flood_is_cut_in_its_middle() {
        let (mut a, _) = reports();
        let event = a.timeline[0].clone();
        for i in 0..5_000 {
            a.timeline.push(Event { at_ns: 100_000_000 + i, ..event.clone() });
        }
        let ladder = Ladder::of_one(&a);
        assert_eq!(ladder.rows.len(), MOST_ROWS);
        assert_eq!(ladder.omitted, 5_000 + 6 + 2 - MOST_ROWS);
        assert!(ladder.text().contains("more left out"));
    }
}
