//! Which packet that one end received is which that the other sent.

use super::Side;
use crate::engine::report::{Direction, Event};

/// One packet with what both ends know of it.
#[derive(Clone, Debug)]
pub(super) struct Pair<'a> {
    /// Who sent it.
    pub(super) from: Side,
    /// Who reported `event`.
    pub(super) side: Side,
    /// The sender's record if there is one, the receiver's otherwise.
    pub(super) event: &'a Event,
    pub(super) sent_ns: Option<i64>,
    pub(super) arrived_ns: Option<i64>,
    /// It is due at a time that the receiver's record does not cover, so nobody can say whether it
    /// arrived.
    pub(super) unseen: bool,
}

/// An arrival this near to the end of the receiver's record may have been left out of it.
const AT_THE_END_NS: i64 = 1_000_000;

/// Pairs the events of the left and the right end; the right end's times are moved by `later`.
///
/// Translation on the way changes addresses and ports but neither sequence numbers nor flags.
/// Equal packets (a SYN, its repetitions, its opener) are told apart by hop limit, which only
/// falls, and by the path's delay as the unrepeated packets show it.
///
/// `ends`: when the left and the right end's record was over, as those times count.
pub(super) fn pair<'a>(
    left: &'a [Event],
    right: &'a [Event],
    later: i64,
    ends: [Option<i64>; 2],
) -> Vec<Pair<'a>> {
    let [left_end, right_end] = ends;
    let mut pairs = one_way(Side::Left, left, right, [0, later], right_end);
    pairs.extend(one_way(Side::Right, right, left, [later, 0], left_end));
    pairs
}

fn one_way<'a>(
    from: Side,
    sender: &'a [Event],
    receiver: &'a [Event],
    [sender_later, receiver_later]: [i64; 2],
    receiver_end: Option<i64>,
) -> Vec<Pair<'a>> {
    let to = from.other();
    let mut pairs: Vec<Pair<'a>> = events(sender, Direction::Sent)
        .map(|event| Pair {
            from,
            side: from,
            event,
            sent_ns: Some(event.at_ns.saturating_add(sender_later)),
            arrived_ns: None,
            unseen: false,
        })
        .collect();
    let arrivals: Vec<(&Event, i64)> = events(receiver, Direction::Received)
        .map(|event| (event, event.at_ns.saturating_add(receiver_later)))
        .collect();
    let delay = delay(&pairs, &arrivals);
    for (event, at) in arrivals {
        let expected = at.saturating_sub(delay);
        let best = pairs
            .iter_mut()
            .filter(|pair| pair.arrived_ns.is_none() && same(pair.event, event))
            .min_by_key(|pair| pair.sent_ns.map_or(u64::MAX, |sent| sent.abs_diff(expected)));
        match best {
            Some(pair) => pair.arrived_ns = Some(at),
            // A router made it, or the sender's report is cut short.
            None => pairs.push(Pair {
                from,
                side: to,
                event,
                sent_ns: None,
                arrived_ns: Some(at),
                unseen: false,
            }),
        }
    }
    for pair in pairs.iter_mut().filter(|pair| pair.arrived_ns.is_none()) {
        let due = pair.sent_ns.map(|sent| sent.saturating_add(delay).saturating_add(AT_THE_END_NS));
        pair.unseen = matches!((due, receiver_end), (Some(due), Some(end)) if due >= end);
    }
    pairs
}

/// The least delay of the packets that were sent once; without any, of all.
fn delay(sent: &[Pair<'_>], arrivals: &[(&Event, i64)]) -> i64 {
    let delays = |unrepeated: bool| {
        arrivals
            .iter()
            .filter_map(|(event, at)| {
                let candidates: Vec<i64> = sent
                    .iter()
                    .filter(|pair| same(pair.event, event))
                    .filter_map(|pair| Some(at.saturating_sub(pair.sent_ns?)))
                    .collect();
                let alone = !unrepeated || candidates.len() == 1;
                candidates.into_iter().filter(|delay| alone && *delay >= 0).min()
            })
            .min()
    };
    delays(true).or_else(|| delays(false)).unwrap_or(0)
}

fn events(all: &[Event], direction: Direction) -> impl Iterator<Item = &Event> {
    all.iter().filter(move |event| event.direction == direction)
}

fn same(sent: &Event, received: &Event) -> bool {
    let key = |e: &Event| (e.flags.clone(), e.seq, e.ack);
    received.flags != "icmp" && received.ttl <= sent.ttl && key(sent) == key(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn event(direction: Direction, at_ms: i64, flags: &str, seq: u32, ttl: u8) -> Event {
        let (reports, _) = super::super::tests::reports();
        Event {
            at_ns: at_ms * MS,
            direction,
            flags: flags.to_owned(),
            seq: Some(seq),
            ack: None,
            ttl,
            ..reports.timeline[0].clone()
        }
    }

    #[test]
    fn a_lost_syn_is_not_mistaken_for_its_repetition() {
        let left = [
            event(Direction::Sent, -250, "S", 1, 3),
            event(Direction::Sent, 0, "S", 1, 64),
            event(Direction::Sent, 50, "S", 1, 64),
            event(Direction::Sent, 80, ".", 2, 64),
        ];
        let right = [
            event(Direction::Received, 60, "S", 1, 60),
            event(Direction::Received, 90, ".", 2, 60),
        ];
        let arrived: Vec<_> = pair(&left, &right, 0, [None; 2])
            .iter()
            .map(|p| p.arrived_ns.map(|ns| ns / MS))
            .collect();
        assert_eq!(arrived, [None, None, Some(60), Some(90)]);
    }

    #[test]
    fn what_is_due_after_the_other_ends_record_is_not_called_lost() {
        let left = [event(Direction::Sent, 30, ".", 2, 64)];
        let unseen = |end: i64| pair(&left, &[], 0, [None, Some(end * MS)])[0].unseen;
        assert!(unseen(20) && unseen(31));
        assert!(!unseen(32));
    }

    #[test]
    fn a_routers_reset_has_no_sender() {
        let right = [event(Direction::Received, 20, "R", 0, 63)];
        let pairs = pair(&[], &right, 5 * MS, [None; 2]);
        assert_eq!(pairs.len(), 1);
        assert_eq!((pairs[0].sent_ns, pairs[0].arrived_ns), (None, Some(25 * MS)));
        assert_eq!((pairs[0].from, pairs[0].side), (Side::Left, Side::Right));
    }
}
