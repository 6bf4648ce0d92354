//! One punch after the other on one port pair, by the program itself.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::time::Duration;

use tcp_punch::engine::Report;
use tcp_punch::sys::clock;
use tcp_punch::wire::WallTime;

use crate::network::{Host, Network};
use crate::sample::{Sample, ms};
use crate::table::{Measured, Row};

const PUNCHES: usize = 200;
const PORT: u16 = 40_000;
/// Two programs start and find the opener's hop limit meanwhile.
const NOTICE: Duration = Duration::from_millis(250);

/// A directory for reports that goes when the measurement ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let program = env::var_os("TCP_PUNCH_BIN").ok_or("TCP_PUNCH_BIN names no program")?;
    let network = Network::up(["--delay", "10ms"]);
    // /run is the bubble's own, so that no other run has this name.
    let scratch = Scratch(PathBuf::from(format!("/run/figures-{}", process::id())));
    fs::create_dir(&scratch.0)?;
    let reports = ["a", "b"].map(|side| scratch.0.join(side));
    let (mut succeeded, mut times, mut failures) = (0, Vec::new(), Vec::new());
    for number in 0..PUNCHES {
        let at = clock::now().after(NOTICE);
        let start = |host: Host, peer: &str, report: &Path| -> Result<Child, Box<dyn Error>> {
            let mut child = punch(&host, &program, peer, at, report).spawn()?;
            let line = format!("line {number}\n");
            // Written into the pipe and closed: sent, then finished, once the connection stands.
            child.stdin.take().ok_or("no standard input")?.write_all(line.as_bytes())?;
            Ok(child)
        };
        let ends = [
            start(network.host_a(), "203.0.113.1", &reports[0])?,
            start(network.host_b(), "198.51.100.1", &reports[1])?,
        ];
        let mut good = true;
        for (end, report) in ends.into_iter().zip(&reports) {
            let output = end.wait_with_output()?;
            if output.status.success() && output.stdout == format!("line {number}\n").as_bytes() {
                let report: Report = serde_json::from_slice(&fs::read(report)?)?;
                times.extend(report.fd_ns.map(ms));
            } else {
                good = false;
                let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
                failures.push(format!("series: punch {number}, {}: {said}", output.status));
            }
        }
        succeeded += usize::from(good);
    }
    let times: Sample = times.into_iter().collect();
    let mut notes = vec![
        "series: the program itself, a line each way through its standard input and output".into(),
    ];
    notes.extend(failures);
    Ok(Measured {
        rows: vec![Row {
            figure: format!("{PUNCHES} punches in a row on one port pair"),
            measured: format!(
                "{succeeded} succeed, p50 {:.2} ms, p99 {:.2} ms",
                times.median(),
                times.percentile(99)
            ),
            alternative: "-".into(),
            ratio: "-".into(),
            bar: "200 succeed",
            met: succeeded == PUNCHES,
        }],
        samples: vec![times.summary("instant to descriptor, in a row", "ms")],
        notes,
    })
}

fn punch(host: &Host, program: &OsString, peer: &str, at: WallTime, report: &Path) -> Command {
    let mut command = host.command(program);
    command
        .arg("--quiet")
        .args(["--peer", &format!("{peer}:{PORT}"), "--at", &at.to_string()])
        .arg("--report")
        .arg(report)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}
