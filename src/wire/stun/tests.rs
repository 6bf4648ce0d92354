use super::*;
use proptest::prelude::*;

/// RFC 5769 section 2: the transaction of every message there.
const ID: TransactionId = TransactionId::new(*b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae");

/// RFC 5769 section 2.2, sample IPv4 response: SOFTWARE, XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY,
/// FINGERPRINT.
const IPV4_RESPONSE: &[u8] =
    b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
      \x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\
      \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
      \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
      \x80\x28\x00\x04\xc0\x7d\x4c\x96";

/// RFC 5769 section 2.3, sample IPv6 response.
const IPV6_RESPONSE: &[u8] =
    b"\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
      \x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\
      \x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\
      \x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41\
      \x80\x28\x00\x04\xc8\xfb\x0b\x4c";

fn server() -> SocketAddr {
    "203.0.113.2:3478".parse().unwrap()
}

fn response() -> Response {
    Response::new(ID, server())
}

/// A message of this type with these attributes, and the transaction [`ID`].
fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend(kind.to_be_bytes());
        body.extend((value.len() as u16).to_be_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(0x2112_a442_u32.to_be_bytes());
    bytes.extend(ID.0);
    bytes.extend(body);
    bytes
}

const SUCCESS: u16 = 0x0101;
const ERROR: u16 = 0x0111;
/// 192.0.2.1:32853, plainly and as XOR-MAPPED-ADDRESS.
const PLAIN: &[u8] = b"\x00\x01\x80\x55\xc0\x00\x02\x01";
const XORED: &[u8] = b"\x00\x01\xa1\x47\xe1\x12\xa6\x43";

fn verdict(bytes: &[u8]) -> NotABinding {
    response().push(bytes).expect_err("no Binding response")
}

#[test]
fn the_request_is_a_bare_header() {
    assert_eq!(
        binding_request(ID),
        b"\x00\x01\x00\x00\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae"
    );
}

#[test]
fn the_responses_of_rfc_5769() {
    let v4 = response().push(IPV4_RESPONSE).unwrap().unwrap();
    assert_eq!(v4.external, "192.0.2.1:32853".parse().unwrap());
    assert_eq!(v4.software.as_deref(), Some("test vector"));
    assert_eq!((v4.other, v4.origin), (None, None));
    let mut over_v6 = Response::new(ID, "[2001:db8::9]:3478".parse().unwrap());
    let v6 = over_v6.push(IPV6_RESPONSE).unwrap().unwrap();
    assert_eq!(v6.external, "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap());
}

#[test]
fn a_stream_delivers_a_response_in_any_pieces() {
    for size in [1, 3, 19, 20, 21, IPV4_RESPONSE.len() - 1] {
        let mut response = response();
        let mut pieces = IPV4_RESPONSE.chunks(size).peekable();
        while let Some(piece) = pieces.next() {
            let binding = response.push(piece).unwrap();
            assert_eq!(binding.is_some(), pieces.peek().is_none(), "in pieces of {size}");
        }
    }
    let with_more = [IPV4_RESPONSE, b"and more"].concat();
    assert!(response().push(&with_more).unwrap().is_some());
}

#[test]
fn where_the_server_is_else() {
    let bytes = message(
        SUCCESS,
        &[
            (0x0020, XORED),
            (0x802b, b"\x00\x01\x0d\x96\xcb\x00\x71\x02"),
            (0x802c, b"\x00\x01\x0d\x97\xcb\x00\x71\x03"),
        ],
    );
    let binding = response().push(&bytes).unwrap().unwrap();
    assert_eq!(binding.origin, Some("203.0.113.2:3478".parse().unwrap()));
    assert_eq!(binding.other, Some("203.0.113.3:3479".parse().unwrap()));
}

/// coturn 4.6.1 with two addresses, over TCP.
#[test]
fn the_response_of_coturn() {
    let bytes = b"\x01\x01\x00\x48\x21\x12\xa4\x42\xeb\xfe\xd8\xe1\xa0\x73\xdf\x33\x38\x6a\x4e\x72\
          \x00\x20\x00\x08\x00\x01\xf9\x62\xea\x12\xd5\x40\
          \x00\x01\x00\x08\x00\x01\xd8\x70\xcb\x00\x71\x02\
          \x80\x2b\x00\x08\x00\x01\x0d\x96\xcb\x00\x71\x02\
          \x80\x2c\x00\x08\x00\x01\x0d\x97\xcb\x00\x71\x03\
          \x80\x22\x00\x14Coturn-4.6.1 'Gorst'";
    let id = TransactionId::new(bytes[8..20].try_into().unwrap());
    assert_eq!(
        Response::new(id, server()).push(bytes),
        Ok(Some(Binding {
            external: "203.0.113.2:55408".parse().unwrap(),
            other: Some("203.0.113.3:3479".parse().unwrap()),
            origin: Some("203.0.113.2:3478".parse().unwrap()),
            software: Some("Coturn-4.6.1 'Gorst'".to_owned()),
        }))
    );
}

#[test]
fn another_address_of_the_server_that_leads_astray_is_left_out() {
    for other in [
        &b"\x00\x01\x0d\x97\xc0\xa8\x01\x01"[..], // 192.168.1.1:3479
        b"\x00\x01\x0d\x97\x7f\x00\x00\x01",      // 127.0.0.1:3479
        b"\x00\x01\x00\x00\xcb\x00\x71\x03",      // port 0
        b"\x00\x01\x0d",                          // cut off
    ] {
        let bytes = message(SUCCESS, &[(0x0020, XORED), (0x802c, other)]);
        assert_eq!(response().push(&bytes).unwrap().unwrap().other, None, "{other:?}");
    }
}

#[test]
fn the_plain_address_counts_only_without_the_other_one() {
    let rewritten =
        message(SUCCESS, &[(0x0001, b"\x00\x01\x80\x55\xc6\x33\x64\x01"), (0x0020, XORED)]);
    let external = response().push(&rewritten).unwrap().unwrap().external;
    assert_eq!(external, "192.0.2.1:32853".parse().unwrap());
    let old = message(SUCCESS, &[(0x0001, PLAIN)]);
    assert_eq!(response().push(&old).unwrap().unwrap().external, external);
}

#[test]
fn an_ipv4_address_in_an_ipv6_one_is_the_ipv4_address() {
    let mapped = b"\x00\x02\x80\x55\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x01";
    let external =
        response().push(&message(SUCCESS, &[(0x0001, mapped)])).unwrap().unwrap().external;
    assert_eq!(external, "192.0.2.1:32853".parse().unwrap());
}

#[test]
fn an_address_that_cannot_be_ours_is_said() {
    for (address, says) in [
        (&b"\x00\x01\x80\x55\xc0\xa8\x01\x02"[..], "192.168.1.2:32853, which is a private address"),
        (b"\x00\x01\x80\x55\x00\x00\x00\x00", "0.0.0.0:32853, which is no address of a host"),
        (b"\x00\x01\x00\x00\xc0\x00\x02\x01", "192.0.2.1:0, which has no port"),
        (
            b"\x00\x02\x80\x55\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01",
            "[2001:db8::1]:32853, which is not of the IP version",
        ),
    ] {
        let said = verdict(&message(SUCCESS, &[(0x0001, address)])).to_string();
        assert!(said.starts_with(&format!("it says that we come from {says}")), "{said}");
    }
}

#[test]
fn another_transaction_is_not_ours() {
    for byte in 8..20 {
        let mut bytes = message(SUCCESS, &[(0x0020, XORED)]);
        bytes[byte] ^= 1;
        assert_eq!(verdict(&bytes), NotABinding::ForeignTransaction, "byte {byte}");
    }
}

#[test]
fn an_error_is_said_in_the_servers_words_without_its_control_characters() {
    let bytes = message(ERROR, &[(0x0009, b"\x00\x00\x04\x01Un\x1bauthorized")]);
    assert_eq!(
        verdict(&bytes),
        NotABinding::Error { code: 401, reason: "Un?authorized".to_owned() }
    );
}

#[test]
fn what_is_no_binding_response() {
    assert_eq!(
        verdict(b"HTTP/1.1 400 Bad Request").to_string(),
        "an HTTP server answers there, not a STUN server"
    );
    assert_eq!(
        verdict(b"SSH-2.0-OpenSSH_9.2").to_string(),
        "an SSH server answers there, not a STUN server"
    );
    assert_eq!(
        verdict(b"\x15\x03\x01\x00\x02\x02\x46").to_string(),
        "a TLS server answers there, not a STUN server"
    );
    assert_eq!(verdict(b"\xff"), NotABinding::NotStun);
    assert_eq!(verdict(b"\x01\x01\x00\x00\x21\x12\xa4\x43"), NotABinding::NotStun);
    assert_eq!(verdict(&message(SUCCESS, &[])), NotABinding::NoAddress);
    assert_eq!(
        verdict(&message(0x0001, &[])),
        NotABinding::OtherMessage("a request of method 0x001".into())
    );
    assert_eq!(
        verdict(&message(0x0103, &[])),
        NotABinding::OtherMessage("a response of method 0x003".into())
    );
    assert!(matches!(verdict(&message(ERROR, &[])), NotABinding::Malformed(_)));
    assert!(matches!(
        verdict(&message(SUCCESS, &[(0x0020, b"\x00\x01\xa1")])),
        NotABinding::Malformed(_)
    ));
    let mut attribute_too_long = message(SUCCESS, &[(0x0020, XORED)]);
    attribute_too_long[23] = 200;
    assert!(matches!(verdict(&attribute_too_long), NotABinding::Malformed(_)));
}

#[test]
fn an_oversized_message_is_refused_by_its_header() {
    let mut bytes = message(SUCCESS, &[]);
    bytes[2..4].copy_from_slice(&4096_u16.to_be_bytes());
    assert_eq!(verdict(&bytes), NotABinding::Oversized(4116));
    bytes[2..4].copy_from_slice(&6_u16.to_be_bytes());
    assert_eq!(verdict(&bytes), NotABinding::NotStun);
}

#[test]
fn a_message_that_never_ends_takes_no_more_room_than_is_allowed() {
    let mut response = response();
    let mut bytes = message(SUCCESS, &[(0x8022, &[b'x'; MAX_MESSAGE - 24])]);
    bytes.truncate(MAX_MESSAGE - 1);
    assert_eq!(response.push(&bytes), Ok(None));
    let _ = response.push(&[0; 100_000]);
    assert_eq!(response.received(), MAX_MESSAGE);
}

proptest! {
    #[test]
    fn no_bytes_whatsoever_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..8)) {
        let mut response = response();
        for piece in pieces {
            let _ = response.push(&piece);
        }
    }

    #[test]
    fn no_attributes_whatsoever_panic(
        kind in prop_oneof![Just(SUCCESS), Just(ERROR), any::<u16>()],
        attributes in prop::collection::vec(
            (
                prop_oneof![Just(0x0001_u16), Just(0x0009), Just(0x0020), Just(0x8022), Just(0x8028), Just(0x802c), any::<u16>()],
                prop::collection::vec(any::<u8>(), 0..40),
            ),
            0..6,
        ),
        changed in any::<prop::sample::Index>(),
        by in any::<u8>(),
    ) {
        let attributes: Vec<_> = attributes.iter().map(|(kind, value)| (*kind, &value[..])).collect();
        let mut bytes = message(kind, &attributes);
        let at = changed.index(bytes.len());
        bytes[at] ^= by;
        let _ = response().push(&bytes);
    }

    #[test]
    fn every_address_comes_back_from_a_server_that_says_it_either_way(ip in any::<[u8; 4]>(), port in 1_u16..) {
        let address = SocketAddr::new(ip.into(), port);
        let mut plain = vec![0, 1];
        plain.extend(port.to_be_bytes());
        plain.extend(ip);
        let cookie = 0x2112_a442_u32.to_be_bytes();
        let mut xored = vec![0, 1];
        xored.extend((port ^ 0x2112).to_be_bytes());
        xored.extend(ip.iter().zip(cookie).map(|(a, b)| a ^ b));
        for attribute in [(0x0001, &plain[..]), (0x0020, &xored[..])] {
            match response().push(&message(SUCCESS, &[attribute])) {
                Ok(binding) => prop_assert_eq!(binding.unwrap().external, address),
                Err(NotABinding::Nonsense { address: said, .. }) => prop_assert_eq!(said, address),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
