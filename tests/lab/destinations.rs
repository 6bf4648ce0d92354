//! Where the real program puts the connection. What a destination does in every detail is tested
//! in `tests/destination`, without a punch.

use std::io::{IoSliceMut, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::network::PATIENCE;
use crate::pair::{Pair, eventually, exchange_lines, hear, in_ms, say, stream};
use crate::program::{Program, START_UP_MS};

/// host-a runs the program with `destination`; host-b has the other end in its hands.
fn punch(pair: &Pair, destination: &[&str]) -> (Program, TcpStream) {
    let at = in_ms(START_UP_MS);
    let a = Program::start(pair.program_a(40000, at).args(destination));
    let b = stream(pair.b.connect(pair.punch_of_b(40000, at)));
    (a, b)
}

fn hear_all(mut stream: &TcpStream) -> String {
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("received");
    heard
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn standard_streams_are_joined_and_each_way_ends_by_itself() {
    let pair = Pair::behind_nats(&[]);
    let (mut a, b) = punch(&pair, &[]);
    a.type_line("the last from host-a");
    a.end_input();
    assert_eq!(hear_all(&b), "the last from host-a\n");
    // That way has ended; the other one still carries.
    say(&b, "an answer to it all");
    a.await_stdout("an answer to it all\n");
    b.shutdown(Shutdown::Write).expect("connected");
    let ended = a.end();
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "an answer to it all\n"), "{ended:?}");

    let (mut a, b) = punch(&pair, &[]);
    say(&b, "the last from host-b");
    b.shutdown(Shutdown::Write).expect("connected");
    a.await_stdout("the last from host-b\n");
    a.type_line("an answer to it all");
    a.end_input();
    assert_eq!(hear_all(&b), "an answer to it all\n");
    assert_eq!(a.end().status, 0);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_command_talks_through_it_as_under_inetd_and_its_status_is_ours() {
    let pair = Pair::behind_nats(&[]);
    let (a, b) = punch(&pair, &["--", "sh", "-c", "read line; echo \"heard: $line\"; exit 5"]);
    say(&b, "a question");
    assert_eq!(hear_all(&b), "heard: a question\n");
    let ended = a.end();
    assert_eq!((ended.status, ended.stdout.as_str()), (5, ""), "{ended:?}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_command_gets_it_as_descriptor_3() {
    let script =
        "read line <&3; echo \"$LISTEN_FDS $LISTEN_FDNAMES $line\" >&3; test $LISTEN_PID = $$";
    let pair = Pair::behind_nats(&[]);
    let (a, b) = punch(&pair, &["--exec-fd", "3", "--", "sh", "-c", script]);
    say(&b, "a question");
    assert_eq!(hear_all(&b), "1 connection a question\n");
    assert_eq!(a.end().status, 0);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn another_process_gets_the_descriptor() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a free path");
    let pair = Pair::behind_nats(&[]);
    let (a, b) = punch(&pair, &["--pass-fd", path.to_str().expect("text")]);
    let (receiver, _) = listener.accept().expect("a client");
    receiver.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
    let received = receive_descriptor(receiver.as_raw_fd());
    assert_eq!(a.end().status, 0, "the program is done when it is sent");
    assert_eq!(received.peer_addr().expect("connected"), pair.b.at(40000));
    exchange_lines(&received, &b);
}

#[allow(unsafe_code, reason = "nix hands received descriptors over as numbers")]
fn receive_descriptor(socket: i32) -> TcpStream {
    let mut byte = [0; 1];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(socket, &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
        .expect("received");
    let Some(ControlMessageOwned::ScmRights(numbers)) = message.cmsgs().expect("whole").next()
    else {
        panic!("no descriptor came")
    };
    // SAFETY: the kernel has just made it for this process, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(numbers[0]) }.into()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_first_local_client_gets_it() {
    let pair = Pair::behind_nats(&[]);
    let (a, b) = punch(&pair, &["--listen", "127.0.0.1:8022"]);
    say(&b, "said before anybody listened");
    let client =
        pair.a.host.run(|| TcpStream::connect("127.0.0.1:8022")).expect("tcp-punch listens");
    assert_eq!(hear(&client), "said before anybody listened\n");
    exchange_lines(&client, &b);
    drop((client, b));
    assert_eq!(a.end().status, 0);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_local_service_gets_it() {
    let pair = Pair::behind_nats(&[]);
    let service = pair.a.host.run(|| TcpListener::bind("127.0.0.1:8022")).expect("a free port");
    let (a, b) = punch(&pair, &["--connect", "127.0.0.1:8022"]);
    let (served, _) = service.accept().expect("tcp-punch connects");
    exchange_lines(&served, &b);
    drop((served, b));
    assert_eq!(a.end().status, 0);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_reset_by_the_peer_is_told() {
    let pair = Pair::behind_nats(&[]);
    let (a, b) = punch(&pair, &[]);
    say(&b, "and then no more");
    a.await_stdout("and then no more\n");
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&b, nix::sys::socket::sockopt::Linger, &at_once).expect("linger");
    drop(b);
    let ended = a.end();
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("the peer reset the connection"), "{ended:?}");
    eventually("no socket is left", || pair.a.host.proc_net("tcp").is_empty());
}
