//! What `tcp-punch nat --json` writes holds to its documented schema, and the documentation to it.

#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tcp_punch::engine::Discovered;
use tcp_punch::nat::{self, Evidence, Hairpin, Observation, Path, Probe, ProbeAnswer, Said};
use tcp_punch::wire::{Icmp, IcmpKind, Quote, WallTime};

const SCHEMA: &str = include_str!("../docs/nat-report.schema.json");
const WORDS: &str = include_str!("../docs/NAT-REPORT.md");

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

/// Measured behind a router that keeps ports.
fn evidence() -> Evidence {
    let local = "192.168.1.2".parse().unwrap();
    let mut path = Path::new(local);
    for (distance, from) in [(1, "192.168.1.1"), (2, "100.64.0.1"), (3, "192.0.2.1")] {
        let from = from.parse().unwrap();
        let (kind, about) = (IcmpKind::TimeExceeded, Quote::Echo { id: 1, seq: 1 });
        path.observe(distance, &Icmp { from, hop_limit: 60, kind, about });
    }
    let mut observations = Vec::new();
    for source in [40_000, 40_007, 1023] {
        for end in ["203.0.113.1:3478", "203.0.113.1:3479", "203.0.113.2:3478"] {
            let at = WallTime::from_unix_ns(1_795_258_800_000_000_000);
            let external = SocketAddr::from(([198, 51, 100, 1], source));
            observations.push(Observation {
                at,
                local: SocketAddr::from(([192, 168, 1, 2], source)),
                destination: end.parse().unwrap(),
                external,
            });
        }
    }
    let answer = ProbeAnswer { said: Said::Reset, after: Duration::from_millis(21) };
    let refused = Some(Probe { arrived: false, answer: Some(answer) });
    Evidence {
        local,
        observations,
        from_other_port: refused,
        from_other_address: refused,
        crossed: Some(Probe { arrived: true, answer: None }),
        ack_answered: Some(true),
        raw: true,
        ours: true,
        hairpin: Some(Hairpin::Reset),
        path,
        external_at: Some(2),
    }
}

fn written(evidence: &Evidence) -> Value {
    let nat = evidence.judge();
    let prospects = nat::prospects(&nat);
    let found = Discovered {
        schema_version: 1,
        servers: vec!["203.0.113.1:3478".parse().unwrap()],
        rendezvous: evidence.ours,
        meaning: nat::meaning(&nat, &prospects),
        advice: nat::advice(&nat),
        nat,
        prospects,
        warnings: vec!["one".into()],
        took_ms: 1234,
    };
    serde_json::to_value(found).unwrap()
}

fn assert_valid(value: &Value) {
    if let Err(error) = schema().validate(value) {
        panic!("{error} at {}", error.instance_path());
    }
}

#[test]
fn what_is_written_validates() {
    let value = written(&evidence());
    assert_valid(&value);
    assert_eq!(value["unsolicited_syn"]["value"], "reset");
    assert_eq!(value["allocation"]["value"]["kind"], "preserving");
    assert_eq!(value["nats"]["at_least"], 2);
}

#[test]
fn a_document_in_which_everything_is_unknown_validates() {
    let value = written(&Evidence {
        observations: Vec::new(),
        from_other_port: None,
        from_other_address: None,
        crossed: None,
        ack_answered: None,
        raw: false,
        ours: false,
        hairpin: None,
        path: Path::new("192.168.1.2".parse().unwrap()),
        external_at: None,
        ..evidence()
    });
    assert_valid(&value);
    assert_eq!(value["mapping"]["value"], Value::Null);
    assert_eq!(value["mapping"]["confidence"], 0.0);
}

#[test]
fn the_schema_refuses_what_is_no_such_document() {
    let schema = schema();
    let good = written(&evidence());
    for name in good.as_object().unwrap().keys() {
        let mut lacking = good.clone();
        lacking.as_object_mut().unwrap().remove(name);
        assert!(!schema.is_valid(&lacking), "without {name}");
    }
    for (pointer, with) in [
        ("/schema_version", json!(2)),
        ("/boundary", json!("wall")),
        ("/mapping/value", json!("symmetric")),
        ("/mapping/confidence", json!(1.5)),
        ("/mapping/confidence", json!(0)),
        ("/filtering", json!(null)),
        ("/allocation/value/ports", json!(0)),
        ("/nats/path/0/space", json!("outer")),
        ("/prospects/0/verdict", json!("perhaps")),
        ("/external/0", json!("somewhere")),
    ] {
        let mut wrong = good.clone();
        *wrong.pointer_mut(pointer).unwrap() = with;
        assert!(!schema.is_valid(&wrong), "{pointer}");
    }
    let mut more = good;
    more["surprise"] = json!(1);
    assert!(!schema.is_valid(&more));
}

/// Every field that is written stands in NAT-REPORT.md.
#[test]
fn the_documentation_names_every_field() {
    fn names(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(name, inner)| {
                found.push(name.clone());
                names(inner, found);
            }),
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    names(&written(&evidence()), &mut found);
    for name in found {
        assert!(WORDS.contains(&format!("`{name}`")), "{name} is missing");
    }
}
