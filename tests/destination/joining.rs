//! Two streams joined: half-closes, resets, and every byte.

use std::sync::mpsc;

use nix::unistd::pipe2;
use tcp_punch::cli::destination::{JoinError, Local, join};

use super::*;

/// Bytes in which a loss, a repetition or a swap shows.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_ne_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn pipe() -> (std::fs::File, std::fs::File) {
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (read.into(), write.into())
}

/// A join of pipes: what its program writes to, what it reads from, the peer, the outcome.
struct Joined {
    input: std::fs::File,
    output: std::fs::File,
    peer: TcpStream,
    outcome: mpsc::Receiver<Result<(), JoinError>>,
}

fn joined() -> Joined {
    let (connection, peer) = connection();
    let (theirs_in, input) = pipe();
    let (output, theirs_out) = pipe();
    let (report, outcome) = mpsc::channel();
    thread::spawn(move || {
        let local = Local::Streams {
            input: theirs_in.into(),
            output: theirs_out.into(),
        };
        report.send(join(connection, local)).unwrap();
    });
    Joined {
        input,
        output,
        peer,
        outcome,
    }
}

#[test]
fn the_end_of_input_reaches_the_peer_who_may_go_on() {
    let mut it = joined();
    it.input.write_all(b"question").unwrap();
    drop(it.input);
    let mut heard = String::new();
    it.peer.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "question");
    it.peer.write_all(b"answer").unwrap();
    drop(it.peer);
    let mut answer = String::new();
    it.output.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    it.outcome.recv().unwrap().unwrap();
}

#[test]
fn the_peers_end_closes_output_and_input_goes_on() {
    let mut it = joined();
    it.peer.write_all(b"all I say").unwrap();
    it.peer.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    it.output.read_to_string(&mut said).unwrap();
    assert_eq!(said, "all I say");
    it.input.write_all(b"still sending").unwrap();
    drop(it.input);
    let mut heard = String::new();
    it.peer.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "still sending");
    it.outcome.recv().unwrap().unwrap();
}

#[test]
fn a_peer_that_resets_ends_it_although_input_stays_open() {
    let mut it = joined();
    it.peer.write_all(b"so far").unwrap();
    let mut so_far = [0; 6];
    it.output.read_exact(&mut so_far).unwrap();
    reset(it.peer);
    let error = it.outcome.recv().unwrap().unwrap_err();
    assert!(matches!(error, JoinError::Connection(_)), "{error}");
    assert_eq!(it.output.read(&mut so_far).unwrap(), 0);
}

#[test]
fn what_arrived_before_a_reset_is_written_out() {
    let mut it = joined();
    // More than the pipe holds, so that the reset comes while output is waited for, and less
    // than the socket can take in.
    let bytes = pattern(100_000, 5);
    it.peer.write_all(&bytes).unwrap();
    while unacknowledged(&it.peer) > 0 {
        thread::yield_now();
    }
    let mut heard = vec![0; 1000];
    it.output.read_exact(&mut heard).unwrap();
    reset(it.peer);
    it.output.read_to_end(&mut heard).unwrap();
    assert!(heard == bytes, "{} of {} bytes", heard.len(), bytes.len());
    it.outcome.recv().unwrap().unwrap_err();
}

/// Bytes that were written and that the other kernel has not acknowledged, from the table in
/// /proc: local address, remote address, state, transmit queue.
fn unacknowledged(stream: &TcpStream) -> u32 {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let port = |address: std::net::SocketAddr| format!(":{:04X}", address.port());
    let local = port(stream.local_addr().unwrap());
    let remote = port(stream.peer_addr().unwrap());
    let line = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields[1].ends_with(&local) && fields[2].ends_with(&remote))
        .unwrap();
    u32::from_str_radix(line[4].split(':').next().unwrap(), 16).unwrap()
}

#[test]
fn a_peer_that_closed_ends_it_once_it_is_written_to() {
    let mut it = joined();
    drop(it.peer);
    assert_eq!(it.output.read(&mut [0; 1]).unwrap(), 0);
    it.input.write_all(b"to nobody").unwrap();
    let error = it.outcome.recv().unwrap().unwrap_err();
    assert!(matches!(error, JoinError::Connection(_)), "{error}");
}

#[test]
fn an_output_that_nobody_reads_ends_it_quietly() {
    let it = joined();
    drop(it.output);
    it.outcome.recv().unwrap().unwrap();
}

#[test]
fn every_byte_arrives_both_ways_at_once() {
    const LENGTH: usize = 64 << 20;
    let Joined {
        mut input,
        mut output,
        mut peer,
        outcome,
    } = joined();
    let (up, down) = (pattern(LENGTH, 1), pattern(LENGTH, 2));
    let mut peer_reads = peer.try_clone().unwrap();
    let mut heard = Vec::with_capacity(LENGTH);
    let mut received = Vec::with_capacity(LENGTH);
    thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&up).unwrap();
            drop(input);
        });
        scope.spawn(|| {
            peer.write_all(&down).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| peer_reads.read_to_end(&mut heard).unwrap());
        output.read_to_end(&mut received).unwrap();
    });
    assert!(heard == up && received == down);
    outcome.recv().unwrap().unwrap();
}

#[test]
fn streams_that_another_program_made_non_blocking_work() {
    const LENGTH: usize = 4 << 20;
    let (ours, mut peer) = connection();
    let (program, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let local = Local::Streams {
        input: theirs.try_clone().unwrap().into(),
        output: theirs.into(),
    };
    let joining = thread::spawn(move || join(ours, local));
    let (up, down) = (pattern(LENGTH, 3), pattern(LENGTH, 4));
    let (mut program_reads, mut program) = (program.try_clone().unwrap(), program);
    let (mut heard, mut received) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            program.write_all(&up).unwrap();
            program.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| program_reads.read_to_end(&mut received).unwrap());
        peer.write_all(&down).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        peer.read_to_end(&mut heard).unwrap();
    });
    assert!(heard == up && received == down);
    joining.join().unwrap().unwrap();
}

#[test]
fn a_reset_crosses_to_a_local_socket_and_back() {
    for local_resets in [false, true] {
        let (ours, peer) = connection();
        let (theirs, program) = connection();
        let joining = thread::spawn(move || join(ours, Local::Socket(theirs)));
        let (resetting, mut other) = match local_resets {
            true => (program, peer),
            false => (peer, program),
        };
        reset(resetting);
        let error = other.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        joining.join().unwrap().unwrap_err();
    }
}
