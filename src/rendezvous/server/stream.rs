//! What a connection carries: STUN messages, or the greeting and frames.

use crate::rendezvous::{FrameError, Frames, GREETING, Request};
use crate::wire::stun::{NotARequest, message_length};

/// The first byte of a STUN message is below (RFC 8489 section 5), that of the greeting is not.
const NOT_STUN: u8 = 0x40;

/// One thing that a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It speaks our protocol.
    Greeting,
    /// A request in it.
    Request(Request),
    /// A whole STUN message.
    Stun(Vec<u8>),
}

/// Why a stream is given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Another version of our protocol.
    #[error("another version of the protocol")]
    OtherVersion,
    /// Neither STUN nor our protocol.
    #[error("neither STUN nor a greeting")]
    Unknown,
    /// A frame makes no sense.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A STUN message makes no sense.
    #[error(transparent)]
    Stun(#[from] NotARequest),
}

/// Collects what a client says from the pieces in which its stream delivers it. Holds one
/// unfinished message at most.
#[derive(Debug, Default)]
pub struct Stream(Kind);

#[derive(Debug, Default)]
enum Kind {
    /// So many bytes of the greeting have come.
    #[default]
    Silent,
    Greeting(Vec<u8>),
    Frames(Frames),
    Stun {
        bytes: Vec<u8>,
        taken: usize,
    },
}

impl Stream {
    /// Takes in what the stream delivered.
    pub fn extend(&mut self, piece: &[u8]) {
        if let (Kind::Silent, Some(first)) = (&self.0, piece.first()) {
            self.0 = if *first < NOT_STUN {
                Kind::Stun { bytes: Vec::new(), taken: 0 }
            } else {
                Kind::Greeting(Vec::new())
            };
        }
        match &mut self.0 {
            Kind::Silent => {}
            Kind::Greeting(bytes) => bytes.extend_from_slice(piece),
            Kind::Frames(frames) => frames.extend(piece),
            Kind::Stun { bytes, taken } => {
                bytes.drain(..*taken);
                *taken = 0;
                bytes.extend_from_slice(piece);
            }
        }
    }

    /// The next whole message. After an error the stream is of no more use.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn take(&mut self) -> Result<Option<Said>, StreamError> {
        let said = self.next()?;
        if said.is_none() {
            self.shed();
        }
        Ok(said)
    }

    fn next(&mut self) -> Result<Option<Said>, StreamError> {
        match &mut self.0 {
            Kind::Silent => Ok(None),
            Kind::Greeting(bytes) => {
                let compared = bytes.len().min(GREETING.len());
                // The last byte is the version.
                let name = compared.min(GREETING.len() - 1);
                if bytes[..name] != GREETING[..name] {
                    return Err(StreamError::Unknown);
                }
                if bytes[..compared] != GREETING[..compared] {
                    return Err(StreamError::OtherVersion);
                }
                if compared < GREETING.len() {
                    return Ok(None);
                }
                let mut frames = Frames::default();
                frames.extend(&bytes[GREETING.len()..]);
                self.0 = Kind::Frames(frames);
                Ok(Some(Said::Greeting))
            }
            Kind::Frames(frames) => Ok(frames.take()?.map(Said::Request)),
            Kind::Stun { bytes, taken } => {
                let rest = &bytes[*taken..];
                let Some(length) = message_length(rest)? else { return Ok(None) };
                let Some(message) = rest.get(..length) else { return Ok(None) };
                let message = message.to_vec();
                *taken += length;
                Ok(Some(Said::Stun(message)))
            }
        }
    }

    /// Whether a message has begun and is not over.
    pub fn unfinished(&self) -> bool {
        match &self.0 {
            Kind::Silent | Kind::Greeting(_) => true,
            Kind::Frames(frames) => frames.pending() > 0,
            Kind::Stun { bytes, taken } => bytes.len() > *taken,
        }
    }

    /// Gives the room back: most of a hundred thousand connections say nothing most of the time.
    fn shed(&mut self) {
        match &mut self.0 {
            Kind::Frames(frames) if frames.pending() == 0 => *frames = Frames::default(),
            Kind::Stun { bytes, taken } if bytes.len() == *taken => {
                self.0 = Kind::Stun { bytes: Vec::new(), taken: 0 };
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::frame;
    use crate::wire::stun::{TransactionId, binding_request};
    use proptest::prelude::*;

    fn all(stream: &mut Stream) -> Result<Vec<Said>, StreamError> {
        std::iter::from_fn(|| stream.take().transpose()).collect()
    }

    fn clock(sent_ns: i64) -> Request {
        Request::Clock { sent_ns }
    }

    #[test]
    fn greeting_and_requests_however_the_stream_is_cut() {
        let mut bytes = GREETING.to_vec();
        bytes.extend(frame(&clock(5)).unwrap());
        bytes.extend(frame(&clock(6)).unwrap());
        for size in 1..=bytes.len() {
            let (mut stream, mut said) = (Stream::default(), Vec::new());
            for piece in bytes.chunks(size) {
                stream.extend(piece);
                said.extend(all(&mut stream).unwrap());
            }
            assert_eq!(
                said,
                [Said::Greeting, Said::Request(clock(5)), Said::Request(clock(6))],
                "in pieces of {size}"
            );
            assert!(!stream.unfinished());
        }
    }

    #[test]
    fn stun_requests_one_behind_the_other() {
        let requests = [1, 2, 3].map(|n| binding_request(TransactionId::new([n; 12])));
        for size in [1, 19, 20, 21, 60] {
            let (mut stream, mut said) = (Stream::default(), Vec::new());
            for piece in requests.concat().chunks(size) {
                stream.extend(piece);
                said.extend(all(&mut stream).unwrap());
            }
            assert_eq!(said, requests.clone().map(Said::Stun), "in pieces of {size}");
        }
    }

    #[test]
    fn anything_else_is_nothing() {
        for (bytes, error) in [
            (&b"TCPP\x02"[..], StreamError::OtherVersion),
            (b"TCQ", StreamError::Unknown),
            (b"GET / HTTP/1.1\r\n", StreamError::Unknown),
            (b"\xff", StreamError::Unknown),
            (b"TCPP\x01\xff\xff", StreamError::Frame(FrameError::Oversized(0xffff))),
        ] {
            let mut stream = Stream::default();
            stream.extend(bytes);
            assert_eq!(all(&mut stream), Err(error));
        }
        let mut stream = Stream::default();
        stream.extend(b"\x16\x03\x01\x02\x00\x01\x00\x01");
        assert!(matches!(stream.take(), Err(StreamError::Stun(_))));
    }

    #[test]
    fn a_beginning_is_unfinished() {
        let mut stream = Stream::default();
        for (bytes, unfinished) in
            [(&b""[..], true), (b"TCP", true), (b"P\x01", false), (b"\0", true)]
        {
            stream.extend(bytes);
            all(&mut stream).unwrap();
            assert_eq!(stream.unfinished(), unfinished, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8), first in any::<bool>()) {
            let mut stream = Stream::default();
            if first {
                stream.extend(&GREETING);
            }
            for piece in pieces {
                stream.extend(&piece);
                if all(&mut stream).is_err() {
                    break;
                }
            }
        }
    }
}
