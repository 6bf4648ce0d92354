//! Noise (<https://noiseprotocol.org>, revision 34) as it is used here: which pattern, and where
//! its random numbers and its X25519 come from.

use super::seed::Seed;
use super::{Identity, PublicKey};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// IK: the caller knows whom it calls and says who it is in its first message, so that one message
/// each way is all. On-lookers do not learn who calls.
pub(super) const NAME: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";

/// An ephemeral key, a sealed static key and a sealed nothing.
pub(super) const CALL: usize = 32 + (32 + 16) + 16;
/// An ephemeral key and a sealed nothing.
pub(super) const REPLY: usize = 32 + 16;

/// The caller's side, or the listener's where nobody is called.
pub(super) fn handshake(
    protocol: &[u8],
    ours: &Identity,
    theirs: Option<PublicKey>,
    random: &[u8; 32],
) -> Result<HandshakeState, snow::Error> {
    let resolver = Resolver { random: Zeroizing::new(*random) };
    let builder = Builder::with_resolver(NAME.parse()?, Box::new(resolver))
        .prologue(protocol)?
        .local_private_key(ours.secret())?;
    match &theirs {
        Some(theirs) => builder.remote_public_key(&theirs.0)?.build_initiator(),
        None => builder.build_responder(),
    }
}

/// snow's own cryptography, except for what would draw random numbers or take a weak key.
struct Resolver {
    random: Zeroizing<[u8; 32]>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seed::new("tcp-punch 2026-11 ephemeral key of a call", &self.random)))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        (*choice == DHChoice::Curve25519).then(|| Box::new(X25519::new([0; 32])) as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// X25519 that refuses points of small order, which Noise leaves to the application (section 12.1)
/// and snow does not do, and wipes its secret.
struct X25519 {
    secret: StaticSecret,
    public: x25519_dalek::PublicKey,
}

impl X25519 {
    fn new(secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(secret);
        let public = x25519_dalek::PublicKey::from(&secret);
        Self { secret, public }
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        // snow gives what it was given: 32 bytes. Were it anything else, the handshake would fail.
        if let Ok(secret) = privkey.try_into() {
            *self = Self::new(secret);
        }
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut *secret)?;
        *self = Self::new(*secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs: &[u8; 32] = pubkey.first_chunk().ok_or(snow::Error::Dh)?;
        let shared = self.secret.diffie_hellman(&(*theirs).into());
        let out = out.first_chunk_mut().ok_or(snow::Error::Dh)?;
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        *out = shared.to_bytes();
        Ok(())
    }
}
