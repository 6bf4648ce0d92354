//! The eBPF datapath on real devices: hung in, answering, and gone without a trace.

use std::env;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use caps::{CapSet, Capability, CapsHashSet};
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use tcp_punch::punch::Offer;
use tcp_punch::sys::ebpf::{Ebpf, EbpfError, Hook, Reply, ReplyOn, Watch};
use tcp_punch::sys::{Route, Spray};
use tcp_punch::wire::{Options, Segment, Seq, Template, Tuple};

use crate::capture::Capture;
use crate::network::{Host, PATIENCE};
use crate::pair::eventually;
use crate::veth::Veth;

const HOOKS: [Hook; 2] = [Hook::Tcx, Hook::Clsact];
const ENDS: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(Veth::NEAR), IpAddr::V4(Veth::FAR)),
    (IpAddr::V6(Veth::NEAR6), IpAddr::V6(Veth::FAR6)),
];
const OFFER: Offer = Offer { mss: 1460, window_scale: 7, window: 65_408, mark: 5 };
/// Says to the process of a test that it is one, and what it is to do.
const ROLE: &str = "EBPF_TEST_ROLE";

/// The far end of the veth pair waits for the near one. To be called on the far host.
fn watch((peer, local): (IpAddr, IpAddr)) -> Watch {
    Watch {
        interface: if_nametoindex(Veth::FAR_NAME).expect("the interface is there"),
        local,
        peer,
        locals: vec![40_000],
        remotes: vec![50_000],
        search: false,
        most: 0,
    }
}

/// The near host sends a SYN.
fn send_syn(near: &Host, (local, peer): (IpAddr, IpAddr)) {
    let options = Options {
        mss: Some(1400),
        window_scale: Some(9),
        sack_permitted: true,
        timestamps: Some((900, 0)),
    };
    let tuple = Tuple { local: SocketAddr::new(local, 0), remote: SocketAddr::new(peer, 0) };
    let syn = Segment { syn: true, window: 1000, options, ..Segment::new(tuple, Seq(300)) };
    near.run(|| {
        let route = Route::to(peer, Some(local)).expect("a route");
        let mut spray = Spray::new(&route, local, peer).expect("a spray");
        let tuples = [(50_000, 40_000)].into_iter();
        assert_eq!(spray.send(&Template::new(&syn), tuples), Ok(1));
    });
}

/// Waits for the next packet: whether it was stolen, and answered.
fn next(ebpf: &mut Ebpf) -> (bool, bool) {
    let mut ready = [PollFd::new(ebpf.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).expect("some seconds");
    assert_eq!(poll(&mut ready, patience), Ok(1), "nothing within {PATIENCE:?}");
    let caught = ebpf.receive().expect("the ring is there").expect("a packet");
    (caught.stolen, caught.answered.is_some())
}

/// What hangs at the far interface by now, of whatever kind.
fn left_behind(far: &Host) -> String {
    let mut left = String::new();
    for line in
        ["qdisc show dev far0", "filter show dev far0 ingress", "filter show dev far0 egress"]
    {
        let output = far.command("tc").args(line.split(' ')).output().expect("tc runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        left.extend(text.lines().filter(|l| l.contains("clsact") || l.contains("bpf")));
    }
    far.run(|| {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, programs) =
                SchedClassifier::query_tcx(Veth::FAR_NAME, direction).expect("a kernel with tcx");
            left.extend(programs.iter().filter_map(|it| it.name_as_str().map(str::to_owned)));
        }
    });
    left
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn by_either_hook_a_syn_is_answered_and_nothing_else_is_said() {
    let veth = Veth::up().expect("a network");
    for hook in HOOKS {
        for ends in ENDS {
            let wire = Capture::start(&veth.near, Veth::NEAR_NAME);
            veth.far.run(|| {
                let mut ebpf = Ebpf::hooked(&watch(ends), hook).expect("a datapath");
                assert_eq!(ebpf.hook(), Some(hook));
                send_syn(&veth.near, ends);
                assert_eq!(next(&mut ebpf), (true, false), "not armed");
                let tuple = Tuple {
                    local: SocketAddr::new(ends.1, 40_000),
                    remote: SocketAddr::new(ends.0, 50_000),
                };
                let on = ReplyOn::Tuples(vec![tuple]);
                let reply = Reply { iss: Seq(100), expected_irs: vec![], offer: OFFER, on };
                ebpf.arm(&reply).expect("arms");
                send_syn(&veth.near, ends);
                assert_eq!(next(&mut ebpf), (true, true));
                let counts = ebpf.counts();
                // The near host, which has no socket there, answers with a reset by and by.
                assert_eq!((counts.stolen - counts.resets, counts.answered), (2, 1));
                assert_eq!(counts.lost, 0);
            });
            let from_far = |packet: &[u8]| {
                Segment::parse(packet).is_ok_and(|it| it.tuple.local.ip() == ends.1)
            };
            let answer = wire.first(from_far).bytes;
            let segment = Segment::parse(&answer).expect("a segment");
            assert_eq!((segment.flags(), segment.ack), ("S.".into(), Some(Seq(301))));
            assert!(Segment::has_right_checksum(&answer), "{answer:02x?}");
            // The far host itself says nothing.
            assert_eq!(wire.packets(from_far).len(), 0);
            assert_eq!(left_behind(&veth.far), "");
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_program_that_hangs_there_already_sees_what_is_not_ours() {
    let veth = Veth::up().expect("a network");
    let listener = veth.far.run(|| TcpListener::bind((Veth::FAR, 8080)).expect("a listener"));
    let address = listener.local_addr().expect("an address");
    let connects = || {
        veth.near.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok())
    };
    assert!(connects());
    veth.far.must("tc qdisc add dev far0 clsact");
    let mut filter = veth.far.command("tc");
    // All that is IPv4 is dropped.
    filter.args("filter add dev far0 ingress protocol ip prio 9 bpf da bytecode".split(' '));
    assert!(filter.arg("1,6 0 0 2").status().expect("tc runs").success());
    assert!(!connects());
    for hook in HOOKS {
        veth.far.run(|| {
            let mut ebpf = Ebpf::hooked(&watch(ENDS[0]), hook).expect("a datapath");
            send_syn(&veth.near, ENDS[0]);
            assert_eq!(next(&mut ebpf), (true, false), "ours comes first");
            assert!(!connects(), "the other still drops by {hook:?}");
        });
        let left = left_behind(&veth.far);
        assert!(left.contains("clsact") && left.contains("bytecode"), "{left}");
        assert!(!left.contains("egress:"), "ours is gone: {left}");
        assert!(!connects());
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_interface_may_vanish() {
    for hook in HOOKS {
        let veth = Veth::up().expect("a network");
        veth.far.run(|| {
            let watch = watch(ENDS[0]);
            let mut ebpf = Ebpf::hooked(&watch, hook).expect("a datapath");
            veth.far.must("ip link delete far0");
            assert!(ebpf.receive().expect("no error").is_none());
            assert_eq!(ebpf.counts().copied, 0);
            drop(ebpf);
            let error = Ebpf::hooked(&watch, hook).expect_err("no interface");
            assert_eq!(error, EbpfError::NoInterface(watch.interface));
        });
    }
}

/// This test once more, as another process that does what its role says.
fn again(name: &str, role: &str, host: &Host, before: &[&str]) -> Command {
    let myself = env::current_exe().expect("a program");
    let mut command = match before {
        [] => host.command(&myself),
        [program, arguments @ ..] => {
            let mut command = host.command(program);
            command.args(arguments).arg(&myself);
            command
        }
    };
    command.args(["--exact", "--include-ignored", "--nocapture", name]).env(ROLE, role);
    command
}

/// Programs that are called as ours are, on the whole machine.
fn programs() -> Vec<u32> {
    let ours = |name: Option<&str>| matches!(name, Some("ingress" | "egress"));
    loaded_programs().flatten().filter(|it| ours(it.name_as_str())).map(|it| it.id()).collect()
}

fn kill(mut child: Child) {
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_kill_at_any_moment_leaves_nothing() {
    let name = "ebpf::a_kill_at_any_moment_leaves_nothing";
    if let Ok(role) = env::var(ROLE) {
        let hook = if role == "tcx" { Hook::Tcx } else { Hook::Clsact };
        loop {
            drop(Ebpf::hooked(&watch(ENDS[0]), hook).expect("a datapath"));
        }
    }
    let veth = Veth::up().expect("a network");
    let before = programs();
    for role in ["tcx", "clsact"] {
        for moment in 0..10 {
            let mut command = again(name, role, &veth.far, &[]);
            let child = command.stdout(Stdio::null()).spawn().expect("it starts");
            // It goes round in some tens of milliseconds: any moment of the round is as good.
            eventually("it hangs in", || !left_behind(&veth.far).is_empty());
            thread::sleep(Duration::from_millis(moment * 7));
            // `ip netns exec` becomes the program itself.
            kill(child);
            eventually("all is gone", || left_behind(&veth.far).is_empty());
        }
    }
    eventually("no program is left", || programs().iter().all(|id| before.contains(id)));
}

/// From now on the kernel refuses bpf(2) to this thread, as in many containers.
#[allow(unsafe_code)]
fn forbid_bpf() {
    use nix::libc::{self, sock_filter, sock_fprog};
    let bpf = u32::try_from(libc::SYS_bpf).expect("a small number");
    let number = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let step = |code, jf, k| sock_filter { code: code as u16, jt: 0, jf, k };
    let filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, number),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, bpf),
        step(libc::BPF_RET | libc::BPF_K, 0, refused),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program =
        sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies the filter, which lives as long as the call.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(nix::errno::Errno::result(set), Ok(0));
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn what_forbids_it_is_named() {
    let name = "ebpf::what_forbids_it_is_named";
    if let Ok(role) = env::var(ROLE) {
        if role == "forbidden" {
            forbid_bpf();
        }
        let said = Ebpf::available().map_or_else(|error| error.to_string(), |()| "yes".into());
        let loaded = Ebpf::new(&watch(ENDS[0])).map_or_else(|error| error.to_string(), |_| said);
        println!("{role}: {loaded}.");
        return;
    }
    let veth = Veth::up().expect("a network");
    for (role, before, expected) in [
        ("root", &[][..], "yes"),
        ("no CAP_BPF", &["setpriv", "--bounding-set", "-bpf"], "CAP_BPF is missing"),
        (
            "no CAP_NET_ADMIN",
            &["setpriv", "--bounding-set", "-net_admin"],
            "CAP_NET_ADMIN is missing",
        ),
        (
            "user namespace",
            &["unshare", "--user", "--map-root-user"],
            "eBPF is not permitted in a user namespace",
        ),
        (
            "no BTF",
            &["unshare", "-m", "sh", "-c", "mount -t tmpfs none /sys/kernel && exec \"$@\"", "sh"],
            "yes",
        ),
        ("old", &["setarch", "--uname-2.6"], "is older than 5.8"),
        ("forbidden", &[], "eBPF is disabled here: bpf(BPF_MAP_CREATE): Operation not permitted"),
    ] {
        let output = again(name, role, &veth.far, before).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let said = text.lines().find(|line| line.starts_with(role)).unwrap_or_default();
        assert!(said.ends_with(&format!(" {expected}.")), "{role}: {text}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn cap_bpf_and_cap_net_admin_suffice_and_the_first_may_go() {
    let veth = Veth::up().expect("a network");
    let (send, asked) = std::sync::mpsc::channel();
    let near = veth.near.clone();
    // Capabilities belong to threads.
    let sender = thread::spawn(move || {
        asked.recv().expect("the other end is there");
        send_syn(&near, ENDS[0]);
    });
    veth.far.run(move || {
        let few: CapsHashSet = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN].into();
        caps::set(None, CapSet::Effective, &few).expect("fewer");
        caps::set(None, CapSet::Permitted, &few).expect("fewer");
        let mut ebpf = Ebpf::new(&watch(ENDS[0])).expect("a datapath");
        Ebpf::give_up_capability().expect("it goes");
        let held = caps::has_cap(None, CapSet::Permitted, Capability::CAP_BPF);
        assert!(!held.expect("capget"));
        let (peer, local) = ENDS[0];
        let tuple =
            Tuple { local: SocketAddr::new(local, 40_000), remote: SocketAddr::new(peer, 50_000) };
        let on = ReplyOn::Tuples(vec![tuple]);
        let reply = Reply { iss: Seq(100), expected_irs: vec![], offer: OFFER, on };
        ebpf.arm(&reply).expect("arms");
        send.send(()).expect("the sender waits");
        assert_eq!(next(&mut ebpf), (true, true));
        ebpf.let_in(tuple).expect("lets in");
        ebpf.release(tuple).expect("releases");
    });
    sender.join().expect("it has sent");
}
