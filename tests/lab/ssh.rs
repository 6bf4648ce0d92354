//! ssh between two hosts behind NATs, as the README shows it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::datapath;
use crate::network::Host;
use crate::pair::{Pair, eventually, in_ms};
use crate::program::{Program, START_UP_MS, binary};

const SSHD: &str = "/usr/sbin/sshd";

/// An ssh server that ends with this value.
pub(crate) struct Server(Child);

impl Server {
    /// Serves whoever has `key`, on 127.0.0.1:2222 of the host.
    pub(crate) fn start(host: &Host, directory: &Path) -> Self {
        generate_key(&directory.join("host_key"));
        fs::copy(directory.join("key.pub"), directory.join("authorized_keys")).expect("copied");
        let here = directory.display();
        // Nothing of the machine's own configuration, users' files or PAM.
        let config = format!(
            "ListenAddress 127.0.0.1:2222\nHostKey {here}/host_key\nPidFile none\nUsePAM no\n\
             AuthorizedKeysFile {here}/authorized_keys\nStrictModes no\nPermitRootLogin yes\n\
             PasswordAuthentication no\n"
        );
        let path = directory.join("sshd_config");
        fs::write(&path, config).expect("written");
        // Its privilege separation's directory; the bubble's /run is empty.
        fs::DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd").expect("made");
        let log = fs::File::create(directory.join("sshd.log")).expect("made");
        let server = host
            .command(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(path)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd starts");
        eventually("sshd listens", || !host.proc_net("tcp").is_empty());
        Self(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn generate_key(path: &Path) {
    let status =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(status.expect("ssh-keygen runs").success());
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn ssh_takes_the_connection_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("open to sshd's user");
    generate_key(&path.join("key"));
    let pair = Pair::behind_nats(&[]);
    let _server = Server::start(&pair.b.host, path);

    let at = in_ms(START_UP_MS);
    let b = Program::start(pair.program_b(40000, at).args(["--connect", "127.0.0.1:2222"]));
    let (peer, datapath) = (pair.b.at(40000), datapath::options().join(" "));
    let proxy = format!("ProxyCommand={} --peer {peer} --at {at} {datapath} --fdpass", binary());
    let mut ssh = pair.a.program("ssh");
    ssh.args(["-F", "none", "-o", &proxy, "-o", "ProxyUseFdpass=yes"])
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
        .arg("-i")
        .arg(path.join("key"))
        .args(["root@host-b", "echo \"$SSH_CONNECTION\"; cat; exit 7"])
        .env_remove("SSH_AUTH_SOCK");
    let mut ssh = Program::start(&mut ssh);
    ssh.type_line("through two NATs and back");
    ssh.end_input();
    let ended = ssh.end();
    let log = fs::read_to_string(path.join("sshd.log")).unwrap_or_default();
    assert_eq!(ended.status, 7, "{ended:?}; sshd: {log}");
    let (from, echoed) = ended.stdout.split_once('\n').expect("two lines");
    assert!(from.starts_with("127.0.0.1 ") && from.ends_with(" 127.0.0.1 2222"), "{from}");
    assert_eq!(echoed, "through two NATs and back\n");
    let ended = b.end();
    assert_eq!(ended.status, 0, "{ended:?}");
}
