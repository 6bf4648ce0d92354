//! Which numbers are given out, and who comes back to one.

use super::client::join;
use super::world::{AT, SECOND, World};
use crate::rendezvous::Request;
use crate::rendezvous::server::Limits;

#[test]
fn numbers_are_the_lowest_free_and_rest_before_they_are_given_again() {
    let mut world = World::new(Limits::default());
    let clients: [_; 5] = std::array::from_fn(|_| world.client(AT[0]));
    for (client, number) in clients.into_iter().zip(1..) {
        assert_eq!(world.says(client, Request::Allocate), [client.is_given(number)]);
    }
    world.goes(clients[1]);
    world.goes(clients[3]);
    let next = world.client(AT[0]);
    assert_eq!(world.says(next, Request::Allocate), [next.is_given(6)], "2 and 4 rest");
    world.after(Limits::default().resting);
    for number in [2, 4, 7] {
        let next = world.client(AT[0]);
        assert_eq!(world.says(next, Request::Allocate), [next.is_given(number)]);
    }
}

#[test]
fn a_number_that_somebody_came_to_is_not_given_to_another() {
    let mut world = World::small();
    let [a, b] = world.clients();
    assert_eq!(world.says(a, join(1, b"a")), []);
    assert_eq!(world.says(b, Request::Allocate), [b.is_given(2)]);
}

#[test]
fn who_lost_its_connection_while_it_waited_comes_back_to_its_number() {
    let mut world = World::small();
    let [a, b] = world.clients();
    assert_eq!(world.says(a, Request::Allocate), [a.is_given(1)]);
    assert_eq!(world.says(a, join(1, b"a")), []);
    assert_eq!(world.goes(a), []);
    let again = world.client(AT[0]);
    assert_eq!(world.says(again, join(1, b"again")), []);
    // Its first rest ends while it waits, which is not its end.
    assert_eq!(world.after(61 * SECOND), []);
    assert_eq!(world.says(b, join(1, b"b")), [again.meets(b"b"), b.meets(b"again")]);
}
