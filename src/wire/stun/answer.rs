//! The server's side: what a Binding request is answered with.

use super::{MAX_MESSAGE, OTHER_ADDRESS, RESPONSE_ORIGIN};
use std::net::SocketAddr;
use stun_types::attribute::{
    Attribute, AttributeStaticType, AttributeType, ErrorCode, Fingerprint, MappedSocketAddr,
    MessageIntegrity, MessageIntegritySha256, Nonce, PasswordAlgorithm, Realm, Software,
    UnknownAttributes, Userhash, Username, XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageHeader, MessageWrite, MessageWriteExt, MessageWriteVec,
    StunParseError, StunWriteError,
};

/// Attributes of RFC 8489 that have to be understood, and that a server without authentication has
/// no use for.
const UNDERSTOOD: [AttributeType; 9] = [
    Username::TYPE,
    Userhash::TYPE,
    MessageIntegrity::TYPE,
    MessageIntegritySha256::TYPE,
    Realm::TYPE,
    Nonce::TYPE,
    PasswordAlgorithm::TYPE,
    Fingerprint::TYPE,
    Software::TYPE,
];

/// What a response says of the two ends of the connection and of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where the request came from.
    pub observed: SocketAddr,
    /// Where it arrived.
    pub origin: SocketAddr,
    /// The server's other address with its other port, if it has another address (RFC 5780
    /// section 7.4).
    pub other: Option<SocketAddr>,
}

/// Why the stream is given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARequest {
    /// The bytes are no STUN message, or one that contradicts itself.
    #[error("no STUN message: {0}")]
    Malformed(StunParseError),
    /// The header announces more than a Binding request has.
    #[error("a message of {0} bytes was announced, and {MAX_MESSAGE} are the most")]
    Oversized(usize),
    /// Responses are for clients.
    #[error("a response, and nothing was asked")]
    Response,
    /// The answer could not be put together.
    #[error("the answer cannot be written: {0}")]
    Unwritable(String),
}

/// How long the message is that `bytes` begin with. `None`: too few have come to tell.
///
/// # Errors
/// [`NotARequest`], as early as the bytes tell.
pub fn message_length(bytes: &[u8]) -> Result<Option<usize>, NotARequest> {
    match MessageHeader::from_bytes(bytes) {
        Ok(header) => {
            let length = MessageHeader::LENGTH + usize::from(header.data_length());
            if length > MAX_MESSAGE {
                Err(NotARequest::Oversized(length))
            } else {
                Ok(Some(length))
            }
        }
        Err(StunParseError::Truncated { .. }) => Ok(None),
        Err(error) => Err(NotARequest::Malformed(error)),
    }
}

/// The answer to one whole message; indications have none.
///
/// # Errors
/// [`NotARequest`].
pub fn answer(message: &[u8], ends: &Ends) -> Result<Option<Vec<u8>>, NotARequest> {
    let message = Message::from_bytes(message).map_err(NotARequest::Malformed)?;
    match message.class() {
        MessageClass::Request => {}
        MessageClass::Indication => return Ok(None),
        MessageClass::Success | MessageClass::Error => return Err(NotARequest::Response),
    }
    let unknown: Vec<AttributeType> = message
        .iter_attributes()
        .map(|(_, attribute)| attribute.get_type())
        .filter(|kind| kind.comprehension_required() && !UNDERSTOOD.contains(kind))
        .collect();
    let written = if !message.has_method(BINDING) {
        error(&message, ErrorCode::BAD_REQUEST, &[])
    } else if unknown.is_empty() {
        success(&message, ends)
    } else {
        error(&message, ErrorCode::UNKNOWN_ATTRIBUTE, &unknown)
    };
    written.map(Some).map_err(|error| NotARequest::Unwritable(error.to_string()))
}

fn success(request: &Message<'_>, ends: &Ends) -> Result<Vec<u8>, StunWriteError> {
    let mut response = Message::builder_success(request, MessageWriteVec::new());
    let id = request.transaction_id();
    response.add_attribute(&XorMappedAddress::new(ends.observed, id))?;
    response.add_attribute(&MappedSocketAddr::new(ends.origin).to_raw(RESPONSE_ORIGIN))?;
    if let Some(other) = ends.other {
        response.add_attribute(&MappedSocketAddr::new(other).to_raw(OTHER_ADDRESS))?;
    }
    response.add_attribute(&software()?)?;
    Ok(response.finish())
}

fn error(
    request: &Message<'_>,
    code: u16,
    unknown: &[AttributeType],
) -> Result<Vec<u8>, StunWriteError> {
    let mut response = Message::builder_error(request, MessageWriteVec::new());
    response.add_attribute(&ErrorCode::builder(code).build()?)?;
    if !unknown.is_empty() {
        response.add_attribute(&UnknownAttributes::new(unknown))?;
    }
    response.add_attribute(&software()?)?;
    Ok(response.finish())
}

fn software() -> Result<Software, StunWriteError> {
    Software::new(concat!("tcp-punch ", env!("CARGO_PKG_VERSION")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stun::{Binding, NotABinding, Response, TransactionId, binding_request};
    use proptest::prelude::*;

    const ID: TransactionId = TransactionId::new(*b"abcdefghijkl");

    fn ends() -> Ends {
        Ends {
            observed: "198.51.100.7:40000".parse().unwrap(),
            origin: "203.0.113.2:3478".parse().unwrap(),
            other: "203.0.113.3:3479".parse().ok(),
        }
    }

    fn with_attribute(kind: u16, value: [u8; 4]) -> Vec<u8> {
        let mut request = binding_request(ID);
        request[3] = 8;
        request.extend(kind.to_be_bytes());
        request.extend([0, 4]);
        request.extend(value);
        request
    }

    fn judged(answer: &[u8]) -> Result<Option<Binding>, NotABinding> {
        Response::new(ID, ends().origin).push(answer)
    }

    #[test]
    fn our_own_client_reads_every_address_out_of_it() {
        let answer = answer(&binding_request(ID), &ends()).unwrap().unwrap();
        let binding = judged(&answer).unwrap().unwrap();
        assert_eq!(binding.external, ends().observed);
        assert_eq!(binding.origin, Some(ends().origin));
        assert_eq!(binding.other, ends().other);
        assert!(binding.software.unwrap().starts_with("tcp-punch "));
    }

    #[test]
    fn ipv6_as_well() {
        let ends = Ends {
            observed: "[2001:db8::7]:40000".parse().unwrap(),
            origin: "[2001:db8::2]:3478".parse().unwrap(),
            other: None,
        };
        let answer = answer(&binding_request(ID), &ends).unwrap().unwrap();
        let binding = Response::new(ID, ends.origin).push(&answer).unwrap().unwrap();
        assert_eq!((binding.external, binding.other), (ends.observed, None));
    }

    #[test]
    fn without_another_address_other_address_is_absent() {
        let ends = Ends { other: None, ..ends() };
        let answer = answer(&binding_request(ID), &ends).unwrap().unwrap();
        assert_eq!(judged(&answer).unwrap().unwrap().other, None);
    }

    /// CHANGE-REQUEST of RFC 5780: over TCP a response cannot come from elsewhere.
    #[test]
    fn attributes_that_must_be_understood_and_are_not_are_named() {
        let answer = answer(&with_attribute(0x0003, [0, 0, 0, 6]), &ends()).unwrap().unwrap();
        assert!(matches!(judged(&answer), Err(NotABinding::Error { code: 420, .. })));
        // UNKNOWN-ATTRIBUTES: CHANGE-REQUEST.
        assert!(answer.windows(6).any(|bytes| bytes == b"\x00\x0a\x00\x02\x00\x03"), "{answer:?}");
    }

    #[test]
    fn attributes_that_need_no_understanding_are_passed_over() {
        for kind in [0x8022, 0x8fff, 0x0006] {
            let answer = answer(&with_attribute(kind, *b"text"), &ends()).unwrap().unwrap();
            assert!(judged(&answer).unwrap().is_some(), "{kind:#06x}");
        }
    }

    #[test]
    fn other_methods_are_bad_requests_and_indications_pass_in_silence() {
        let mut allocate = binding_request(ID);
        allocate[1] = 3;
        let answer = super::answer(&allocate, &ends()).unwrap().unwrap();
        assert_eq!(&answer[..2], &[0x01, 0x13], "an error response of method Allocate");
        let mut indication = binding_request(ID);
        indication[1] = 0x11;
        assert_eq!(super::answer(&indication, &ends()), Ok(None));
        let response = super::answer(&binding_request(ID), &ends()).unwrap().unwrap();
        assert_eq!(super::answer(&response, &ends()), Err(NotARequest::Response));
    }

    #[test]
    fn the_length_is_known_from_the_header_and_bounded() {
        let request = with_attribute(0x8022, *b"text");
        for cut in 0..20 {
            assert_eq!(message_length(&request[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(message_length(&request[..20]), Ok(Some(28)));
        let mut long = request;
        long[2] = 0xff;
        assert_eq!(message_length(&long), Err(NotARequest::Oversized(20 + 0xff08)));
        assert!(message_length(b"GET / HTTP/1.1\r\n\r\n...").is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = message_length(&noise);
            let _ = answer(&noise, &ends());
        }

        #[test]
        fn attributes_of_every_kind_never_panic(kind in any::<u16>(), value in any::<[u8; 4]>()) {
            let _ = answer(&with_attribute(kind, value), &ends());
        }
    }
}
