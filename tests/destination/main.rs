//! What happens to an established connection: every destination, from outside.
//!
//! Delivering changes a whole process (its user, its capabilities, its standard output), so each
//! delivery runs in a process of its own: this test binary again, in the role that the
//! environment names. See [`role`].
#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

mod as_root;
mod joining;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, getsockname, recvmsg, setsockopt, sockopt,
};
use nix::unistd::Pid;
use tcp_punch::cli::destination::{Destination, Passing};

const MARK: &str = "deliver now\n";

/// A connection as the punch leaves it, and the peer's end.
fn connection() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours.into(), listener.accept().unwrap().0)
}

fn reset(stream: TcpStream) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
}

/// What a process in a role is told, and how it is watched.
struct Role {
    process: Child,
    peer: TcpStream,
}

/// Starts this test binary in a role; its connection's other end is the `peer`.
fn start(kind: &str, configure: impl FnOnce(&mut Command)) -> Role {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["role", "--exact", "--nocapture"])
        .env("ROLE", kind)
        .env("ROLE_CONNECTION", listener.local_addr().unwrap().to_string())
        .env_remove("SUDO_UID")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    configure(&mut command);
    let process = command.spawn().unwrap();
    let (peer, _) = listener.accept().unwrap();
    Role { process, peer }
}

fn start_command(kind: &str, script: &str, configure: impl FnOnce(&mut Command)) -> Role {
    start(kind, |command| {
        configure(command.env("ROLE_ARGUMENT", script));
    })
}

impl Role {
    fn hear(&mut self) -> String {
        let mut heard = String::new();
        self.peer.read_to_string(&mut heard).unwrap();
        heard
    }

    fn status(mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    fn code(self) -> i32 {
        self.status().code().unwrap()
    }
}

/// Not a test by itself: one delivery, in the process that [`start`] made.
#[test]
fn role() {
    let Ok(kind) = std::env::var("ROLE") else {
        return;
    };
    let argument = std::env::var("ROLE_ARGUMENT").unwrap_or_default();
    let command = |passing| Destination::Command {
        argv: vec!["sh".into(), "-c".into(), argument.clone().into()],
        passing,
        user: std::env::var("ROLE_USER").ok(),
    };
    let destination = match kind.as_str() {
        "stdio" => Destination::Stdio,
        "inetd" => command(Passing::Inetd),
        "descriptor 3" => command(Passing::Descriptor3),
        "pass-fd" => Destination::PassFd(argument.clone().into()),
        "fdpass" => Destination::FdPass,
        "connect" => Destination::Connect(argument.clone()),
        "listen" => Destination::Listen(argument.clone()),
        other => panic!("no role {other}"),
    };
    let delivered = destination.prepare().and_then(|prepared| {
        let address = std::env::var("ROLE_CONNECTION").unwrap();
        let mut connection = TcpStream::connect(address).unwrap();
        for address in prepared.listening_on() {
            writeln!(connection, "{address}").unwrap();
        }
        if kind == "stdio" {
            let mut stdout = std::io::stdout();
            stdout.write_all(MARK.as_bytes()).unwrap();
            stdout.flush().unwrap();
        }
        prepared.without_variable("ROLE_SECRET".as_ref()).deliver(connection.into())
    });
    std::process::exit(match delivered {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("{error}\n{}", error.advice());
            error.exit_status().into()
        }
    });
}

#[test]
fn standard_streams_are_joined() {
    let mut role = start("stdio", |command| {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    });
    let mut output = BufReader::new(role.process.stdout.take().unwrap());
    let mut line = String::new();
    while line != MARK {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0);
    }
    let mut input = role.process.stdin.take().unwrap();
    input.write_all(b"\0question\xff").unwrap();
    drop(input);
    let mut heard = Vec::new();
    role.peer.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"\0question\xff");
    role.peer.write_all(b"\xfeanswer\0").unwrap();
    role.peer.shutdown(Shutdown::Write).unwrap();
    let mut said = Vec::new();
    output.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"\xfeanswer\0", "the connection's bytes alone");
    assert_eq!(role.code(), 0);
}

#[test]
fn a_reset_is_told_in_two_lines_and_status_1() {
    let mut role = start("stdio", |command| {
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
    });
    let _open = role.process.stdin.take();
    reset(role.peer);
    let output = role.process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("the peer reset the connection\n"), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
}

#[test]
fn a_command_talks_and_its_end_is_the_connections() {
    let mut role = start_command("inetd", "read line; echo \"got $line\"; exit 7", |_| {});
    role.peer.write_all(b"hello\n").unwrap();
    assert_eq!(role.hear(), "got hello\n");
    assert_eq!(role.code(), 7);
}

#[test]
fn the_secrets_variable_is_kept_from_the_command() {
    let script = "echo ${ROLE_SECRET-none} ${ROLE_OTHER-none}";
    let mut role = start_command("inetd", script, |command| {
        command.env("ROLE_SECRET", "s").env("ROLE_OTHER", "kept");
    });
    assert_eq!(role.hear(), "none kept\n");
}

#[test]
fn a_commands_signal_becomes_128_and_its_number() {
    assert_eq!(start_command("inetd", "kill -USR1 $$", |_| {}).code(), 128 + 10);
}

#[test]
fn descriptor_3_follows_the_listen_protocol() {
    let script = r#"test "$LISTEN_PID" = $$ && echo $LISTEN_FDS $LISTEN_FDNAMES >&3"#;
    let mut role = start_command("descriptor 3", script, |_| {});
    assert_eq!(role.hear(), "1 connection\n");
    assert_eq!(role.code(), 0);
}

#[test]
fn the_command_holds_the_connection_and_nothing_else_of_ours() {
    let mut role = start_command("descriptor 3", "exec ls -l /proc/self/fd >&3", |_| {});
    let heard = role.hear();
    assert_eq!(heard.matches("socket:").count(), 2, "as 3 and, by the shell, as 1: {heard}");
    assert_eq!(heard.matches("anon_inode").count(), 0, "{heard}");
    assert_eq!(role.code(), 0);
}

#[test]
fn the_command_ends_with_us() {
    let mut role = start_command("inetd", "echo ready; exec sleep 1000", |_| {});
    let mut ready = [0; 6];
    role.peer.read_exact(&mut ready).unwrap();
    let process = Pid::from_raw(role.process.id().try_into().unwrap());
    kill(process, Signal::SIGKILL).unwrap();
    assert_eq!(role.hear(), "", "the stream ends when the command does");
    assert!(!role.status().success());
}

#[test]
fn a_descriptor_is_passed_to_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut role = start("pass-fd", |command| {
        command.env("ROLE_ARGUMENT", &path);
    });
    let (receiver, _) = listener.accept().unwrap();
    let peer = role.peer.local_addr().unwrap();
    let received = has_descriptor_to(&receiver, peer);
    assert!(received);
    assert_eq!(role.hear(), "", "nobody else holds it once the receiver lets go");
    assert_eq!(role.code(), 0);
}

#[test]
fn a_descriptor_is_passed_over_standard_output() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let role = start("fdpass", |command| {
        command.stdout(OwnedFd::from(theirs));
    });
    // The harness writes its own lines first: they come as messages without a descriptor.
    let peer = role.peer.local_addr().unwrap();
    while !has_descriptor_to(&ours, peer) {}
    assert_eq!(role.code(), 0);
}

/// Receives a message; whether it carried a descriptor of the connection to `peer`.
fn has_descriptor_to(receiver: &UnixStream, peer: std::net::SocketAddr) -> bool {
    let mut byte = [0];
    let mut iov = [std::io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message =
        recvmsg::<UnixAddr>(receiver.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty())
            .unwrap();
    assert_eq!(message.bytes, 1, "the sender left without sending a descriptor");
    let Some(ControlMessageOwned::ScmRights(descriptors)) = message.cmsgs().unwrap().next() else {
        return false;
    };
    let connected: nix::sys::socket::SockaddrStorage =
        nix::sys::socket::getpeername(descriptors[0]).unwrap();
    assert_eq!(connected.to_string(), peer.to_string());
    let _: nix::sys::socket::SockaddrStorage = getsockname(descriptors[0]).unwrap();
    nix::unistd::close(descriptors[0]).unwrap();
    true
}

#[test]
fn a_local_service_is_joined() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut role = start("connect", |command| {
        command.env("ROLE_ARGUMENT", service.local_addr().unwrap().to_string());
    });
    let (mut served, _) = service.accept().unwrap();
    role.peer.write_all(b"request").unwrap();
    role.peer.shutdown(Shutdown::Write).unwrap();
    let mut request = String::new();
    served.read_to_string(&mut request).unwrap();
    assert_eq!(request, "request");
    served.write_all(b"response").unwrap();
    drop(served);
    assert_eq!(role.hear(), "response");
    assert_eq!(role.code(), 0);
}

#[test]
fn an_absent_service_is_a_failed_hand_over() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let role = start("connect", |command| {
        command.env("ROLE_ARGUMENT", free.to_string());
    });
    assert_eq!(role.code(), 8);
}

/// Starts a listening role; the address comes over the connection first.
fn start_listening() -> (Role, std::net::SocketAddr) {
    let role = start("listen", |command| {
        command.env("ROLE_ARGUMENT", "127.0.0.1:0");
    });
    let mut address = String::new();
    let mut byte = [0];
    loop {
        (&role.peer).read_exact(&mut byte).unwrap();
        match byte[0] {
            b'\n' => break,
            other => address.push(other.into()),
        }
    }
    (role, address.parse().unwrap())
}

#[test]
fn the_first_local_client_is_joined_and_no_second() {
    let (mut role, address) = start_listening();
    // Sent, and ended, before there is a client: nothing of it is lost.
    role.peer.write_all(b"welcome").unwrap();
    role.peer.shutdown(Shutdown::Write).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let mut welcome = String::new();
    client.read_to_string(&mut welcome).unwrap();
    assert_eq!(welcome, "welcome");
    assert!(TcpStream::connect(address).is_err());
    client.write_all(b"thanks").unwrap();
    drop(client);
    assert_eq!(role.hear(), "thanks");
    assert_eq!(role.code(), 0);
}

#[test]
fn a_peer_that_leaves_ends_the_wait_for_a_client() {
    let (role, _) = start_listening();
    let Role { mut process, peer } = role;
    reset(peer);
    assert_eq!(process.wait().unwrap().code(), Some(8));
}

#[test]
fn what_is_wrong_is_said_before_there_is_a_connection() {
    for (kind, argument) in [
        ("pass-fd", "/no/such/socket"),
        ("fdpass", ""),
        ("connect", "no port"),
        ("listen", "192.0.2.1:80"),
    ] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["role", "--exact", "--nocapture"])
            .env("ROLE", kind)
            .env("ROLE_ARGUMENT", argument)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{kind}: {told}");
        assert_eq!(told.lines().count(), 2, "{told}");
    }
}

/// `AsFd` of a socket is what the checks take; kept honest by using it on one that is none.
#[test]
fn a_tcp_socket_is_no_place_to_send_a_descriptor() {
    let (ours, _peer) = connection();
    assert!(!tcp_punch::sys::descriptor::is_unix_stream(ours.as_fd()));
}
