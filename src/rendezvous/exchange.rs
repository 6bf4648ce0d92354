//! The key exchange: one message each way, and both ends hold the same secrets.

use super::seed::Seed;
use super::{Code, Identity, PublicKey, Role, Secrets, noise};
use curve25519_dalek::edwards::CompressedEdwardsY;
use snow::HandshakeState;
use spake2::{Ed25519Group, Password, Spake2};
use std::cmp::Ordering;
use std::fmt;
use zeroize::Zeroizing;

/// A key exchange. Each serves once.
///
/// With a code it is SPAKE2 in its symmetric form (RFC 9382 section 5, M = N), where both ends speak
/// at once; the crate's transcript is older than the RFC, and ours goes on top of it. With
/// long-lived keys it is Noise IK, where the caller speaks first. In either case the server in
/// between, who carries the messages, learns nothing that it could try words on: all it can do is
/// take part itself, with one guess.
pub struct Exchange {
    /// Our message, where it does not wait for the peer's.
    opening: Option<Vec<u8>>,
    state: State,
}

enum State {
    /// The crate does not wipe what this holds; the code in it has served when it goes.
    Code {
        spake: Box<Spake2<Ed25519Group>>,
        number: u32,
    },
    Caller(Box<HandshakeState>),
    Listener(Box<HandshakeState>),
}

/// Why no secrets came of an exchange.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ExchangeError {
    /// No opening is this long.
    #[error(
        "the peer's opening has {found} bytes instead of {expected}: it has another version of tcp-punch, or is no tcp-punch"
    )]
    Length {
        /// So many bytes it has.
        found: usize,
        /// So many it should have.
        expected: usize,
    },
    /// No message of this exchange.
    #[error("the peer's opening makes no sense")]
    Malformed,
    /// A point of small order, from which everybody would know the key.
    #[error("the peer's key is one with which nothing would be secret")]
    Weak,
    /// Our own message.
    #[error("our own opening came back to us in place of the peer's")]
    Reflected,
    /// Not sealed for this key, or changed on its way.
    #[error("the peer's opening is meant for another key than ours, or was changed on its way")]
    NotForUs,
    /// The library refuses to begin.
    #[error("the key exchange cannot be set up")]
    Setup(#[source] snow::Error),
}

/// Both ends have to mean the same by their messages: this is in all keys.
const PROTOCOL: &[u8] = b"tcp-punch rendezvous 1";
const SPAKE2: &str = "SPAKE2 symmetric edwards25519";
const ROOT: &str = "tcp-punch 2026-11 secrets of two peers";

/// A letter for the symmetric form, which the crate checks, then a point.
const SPAKE2_OPENING: usize = 1 + 32;

impl Exchange {
    /// Between two who have the same code. `random` has to be new for each exchange.
    pub fn by_code(code: &Code, random: [u8; 32]) -> Self {
        let random = Zeroizing::new(random);
        let password = code.password();
        let (spake, opening) = Spake2::start_symmetric_with_rng(
            &Password::new(password.as_bytes()),
            &spake2::Identity::new(PROTOCOL),
            Seed::new("tcp-punch 2026-11 scalar of an exchange by code", &random),
        );
        let state = State::Code { spake: Box::new(spake), number: code.number() };
        Self { opening: Some(opening), state }
    }

    /// Calls somebody whose key is known. `random` has to be new for each exchange.
    ///
    /// # Errors
    /// [`ExchangeError::Weak`] if that is no proper key.
    pub fn as_caller(
        ours: &Identity,
        theirs: PublicKey,
        random: [u8; 32],
    ) -> Result<Self, ExchangeError> {
        let random = Zeroizing::new(random);
        let noise = noise::handshake(PROTOCOL, ours, Some(theirs), &random);
        let mut noise = noise.map_err(ExchangeError::Setup)?;
        let opening = write(&mut noise, noise::CALL)?;
        Ok(Self { opening: Some(opening), state: State::Caller(Box::new(noise)) })
    }

    /// Is called by somebody who knows our key. `random` has to be new for each exchange.
    ///
    /// # Errors
    /// [`ExchangeError::Setup`], which no input causes.
    pub fn as_listener(ours: &Identity, random: [u8; 32]) -> Result<Self, ExchangeError> {
        let random = Zeroizing::new(random);
        let noise = noise::handshake(PROTOCOL, ours, None, &random);
        let noise = noise.map_err(ExchangeError::Setup)?;
        Ok(Self { opening: None, state: State::Listener(Box::new(noise)) })
    }

    /// Who calls us with this opening. Nobody else can have made it, but whoever carries it can
    /// have kept it and bring it again: that the caller is there shows only when the exchange is
    /// complete and its first sealed message opens.
    ///
    /// # Errors
    /// [`ExchangeError`] if this is no call of ours.
    pub fn caller(ours: &Identity, opening: &[u8]) -> Result<PublicKey, ExchangeError> {
        // Only an answer needs random numbers, and none is made.
        let noise = noise::handshake(PROTOCOL, ours, None, &[0; 32]);
        let mut noise = noise.map_err(ExchangeError::Setup)?;
        read(&mut noise, noise::CALL, opening)?;
        remote(&noise)
    }

    /// What goes to the peer. `None` for the listener, who hears the peer first.
    pub fn opening(&self) -> Option<&[u8]> {
        self.opening.as_deref()
    }

    /// Takes the peer's opening. The bytes are our own one for the peer, where it could not be
    /// made before.
    ///
    /// A listener looks at [`Secrets::peer`] before it answers: who gets no opening learns nothing.
    ///
    /// That the peer has the same code or the key it claims shows when its first sealed message
    /// opens, not here.
    ///
    /// # Errors
    /// [`ExchangeError`] if this is no opening of a peer.
    pub fn complete(self, theirs: &[u8]) -> Result<(Option<Vec<u8>>, Secrets), ExchangeError> {
        match self.state {
            State::Code { spake, number } => {
                let ours = self.opening.unwrap_or_default();
                Ok((None, by_code(*spake, number, &ours, theirs)?))
            }
            State::Caller(mut noise) => {
                read(&mut noise, noise::REPLY, theirs)?;
                Ok((None, by_noise(&mut noise, Role::Controlling)?))
            }
            State::Listener(mut noise) => {
                read(&mut noise, noise::CALL, theirs)?;
                let opening = write(&mut noise, noise::REPLY)?;
                Ok((Some(opening), by_noise(&mut noise, Role::Controlled)?))
            }
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.state {
            State::Code { .. } => "by code",
            State::Caller(_) => "as caller",
            State::Listener(_) => "as listener",
        };
        write!(f, "Exchange({kind}, secret)")
    }
}

fn by_code(
    spake: Spake2<Ed25519Group>,
    number: u32,
    ours: &[u8],
    theirs: &[u8],
) -> Result<Secrets, ExchangeError> {
    expect_length(SPAKE2_OPENING, theirs)?;
    // The order of the messages is all that tells the ends apart, and nobody draws the same scalar
    // twice.
    let (role, [low, high]) = match ours.cmp(theirs) {
        Ordering::Equal => return Err(ExchangeError::Reflected),
        Ordering::Greater => (Role::Controlling, [theirs, ours]),
        Ordering::Less => (Role::Controlled, [ours, theirs]),
    };
    expect_point(&theirs[1..])?;
    let shared = spake.finish(theirs).map_err(|_| ExchangeError::Malformed)?;
    let shared = Zeroizing::new(shared);
    let root = root(&[SPAKE2.as_bytes(), &number.to_be_bytes(), low, high, &shared]);
    Ok(Secrets::new(&root, role, None))
}

/// Whether this is a point as an honest peer sends one: in the group of prime order (RFC 9382
/// section 4), and not its neutral element. Of such a point there is one encoding: those that have
/// two have a y below 19, and none of these is in that group but the neutral element.
fn expect_point(bytes: &[u8]) -> Result<(), ExchangeError> {
    let encoded = CompressedEdwardsY::from_slice(bytes).map_err(|_| ExchangeError::Malformed)?;
    let point = encoded.decompress().ok_or(ExchangeError::Malformed)?;
    if point.is_small_order() {
        return Err(ExchangeError::Weak);
    }
    if !point.is_torsion_free() {
        return Err(ExchangeError::Malformed);
    }
    Ok(())
}

fn by_noise(noise: &mut HandshakeState, role: Role) -> Result<Secrets, ExchangeError> {
    let peer = remote(noise)?;
    let transcript = noise.get_handshake_hash().to_vec();
    let (low, high) = noise.dangerously_get_raw_split();
    let (low, high) = (Zeroizing::new(low), Zeroizing::new(high));
    let root = root(&[noise::NAME.as_bytes(), &transcript, &low[..], &high[..]]);
    Ok(Secrets::new(&root, role, Some(peer)))
}

fn remote(noise: &HandshakeState) -> Result<PublicKey, ExchangeError> {
    let key = noise.get_remote_static().and_then(|key| key.try_into().ok());
    key.map(PublicKey).ok_or(ExchangeError::Malformed)
}

/// One key from all that the ends said and know.
fn root(parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hasher = Zeroizing::new(blake3::Hasher::new_derive_key(ROOT));
    for part in [PROTOCOL].iter().chain(parts) {
        // With its length before it, no part can pass for the end of another.
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Zeroizing::new(hasher.finalize().into())
}

fn write(noise: &mut HandshakeState, length: usize) -> Result<Vec<u8>, ExchangeError> {
    let mut message = vec![0; length];
    let written = noise.write_message(&[], &mut message).map_err(refused)?;
    message.truncate(written);
    Ok(message)
}

fn read(noise: &mut HandshakeState, length: usize, message: &[u8]) -> Result<(), ExchangeError> {
    expect_length(length, message)?;
    noise.read_message(message, &mut []).map_err(refused)?;
    Ok(())
}

fn expect_length(expected: usize, opening: &[u8]) -> Result<(), ExchangeError> {
    let found = opening.len();
    if found == expected { Ok(()) } else { Err(ExchangeError::Length { found, expected }) }
}

fn refused(error: snow::Error) -> ExchangeError {
    match error {
        snow::Error::Dh => ExchangeError::Weak,
        snow::Error::Decrypt => ExchangeError::NotForUs,
        error => ExchangeError::Setup(error),
    }
}

#[cfg(test)]
mod tests;
