//! Who waits at a place that another server keeps is found, whatever becomes of that server.

use super::world::{SECOND, World};
use crate::rendezvous::Place;
use crate::rendezvous::server::Word;
use crate::rendezvous::server::members::preference;
use crate::rendezvous::server::tests::client::join;

/// The server of the one who waits, the one that keeps its place, and the server of its peer.
const HOME: usize = 0;
const KEEPER: usize = 1;
const OTHER: usize = 2;

/// A server says that it keeps no numbers any more.
const GIVES_UP: Word = Word::Alive { share: None, firm: false, asks: false };

#[test]
fn who_waits_at_a_place_that_a_dead_server_kept_is_found() {
    for keeper in 0..3 {
        let mut world = World::new(3);
        let a = world.waiter((keeper + 1) % 3, keeper);
        world.kill(keeper);
        world.pass(5 * SECOND);
        world.is_found_from((keeper + 2) % 3, a);
    }
}

#[test]
fn who_waits_is_found_after_a_new_server_took_the_numbers_over() {
    let mut world = World::new(2);
    // Nobody's share until the third comes: the least free one.
    let a = world.waiter_under(HOME, 3);
    let third = world.start();
    world.pass(2 * SECOND);
    assert_eq!(world.server(third).members.keeper(Place::Number(3)), None);
    let fresh = world.client(third);
    assert_ne!(world.allocates(fresh), 3, "somebody waits under it");
    world.is_found_from(third, a);
}

#[test]
fn a_keeper_that_lost_the_bus_for_a_moment_hears_again_who_waits() {
    let mut world = World::new(3);
    let a = world.waiter(HOME, KEEPER);
    world.cut_off(KEEPER);
    world.join(KEEPER);
    world.pass(2 * SECOND);
    world.is_found_from(OTHER, a);
    world.forgets_everybody();
}

#[test]
fn a_keeper_that_had_given_a_server_up_hears_again_who_waits() {
    let mut world = World::new(3);
    let a = world.waiter(HOME, KEEPER);
    world.bus.hold_up((HOME, KEEPER));
    world.pass(5 * SECOND);
    assert_eq!(world.server(KEEPER).others(), 1);
    world.bus.free((HOME, KEEPER));
    world.pass(2 * SECOND);
    world.is_found_from(OTHER, a);
    world.forgets_everybody();
}

#[test]
fn who_went_while_its_server_had_no_bus_is_found_by_nobody() {
    let mut world = World::new(3);
    let a = world.waiter(HOME, KEEPER);
    world.cut_off(HOME);
    world.goes(a.client);
    world.join(HOME);
    world.pass(2 * SECOND);
    let b = world.client(OTHER);
    assert_eq!(world.says(b, join(a.number, b"b")), []);
    world.goes(b);
    world.forgets_everybody();
}

#[test]
fn two_who_came_while_the_bus_was_away_meet_when_it_is_back() {
    for dice in 0..32 {
        let mut world = World::with_dice(2, dice);
        world.cut_off(0);
        world.cut_off(1);
        let a = world.waiter_under(0, 9).client;
        let b = world.client(1);
        assert_eq!(world.says(b, join(9, b"b")), []);
        let local = world.waiter_under(0, 10);
        world.is_found_from(0, local);
        world.join_all();
        world.have_met(a, b);
    }
}

/// The place moves while its keeper has them meet: who waited is still awaited elsewhere.
#[test]
fn who_is_found_where_it_waited_before_waits_nowhere_any_more() {
    let mut world = World::new(3);
    let node = |at: usize| world.server(at).node();
    let [home, keeper, other] = [HOME, KEEPER, OTHER].map(node);
    let moves = |number: &u32| preference(other, *number) > preference(home, *number);
    let number = world.numbers_of(KEEPER).find(moves).unwrap();
    let a = world.waiter_under(HOME, number);
    let b = world.client(OTHER);
    world.asks(b, join(number, b"b"));
    world.hears(HOME, keeper, GIVES_UP);
    // a leaves the keeper and comes to the other; but b comes to the keeper first.
    world.deliver_all(OTHER, KEEPER);
    world.deliver_all(KEEPER, OTHER);
    world.deliver_all(HOME, OTHER);
    world.have_met(a.client, b);
    world.forgets_everybody();
}

/// The keeper finds a for b while b has moved by itself: it is met, and told nothing else later.
#[test]
fn who_finds_somebody_where_it_came_before_waits_nowhere_any_more() {
    let mut world = World::new(3);
    let keeper = world.server(KEEPER).node();
    let a = world.waiter(OTHER, KEEPER);
    let b = world.client(HOME);
    world.asks(b, join(a.number, b"b"));
    world.deliver_all(HOME, KEEPER);
    world.hears(HOME, keeper, GIVES_UP);
    world.have_met(a.client, b);
    world.forgets_everybody();
}
