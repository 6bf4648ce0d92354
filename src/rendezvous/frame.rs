//! Messages in a byte stream: a length of two bytes, most significant first, and so many bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A client's first bytes: a name and a version. The first two bits of any STUN message are zero
/// (RFC 8489 section 5), those of this are not: one port serves both.
pub const GREETING: [u8; 5] = *b"TCPP\x01";

/// The longest message in bytes: a report with all its candidates, sealed, takes some hundreds.
pub const MAX_FRAME: usize = 4096;

const LENGTH: usize = 2;

/// Why a stream is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is above [`MAX_FRAME`].
    #[error("a message of {0} bytes was announced, and {MAX_FRAME} are the most")]
    Oversized(usize),
    /// No message of this version.
    #[error("a message makes no sense")]
    Malformed,
}

/// The greeting, with which a client's stream begins.
pub fn greeting() -> Vec<u8> {
    GREETING.to_vec()
}

/// The bytes of one message. Never empty for a message that fits, and all of ours do.
///
/// # Errors
/// [`FrameError::Oversized`] for one that does not, because of what a caller put in.
pub fn frame(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let body = postcard::to_stdvec(message).map_err(|_| FrameError::Malformed)?;
    let length = u16::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME);
    let length = length.ok_or(FrameError::Oversized(body.len()))?;
    let mut bytes = Vec::with_capacity(LENGTH + body.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Collects messages from the pieces in which a stream delivers them. Holds at most what it was
/// given last and the beginning of one message.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// How many of them are taken.
    taken: usize,
}

impl Frames {
    /// Takes in what the stream delivered.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes wait to become a message.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// The next whole message, if there is one. After an error the stream is of no more use.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn take<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let rest = &self.bytes[self.taken..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_FRAME {
            return Err(FrameError::Oversized(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (message, rest) = postcard::take_from_bytes(body).map_err(|_| FrameError::Malformed)?;
        if !rest.is_empty() {
            return Err(FrameError::Malformed);
        }
        self.taken += LENGTH + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::{Place, Request};
    use proptest::prelude::*;

    fn join(opening: Vec<u8>) -> Request {
        Request::Join { place: Place::Number(7), opening }
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_the_stream_is_cut() {
        let sent =
            [join(vec![1; 33]), Request::Clock { sent_ns: -1 }, Request::Relay(vec![0; 900])];
        let stream: Vec<u8> = sent.iter().flat_map(|it| frame(it).unwrap()).collect();
        for piece in [1, 2, 3, 7, 100, stream.len()] {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            for bytes in stream.chunks(piece) {
                frames.extend(bytes);
                while let Some(message) = frames.take::<Request>().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, sent);
            assert_eq!(frames.pending(), 0);
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_held() {
        assert_eq!(frame(&join(vec![0; 5000])), Err(FrameError::Oversized(5005)));
        let mut frames = Frames::default();
        frames.extend(&[0xff, 0xff]);
        assert_eq!(frames.take::<Request>(), Err(FrameError::Oversized(0xffff)));
    }

    #[test]
    fn bytes_left_over_in_a_frame_are_no_message() {
        let mut bytes = frame(&Request::Clock { sent_ns: 0 }).unwrap();
        bytes[1] += 1;
        bytes.push(0);
        let mut frames = Frames::default();
        frames.extend(&bytes);
        assert_eq!(frames.take::<Request>(), Err(FrameError::Malformed));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            frames.extend(&noise);
            while let Ok(Some(_)) = frames.take::<Request>() {}
        }
    }
}
