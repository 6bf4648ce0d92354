//! A STUN client of another make, over TCP: our server answers it.

use std::env;
use std::net::SocketAddr;
use std::path::Path;

use crate::meet::{SERVER, Server, network};
use crate::program::Program;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/binding.escript");
const LIBRARIES: &str = "/usr/lib/erlang/lib";

fn is_installed() -> bool {
    let Ok(libraries) = Path::new(LIBRARIES).read_dir() else { return false };
    libraries.flatten().any(|it| it.file_name().to_string_lossy().starts_with("p1_stun-"))
}

/// `local IP:PORT`, then `mapped IP:PORT` for each answer, then the error for what nobody knows.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_client_of_another_make_learns_its_mapping() {
    if !is_installed() {
        assert!(env::var_os("CI").is_none(), "erlang-p1-stun is not installed");
        eprintln!("skipped: erlang-p1-stun is not installed");
        return;
    }
    let pair = network(&[]);
    let _server = Server::start(&pair.network.server());
    for port in ["3478", "3479"] {
        let mut command = pair.a.host.command("escript");
        let ended = Program::start(command.args([CLIENT, SERVER, port])).end();
        assert_eq!(ended.status, 0, "{ended:?}");
        let lines: Vec<&str> = ended.stdout.lines().collect();
        let [local, first, second, refused] = lines[..] else { panic!("{ended:?}") };
        let local: SocketAddr = local.strip_prefix("local ").expect("local").parse().expect("it");
        // The router keeps ports.
        let mapped = format!("mapped {}", pair.a.at(local.port()));
        assert_eq!([first, second, refused], [&mapped, &mapped, "error 420 [26]"]);
        assert_ne!(local, pair.a.at(local.port()), "a NAT is between");
    }
}
