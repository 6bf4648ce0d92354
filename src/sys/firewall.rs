//! The host's own firewall, as its tools print it.

use std::process::{Command, Stdio};

/// Where the tools are, whatever PATH an unprivileged user has.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the tools told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firewall {
    /// Neither nft nor iptables is installed.
    NoTool,
    /// The tools are there, but may not look.
    Hidden,
    /// What could drop segments of a punch, one sentence each; empty if nothing does.
    Rules(Vec<String>),
}

/// Asks nft and iptables-save, which change nothing and load no kernel module.
pub fn inspect() -> Firewall {
    let asked = [
        run(&["nft", "list", "ruleset"]).map(|out| out.map(|text| judge_nft(&text))),
        run(&["iptables-save"]).map(|out| out.map(|text| judge_iptables("iptables", &text))),
        run(&["ip6tables-save"]).map(|out| out.map(|text| judge_iptables("ip6tables", &text))),
    ];
    if asked.iter().all(Option::is_none) {
        return Firewall::NoTool;
    }
    let answers: Vec<Vec<String>> = asked.into_iter().flatten().flatten().collect();
    if answers.is_empty() {
        return Firewall::Hidden;
    }
    // iptables may be nft underneath, and then both tell the same.
    let mut rules: Vec<String> = answers.into_iter().flatten().collect();
    rules.sort();
    rules.dedup();
    Firewall::Rules(rules)
}

/// `None`: not installed. `Some(None)`: refused.
fn run(argv: &[&str]) -> Option<Option<String>> {
    let (program, args) = argv.split_first()?;
    let output =
        Command::new(program).args(args).env("PATH", PATH).stdin(Stdio::null()).output().ok()?;
    Some(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Base chains at input or output that drop by policy, and rules that drop invalid segments.
fn judge_nft(ruleset: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut table = "";
    let mut hook = None;
    for line in ruleset.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(['{', ' ']);
        } else if line.starts_with("chain ") {
            hook = None;
        } else if line.starts_with("type ") {
            hook = ["input", "output"].into_iter().find(|h| line.contains(&format!("hook {h} ")));
            if let Some(hook) = hook.filter(|_| line.contains("policy drop")) {
                found.push(format!("nft table {table} drops {hook} by policy"));
            }
        } else if let Some(hook) = hook
            && drops_invalid(line)
        {
            found.push(format!("nft table {table} drops invalid segments at {hook}"));
        }
    }
    found
}

fn drops_invalid(rule: &str) -> bool {
    let verdict = |rest: &str| rest.contains("drop") || rest.contains("reject");
    rule.split_once("invalid").is_some_and(|(before, rest)| {
        let entry = rest.split(',').next().unwrap_or_default();
        before.contains("ct state") && verdict(if before.contains("vmap") { entry } else { rest })
    })
}

fn judge_iptables(tool: &str, rules: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut table = "";
    for line in rules.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        for chain in ["INPUT", "OUTPUT"] {
            if line.starts_with(&format!(":{chain} DROP")) {
                found.push(format!("{tool} table {table} drops {chain} by policy"));
            }
            if line.starts_with(&format!("-A {chain} "))
                && line.contains("INVALID")
                && (line.ends_with("-j DROP") || line.contains("-j REJECT"))
            {
                found.push(format!("{tool} table {table} drops invalid segments at {chain}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nft_policies_and_invalid_rules() {
        let ruleset = "\
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid drop
	}
	chain output {
		type filter hook output priority filter; policy accept;
		ct state invalid counter packets 0 bytes 0 drop
		ct state vmap { invalid : accept, new : drop }
	}
}";
        assert_eq!(
            judge_nft(ruleset),
            [
                "nft table inet filter drops input by policy",
                "nft table inet filter drops invalid segments at input",
                "nft table inet filter drops invalid segments at output",
            ]
        );
        assert!(judge_nft("").is_empty());
    }

    #[test]
    fn iptables_policies_and_invalid_rules() {
        let rules = "\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A OUTPUT -m conntrack --ctstate INVALID -j DROP
COMMIT";
        assert_eq!(
            judge_iptables("iptables", rules),
            [
                "iptables table filter drops INPUT by policy",
                "iptables table filter drops invalid segments at OUTPUT",
            ]
        );
    }
}
