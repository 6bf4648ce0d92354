//! Connections that the server opens towards those who ask for it.

use super::world::{AT, World};
use crate::rendezvous::server::Limits;
use crate::rendezvous::{Answer, Origin, Reaction, Refusal, Request};
use std::time::Duration;

const MAPPING: &str = "198.51.100.1:40007";

fn probe(id: u32, from: Origin, mapping: &str) -> Request {
    Request::Probe { id, from, mapping: mapping.parse().unwrap() }
}

#[test]
fn a_probe_goes_to_a_mapping_of_the_asking_address_that_is_in_use() {
    let mut world = World::small();
    let a = world.client(AT[0]);
    world.connect(MAPPING).unwrap();
    assert_eq!(
        world.says(a, probe(3, Origin::OtherPort, MAPPING)),
        [a.is_probed(3, "203.0.113.2:3479", MAPPING)]
    );
    assert_eq!(
        world.says(a, probe(4, Origin::OtherAddress, "[::ffff:198.51.100.1]:40007")),
        [a.is_probed(4, "203.0.113.3:3478", MAPPING)]
    );
    world.server.probed(a.id, 3, Reaction::Silent, Duration::from_millis(2900));
    let probed = Answer::Probed { id: 3, reaction: Reaction::Silent, after_ms: 2900 };
    assert_eq!(world.heard(), [a.gets(probed)]);
    let third = world.says(a, probe(5, Origin::OtherPort, MAPPING));
    assert_eq!(third, a.is_refused(Refusal::TooMany), "two a minute");
}

#[test]
fn nobody_has_the_server_knock_at_a_door_that_is_not_its_own() {
    let mut world = World::new(Limits::default());
    world.connect(AT[1]).unwrap();
    let gone = world.connect("198.51.100.1:50000").unwrap();
    world.goes(gone);
    for mapping in [AT[1], "198.51.100.1:22", "198.51.100.1:50000", "203.0.113.2:3479"] {
        let a = world.client(AT[0]);
        let heard = world.says(a, probe(1, Origin::OtherPort, mapping));
        assert_eq!(heard, a.is_refused(Refusal::NotYours), "{mapping}");
    }
}

#[test]
fn without_another_address_no_probe_leaves_from_it() {
    let mut world = World::small();
    let a = world.client(AT[3]);
    let probed = Answer::Probed { id: 1, reaction: Reaction::NotSent, after_ms: 0 };
    assert_eq!(world.says(a, probe(1, Origin::OtherAddress, AT[3])), [a.gets(probed)]);
}
