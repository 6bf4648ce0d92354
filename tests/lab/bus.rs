//! Two people at two servers that nats-server joins.

use std::net::TcpStream;

use nix::sys::signal::Signal;

use crate::datapath;
use crate::meet::{SERVER, code, network, talk};
use crate::network::Host;
use crate::pair::{End, eventually};
use crate::program::{Program, binary};

/// Programs on the server's host that are killed in the end.
struct Servers(Vec<Program>);

impl Servers {
    fn start(host: &Host, ports: &[u16]) -> Self {
        let listens = |port: u16| {
            eventually("it listens", || host.run(|| TcpStream::connect((SERVER, port)).is_ok()));
        };
        let mut programs = vec![Program::start(host.command("nats-server").args(["-a", SERVER]))];
        listens(4222);
        for port in ports {
            let mut command = host.command(binary());
            command.args(["serve", "--listen", &format!("{SERVER}:{port}")]);
            command.args(["--alt-port", &(port + 1).to_string()]);
            command.args(["--bus", &format!("nats://{SERVER}:4222")]);
            programs.push(Program::start(&mut command));
        }
        ports.iter().for_each(|port| listens(*port));
        Self(programs)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for program in self.0.drain(..) {
            program.signal(Signal::SIGKILL);
            program.end();
        }
    }
}

fn meet_at(end: &End, port: u16, arguments: &[&str]) -> Program {
    let mut command = end.program(binary());
    let server = format!("{SERVER}:{port}");
    command.args(["meet", "--server", &server]).args(datapath::options());
    Program::start(command.args(arguments))
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_at_different_servers_meet_under_one_clock() {
    let pair = network(&[]);
    let _servers = Servers::start(&pair.network.server(), &[3478, 3578]);
    for (first, second) in [(3478, 3578), (3578, 3478)] {
        let a = meet_at(&pair.a, first, &[]);
        let code = code(&a);
        let b = meet_at(&pair.b, second, &[&code]);
        let (a, _) = talk(a, b);
        assert!(a.stderr.contains("by both routers"), "{}", a.stderr);
    }
}
