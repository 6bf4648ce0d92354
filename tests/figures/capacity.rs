//! What the rendezvous server holds and does: peers that wait, and meetings a second.

use std::error::Error;
use std::fs;

use nix::sys::resource::{Resource, setrlimit};
use tcp_punch::sys::raise_descriptor_limit;

use crate::crowd::{CLOCKS, PER_ADDRESS, REPORT, Share, crowd};
use crate::nats::Joined;
use crate::sample::Sample;
use crate::served::Server;
use crate::table::{Measured, Row};

const WANTED: usize = 100_000;
/// Meetings under way at once.
pub(crate) const THREADS: usize = 4;
/// The server keeps 1400 descriptors for itself; this process needs some, too.
pub(crate) const RESERVED: usize = 1500;
const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let count = WANTED.min(descriptors()?) / THREADS * THREADS;
    let mut measured = of_one(count)?;
    if count < WANTED {
        let several = of_several(WANTED.div_ceil(count))?;
        measured.rows.extend(several.rows);
        measured.samples.extend(several.samples);
        measured.notes.extend(several.notes);
    }
    Ok(measured)
}

/// One server, and so many peers.
fn of_one(count: usize) -> Result<Measured, Box<dyn Error>> {
    let server = Server::start(&[])?;
    let empty = server.resident()?;
    let used = || Ok((server.resident()?, server.processor_seconds()?));
    let share = Share { count: count / THREADS, here: server.address, there: server.address };
    let met = crowd(&[share; THREADS], used)?;
    let (full, before) = met.full;
    let processor = server.processor_seconds()? - before;
    let each = (full - empty) / count as f64;
    let all = empty + each * WANTED as f64;
    let rate = count as f64 / met.meeting.as_secs_f64();
    let alone = count as f64 / processor;
    let memory = if count == WANTED {
        format!("{:.0} MiB", all / MIB)
    } else {
        format!("{:.0} MiB, from {count} at {each:.0} bytes each", all / MIB)
    };
    let mut notes = vec![format!(
        "server: one process on one thread, its peers on {THREADS} threads of another on the same \
         machine, over the loopback interface, from addresses with {PER_ADDRESS} peers each; \
         {count} peers connected, were welcomed and given a number in {:.1} s; a meeting is a \
         second peer that connects, asks the clock {CLOCKS} times, joins, and a report of {REPORT} \
         bytes each way; the server itself used {:.0} us of processor time for each",
        met.gathering.as_secs_f64(),
        processor * 1e6 / count as f64,
    )];
    if count < WANTED {
        notes.push(format!(
            "server: the limit on open files here allows one process {count} peers; the memory of \
             {WANTED} is that of the server without any and {WANTED} times what each added"
        ));
    }
    let times: Sample = met.times.into_iter().collect();
    Ok(Measured {
        rows: vec![
            memory_row(format!("server: memory with {WANTED} waiting peers"), memory, all),
            Row {
                figure: "server: meetings a second".into(),
                measured: format!(
                    "{rate:.0}, all {count} met; {alone:.0} a second of its processor time"
                ),
                alternative: "-".into(),
                ratio: "-".into(),
                bar: ">= 2000",
                met: rate >= 2000.0,
            },
        ],
        samples: vec![times.summary("second peer's SYN to both reports delivered", "ms")],
        notes,
    })
}

/// As many peers as are wanted, where one process may not have so many descriptors: at so many
/// servers that NATS joins.
fn of_several(servers: usize) -> Result<Measured, Box<dyn Error>> {
    let joined = Joined::start(servers)?;
    let available = available()?;
    let used = || Ok((joined.resident()?, self::available()?));
    let met = crowd(&joined.shares(WANTED), used)?;
    let (resident, left) = met.full;
    let rate = WANTED as f64 / met.meeting.as_secs_f64();
    let times: Sample = met.times.into_iter().collect();
    Ok(Measured {
        rows: vec![
            memory_row(
                format!("{servers} joined servers: memory with {WANTED} waiting peers"),
                format!("{:.0} MiB, with nats-server", resident / MIB),
                resident,
            ),
            Row {
                figure: format!("{servers} joined servers: meetings a second"),
                measured: format!("{rate:.0}, all {WANTED} met"),
                alternative: "-".into(),
                ratio: "-".into(),
                bar: ">= 2000",
                met: rate >= 2000.0,
            },
        ],
        samples: vec![times.summary(
            format!("second peer's SYN to both reports delivered, {servers} servers"),
            "ms",
        )],
        notes: vec![format!(
            "{servers} joined servers: each second peer is a client of another server than the \
             first; servers, nats-server and peers are on this machine, which had {:.0} MiB less \
             to give while {WANTED} peers waited, the kernel's part of both ends of their \
             connections and the peers themselves included",
            (available - left) / MIB,
        )],
    })
}

fn memory_row(figure: String, measured: String, bytes: f64) -> Row {
    let (alternative, ratio) = ("-".into(), "-".into());
    Row { figure, measured, alternative, ratio, bar: "<= 1 GiB", met: bytes <= GIB }
}

/// What the machine can give, in bytes: proc(5)'s MemAvailable.
fn available() -> Result<f64, Box<dyn Error>> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: f64 = line.ok_or("no MemAvailable")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}

/// How many peers the server may have: it inherits this process's limit, which only
/// CAP_SYS_RESOURCE raises.
fn descriptors() -> Result<usize, Box<dyn Error>> {
    let wanted = (WANTED + 2 * RESERVED) as u64;
    if raise_descriptor_limit()? < wanted {
        // Where it is not allowed, the table says with how many it was measured.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted);
    }
    Ok(usize::try_from(raise_descriptor_limit()?)?.saturating_sub(RESERVED))
}
