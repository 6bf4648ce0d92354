//! A host at home that is reached by its key, as docs/EXPOSE.md shows it.

use std::fs;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;
use nix::sys::socket::{Shutdown as Which, shutdown};

use crate::capture::Capture;
use crate::datapath;
use crate::meet::{self, SERVER, Server};
use crate::network::Host;
use crate::pair::{End, Pair};
use crate::program::{Ended, Program, binary};
use crate::ssh;

/// Gives back what it gets, on 127.0.0.1:7 of a host, until it is dropped.
struct Echo {
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

const ECHO: &str = "127.0.0.1:7";

impl Echo {
    fn start(host: &Host) -> Self {
        let listener = host.run(|| TcpListener::bind(ECHO)).expect("the port is free");
        let ours = listener.try_clone().expect("a descriptor");
        let accepting = thread::spawn(move || {
            while let Ok((stream, _)) = ours.accept() {
                thread::spawn(move || echo(&stream));
            }
        });
        Self { listener, accepting: Some(accepting) }
    }
}

fn echo(mut stream: &TcpStream) {
    // A reset ends it as well.
    let _ = std::io::copy(&mut &*stream, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

impl Drop for Echo {
    fn drop(&mut self) {
        shutdown(self.listener.as_raw_fd(), Which::Both).expect("it listens");
        self.accepting.take().map(JoinHandle::join);
    }
}

/// host-b is at home and host-a on the road; both know each other.
struct Home {
    pair: Pair,
    directory: tempfile::TempDir,
}

impl Home {
    fn new(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("ours");
        let pair = meet::network(options);
        let home = Self { pair, directory };
        home.introduce("laptop", "home.peers");
        home.introduce("home", "laptop.peers");
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds somebody's key to a peers file.
    fn introduce(&self, who: &str, to: &str) {
        let key = Command::new(binary()).args(["key", "--identity"]).arg(self.path(who)).output();
        let key = String::from_utf8(key.expect("it runs").stdout).expect("text");
        assert!(key.starts_with("tp1"), "{key}");
        let known = fs::read_to_string(self.path(to)).unwrap_or_default();
        fs::write(self.path(to), format!("{known}{who} {key}")).expect("written");
    }

    /// `tcp-punch expose` at home, which is called from now on.
    fn expose(&self, to: &str) -> Program {
        let mut command = self.pair.b.program(binary());
        command.args(["expose", "--server", SERVER, "--to", to]).args(datapath::options());
        command.arg("--identity").arg(self.path("home"));
        command.arg("--peers").arg(self.path("home.peers"));
        let program = Program::start(&mut command);
        program.await_stderr("called by way of");
        program
    }

    /// `tcp-punch reach` of somebody on the road.
    fn reach_as(&self, who: &str, name: &str) -> Program {
        let words = self.reach_words(who, name);
        Program::start(self.pair.a.program(binary()).args(words))
    }

    fn reach(&self) -> Program {
        self.reach_as("laptop", "home")
    }

    fn reach_words(&self, who: &str, name: &str) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let (identity, peers) = (path(who), path("laptop.peers"));
        let words = ["reach", name, "--server", SERVER, "--identity", &identity, "--peers", &peers];
        words.map(str::to_owned).into_iter().chain(datapath::options()).collect()
    }
}

/// A line there and back.
fn converse(mut program: Program, line: &str) -> Ended {
    program.type_line(line);
    program.await_stdout(line);
    finish(program)
}

fn finish(mut program: Program) -> Ended {
    program.end_input();
    let ended = program.end();
    assert_eq!(ended.status, 0, "{ended:?}");
    ended
}

fn stop(program: Program) -> Ended {
    program.signal(Signal::SIGTERM);
    program.end()
}

fn ssh(end: &End, proxy: &str, key: &Path) -> Command {
    let mut ssh = end.program("ssh");
    ssh.args(["-F", "none", "-o", proxy, "-o", "ProxyUseFdpass=yes"])
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-i"])
        .arg(key)
        .args(["root@home", "echo \"$SSH_CONNECTION\"; cat; exit 7"])
        .env_remove("SSH_AUTH_SOCK");
    ssh
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn ssh_reaches_home_by_its_name_again_and_again() {
    let home = Home::new(&[]);
    ssh::generate_key(&home.path("key"));
    let _sshd = ssh::Server::start(&home.pair.b.host, home.directory.path());
    let _server = Server::start(&home.pair.network.server());
    let exposed = home.expose("127.0.0.1:2222");
    let words = home.reach_words("laptop", "home").join(" ");
    let proxy = format!("ProxyCommand={} {words} --fdpass", binary());
    for line in ["through two NATs and back", "and once more"] {
        let mut ssh = Program::start(&mut ssh(&home.pair.a, &proxy, &home.path("key")));
        ssh.type_line(line);
        ssh.end_input();
        let ended = ssh.end();
        let log = fs::read_to_string(home.path("sshd.log")).unwrap_or_default();
        assert_eq!(ended.status, 7, "{ended:?}; sshd: {log}");
        assert!(ended.stdout.ends_with(&format!(" 127.0.0.1 2222\n{line}\n")), "{ended:?}");
    }
    let ended = stop(exposed);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ended.stderr.matches("laptop: connected to").count(), 2, "{}", ended.stderr);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_stranger_hears_that_it_is_not_let_in_and_is_once_it_is_listed() {
    let home = Home::new(&[]);
    let _echo = Echo::start(&home.pair.b.host);
    let _server = Server::start(&home.pair.network.server());
    let exposed = home.expose(ECHO);
    let refused = home.reach_as("stranger", "home").end();
    assert_eq!(refused.status, 7, "{refused:?}");
    assert!(refused.stderr.contains("the other side does not let this key in"), "{refused:?}");
    exposed.await_stderr("a stranger called: tp1");
    home.introduce("stranger", "home.peers");
    converse(home.reach_as("stranger", "home"), "a friend by now");
    let ended = stop(exposed);
    assert!(ended.stderr.contains("stranger: connected to"), "{}", ended.stderr);
}

/// Whoever knows the public key can call; it makes the host at home connect to the server once, to
/// say no, and ask nobody anything else.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn for_a_stranger_nothing_is_asked_of_routers_and_servers() {
    let home = Home::new(&[]);
    let _echo = Echo::start(&home.pair.b.host);
    let _server = Server::start(&home.pair.network.server());
    let exposed = home.expose(ECHO);
    let wire = Capture::start(&home.pair.b.host, "eth0");
    let begun = |wire: &Capture| {
        let packets = wire.packets(|bytes| {
            let udp_or_icmp = matches!(bytes[9], 1 | 17);
            let syn = bytes[9] == 6 && bytes[33] & 0x12 == 0x02;
            let from = Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]);
            // From within: the router's own errors do not count.
            bytes[0] == 0x45 && from == Ipv4Addr::new(10, 0, 0, 2) && (udp_or_icmp || syn)
        });
        packets.len()
    };
    assert_eq!(home.reach_as("stranger", "home").end().status, 7);
    exposed.await_stderr("a stranger called: tp1");
    assert_eq!(begun(&wire), 1, "a SYN to the server");
    converse(home.reach(), "a friend");
    assert!(begun(&wire) > 4);
    stop(exposed);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn several_connections_at_once() {
    let home = Home::new(&[]);
    let _echo = Echo::start(&home.pair.b.host);
    let _server = Server::start(&home.pair.network.server());
    let exposed = home.expose(ECHO);
    let mut all: Vec<Program> = (0..5).map(|_| home.reach()).collect();
    for (number, program) in all.iter_mut().enumerate() {
        program.type_line(&format!("number {number}"));
    }
    for (number, program) in all.iter().enumerate() {
        program.await_stdout(&format!("number {number}\n"));
    }
    all.into_iter().for_each(|program| drop(finish(program)));
    stop(exposed);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_that_is_killed_and_started_again_is_found_and_connections_outlive_it() {
    let home = Home::new(&[]);
    let _echo = Echo::start(&home.pair.b.host);
    let server = Server::start(&home.pair.network.server());
    let exposed = home.expose(ECHO);
    let mut before = home.reach();
    before.type_line("before");
    before.await_stdout("before\n");
    drop(server);
    exposed.await_stderr("trying until it works");
    let refused = home.reach().end();
    assert_eq!(refused.status, 4, "{refused:?}");
    let _server = Server::start(&home.pair.network.server());
    exposed.await_stderr("called again by way of");
    converse(home.reach(), "after");
    converse(before, "still there");
    let ended = stop(exposed);
    assert_eq!(ended.stderr.matches("trying until it works").count(), 1, "{}", ended.stderr);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_network_that_changes_is_noticed() {
    let home = Home::new(&[]);
    let _echo = Echo::start(&home.pair.b.host);
    let _server = Server::start(&home.pair.network.server());
    let exposed = home.expose(ECHO);
    converse(home.reach(), "from one address");
    let host = &home.pair.b.host;
    let old = host.address();
    let (gateway, new) = (host.gateway(), old.replace(".2/", ".9/"));
    host.must(&format!("ip addr del {old} dev eth0"));
    host.must(&format!("ip addr add {new} dev eth0"));
    host.must(&format!("ip route add default via {gateway}"));
    exposed.await_stderr("called again by way of");
    converse(home.reach(), "from another");
    stop(exposed);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nobody_at_home_is_said() {
    let home = Home::new(&[]);
    let _server = Server::start(&home.pair.network.server());
    let ended = home.reach().end();
    ended.assert_complaint(
        4,
        "nobody listens under that name now",
        "start tcp-punch expose there, with the same server",
    );
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn stopping_cuts_what_is_joined_and_leaves_nothing() {
    let home = Home::new(&[]);
    let echo = Echo::start(&home.pair.b.host);
    let server = Server::start(&home.pair.network.server());
    let exposed = home.expose(ECHO);
    let mut program = home.reach();
    program.type_line("here");
    program.await_stdout("here\n");
    let ended = stop(exposed);
    assert_eq!(ended.status, 0, "{ended:?}");
    // A stream that is cut does not look complete.
    let ended = program.end();
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("the peer reset the connection"), "{ended:?}");
    drop((echo, server));
    for host in [&home.pair.a.host, &home.pair.b.host] {
        for table in ["packet", "raw", "raw6"] {
            assert_eq!(host.proc_net(table), [""; 0], "{table}");
        }
        // What the kernel keeps for a minute of connections that it closed first.
        let tcp = host.proc_net("tcp").into_iter().chain(host.proc_net("tcp6"));
        let left: Vec<String> = tcp.filter(|line| !line.contains(" 06 ")).collect();
        assert_eq!(left, [""; 0]);
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_with_one_key_are_one_too_many() {
    let home = Home::new(&[]);
    let _server = Server::start(&home.pair.network.server());
    let first = home.expose(ECHO);
    let second = home.expose(ECHO);
    let ended = first.end();
    assert_eq!(ended.status, 4, "{ended:?}");
    assert!(ended.stderr.contains("another client listens under this name now"), "{ended:?}");
    stop(second);
}
