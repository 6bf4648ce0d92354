//! A network for one test, made by `netns-scripts/network.sh`.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Bounds every wait for something that should come at once, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Hosts and routers of one test. It goes, with every process in it, when this is dropped.
pub(crate) struct Network {
    name: String,
}

/// One host or router of a [`Network`].
#[derive(Clone)]
pub(crate) struct Host {
    namespace: String,
}

impl Network {
    /// Makes a network with the options of `network.sh up`.
    pub(crate) fn up<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        assert_eq!(
            env::var("LAB").as_deref(),
            Ok("1"),
            "this test changes networks and runs only in the testbed's bubble: \
             netns-scripts/testbed.sh lab"
        );
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let network = Self { name: format!("lab{}-{number}", process::id()) };
        let output = Command::new(network_script())
            .args(["up", &network.name])
            .args(options)
            .output()
            .expect("network.sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        network
    }

    pub(crate) fn host_a(&self) -> Host {
        self.host("host-a")
    }

    pub(crate) fn host_b(&self) -> Host {
        self.host("host-b")
    }

    pub(crate) fn router_a(&self) -> Host {
        self.host("router-a")
    }

    pub(crate) fn router_b(&self) -> Host {
        self.host("router-b")
    }

    /// Every router forgets all mappings; a NAT of the wide area network begins anew.
    pub(crate) fn flush_routers(&self) {
        for router in [self.router_a(), self.router_b()] {
            router.must("conntrack -F");
        }
        kill(Pid::from_raw(self.wan_pid()), Signal::SIGHUP).expect("it runs");
    }

    /// Somebody outside, where the network was made with `--server`.
    pub(crate) fn server(&self) -> Host {
        self.host("server")
    }

    /// Time for which the wide area network's process has had a processor.
    pub(crate) fn wan_busy(&self) -> Duration {
        let statistics = std::fs::read_to_string(format!("/proc/{}/schedstat", self.wan_pid()));
        let statistics = statistics.expect("it runs");
        let busy_ns = statistics.split(' ').next().and_then(|first| first.parse().ok());
        Duration::from_nanos(busy_ns.expect("a number of nanoseconds comes first"))
    }

    fn wan_pid(&self) -> i32 {
        let number = std::fs::read_to_string(format!("/run/tcp-punch/{}/wan.pid", self.name));
        number.expect("there is a wide area network").trim().parse().expect("a process's number")
    }

    fn host(&self, which: &str) -> Host {
        Host { namespace: format!("{}-{which}", self.name) }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let down = Command::new(network_script()).args(["down", &self.name]).status();
        // A second panic while the first one unwinds would hide what the test found.
        if !thread::panicking() {
            assert!(down.is_ok_and(|status| status.success()), "network.sh down");
        }
    }
}

impl Host {
    /// The host that this network namespace is.
    pub(crate) fn named(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// A command that runs on this host.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program.as_ref());
        command
    }

    /// Runs `work` on this host. Sockets opened by it stay on this host.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.netns_path()).expect("the namespace is there");
        // A thread of its own, because a thread belongs to one network namespace.
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(namespace, CloneFlags::CLONE_NEWNET).expect("the test is root");
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The lines of a table in `/proc/net`, without its heading; none where there is no such table.
    pub(crate) fn proc_net(&self, table: &str) -> Vec<String> {
        let path = Path::new("/proc/thread-self/net").join(table);
        let text = self.run(|| std::fs::read_to_string(path)).unwrap_or_default();
        text.lines().skip(1).map(str::to_owned).collect()
    }

    /// Fails if a process or a socket is on this host.
    pub(crate) fn assert_bare(&self) {
        let pids =
            Command::new("ip").args(["netns", "pids", &self.namespace]).output().expect("ip runs");
        assert_eq!(String::from_utf8_lossy(&pids.stdout), "", "processes");
        for table in ["packet", "raw", "raw6", "tcp", "tcp6", "udp", "udp6"] {
            assert_eq!(self.proc_net(table), [""; 0], "{table}");
        }
    }

    /// As [`Host::assert_quiet`], once what a punch closes aside has gone.
    pub(crate) fn becomes_quiet(&self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !self.proc_net("tcp").iter().all(|line| is_nobodys(line))
        {
            thread::sleep(Duration::from_millis(5));
        }
        self.assert_quiet();
    }

    /// Fails if a process is on this host, or a socket but of a TCP connection that is over and
    /// closes in the kernel's own time.
    pub(crate) fn assert_quiet(&self) {
        let pids =
            Command::new("ip").args(["netns", "pids", &self.namespace]).output().expect("ip runs");
        assert_eq!(String::from_utf8_lossy(&pids.stdout), "", "processes");
        for table in ["packet", "raw", "raw6", "udp", "udp6"] {
            assert_eq!(self.proc_net(table), [""; 0], "{table}");
        }
        let tcp = self.proc_net("tcp");
        assert!(tcp.iter().all(|line| is_nobodys(line)), "{tcp:?}");
    }

    /// Runs a command on this host that must succeed.
    pub(crate) fn must(&self, line: &str) {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let output = self.command(program).args(words).output().expect("it starts");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What a command on this host prints, word by word.
    fn words(&self, line: &str) -> Vec<String> {
        let output = self.command("ip").args(line.split_whitespace()).output().expect("ip runs");
        let text = String::from_utf8(output.stdout).expect("text");
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Its IPv4 address, with the length of its network's prefix.
    pub(crate) fn address(&self) -> String {
        let words = self.words("-4 -o addr show dev eth0");
        words.get(3).expect("it has one").clone()
    }

    /// Its IPv4 router.
    pub(crate) fn gateway(&self) -> String {
        let words = self.words("-4 route show default");
        words.get(2).expect("it has one").clone()
    }

    pub(crate) fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }
}

/// Whether a line of `/proc/net/tcp` is of a socket that no process has: inode 0.
fn is_nobodys(line: &str) -> bool {
    line.split_whitespace().nth(9) == Some("0")
}

fn network_script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("netns-scripts/network.sh")
}
