//! Two people, one code, and a server that neither of them trusts.

use nix::sys::signal::Signal;

use crate::network::Host;
use crate::pair::{End, Pair, eventually};
use crate::program::{Ended, Program, binary};

/// The server's address: outside, in a namespace of its own.
pub(crate) const SERVER: &str = "192.0.2.254";

/// `tcp-punch serve`, until it is dropped.
pub(crate) struct Server(Option<Program>);

impl Server {
    pub(crate) fn start(host: &Host) -> Self {
        let program = Program::start(host.command(binary()).arg("serve"));
        eventually("the server listens", || {
            host.run(|| std::net::TcpStream::connect((SERVER, 3478)).is_ok())
        });
        Self(Some(program))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(program) = self.0.take() {
            program.signal(Signal::SIGKILL);
            program.end();
        }
    }
}

/// `tcp-punch meet --server SERVER`
pub(crate) fn meet(end: &End, arguments: &[&str]) -> Program {
    let mut command = end.program(binary());
    Program::start(command.args(["meet", "--server", SERVER]).args(arguments))
}

/// The code on the first line of standard error.
pub(crate) fn code(program: &Program) -> String {
    program.first_error_line()
}

/// Both type a line, and read the other's.
pub(crate) fn talk(mut a: Program, mut b: Program) -> (Ended, Ended) {
    a.type_line("from a");
    b.type_line("from b");
    a.end_input();
    b.end_input();
    let (a, b) = (a.end(), b.end());
    assert_eq!((a.status, b.status), (0, 0), "{a:?}\n{b:?}");
    assert_eq!((a.stdout.as_str(), b.stdout.as_str()), ("from b\n", "from a\n"));
    (a, b)
}

/// Two hosts that have no IPv6, which would be tried first.
pub(crate) fn network(options: &[&str]) -> Pair {
    let pair = Pair::behind_nats(&[&["--server", SERVER], options].concat());
    for end in [&pair.a, &pair.b] {
        end.host.must("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    }
    pair
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn one_makes_a_code_the_other_types_it_and_they_talk() {
    let pair = network(&[]);
    let server = Server::start(&pair.network.server());
    let a = meet(&pair.a, &[]);
    let code = code(&a);
    let b = meet(&pair.b, &[&code]);
    let (a, _) = talk(a, b);
    assert!(a.stderr.contains("by both routers"), "{}", a.stderr);
    drop(server);
    for host in [&pair.a.host, &pair.b.host] {
        host.assert_quiet();
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn routers_that_number_ports_at_random() {
    let pair = network(&["--nat-a", "random-fully", "--nat-b", "random-fully"]);
    let _server = Server::start(&pair.network.server());
    let a = meet(&pair.a, &[]);
    let b = meet(&pair.b, &[&code(&a)]);
    let (a, _) = talk(a, b);
    assert!(a.stderr.contains("by predicted ports"), "{}", a.stderr);
}
