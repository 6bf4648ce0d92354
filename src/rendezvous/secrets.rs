//! What two peers hold once they have exchanged keys.

use super::{MAX_FRAME, PublicKey};
use crate::punch::Key;
use chacha20poly1305::aead::generic_array::GenericArray;
use chacha20poly1305::{AeadInPlace, ChaCha20Poly1305, KeyInit};
use std::fmt;
use zeroize::Zeroizing;

/// Which end decides where both have to do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Decides.
    Controlling,
    /// Follows.
    Controlled,
}

impl Role {
    /// The peer's.
    pub fn other(self) -> Self {
        match self {
            Self::Controlling => Self::Controlled,
            Self::Controlled => Self::Controlling,
        }
    }

    /// Which key it seals with, and how it stands in a proof.
    fn name(self) -> &'static str {
        match self {
            Self::Controlling => "controlling",
            Self::Controlled => "controlled",
        }
    }
}

/// All that two peers share after a key exchange, and nobody else knows.
///
/// Whether the peer has the same is sure as soon as its first sealed message opens: a wrong code
/// makes other secrets, and so does an exchange that somebody meddled with.
pub struct Secrets {
    role: Role,
    peer: Option<PublicKey>,
    sealing: Direction,
    opening: Direction,
    punch: Zeroizing<[u8; 32]>,
    proof: Zeroizing<[u8; 32]>,
}

/// The messages one way. The cipher wipes its key when it goes.
struct Direction {
    cipher: ChaCha20Poly1305,
    /// The number of the next message, which is its nonce.
    next: u64,
}

/// A sealed message does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a sealed message does not open: the other end has another code or key, or the message was changed on its way"
)]
pub struct NotSealed;

const CONTROLLING_SEALS: &str = "tcp-punch 2026-11 sealing key of the controlling end";
const CONTROLLED_SEALS: &str = "tcp-punch 2026-11 sealing key of the controlled end";
const PUNCH: &str = "tcp-punch 2026-11 key of the sequence numbers";
const PROOF: &str = "tcp-punch 2026-11 key of the proofs on a connection";

/// Of Poly1305 (RFC 8439 section 2.5).
const TAG: usize = 16;
/// What [`Request::Relay`](super::Request::Relay) puts around a sealed message: one byte for which
/// request it is, two for the length.
const AROUND: usize = 3;

impl Secrets {
    /// The longest message that fits a frame when it is sealed. Longer ones do not open.
    pub const MAX_PLAIN: usize = MAX_FRAME - AROUND - TAG;

    /// From what the exchange made, which has to be uniformly random and to depend on every byte
    /// that was exchanged.
    pub(super) fn new(root: &[u8; 32], role: Role, peer: Option<PublicKey>) -> Self {
        let derived = |context| Zeroizing::new(blake3::derive_key(context, root));
        let direction = |of| {
            let key = derived(match of {
                Role::Controlling => CONTROLLING_SEALS,
                Role::Controlled => CONTROLLED_SEALS,
            });
            Direction { cipher: ChaCha20Poly1305::new(GenericArray::from_slice(&*key)), next: 0 }
        };
        Self {
            role,
            peer,
            sealing: direction(role),
            opening: direction(role.other()),
            punch: derived(PUNCH),
            proof: derived(PROOF),
        }
    }

    /// This end's role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whose key the peer has, where long-lived keys were used. For the end that was called it is
    /// a claim until a message opens: an old call can be repeated by anybody, who gets nothing out
    /// of it.
    pub fn peer(&self) -> Option<PublicKey> {
        self.peer
    }

    /// Seals the next message to the peer; it becomes 16 bytes longer. The peer opens messages in
    /// the order in which they were sealed, each once.
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(plain.len() + TAG);
        sealed.extend_from_slice(plain);
        let Direction { cipher, .. } = &self.sealing;
        let nonce = self.sealing.nonce();
        match cipher.encrypt_in_place_detached(&nonce, &[], &mut sealed) {
            Ok(tag) => sealed.extend_from_slice(&tag),
            // Above 256 GiB. Nothing leaves unsealed.
            Err(_) => sealed.clear(),
        }
        self.sealing.next += 1;
        sealed
    }

    /// Opens the next message from the peer.
    ///
    /// # Errors
    /// [`NotSealed`] if it is not what the peer sealed next. The secrets remain as they were.
    pub fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, NotSealed> {
        let (text, tag) = sealed.split_last_chunk::<TAG>().ok_or(NotSealed)?;
        if text.len() > Self::MAX_PLAIN {
            return Err(NotSealed);
        }
        let mut plain = text.to_vec();
        let nonce = self.opening.nonce();
        self.opening
            .cipher
            .decrypt_in_place_detached(&nonce, &[], &mut plain, GenericArray::from_slice(tag))
            .map_err(|_| NotSealed)?;
        self.opening.next += 1;
        Ok(plain)
    }

    /// The key of the punch, the same at both ends.
    pub fn punch_key(&self) -> Key {
        Key::from_bytes(*self.punch)
    }

    /// What the end of this role says on a connection to show who it is. `about` tells connections
    /// apart, so that what is said on one says nothing on another.
    pub fn proof(&self, of: Role, about: &[u8]) -> [u8; 32] {
        self.proof_hash(of, about).into()
    }

    /// Whether `proof` is the one of that end. It takes equally long for all.
    pub fn verify_proof(&self, of: Role, about: &[u8], proof: &[u8; 32]) -> bool {
        // Equality of hashes takes constant time.
        self.proof_hash(of, about) == blake3::Hash::from(*proof)
    }

    fn proof_hash(&self, of: Role, about: &[u8]) -> blake3::Hash {
        let mut hasher = Zeroizing::new(blake3::Hasher::new_keyed(&self.proof));
        hasher.update(of.name().as_bytes());
        // No role's name has a zero byte: where it ends is clear.
        hasher.update(&[0]);
        hasher.update(about);
        hasher.finalize()
    }
}

impl Direction {
    /// As Noise makes it (revision 34, section 12.3).
    fn nonce(&self) -> chacha20poly1305::Nonce {
        let mut nonce = chacha20poly1305::Nonce::default();
        nonce[4..].copy_from_slice(&self.next.to_le_bytes());
        nonce
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (Secrets, Secrets) {
        let of = |role| Secrets::new(&[7; 32], role, None);
        (of(Role::Controlling), of(Role::Controlled))
    }

    fn hex(bytes: &[u8]) -> String {
        data_encoding::HEXLOWER.encode(bytes)
    }

    /// As other implementations of BLAKE3 and RFC 8439 have it.
    #[test]
    fn what_is_derived_is_the_same_in_all_releases() {
        let (mut controlling, mut controlled) = pair();
        assert_eq!(
            hex(&controlling.seal(b"report")),
            "ccfbfc75611eb9c2e4fa1876da9816aef08df0742818"
        );
        assert_eq!(
            hex(&controlling.seal(b"report")),
            "ef43d00eafbf3756c952bd7fa367ebeec2ad8165c3e3"
        );
        assert_eq!(
            hex(&controlled.seal(b"report")),
            "122a599c7edc0a93b89cec4da00fd1715af5007e7217"
        );
        assert_eq!(
            hex(&controlling.proof(Role::Controlling, b"about")),
            "5072ddbdf658e1412b55694371eef34535350562804406dc851f2a7a88f7992d"
        );
        assert_eq!(
            hex(&controlling.proof(Role::Controlled, b"about")),
            "7f8f62e9fc5d777951e41f970fed3c7abb7e8003a79e49a473a80b4ba8d3164b"
        );
        let at = crate::wire::WallTime::from_unix_ns(0);
        assert_eq!(controlled.punch_key().iss(at).0, 1198542087);
    }

    #[test]
    fn messages_open_at_the_other_end_in_their_order() {
        let (mut a, mut b) = pair();
        for round in 0..3 {
            let (there, back) = (a.seal(&[round; 40]), b.seal(&[round; 50]));
            assert_eq!(there.len(), 56);
            assert_eq!(b.open(&there), Ok(vec![round; 40]));
            assert_eq!(a.open(&back), Ok(vec![round; 50]));
        }
        let empty = a.seal(&[]);
        assert_eq!(b.open(&empty), Ok(vec![]));
    }

    #[test]
    fn a_repeated_message_does_not_open() {
        let (mut a, mut b) = pair();
        let sealed = a.seal(b"once");
        assert!(b.open(&sealed).is_ok());
        assert_eq!(b.open(&sealed), Err(NotSealed));
    }

    #[test]
    fn messages_out_of_order_do_not_open() {
        let (mut a, mut b) = pair();
        let (first, second) = (a.seal(b"first"), a.seal(b"second"));
        assert_eq!(b.open(&second), Err(NotSealed));
        assert_eq!(b.open(&first), Ok(b"first".to_vec()), "an error leaves all as it was");
        assert_eq!(b.open(&second), Ok(b"second".to_vec()));
    }

    #[test]
    fn our_own_message_does_not_open() {
        let (mut a, mut b) = pair();
        let sealed = a.seal(b"mine");
        assert_eq!(a.open(&sealed), Err(NotSealed));
        let sealed = b.seal(b"mine");
        assert_eq!(b.open(&sealed), Err(NotSealed));
    }

    #[test]
    fn a_message_cut_anywhere_does_not_open() {
        let (mut a, mut b) = pair();
        let sealed = a.seal(b"whole");
        for length in 0..sealed.len() {
            assert_eq!(b.open(&sealed[..length]), Err(NotSealed));
            assert_eq!(b.open(&sealed[sealed.len() - length..]), Err(NotSealed));
        }
        assert!(b.open(&sealed).is_ok());
    }

    #[test]
    fn the_longest_message_fills_a_frame_and_a_longer_one_does_not_open() {
        let (mut a, mut b) = pair();
        let sealed = a.seal(&[1; Secrets::MAX_PLAIN]);
        let framed =
            crate::rendezvous::frame(&super::super::Request::Relay(sealed.clone())).unwrap();
        assert_eq!(framed.len(), 2 + MAX_FRAME);
        assert_eq!(b.open(&sealed), Ok(vec![1; Secrets::MAX_PLAIN]));
        let sealed = a.seal(&[1; Secrets::MAX_PLAIN + 1]);
        assert_eq!(b.open(&sealed), Err(NotSealed));
    }

    #[test]
    fn a_proof_is_of_one_end_about_one_thing() {
        let (a, b) = pair();
        let proof = a.proof(Role::Controlling, b"this connection");
        assert!(b.verify_proof(Role::Controlling, b"this connection", &proof));
        assert!(!b.verify_proof(Role::Controlled, b"this connection", &proof));
        assert!(!b.verify_proof(Role::Controlling, b"that connection", &proof));
        let stranger = Secrets::new(&[8; 32], Role::Controlled, None);
        assert!(!stranger.verify_proof(Role::Controlling, b"this connection", &proof));
        let mut changed = proof;
        changed[0] ^= 0x80;
        assert!(!b.verify_proof(Role::Controlling, b"this connection", &changed));
    }

    #[test]
    fn both_ends_punch_with_one_key() {
        let (a, b) = pair();
        assert!(a.punch_key() == b.punch_key());
        assert!(a.punch_key() != Secrets::new(&[8; 32], Role::Controlling, None).punch_key());
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        assert_eq!(format!("{:?}", pair().0), "Secrets(secret)");
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_noticed(plain in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let (mut a, mut b) = pair();
            let mut sealed = a.seal(&plain);
            let at = at.index(sealed.len());
            sealed[at] ^= 1_u8 << bit;
            prop_assert_eq!(b.open(&sealed), Err(NotSealed));
        }

        #[test]
        fn noise_does_not_open(noise in prop::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert_eq!(pair().0.open(&noise), Err(NotSealed));
        }
    }
}
