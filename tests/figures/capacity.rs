//! What the rendezvous server holds and does: peers that wait, and meetings a second.

use std::error::Error;
use std::time::Instant;

use nix::sys::resource::{Resource, setrlimit};
use tcp_punch::sys::raise_descriptor_limit;

use crate::sample::Sample;
use crate::served::{CLOCKS, PER_ADDRESS, REPORT, Server, THREADS, gather, meet_all};
use crate::table::{Measured, Row};

const WANTED: usize = 100_000;
/// The server keeps 1400 for itself; this process needs some, too.
const RESERVED: u64 = 1500;
const GIB: f64 = (1 << 30) as f64;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let count = WANTED.min(usize::try_from(descriptors()?)?);
    let server = Server::start(&[])?;
    let empty = server.resident()?;
    let began = Instant::now();
    let waiting = gather(count, server.address)?;
    let gathering = began.elapsed();
    let full = server.resident()?;
    let each = (full - empty) / count as f64;
    let all = empty + each * WANTED as f64;

    let before = server.processor_seconds()?;
    let (times, took) = meet_all(waiting, server.address)?;
    let processor = server.processor_seconds()? - before;
    let rate = count as f64 / took.as_secs_f64();
    let alone = count as f64 / processor;

    let times: Sample = times.into_iter().collect();
    let measured = if count == WANTED {
        format!("{:.0} MiB", all / f64::from(1 << 20))
    } else {
        format!("{:.0} MiB, from {count} at {each:.0} bytes each", all / f64::from(1 << 20))
    };
    let mut notes = vec![format!(
        "server: one process on one thread, its peers on {THREADS} threads of another on the same \
         machine, over the loopback interface, from addresses with {PER_ADDRESS} peers each; \
         {count} peers connected, were welcomed and given a number in {:.1} s; a meeting is a \
         second peer that connects, asks the clock {CLOCKS} times, joins, and a report of {REPORT} \
         bytes each way; the server itself used {:.0} us of processor time for each",
        gathering.as_secs_f64(),
        processor * 1e6 / count as f64,
    )];
    if count < WANTED {
        notes.push(format!(
            "server: the limit on open files here allows {count} peers; the memory of {WANTED} is \
             that of the server without any and {WANTED} times what each added"
        ));
    }
    Ok(Measured {
        rows: vec![
            Row {
                figure: format!("server: memory with {WANTED} waiting peers"),
                measured,
                alternative: "-".into(),
                ratio: "-".into(),
                bar: "<= 1 GiB",
                met: all <= GIB,
            },
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

/// How many peers this process may have, and the server as well: it inherits the limit, which only
/// CAP_SYS_RESOURCE raises.
fn descriptors() -> Result<u64, Box<dyn Error>> {
    let wanted = WANTED as u64 + 2 * RESERVED;
    if raise_descriptor_limit()? < wanted {
        // Where it is not allowed, the table says with how many it was measured.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted);
    }
    Ok(raise_descriptor_limit()?.saturating_sub(RESERVED))
}
