//! Two hosts on one veth pair.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::network::{Host, PATIENCE};

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
        let veth = Self { near, far, namespaces };
        veth.await_carrier()?;
        Ok(veth)
    }

    /// A device that has just been set up drops everything until the kernel's link watch has
    /// looked at it, up to a second later.
    fn await_carrier(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        for namespace in &self.namespaces {
            let mut show = Command::new("ip");
            show.args(["-n", namespace, "-oneline", "link", "show", "type", "veth"]);
            loop {
                let output = show.output().map_err(|error| format!("{show:?}: {error}"))?;
                if String::from_utf8_lossy(&output.stdout).contains("state UP") {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(format!("no carrier: {output:?}"));
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
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

pub(crate) fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}
