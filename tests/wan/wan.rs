//! A wide area network in one process: test equipment for the namespace tests, not the product.
//!
//! Each attached router namespace gets a TUN interface. What leaves one is routed by destination
//! to another, past a number of hops that decrement the hop limit and answer with ICMP, after a
//! delay, and with the loss, reordering and duplication asked for. Between a router and the rest
//! there may be NATs, for behaviour that netfilter cannot be made to show. SIGHUP restarts those.

mod backbone;
mod chain;
mod dice;
mod hop;
mod link;
mod moderation;
mod nat;
mod packet;
mod process;
mod queue;
mod route;
mod tun;

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeSpec;

use backbone::Backbone;
use chain::{Chain, Side};
use link::{Impairments, Probability};
use moderation::Moderation;
use nat::{Nat, Site};
use packet::Packet;
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
    /// A NAT between an attached router and the rest; several for one router follow each other from
    /// inside to outside. With @HOP it is a router of its own, which answers from there. SPEC is
    /// KEY=VALUE[,...]; see tests/wan/nat/spec.rs
    #[arg(long, value_name = "NETNS=EXTERNAL[@HOP]:SPEC", num_args = 1)]
    nat: Vec<Site>,
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
    let hangups = process::hangups()?;

    let mut routers = arguments
        .attach
        .iter()
        .map(|a| {
            Ok(Router { tun: Tun::open(&a.netns, &a.interface)?, chain: chain(&arguments, a) })
        })
        .collect::<io::Result<Vec<_>>>()?;
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
    run(&mut routers, &mut backbone, &hangups)
}

/// An attached router: its interface, and the NATs behind that.
struct Router {
    tun: Tun,
    chain: Chain,
}

fn chain(arguments: &Arguments, attachment: &Attachment) -> Chain {
    let now = Instant::now();
    let sites = arguments.nat.iter().enumerate();
    let here = sites.filter(|(_, site)| site.netns == attachment.netns);
    let nat = |(number, site): (usize, &Site)| {
        // Far apart, so that no two NATs draw the same ports.
        let seed = arguments.seed ^ (number as u64 + 1) << 48;
        Nat::new(site.spec.clone(), site.external, site.hop, seed, now)
    };
    Chain::new(here.map(nat).collect())
}

fn run(
    routers: &mut [Router],
    backbone: &mut Backbone,
    hangups: &SignalFd,
) -> Result<(), Box<dyn Error>> {
    let mut moderation = Moderation::new(Instant::now());
    loop {
        let chains = routers.iter().filter_map(|router| router.chain.next_due());
        let timeout = (backbone.next_due().into_iter().chain(chains).min())
            .map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
        let mut poll_fds: Vec<_> = (routers.iter())
            .map(|router| PollFd::new(router.tun.as_fd(), PollFlags::POLLIN))
            .collect();
        // Last, so that what is sent after the signal comes after it here, too.
        poll_fds.push(PollFd::new(hangups.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut poll_fds, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(format!("ppoll: {errno}").into()),
        }
        let readable: Vec<_> = poll_fds.iter().map(|it| it.any() == Some(true)).collect();
        if readable.last() == Some(&true) && hangups.read_signal()?.is_some() {
            let now = Instant::now();
            routers.iter_mut().for_each(|router| router.chain.restart(now));
        }
        let (mut carried, mut more) = (0, false);
        for (number, router) in routers.iter_mut().enumerate() {
            if readable[number] {
                let read = router.read_batch(number, backbone)?;
                carried += read;
                more |= read == READ_BATCH;
            }
        }
        for (number, router) in routers.iter_mut().enumerate() {
            carried += router.deliver(number, backbone);
        }
        if let Some(rest) = moderation.rest(carried, Instant::now())
            && !more
        {
            thread::sleep(rest);
        }
    }
}

impl Router {
    /// Says how many there were.
    fn read_batch(&mut self, number: usize, backbone: &mut Backbone) -> io::Result<usize> {
        for read in 0..READ_BATCH {
            let mut packet = backbone.blank();
            match self.tun.read(&mut packet)? {
                Read::Packet => self.pass(Side::Inside, number, packet, backbone),
                Read::Empty => {
                    backbone.recycle(packet);
                    return Ok(read);
                }
            }
        }
        Ok(READ_BATCH)
    }

    /// Says how many there were.
    fn deliver(&mut self, number: usize, backbone: &mut Backbone) -> usize {
        let mut delivered = 0;
        while let Some(packet) = backbone.pop_due(number, Instant::now()) {
            self.pass(Side::Outside, number, packet, backbone);
            delivered += 1;
        }
        while self.chain.next_due().is_some_and(|due| due <= Instant::now()) {
            let mut packet = backbone.blank();
            let to = self.chain.poll(&mut packet, Instant::now());
            self.leave(to, number, packet, backbone);
        }
        delivered
    }

    fn pass(&mut self, from: Side, number: usize, mut packet: Packet, backbone: &mut Backbone) {
        let to = self.chain.pass(from, &mut packet, Instant::now());
        self.leave(to, number, packet, backbone);
    }

    fn leave(&mut self, to: Option<Side>, number: usize, packet: Packet, backbone: &mut Backbone) {
        match to {
            Some(Side::Outside) => backbone.forward(number, packet, Instant::now()),
            Some(Side::Inside) => {
                self.tun.write(packet.bytes());
                backbone.recycle(packet);
            }
            None => backbone.recycle(packet),
        }
    }
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
