use super::*;
use crate::rendezvous::NotSealed;
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use data_encoding::HEXLOWER;
use proptest::prelude::*;

fn code(text: &str) -> Code {
    text.parse().unwrap()
}

fn identity(byte: u8) -> Identity {
    Identity::generate([byte; 32])
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn bytes(hex: &str) -> Vec<u8> {
    HEXLOWER.decode(hex.as_bytes()).unwrap()
}

fn by_codes(a: &str, b: &str) -> (Secrets, Secrets) {
    let a = Exchange::by_code(&code(a), [1; 32]);
    let b = Exchange::by_code(&code(b), [2; 32]);
    let (from_a, from_b) = (a.opening().unwrap().to_vec(), b.opening().unwrap().to_vec());
    let (none, a) = a.complete(&from_b).unwrap();
    assert_eq!(none, None);
    (a, b.complete(&from_a).unwrap().1)
}

fn call(caller: &Identity, listener: &Identity) -> (Secrets, Secrets) {
    let caller = Exchange::as_caller(caller, listener.public(), [1; 32]).unwrap();
    let listener = Exchange::as_listener(listener, [2; 32]).unwrap();
    assert_eq!(listener.opening(), None);
    let (reply, listener) = listener.complete(caller.opening().unwrap()).unwrap();
    let (none, caller) = caller.complete(&reply.unwrap()).unwrap();
    assert_eq!(none, None);
    (caller, listener)
}

fn talk(a: &mut Secrets, b: &mut Secrets) {
    assert_eq!(a.role(), b.role().other());
    let sealed = a.seal(b"there");
    assert_eq!(b.open(&sealed), Ok(b"there".to_vec()));
    let sealed = b.seal(b"back");
    assert_eq!(a.open(&sealed), Ok(b"back".to_vec()));
    assert!(a.punch_key() == b.punch_key());
    let proof = a.proof(a.role(), b"about");
    assert!(b.verify_proof(a.role(), b"about", &proof));
}

fn strangers(a: &mut Secrets, b: &mut Secrets) {
    let sealed = a.seal(b"there");
    assert_eq!(b.open(&sealed), Err(NotSealed));
    let sealed = b.seal(b"back");
    assert_eq!(a.open(&sealed), Err(NotSealed));
    assert!(a.punch_key() != b.punch_key());
    let proof = a.proof(a.role(), b"about");
    assert!(!b.verify_proof(a.role(), b"about", &proof));
}

/// What comes of this opening, for each kind of exchange that expects one.
fn answers(opening: &[u8]) -> [Result<(), ExchangeError>; 3] {
    let by_code = Exchange::by_code(&code("7-guitar-umbrella"), [1; 32]);
    let caller = Exchange::as_caller(&identity(1), identity(2).public(), [1; 32]).unwrap();
    let listener = Exchange::as_listener(&identity(2), [1; 32]).unwrap();
    [by_code, caller, listener].map(|exchange| exchange.complete(opening).map(|_| ()))
}

/// What Python's spake2 0.9, the crate's model, made of a scalar of its own and of our message.
#[test]
fn an_exchange_by_code_is_the_one_that_others_have() {
    let exchange = Exchange::by_code(&code("7-guitar-umbrella"), [1; 32]);
    assert_eq!(
        hex(exchange.opening().unwrap()),
        "53cd741a93cbd93aa147bdfd93459c9860942005e0c5831c756ac63f814fe3f887"
    );
    let theirs = bytes("531ea35d04f969bbdbb660918f2e191adf49f7c14111ee4e608f7d7f37f475d059");
    let (_, secrets) = exchange.complete(&theirs).unwrap();
    assert_eq!(secrets.role(), Role::Controlling);
    let proof = secrets.proof(Role::Controlling, b"about");
    assert_eq!(hex(&proof), "888b8812d44da34f14f4c4d718cd2a9526970fd7c022cd22f5565e10f3d3e5b8");
}

/// What Python's noiseprotocol 0.3 made of the same keys.
#[test]
fn a_call_is_the_one_that_others_have() {
    let listener = Exchange::as_listener(&identity(2), [2; 32]).unwrap();
    let caller = Exchange::as_caller(&identity(1), identity(2).public(), [1; 32]).unwrap();
    let call = caller.opening().unwrap();
    assert_eq!(
        hex(call),
        "e345c1ff47c1b318d05b0711834675a5d93eedb0d68eb85cb15946b3a020c64f49ea86f034660ee808f017b1672b8346374fa936b05bdacc088fb7bf335c1f3f8308b294e3a0c85a9398c56a0403f141c7c885e093025ebf9e42128c73c92cea"
    );
    let (reply, secrets) = listener.complete(call).unwrap();
    assert_eq!(
        hex(&reply.unwrap()),
        "014d9305cf134b5be9713c8f7f88f7de14e3de5a0dace20a512b1c9c4613536e02002efb0cc996a740b1e3855fb9490d"
    );
    let proof = secrets.proof(Role::Controlling, b"about");
    assert_eq!(hex(&proof), "b0ed181ca59e4c6fd2f55d4cb293008373eec2ab13a30b2e0a91fcf80fcb5211");
}

#[test]
fn two_with_one_code_have_one_key() {
    let (mut a, mut b) = by_codes("7-guitar-umbrella", "7 Guitar Umbrella");
    talk(&mut a, &mut b);
    assert_eq!((a.peer(), b.peer()), (None, None));
}

#[test]
fn another_word_gives_a_key_that_opens_nothing() {
    for other in ["7-guitar-umpire", "7-umbrella-guitar", "8-guitar-umbrella"] {
        let (mut a, mut b) = by_codes("7-guitar-umbrella", other);
        strangers(&mut a, &mut b);
    }
}

#[test]
fn each_exchange_has_keys_of_its_own() {
    let (mut a, _) = by_codes("7-guitar-umbrella", "7-guitar-umbrella");
    let code = code("7-guitar-umbrella");
    let (b, c) = (Exchange::by_code(&code, [2; 32]), Exchange::by_code(&code, [3; 32]));
    let from_c = c.opening().unwrap().to_vec();
    let mut b = b.complete(&from_c).unwrap().1;
    strangers(&mut a, &mut b);
}

#[test]
fn our_own_opening_is_no_peers() {
    let exchange = Exchange::by_code(&code("7-guitar-umbrella"), [1; 32]);
    let opening = exchange.opening().unwrap().to_vec();
    assert_eq!(exchange.complete(&opening).unwrap_err(), ExchangeError::Reflected);
    let caller = Exchange::as_caller(&identity(1), identity(2).public(), [1; 32]).unwrap();
    let opening = caller.opening().unwrap().to_vec();
    assert_eq!(
        caller.complete(&opening).unwrap_err(),
        ExchangeError::Length { found: 96, expected: 48 }
    );
}

/// Who sits in between and does not know the code gets two keys, and none is either end's.
#[test]
fn a_server_in_between_with_a_code_of_its_own_learns_nothing() {
    let (mut a, mut middle) = by_codes("7-guitar-umbrella", "7-guitar-vixen");
    let sealed = a.seal(b"addresses");
    assert_eq!(middle.open(&sealed), Err(NotSealed));
}

#[test]
fn an_on_looker_sees_neither_words_nor_messages() {
    let code = code("7-guitar-umbrella");
    let (a, b) = (Exchange::by_code(&code, [1; 32]), Exchange::by_code(&code, [2; 32]));
    let mut seen = [a.opening().unwrap(), b.opening().unwrap()].concat();
    let from_b = b.opening().unwrap().to_vec();
    let mut a = a.complete(&from_b).unwrap().1;
    seen.extend(a.seal(b"192.0.2.1:40000"));

    let listener = Exchange::as_listener(&identity(2), [4; 32]).unwrap();
    let caller = Exchange::as_caller(&identity(1), identity(2).public(), [3; 32]).unwrap();
    seen.extend(caller.opening().unwrap());
    let (reply, mut listener) = listener.complete(caller.opening().unwrap()).unwrap();
    seen.extend(reply.unwrap());
    seen.extend(listener.seal(b"192.0.2.1:40000"));

    let public = identity(1).public().0;
    for secret in [&b"guitar"[..], b"umbrella", b"192.0.2.1", &public] {
        assert!(!seen.windows(secret.len()).any(|it| it == secret), "{secret:?}");
    }
}

#[test]
fn a_listener_learns_who_calls_and_the_caller_decides() {
    let (mut caller, mut listener) = call(&identity(1), &identity(2));
    talk(&mut caller, &mut listener);
    assert_eq!(listener.peer(), Some(identity(1).public()));
    assert_eq!(caller.peer(), Some(identity(2).public()));
    assert_eq!((caller.role(), listener.role()), (Role::Controlling, Role::Controlled));
}

#[test]
fn a_call_says_who_makes_it_before_it_is_answered() {
    let caller = Exchange::as_caller(&identity(1), identity(2).public(), [1; 32]).unwrap();
    let opening = caller.opening().unwrap();
    assert_eq!(Exchange::caller(&identity(2), opening), Ok(identity(1).public()));
    assert_eq!(Exchange::caller(&identity(3), opening), Err(ExchangeError::NotForUs));
    for at in 0..opening.len() {
        let mut changed = opening.to_vec();
        changed[at] ^= 0x10;
        assert!(Exchange::caller(&identity(2), &changed).is_err(), "byte {at}");
        assert!(Exchange::caller(&identity(2), &opening[..at]).is_err(), "{at} bytes");
    }
}

#[test]
fn only_who_is_called_can_answer() {
    let caller = Exchange::as_caller(&identity(1), identity(2).public(), [1; 32]).unwrap();
    let other = Exchange::as_listener(&identity(3), [2; 32]).unwrap();
    assert_eq!(other.complete(caller.opening().unwrap()).unwrap_err(), ExchangeError::NotForUs);

    // It answers a call of its own instead.
    let own = Exchange::as_caller(&identity(1), identity(3).public(), [1; 32]).unwrap();
    let other = Exchange::as_listener(&identity(3), [2; 32]).unwrap();
    let reply = other.complete(own.opening().unwrap()).unwrap().0.unwrap();
    assert_eq!(caller.complete(&reply).unwrap_err(), ExchangeError::NotForUs);
}

/// The listener takes it for a new call, but who repeats it has not the key.
#[test]
fn a_repeated_call_opens_nothing() {
    let caller = Exchange::as_caller(&identity(1), identity(2).public(), [1; 32]).unwrap();
    let opening = caller.opening().unwrap().to_vec();
    let first = Exchange::as_listener(&identity(2), [2; 32]).unwrap();
    let reply = first.complete(&opening).unwrap().0.unwrap();
    let mut caller = caller.complete(&reply).unwrap().1;
    let second = Exchange::as_listener(&identity(2), [3; 32]).unwrap();
    let mut again = second.complete(&opening).unwrap().1;
    strangers(&mut caller, &mut again);
}

#[test]
fn a_changed_bit_of_a_call_or_its_reply_is_noticed() {
    let caller = || Exchange::as_caller(&identity(1), identity(2).public(), [1; 32]).unwrap();
    let listener = || Exchange::as_listener(&identity(2), [2; 32]).unwrap();
    let call = caller().opening().unwrap().to_vec();
    let reply = listener().complete(&call).unwrap().0.unwrap();
    let changed = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    for at in 0..call.len() {
        assert!(listener().complete(&changed(&call, at)).is_err(), "byte {at} of the call");
    }
    for at in 0..reply.len() {
        assert!(caller().complete(&changed(&reply, at)).is_err(), "byte {at} of the reply");
    }
}

#[test]
fn an_opening_of_another_length_is_refused() {
    for (length, expected) in
        [(0, [33, 48, 96]), (32, [33, 48, 96]), (97, [33, 48, 96]), (4096, [33, 48, 96])]
    {
        let refused =
            expected.map(|expected| Err(ExchangeError::Length { found: length, expected }));
        assert_eq!(answers(&vec![b'S'; length]), refused);
    }
}

#[test]
fn points_of_small_order_are_refused() {
    for point in EIGHT_TORSION {
        let spake2 = [&b"S"[..], point.compress().as_bytes()].concat();
        assert_eq!(answers(&spake2)[0], Err(ExchangeError::Weak));
        let point = point.to_montgomery().to_bytes();
        let reply = [&point[..], &[0; 16]].concat();
        assert_eq!(answers(&reply)[1], Err(ExchangeError::Weak));
        let call = [&point[..], &[0; 64]].concat();
        assert_eq!(answers(&call)[2], Err(ExchangeError::Weak));
        let called = Exchange::as_caller(&identity(1), PublicKey(point), [1; 32]);
        assert_eq!(called.unwrap_err(), ExchangeError::Weak);
    }
}

#[test]
fn points_that_no_honest_peer_sends_are_refused() {
    let refused = Err(ExchangeError::Malformed);
    let outside = ED25519_BASEPOINT_POINT + EIGHT_TORSION[1];
    let opening = [&b"S"[..], outside.compress().as_bytes()].concat();
    assert_eq!(answers(&opening)[0], refused, "not in the group of prime order");
    // y = 2 is on no point of the curve.
    let mut opening = [0; 33];
    (opening[0], opening[1]) = (b'S', 2);
    assert_eq!(answers(&opening)[0], refused, "not on the curve");
    let mut opening = [&b"A"[..], ED25519_BASEPOINT_POINT.compress().as_bytes()].concat();
    assert_eq!(answers(&opening)[0], refused, "not of the symmetric form");
    opening[0] = b'S';
    assert_eq!(answers(&opening)[0], Ok(()));
}

#[test]
fn an_exchange_can_go_to_another_thread_and_shows_no_secret() {
    fn can_go<T: Send>(_: &T) {}
    let exchange = Exchange::by_code(&code("7-guitar-umbrella"), [1; 32]);
    can_go(&exchange);
    can_go(&by_codes("7-guitar-umbrella", "7-guitar-umbrella").0);
    assert_eq!(format!("{exchange:?}"), "Exchange(by code, secret)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_two_seeds_and_any_code_agree(a in any::<[u8; 32]>(), b in any::<[u8; 32]>(), number in any::<u32>()) {
        prop_assume!(a != b);
        let code = Code::new(number, a);
        let (left, right) = (Exchange::by_code(&code, a), Exchange::by_code(&code, b));
        let from_left = left.opening().unwrap().to_vec();
        let mut left = left.complete(right.opening().unwrap()).unwrap().1;
        let mut right = right.complete(&from_left).unwrap().1;
        talk(&mut left, &mut right);

        let (mut caller, mut listener) = call(&Identity::generate(a), &Identity::generate(b));
        talk(&mut caller, &mut listener);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        for answer in answers(&noise) {
            prop_assert!(answer.is_err());
        }
    }

    /// Right in length and letter, the rest at random: half are points, one in eight of those in
    /// the right group.
    #[test]
    fn noise_of_the_right_length_never_panics(noise in any::<[u8; 32]>(), rest in any::<[u8; 32]>()) {
        let _ = answers(&[&b"S"[..], &noise].concat());
        let _ = answers(&[&noise[..], &rest[..16]].concat());
        let _ = answers(&[noise, rest, noise].concat());
    }
}
