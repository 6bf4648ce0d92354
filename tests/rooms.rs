//! `src` is a row of rooms, and a room imports only rooms to its left (docs/ARCHITECTURE.md).

use std::fs;
use std::path::{Path, PathBuf};

/// From left to right.
const ROOMS: [&str; 7] = ["wire", "nat", "punch", "rendezvous", "sys", "engine", "cli"];

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .map(|entry| entry.expect("a folder can be listed").path())
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Every `crate::ROOM` in the file, comments and documentation left out.
fn imports(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(""))
        .collect()
}

#[test]
fn a_room_imports_only_rooms_to_its_left() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for (place, room) in ROOMS.iter().enumerate() {
        for file in rust_files(&src.join(room)) {
            let text = fs::read_to_string(&file).expect("a source file can be read");
            for import in imports(&text) {
                let Some(imported) = ROOMS.iter().position(|room| *room == import) else {
                    panic!("{}: crate::{import} is no room; name it by its room", file.display());
                };
                assert!(imported <= place, "{}: {room} imports {import}", file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "only {seen} imports found: does this test still read the sources?");
}

#[test]
fn the_pure_rooms_know_no_clock_socket_or_randomness() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in &ROOMS[..4] {
        for file in rust_files(&src.join(room)) {
            let text = fs::read_to_string(&file).expect("a source file can be read");
            let code = text.split("#[cfg(test)]").next().unwrap_or("");
            for word in [
                "Instant::now",
                "SystemTime",
                "UdpSocket",
                "TcpStream",
                "getrandom",
                "nix::",
                "libc::",
                "std::thread",
                "std::env",
            ] {
                assert!(!code.contains(word), "{} uses {word}", file.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in ROOMS.iter().filter(|room| **room != "sys") {
        for file in rust_files(&src.join(room)) {
            let text = fs::read_to_string(&file).expect("a source file can be read");
            assert!(!text.contains("allow(unsafe_code"), "{} allows unsafe code", file.display());
        }
    }
}
