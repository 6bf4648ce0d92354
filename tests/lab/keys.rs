//! A shared key: who holds it connects, who does not is told so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::pair::{Pair, both, in_ms};
use crate::program::{Ended, Program, START_UP_MS};

const TODO: &str = "give both sides the same key, and instants less than a minute apart";

fn key_file(directory: &Path, passphrase: &str) -> String {
    let path = directory.join(passphrase);
    fs::write(&path, passphrase).expect("written");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("closed to others");
    path.display().to_string()
}

/// How both ends end that punch with these keys.
fn punch(pair: &Pair, keys: [Option<&str>; 2]) -> (Ended, Ended) {
    let directory = tempfile::tempdir().expect("a directory");
    let at = in_ms(START_UP_MS);
    let run = |mut command: Command, key: Option<&str>, line| {
        if let Some(key) = key {
            command.args(["--key", &key_file(directory.path(), key)]);
        }
        let mut program = Program::start(command.args(["--timeout", "1s"]));
        program.type_line(line);
        program.end_input();
        program.end()
    };
    both(
        || run(pair.program_a(40000, at), keys[0], "from host-a"),
        || run(pair.program_b(40000, at), keys[1], "from host-b"),
    )
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_same_key_connects() {
    let (a, b) = punch(&Pair::behind_nats(&[]), [Some("sesame"), Some("sesame")]);
    assert_eq!((a.status, a.stdout.as_str()), (0, "from host-b\n"), "{a:?}");
    assert_eq!((b.status, b.stdout.as_str()), (0, "from host-a\n"), "{b:?}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn another_key_is_refused_by_both_ends() {
    let (a, b) = punch(&Pair::behind_nats(&[]), [Some("sesame"), Some("barley")]);
    for end in [a, b] {
        assert_eq!(end.status, 7, "{end:?}");
        let (happened, todo) = end.complaint();
        assert!(
            happened.ends_with("segments came from somebody who does not hold the key"),
            "{end:?}"
        );
        assert_eq!(todo, TODO);
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_end_without_a_key_is_refused_by_the_one_that_has_one() {
    let (a, b) = punch(&Pair::behind_nats(&[]), [Some("sesame"), None]);
    assert_eq!((a.status, a.complaint().1.as_str()), (7, TODO), "{a:?}");
    // It cannot know why, but that it was heard of is no silence either.
    assert_eq!(b.status, 6, "{b:?}");
    let (happened, _) = b.complaint();
    assert!(happened.contains("of the peer came in, but it took none of our answers"), "{b:?}");
}
