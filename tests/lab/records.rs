//! `--report`, `--pcap` and `--ladder` of real attempts.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::pair::{Pair, in_ms, stream};
use crate::program::{Program, START_UP_MS};

/// Reads a report and holds it to the documented schema.
pub(crate) fn valid_report(path: &Path) -> Value {
    let schema: Value = serde_json::from_str(include_str!("../../docs/report.schema.json"))
        .expect("the schema is JSON");
    let schema = jsonschema::draft202012::new(&schema).expect("the schema is one");
    let text = fs::read_to_string(path).expect("it was written");
    let report = serde_json::from_str(&text).expect("the report is JSON");
    if let Err(error) = schema.validate(&report) {
        panic!("{error} at {}: {text}", error.instance_path());
    }
    report
}

/// What tshark reads of each segment: direction (1 in, 2 out), and flags as tcpdump writes them.
fn read_pcap(path: &Path) -> Vec<String> {
    let output = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(path)
        .args(["-Y", "tcp && !icmp", "-T", "fields", "-e", "frame.packet_flags_direction"])
        .args(["-e", "tcp.flags.syn", "-e", "tcp.flags.ack", "-E", "separator=,"])
        .output()
        .expect("tshark runs");
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{err}");
    let text = String::from_utf8(out).expect("text");
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let [direction, syn, ack] = fields[..] else { panic!("three fields: {line}") };
            let is_set = |flag: &str| matches!(flag, "1" | "True");
            let (syn, ack) =
                (if is_set(syn) { "S" } else { "" }, if is_set(ack) { "." } else { "" });
            format!("{} {syn}{ack}", direction.trim_start_matches("0x").trim_start_matches('0'))
        })
        .collect()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_records_of_a_success_agree_with_what_happened() {
    let directory = tempfile::tempdir().expect("a directory");
    let [report, pcap, ladder] =
        ["report.json", "packets.pcapng", "ladder.svg"].map(|name| directory.path().join(name));
    // More than a busy machine is late by, so that the SYNs cross for certain.
    let pair = Pair::behind_nats(&["--delay", "25ms"]);
    let at = in_ms(START_UP_MS);
    let mut command = pair.program_a(40000, at);
    command.arg("--report").arg(&report).arg("--pcap").arg(&pcap).arg("--ladder").arg(&ladder);
    let mut a = Program::start(&mut command);
    let b = stream(pair.b.connect(pair.punch_of_b(40000, at)));
    a.end_input();
    drop(b);
    assert_eq!(a.end().status, 0);

    let report = valid_report(&report);
    assert_eq!(report["outcome"], "connected");
    assert_eq!(report["tuple"]["remote"].as_str(), Some(pair.b.at(40000).to_string().as_str()));
    assert_eq!(report["opener"]["ttl"], 2);
    assert_eq!(report["nat"]["nats_on_path"], 1);
    assert_eq!(report["rst"]["foreign"], 0);
    let timeline = report["timeline"].as_array().expect("an array");
    let in_report: Vec<String> = timeline
        .iter()
        .filter(|event| event["flags"] != "icmp")
        .map(|event| {
            let way = if event["direction"] == "received" { 1 } else { 2 };
            format!("{way} {}", event["flags"].as_str().expect("text"))
        })
        .collect();
    let in_pcap = read_pcap(&pcap);
    // The opener and the SYN, then what crossed. Which of both SYN-ACKs is first at this end depends
    // on how busy the machine is, and the report goes by the kernel's transmit timestamps.
    for recorded in [&in_report, &in_pcap] {
        let one_way =
            |way: &'static str| recorded.iter().filter_map(move |it| it.strip_prefix(way));
        assert_eq!(one_way("2 ").collect::<Vec<_>>(), ["S", "S", "S.", "."], "{recorded:?}");
        assert_eq!(one_way("1 ").collect::<Vec<_>>(), ["S", "S."], "{recorded:?}");
    }
    let drawn = fs::read_to_string(&ladder).expect("it was written");
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"), "{drawn}");
    assert!(drawn.contains("SYN at the instant"), "{drawn}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_report_of_a_time_out_is_valid() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("report.json");
    let pair = Pair::behind_nats(&[]);
    let mut command = pair.program_a(40000, in_ms(START_UP_MS));
    let ended = Program::start(command.args(["--timeout", "500ms", "--report"]).arg(&path)).end();
    assert_eq!(ended.status, 6, "{ended:?}");
    let report = valid_report(&path);
    assert_eq!(report["outcome"], "timed_out");
    assert_eq!(report["verdict"].as_str(), Some(ended.complaint().0.as_str()));
    assert_eq!(report["advice"].as_str(), Some(ended.complaint().1.as_str()));
    assert_eq!(report["handover"], Value::Null);
}
