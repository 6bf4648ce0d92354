//! The real program, as a user runs it.

use std::env;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcp_punch::wire::WallTime;

use crate::datapath;
use crate::network::PATIENCE;
use crate::pair::{End, Pair};

/// From the start of a program to its instant: it starts within that even on a busy machine.
pub(crate) const START_UP_MS: u64 = 800;

/// A program that runs.
pub(crate) struct Program {
    pid: Pid,
    stdin: Option<ChildStdin>,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
    ended: Receiver<ExitStatus>,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// As a shell says it: 128 and the signal's number for one that a signal ended.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What a program has written so far.
#[derive(Default)]
struct Output {
    so_far: Mutex<(Vec<u8>, bool)>,
    grown: Condvar,
}

impl Pair {
    /// `tcp-punch` on host-a.
    pub(crate) fn program_a(&self, port: u16, at: WallTime) -> Command {
        self.a.tcp_punch(self.b.at(port), at)
    }

    /// `tcp-punch` on host-b.
    pub(crate) fn program_b(&self, port: u16, at: WallTime) -> Command {
        self.b.tcp_punch(self.a.at(port), at)
    }
}

impl End {
    /// `tcp-punch --peer PEER --at AT`
    pub(crate) fn tcp_punch(&self, peer: SocketAddr, at: WallTime) -> Command {
        let mut command = self.program(binary());
        command.args(["--peer", &peer.to_string(), "--at", &at.to_string()]);
        command.args(datapath::options());
        command
    }

    /// A program on this host, without what the tests' own caller left in the environment.
    pub(crate) fn program(&self, path: impl AsRef<std::path::Path>) -> Command {
        let mut command = self.host.command(path);
        for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "DOAS_USER"] {
            command.env_remove(name);
        }
        command
    }
}

/// The `tcp-punch` under test.
pub(crate) fn binary() -> String {
    env::var("TCP_PUNCH_BIN").expect("testbed.sh names the program in TCP_PUNCH_BIN")
}

impl Program {
    /// Starts it, with pipes.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (end, ended) = channel();
        let program = Self {
            pid: Pid::from_raw(child.id() as i32),
            stdin: child.stdin.take(),
            stdout: Output::gather(child.stdout.take().expect("piped")),
            stderr: Output::gather(child.stderr.take().expect("piped")),
            ended,
        };
        thread::spawn(move || end.send(child.wait().expect("it is our child")));
        program
    }

    /// Its number; `ip netns exec` becomes the program that it runs.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("it runs");
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("it reads");
    }

    /// Ends its input.
    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Waits until it has written this to standard output.
    pub(crate) fn await_stdout(&self, text: &str) {
        self.stdout.wait("standard output", &self.stderr, text);
    }

    /// Waits until it has written this to standard error.
    pub(crate) fn await_stderr(&self, text: &str) {
        self.stderr.wait("standard error", &self.stderr, text);
    }

    /// The first line of its standard error.
    pub(crate) fn first_error_line(&self) -> String {
        self.stderr.wait("standard error", &self.stderr, "\n");
        self.stderr.text().lines().next().unwrap_or_default().to_owned()
    }

    /// Waits for its end, whose input stays open until then.
    pub(crate) fn end(self) -> Ended {
        let Ok(status) = self.ended.recv_timeout(PATIENCE) else {
            panic!("does not end; standard error: {}", self.stderr.text())
        };
        Ended {
            status: status.code().or(status.signal().map(|n| 128 + n)).unwrap_or(-1),
            stdout: self.stdout.whole(),
            stderr: self.stderr.whole(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // As long as nothing came from the channel the process is there, or its end unheard of.
        if self.ended.try_recv().is_err() && thread::panicking() {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

impl Ended {
    /// The failure's two lines: what happened, and what to do. Warnings may stand around them.
    pub(crate) fn complaint(&self) -> (String, String) {
        let lines: Vec<&str> =
            self.stderr.lines().filter(|line| !line.contains(" WARN ")).collect();
        let [happened, todo] = lines[..] else {
            panic!("not two lines: {self:?}");
        };
        let happened = happened.strip_prefix("tcp-punch: ").expect("what happened comes first");
        let todo = todo.strip_prefix("  ").expect("what to do is indented");
        (happened.to_owned(), todo.to_owned())
    }

    /// Fails unless it ended with this status and these two lines.
    pub(crate) fn assert_complaint(&self, status: i32, happened: &str, todo: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.complaint(), (happened.to_owned(), todo.to_owned()), "{self:?}");
    }
}

impl Output {
    fn gather(mut from: impl Read + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Self::default());
        let gathered = Arc::clone(&output);
        thread::spawn(move || {
            let mut block = [0; 4096];
            loop {
                let len = from.read(&mut block).unwrap_or(0);
                let mut so_far = gathered.so_far.lock().expect("no writer panics");
                so_far.0.extend_from_slice(&block[..len]);
                so_far.1 = len == 0;
                gathered.grown.notify_all();
                if len == 0 {
                    break;
                }
            }
        });
        output
    }

    fn wait(&self, name: &str, stderr: &Output, text: &str) {
        let so_far = self.so_far.lock().expect("no writer panics");
        let lacks = |(bytes, ended): &mut (Vec<u8>, bool)| {
            !*ended && !String::from_utf8_lossy(bytes).contains(text)
        };
        drop(self.grown.wait_timeout_while(so_far, PATIENCE, lacks).expect("no writer panics"));
        let came = self.text();
        assert!(came.contains(text), "no {text:?} on {name}: {came:?}; errors: {}", stderr.text());
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.so_far.lock().expect("no writer panics").0).into_owned()
    }

    /// All of it, up to its end.
    fn whole(&self) -> String {
        let so_far = self.so_far.lock().expect("no writer panics");
        let (so_far, late) =
            self.grown.wait_timeout_while(so_far, PATIENCE, |it| !it.1).expect("no writer panics");
        assert!(!late.timed_out(), "somebody else holds its output open");
        String::from_utf8_lossy(&so_far.0).into_owned()
    }
}
