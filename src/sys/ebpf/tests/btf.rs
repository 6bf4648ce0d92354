//! The mirror in `abi.rs` has the sizes and offsets that clang gave the structs of `abi.h`.

use super::super::loader::OBJECT;
use super::super::{abi, counts};
use std::collections::BTreeMap;
use std::mem::offset_of;

/// The structs and enums of an object, as its BTF tells (Documentation/bpf/btf.rst).
#[derive(Default)]
struct Btf {
    /// Size, and the offset of every member, in bytes.
    structs: BTreeMap<String, (usize, BTreeMap<String, usize>)>,
    enums: BTreeMap<String, BTreeMap<String, u32>>,
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn half(bytes: &[u8], at: usize) -> usize {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap()).into()
}

fn text(bytes: &[u8], at: usize) -> String {
    let text = &bytes[at..];
    let end = text.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(text[..end].to_vec()).unwrap()
}

/// A section of a 64-bit ELF file.
fn section<'a>(elf: &'a [u8], wanted: &str) -> &'a [u8] {
    let long = |at: usize| usize::try_from(u64::from_ne_bytes(elf[at..at + 8].try_into().unwrap()));
    let (table, size, count) = (long(0x28).unwrap(), half(elf, 0x3a), half(elf, 0x3c));
    let body = |index: usize| {
        let head = table + index * size;
        let (start, length) = (long(head + 0x18).unwrap(), long(head + 0x20).unwrap());
        (word(elf, head), &elf[start..start + length])
    };
    let names = body(half(elf, 0x3e)).1;
    (0..count).map(body).find(|(name, _)| text(names, *name) == wanted).unwrap().1
}

impl Btf {
    fn read(elf: &[u8]) -> Self {
        let btf = section(elf, ".BTF");
        let [head, types, types_len, strings] = [4, 8, 12, 16].map(|at| word(btf, at));
        let names = &btf[head + strings..];
        let types = &btf[head + types..head + types + types_len];
        let (mut at, mut found) = (0, Self::default());
        while at < types.len() {
            let (name, info, size) =
                (text(names, word(types, at)), word(types, at + 4), word(types, at + 8));
            let (kind, length) = (info >> 24 & 0x1f, info & 0xffff);
            at += 12;
            let entry = |index: usize, size: usize| &types[at + index * size..];
            let each = match kind {
                4 => {
                    let members = (0..length).map(|n| entry(n, 12));
                    let offsets = members.map(|m| (text(names, word(m, 0)), word(m, 8) / 8));
                    found.structs.insert(name, (size, offsets.collect()));
                    12
                }
                5 => 12,
                6 => {
                    let values = (0..length).map(|n| entry(n, 8));
                    let values = values.map(|v| (text(names, word(v, 0)), word(v, 4) as u32));
                    found.enums.insert(name, values.collect());
                    8
                }
                1 | 14 | 17 => {
                    at += 4;
                    0
                }
                3 => {
                    at += 12;
                    0
                }
                13 => 8,
                15 => 12,
                19 => 12,
                _ => 0,
            };
            at += each * length;
        }
        found
    }

    fn assert_same(&self, name: &str, size: usize, offsets: &[(&str, usize)]) {
        let (theirs, members) = &self.structs[name];
        assert_eq!(size, *theirs, "size of struct {name}");
        let ours: BTreeMap<String, usize> =
            offsets.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect();
        assert_eq!(&ours, members, "members of struct {name}");
    }
}

/// Name and offset of every member.
macro_rules! offsets {
    ($of:ty: $($member:ident)*) => {
        &[$((stringify!($member), offset_of!($of, $member))),*]
    };
}

#[test]
fn every_shared_struct_has_one_layout() {
    let btf = Btf::read(OBJECT);
    btf.assert_same("ends", size_of::<abi::Ends>(), offsets!(abi::Ends: local peer));
    btf.assert_same(
        "rule",
        size_of::<abi::Rule>(),
        offsets!(abi::Rule: ends flags unused locals remotes),
    );
    btf.assert_same(
        "tuple",
        size_of::<abi::ExactTuple>(),
        offsets!(abi::ExactTuple: ends local_port peer_port),
    );
    btf.assert_same(
        "reply",
        size_of::<abi::Reply>(),
        offsets!(abi::Reply: wall_offset_ns armed iss expected expected_count everywhere window mss
            window_scale mark unused),
    );
    btf.assert_same(
        "event",
        size_of::<abi::Event>(),
        offsets!(abi::Event: at_ns length captured reply_tsval flags),
    );
    let packet = btf.structs["large_event"].1["packet"];
    assert_eq!(packet, size_of::<abi::Event>(), "the packet follows at once");
}

#[test]
fn every_counter_is_read_from_where_it_is_counted() {
    let btf = Btf::read(OBJECT);
    let counts = counts::Counts::from_counters(u64::from);
    let ours = serde_json::to_value(counts).unwrap();
    let mut theirs = btf.enums["count"].clone();
    assert_eq!(theirs.remove("COUNTS"), Some(theirs.len() as u32));
    assert_eq!(ours.as_object().unwrap().len(), theirs.len());
    for (name, place) in theirs {
        let name = name.strip_prefix("COUNT_").unwrap().to_lowercase();
        assert_eq!(ours[&name], place, "{name}");
    }
}
