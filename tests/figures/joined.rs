//! Meetings between peers of two servers, which nats-server joins.

use std::error::Error;

use tcp_punch::sys::raise_descriptor_limit;

use crate::capacity::{RESERVED, THREADS};
use crate::crowd::{Share, crowd};
use crate::nats::Joined;
use crate::sample::Sample;
use crate::table::{Measured, Row};

const MEETINGS: usize = 10_000;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let limit = usize::try_from(raise_descriptor_limit()?)?.saturating_sub(RESERVED);
    let count = MEETINGS.min(limit) / THREADS * THREADS;
    let joined = Joined::start(2)?;
    let [here, there] = joined.servers.as_slice() else { return Err("not two servers".into()) };
    let used = || -> Result<[f64; 3], Box<dyn Error>> {
        Ok([here.processor_seconds()?, there.processor_seconds()?, joined.bus_seconds()?])
    };
    let share = Share { count: count / THREADS, here: here.address, there: there.address };
    let met = crowd(&[share; THREADS], used)?;
    let (before, after) = (met.full, used()?);
    let us = |nth: usize| (after[nth] - before[nth]) * 1e6 / count as f64;
    let rate = count as f64 / met.meeting.as_secs_f64();
    let times: Sample = met.times.into_iter().collect();
    Ok(Measured {
        rows: vec![Row {
            figure: "servers joined by NATS: meetings a second across two".into(),
            measured: format!("{rate:.0}, all {count} met"),
            alternative: "-".into(),
            ratio: "-".into(),
            bar: "-",
            met: true,
        }],
        samples: vec![
            times.summary("second peer's SYN to both reports delivered, two servers", "ms"),
        ],
        notes: vec![format!(
            "joined servers: as above, but each second peer is a client of another server, and \
             both servers, nats-server and all peers are on this machine; a meeting took {:.0} us \
             of processor time of the first peer's server, {:.0} us of the second's, {:.0} us of \
             nats-server",
            us(0),
            us(1),
            us(2),
        )],
    })
}
