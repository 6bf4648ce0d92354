//! A wide area network in one process: test equipment for the namespace tests, not the product.
//!
//! Each attached router namespace gets a TUN interface. What leaves one is routed by destination
//! to another, past a number of hops that decrement the hop limit and answer with ICMP, after a
//! delay, and with the loss, reordering and duplication asked for.

mod backbone;
mod hop;
mod link;
mod packet;
mod process;
mod queue;
mod route;
mod tun;

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use backbone::Backbone;
use link::{Impairments, Probability};
use route::Attachment;
use tun::{Read, Tun};

/// Packets read from one interface before the due ones are delivered: large enough to spare system
/// calls in bulk, small enough (some 100 us) to keep the other direction on time.
const READ_BATCH: usize = 64;

/// Connects network namespaces by a simulated wide area network.
#[derive(Parser)]
#[command(name = "wan")]
struct Arguments {
    /// A router: its namespace, the TUN interface to make there, and what is routed to it
    #[arg(long, required = true, value_name = "NETNS=IFNAME:PREFIX[,PREFIX]", num_args = 1)]
    attach: Vec<Attachment>,
    /// One-way delay of every path, such as 10ms
    #[arg(long, default_value = "0", value_parser = parse_duration)]
    delay: Duration,
    /// Routers between any two attached ones
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=200))]
    hops: u8,
    /// Packets lost, in percent
    #[arg(long, default_value = "0", value_name = "PERCENT")]
    loss: Probability,
    /// Packets held back so that later ones overtake them, in percent
    #[arg(long, default_value = "0", value_name = "PERCENT")]
    reorder: Probability,
    /// Packets that arrive twice, in percent
    #[arg(long, default_value = "0", value_name = "PERCENT")]
    duplicate: Probability,
    /// Makes loss, reordering and duplication repeatable
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End when the process that started this one ends
    #[arg(long)]
    die_with_parent: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    process::end_on_signals(arguments.die_with_parent)?;

    let tuns = arguments
        .attach
        .iter()
        .map(|a| Tun::open(&a.netns, &a.interface))
        .collect::<Result<Vec<_>, _>>()?;
    let impairments = Impairments {
        delay: arguments.delay,
        loss: arguments.loss,
        reorder: arguments.reorder,
        duplicate: arguments.duplicate,
    };
    let mut backbone = Backbone::new(
        arguments.attach.iter().map(|a| a.prefixes.clone()),
        arguments.hops,
        impairments,
        arguments.seed,
    );
    process::be_punctual();

    let mut stdout = io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    run(&tuns, &mut backbone)
}

fn run(tuns: &[Tun], backbone: &mut Backbone) -> Result<(), Box<dyn Error>> {
    let mut poll_fds: Vec<_> =
        tuns.iter().map(|tun| PollFd::new(tun.as_fd(), PollFlags::POLLIN)).collect();
    loop {
        let timeout = backbone
            .next_due()
            .map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
        match ppoll(&mut poll_fds, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(format!("ppoll: {errno}").into()),
        }
        for (from, (tun, poll_fd)) in tuns.iter().zip(&poll_fds).enumerate() {
            if poll_fd.any() == Some(true) {
                read_batch(from, tun, backbone)?;
            }
        }
        for (to, tun) in tuns.iter().enumerate() {
            while let Some(packet) = backbone.pop_due(to, Instant::now()) {
                tun.write(packet.bytes());
                backbone.recycle(packet);
            }
        }
    }
}

fn read_batch(from: usize, tun: &Tun, backbone: &mut Backbone) -> io::Result<()> {
    for _ in 0..READ_BATCH {
        let mut packet = backbone.blank();
        match tun.read(&mut packet)? {
            Read::Packet => backbone.forward(from, packet, Instant::now()),
            Read::Empty => {
                backbone.recycle(packet);
                break;
            }
        }
    }
    Ok(())
}

/// A number with a unit: `10ms`, `0.5s`, `250us`; zero needs none.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` does not begin with a number"))?;
    let seconds = match unit {
        "s" => number,
        "ms" => number / 1e3,
        "us" => number / 1e6,
        "" if number == 0.0 => 0.0,
        _ => return Err(format!("`{text}` needs a unit: s, ms or us")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(parse_duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("10").is_err());
        assert!(parse_duration("ms").is_err());
    }

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
