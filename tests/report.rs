//! The report holds to its documented schema, and the documentation to the report.

#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use serde_json::{Value, json};
use tcp_punch::engine::Report;

const SCHEMA: &str = include_str!("../docs/report.schema.json");
const EXAMPLE: &str = include_str!("../docs/report.example.json");
const PEER: &str = include_str!("data/report.peer.json");
const WORDS: &str = include_str!("../docs/REPORT.md");

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

/// What this program writes for `text` read as a report.
fn written(text: &str) -> Value {
    let report: Report = serde_json::from_str(text).unwrap();
    serde_json::to_value(report).unwrap()
}

#[test]
fn what_is_written_validates_and_equals_what_was_read() {
    let schema = schema();
    for text in [EXAMPLE, PEER] {
        let value = written(text);
        if let Err(error) = schema.validate(&value) {
            panic!("{error} at {}", error.instance_path());
        }
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
    }
}

#[test]
fn the_report_of_a_search_validates_with_its_plan() {
    let mut value = written(EXAMPLE);
    value["plan"] = json!({
        "tuples": 1696, "sources": 4, "targets": 424, "chance": 0.9999, "expected_matches": 16.0
    });
    assert!(schema().is_valid(&value));
    assert_eq!(written(&value.to_string()), value);
    value["plan"]["chance"] = json!(1.5);
    assert!(!schema().is_valid(&value));
}

/// A failed attempt: everything that may be unknown is unknown.
#[test]
fn a_report_of_nothing_validates() {
    let mut value = written(EXAMPLE);
    for (pointer, with) in [
        ("/outcome", json!("timed_out")),
        ("/fired/sent_ns", Value::Null),
        ("/fired/error_ns", Value::Null),
        ("/fired/send_cost_ns", Value::Null),
        ("/timeline", json!([])),
        ("/established_ns", Value::Null),
        ("/fd_ns", Value::Null),
        ("/handover", Value::Null),
        ("/opener", json!({"ttl": null, "why": "switched off", "path": []})),
        ("/clock/estimated_error_us", Value::Null),
        ("/clock/one_way_delay_us", Value::Null),
    ] {
        *value.pointer_mut(pointer).unwrap() = with;
    }
    for absent in ["nat", "datapath"] {
        value.as_object_mut().unwrap().remove(absent);
    }
    let value = written(&value.to_string());
    assert!(value.get("nat").is_none() && value.get("datapath").is_none());
    if let Err(error) = schema().validate(&value) {
        panic!("{error} at {}", error.instance_path());
    }
}

#[test]
fn the_schema_refuses_what_is_no_report() {
    let schema = schema();
    let good = written(EXAMPLE);
    for name in good
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| !["nat", "datapath"].contains(&name.as_str()))
    {
        let mut lacking = good.clone();
        lacking.as_object_mut().unwrap().remove(name);
        assert!(!schema.is_valid(&lacking), "without {name}");
    }
    for (pointer, with) in [
        ("/outcome", json!("perhaps")),
        ("/schema_version", json!(2)),
        ("/timeline/0/seq", json!(4_294_967_296_u64)),
        ("/timeline/0/flags", json!("SYN")),
        ("/timeline/0/ttl", json!(256)),
        ("/packets/sent", json!(-1)),
        ("/tuple/local", json!("somewhere")),
        ("/opener/path/0", json!([1])),
        ("/verdict", json!("")),
    ] {
        let mut wrong = good.clone();
        *wrong.pointer_mut(pointer).unwrap() = with;
        assert!(!schema.is_valid(&wrong), "{pointer}");
    }
    let mut more = good;
    more["surprise"] = json!(1);
    assert!(!schema.is_valid(&more));
}

/// Every field that is written stands in REPORT.md.
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
    names(&written(EXAMPLE), &mut found);
    for name in found {
        let stands = [format!("`{name}`"), format!("`{name}."), format!(".{name}`")];
        assert!(stands.iter().any(|form| WORDS.contains(form)), "{name} is missing");
    }
}
