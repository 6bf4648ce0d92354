//! Two hosts on one veth pair.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::network::Host;

/// The pair of hosts. It goes when this is dropped.
pub(crate) struct Veth {
    pub(crate) near: Host,
    pub(crate) far: Host,
    namespaces: [String; 2],
}

impl Veth {
    pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
    pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
    pub(crate) const NEAR6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
    pub(crate) const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);
    pub(crate) const NEAR_MAC: &str = "02:00:00:00:09:01";
    pub(crate) const FAR_MAC: &str = "02:00:00:00:09:02";
    pub(crate) const NEAR_NAME: &str = "near0";
    pub(crate) const FAR_NAME: &str = "far0";

    pub(crate) fn up() -> Result<Self, String> {
        if std::env::var("LAB").as_deref() != Ok("1") {
            return Err("this changes networks and runs only in the testbed's bubble".into());
        }
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let namespaces = ["near", "far"].map(|end| format!("veth{}-{number}-{end}", process::id()));
        let [near, far] = namespaces.each_ref().map(|name| Host::named(name));
        let [first, second] = &namespaces;
        let (near_name, near_mac) = (Self::NEAR_NAME, Self::NEAR_MAC);
        let (far_name, far_mac) = (Self::FAR_NAME, Self::FAR_MAC);
        for name in &namespaces {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        ip(&format!(
            "-n {first} link add {near_name} address {near_mac} type veth \
             peer name {far_name} address {far_mac} netns {second}"
        ))?;
        for (namespace, name, v4, v6) in
            [(first, near_name, Self::NEAR, Self::NEAR6), (second, far_name, Self::FAR, Self::FAR6)]
        {
            ip(&format!("-n {namespace} address add {v4}/24 dev {name}"))?;
            ip(&format!("-n {namespace} address add {v6}/64 dev {name} nodad"))?;
            ip(&format!("-n {namespace} link set {name} up"))?;
        }
        Ok(Self { near, far, namespaces })
    }

    /// The far end drops IPv4 before anything looks at it. Returns by what.
    pub(crate) fn drop_early(&self) -> Result<&'static str, String> {
        let tc = |line: &str| {
            let mut command = self.far.command("tc");
            command.args(line.split_whitespace());
            command
        };
        // A classic program of one instruction, whose result is TC_ACT_SHOT: other actions are
        // modules of their own, which a kernel may lack.
        let mut filter = tc("filter add dev far0 ingress protocol ip bpf da");
        filter.args(["bytecode", "1,6 0 0 2"]);
        if succeed(&mut tc("qdisc add dev far0 clsact")).and_then(|()| succeed(&mut filter)).is_ok()
        {
            return Ok("tc ingress");
        }
        let mut rule = self.far.command("iptables");
        succeed(rule.args(["-t", "raw", "-A", "PREROUTING", "-j", "DROP"]))?;
        Ok("iptables' raw table")
    }

    /// Packets that the far interface has received. To be asked on the far host.
    pub(crate) fn arrived() -> Result<u64, String> {
        let table =
            fs::read_to_string("/proc/thread-self/net/dev").map_err(|error| error.to_string())?;
        table
            .lines()
            .filter_map(|line| line.trim_start().split_once(':'))
            .find_map(|(name, counts)| {
                counts.split_whitespace().nth(1).filter(|_| name == Self::FAR_NAME)
            })
            .and_then(|packets| packets.parse().ok())
            .ok_or_else(|| format!("no {} in: {table}", Self::FAR_NAME))
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(line: &str) -> Result<(), String> {
    succeed(Command::new("ip").args(line.split_whitespace()))
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}
