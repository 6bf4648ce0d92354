//! Ends whose instants lie on both sides of a minute, as those of clocks a second apart may.

use std::thread;
use std::time::Duration;

use tcp_punch::Punch;
use tcp_punch::punch::Key;
use tcp_punch::sys::clock;
use tcp_punch::wire::WallTime;

use crate::pair::{Pair, exchange_lines, stream};

const PORT: u16 = 40000;
/// From the instant of the one end to the minute, and on to the other's.
const HALF: Duration = Duration::from_millis(500);
const MINUTE_S: u64 = 60;

/// The first minute before which both ends have time to begin.
fn next_minute() -> WallTime {
    let soonest = clock::now().after(4 * HALF).since_epoch().as_secs();
    let minute = (soonest / MINUTE_S + 1) * MINUTE_S;
    WallTime::from_unix_ns(i64::try_from(minute).expect("a time to come") * 1_000_000_000)
}

/// Each end then starts at another number, and takes the other for being in its own minute.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn ends_on_both_sides_of_a_minute_meet_by_every_strategy() {
    let minute = next_minute();
    let met = |kind: &str, strategies: &str| {
        let pair = Pair::behind_nats(&["--nat-a", kind, "--nat-b", kind]);
        let of = |punch: Punch| {
            punch.key(Key::from_bytes([7; 32])).strategies(strategies.parse().expect("strategies"))
        };
        let (a, b) = pair.connect(
            of(pair.punch_of_a(PORT, minute.before(HALF))),
            of(pair.punch_of_b(PORT, minute.after(HALF))),
        );
        exchange_lines(&stream(a), &stream(b));
    };
    // All at one minute, since there is but one in sixty seconds.
    thread::scope(|scope| {
        for (kind, strategies) in [
            ("masquerade", "syn"),
            ("masquerade,syn-block,strict", "syn-ack"),
            ("masquerade,raw-syn-block", "mid-stream"),
            ("masquerade,syn-block", "auto"),
        ] {
            scope.spawn(move || met(kind, strategies));
        }
    });
}
