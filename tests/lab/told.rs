//! What `tcp-punch nat` is to find of each kind of router of the matrix.

use serde_json::{Value, json};

/// What of a document a kind of router decides.
pub(crate) fn essence(found: &Value) -> Value {
    let value = |name: &str| found[name]["value"].clone();
    json!({
        "boundary": found["boundary"],
        "mapping": value("mapping"),
        "filtering": value("filtering"),
        "allocation": found["allocation"]["value"]["kind"],
        "unsolicited": value("unsolicited_syn"),
        "crossed": value("crossed_syn"),
        "mid_stream": value("mid_stream"),
        "hairpin": value("hairpin"),
        "nats": found["nats"]["at_least"],
    })
}

/// What is to be found of a router of the matrix.
pub(crate) fn expected(name: &str) -> Value {
    let mut all = json!({
        "boundary": "nat",
        "mapping": "endpoint_independent",
        "filtering": "address_and_port_dependent",
        "allocation": "preserving",
        "unsolicited": "reset",
        "crossed": "passes",
        "mid_stream": "passes",
        "hairpin": "blocked",
        "nats": 1,
    });
    let apdm = [
        ("mapping", json!("address_and_port_dependent")),
        // A SYN of ours and one of the server's would have to meet on a mapping that nobody knows.
        ("crossed", Value::Null),
        ("hairpin", Value::Null),
    ];
    let silent = ("unsolicited", json!("silence"));
    let linux = ("allocation", json!("linux_random"));
    let blocked = ("crossed", json!("blocked"));
    let strict = ("mid_stream", json!("blocked"));
    let with = |more: &[(&'static str, Value)]| [&apdm[..], more].concat();
    let differs = match name {
        "none" => vec![
            ("boundary", json!("open")),
            ("filtering", json!("endpoint_independent")),
            ("unsolicited", Value::Null),
            ("hairpin", Value::Null),
            ("nats", json!(0)),
        ],
        "masquerade" | "reject" | "invalid-drop" => vec![],
        "drop" | "rewrite-seq" | "strip-options" => vec![silent],
        "icmp" => vec![("unsolicited", json!("icmp"))],
        "listener" => vec![("unsolicited", json!("answered"))],
        "strict" => vec![strict],
        "syn-block" => vec![blocked],
        "raw-syn-block" => vec![blocked, silent],
        "raw+strict" | "syn-ignored" => vec![blocked, silent, strict],
        "to-ports" => vec![("allocation", json!("stable"))],
        "random" | "random-fully" | "random+block" => with(&[linux]),
        "random+drop" => with(&[linux, silent]),
        "cgn" => vec![("nats", json!(2))],
        "full-cone" => vec![
            ("filtering", json!("endpoint_independent")),
            // Nothing can be sent to a port that has no mapping.
            ("unsolicited", Value::Null),
        ],
        "adf" => vec![("filtering", json!("address_dependent"))],
        "hold" => vec![("unsolicited", json!("held"))],
        "adm" => vec![
            ("mapping", json!("address_dependent")),
            ("filtering", json!("address_dependent")),
            ("allocation", json!("random")),
            ("hairpin", Value::Null),
            silent,
        ],
        "sequential" | "busy-step-2" => with(&[("allocation", json!("sequential")), silent]),
        "parity" => with(&[("allocation", json!("parity")), silent]),
        "block-64" => with(&[("allocation", json!("random"))]),
        other => panic!("what is {other}?"),
    };
    for (name, value) in differs {
        all[name] = value;
    }
    all
}
