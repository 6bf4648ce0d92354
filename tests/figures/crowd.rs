//! Peers that wait at a server, and the others who come to meet them.

use std::error::Error;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tcp_punch::rendezvous::{Answer, Place, Request, frame, greeting};

use crate::served::Peer;

/// Within the quotas that the server has by default.
pub(crate) const PER_ADDRESS: usize = 60;
/// A SPAKE2 message.
const OPENING: usize = 33;
/// A sealed report with its candidates.
pub(crate) const REPORT: usize = 600;
/// As many as a client sends in its first flight.
pub(crate) const CLOCKS: i64 = 8;

/// A part of a crowd, whose meetings come about one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) count: usize,
    /// The server of those who wait.
    pub(crate) here: SocketAddr,
    /// That of those who come.
    pub(crate) there: SocketAddr,
}

/// What came of a crowd.
pub(crate) struct Crowd<T> {
    /// What was to be learnt while all waited.
    pub(crate) full: T,
    /// Until all waited.
    pub(crate) gathering: Duration,
    /// Of each meeting, in milliseconds.
    pub(crate) times: Vec<f64>,
    /// Of all meetings together.
    pub(crate) meeting: Duration,
}

/// Has all wait, each under a number of its own, and then has each met by a second peer. Every share
/// has a table of descriptors for itself, so the limit on open files is one on each share.
pub(crate) fn crowd<T>(
    shares: &[Share],
    full: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<Crowd<T>, Box<dyn Error>> {
    let firsts = shares.iter().scan(0, |sum, share| {
        let first = *sum;
        *sum += share.count;
        Some(first)
    });
    thread::scope(|scope| {
        let began = Instant::now();
        let (gathered, waiting) = channel();
        let (starts, threads): (Vec<Sender<()>>, Vec<_>) = (shares.iter().zip(firsts))
            .map(|(&share, first)| {
                let (start, started) = channel();
                let gathered = gathered.clone();
                let part = move || {
                    part(share, first, &gathered, &started).map_err(|error| error.to_string())
                };
                (start, scope.spawn(part))
            })
            .unzip();
        // Nothing comes from a share that failed: its own error says more.
        drop(gathered);
        let ready = waiting.iter().take(shares.len()).count() == shares.len();
        let gathering = began.elapsed();
        let full = ready.then(full).transpose();
        let began = Instant::now();
        for start in starts.iter().filter(|_| matches!(full, Ok(Some(_)))) {
            let _ = start.send(());
        }
        drop(starts);
        let parts = threads.into_iter().map(|thread| thread.join().map_err(|_| "a panic")?);
        let times = parts.collect::<Result<Vec<_>, String>>()?.concat();
        let full = full?.ok_or("not all waited")?;
        Ok(Crowd { full, gathering, times, meeting: began.elapsed() })
    })
}

/// One share; its first peer has this index in the crowd.
fn part(
    share: Share,
    first: usize,
    gathered: &Sender<()>,
    started: &Receiver<()>,
) -> Result<Vec<f64>, Box<dyn Error>> {
    unshare(CloneFlags::CLONE_FILES)?;
    let indices = first..first + share.count;
    let waiting = indices.clone().map(|index| arrive(index, share.here));
    let waiting = waiting.collect::<Result<Vec<_>, _>>()?;
    let waiting = waiting.into_iter().map(wait).collect::<Result<Vec<_>, _>>()?;
    gathered.send(())?;
    if started.recv().is_err() {
        return Ok(Vec::new());
    }
    let meetings = waiting.into_iter().zip(indices).map(|((peer, number), index)| {
        let began = Instant::now();
        meet(peer, number, source(1, index), share.there)?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    });
    meetings.collect()
}

/// A peer that asks for a number, before it is told one.
fn arrive(index: usize, server: SocketAddr) -> Result<Peer, Box<dyn Error>> {
    let mut peer = Peer::connect(source(0, index), server)?;
    let mut flight = greeting();
    flight.extend(frame(&Request::Allocate)?);
    peer.stream.write_all(&flight)?;
    Ok(peer)
}

/// It waits under the number that it was told.
fn wait(mut peer: Peer) -> Result<(Peer, u32), Box<dyn Error>> {
    match (peer.hears()?, peer.hears()?) {
        (Answer::Welcome { .. }, Answer::Allocated(number)) => {
            let (place, opening) = (Place::Number(number), vec![7; OPENING]);
            peer.stream.write_all(&frame(&Request::Join { place, opening })?)?;
            Ok((peer, number))
        }
        other => Err(format!("instead of a number: {other:?}").into()),
    }
}

/// 127.0.0.0/8 belongs to every host: a part of it for those who wait, another for those who come.
fn source(part: u32, index: usize) -> SocketAddr {
    let host = u32::try_from(index / PER_ADDRESS).unwrap_or(0);
    let ip = Ipv4Addr::from(0x7f40_0000 + (part << 20) + host + 1);
    SocketAddr::new(ip.into(), 0)
}

/// A second peer meets the one who waits, and both deliver their reports.
fn meet(
    mut first: Peer,
    number: u32,
    from: SocketAddr,
    server: SocketAddr,
) -> Result<(), Box<dyn Error>> {
    let mut second = Peer::connect(from, server)?;
    let report = frame(&Request::Relay(vec![9; REPORT]))?;
    let mut flight = greeting();
    for sent_ns in 0..CLOCKS {
        flight.extend(frame(&Request::Clock { sent_ns })?);
    }
    let place = Place::Number(number);
    flight.extend(frame(&Request::Join { place, opening: vec![8; OPENING] })?);
    second.stream.write_all(&flight)?;
    let met =
        |answer: Answer| matches!(answer, Answer::Met { opening } if opening.len() == OPENING);
    if !met(first.hears()?) {
        return Err("the first did not meet".into());
    }
    first.stream.write_all(&report)?;
    for _ in 0..=CLOCKS {
        second.hears()?;
    }
    let mut answer = second.hears()?;
    if matches!(answer, Answer::Shifted(_)) {
        answer = second.hears()?;
    }
    if !met(answer) {
        return Err("the second did not meet".into());
    }
    second.stream.write_all(&report)?;
    for peer in [&mut first, &mut second] {
        match peer.hears()? {
            Answer::Relayed(bytes) if bytes.len() == REPORT => {}
            other => return Err(format!("instead of a report: {other:?}").into()),
        }
    }
    Ok(())
}
