//! Long-lived keys: who listens, who calls, and the proof to the server that a name is one's own.

use super::PublicKey;
use data_encoding::BASE32_NOPAD;
use std::fmt;
use std::str::FromStr;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, Zeroizing};

/// A long-lived X25519 key pair.
#[derive(Clone)]
pub struct Identity(StaticSecret);

/// A question that only the holder of a key can answer. The server asks it before it lets anybody
/// listen under a name.
pub struct Challenge(StaticSecret);

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It does not begin as it should.
    #[error("it does not begin with {0}")]
    Beginning(&'static str),
    /// Too many letters or too few.
    #[error("it has {found} letters and digits after {beginning}, and should have {LETTERS}")]
    Length {
        /// So many there are.
        found: usize,
        /// What stands in front of them.
        beginning: &'static str,
    },
    /// A character that no key has.
    #[error("no key has the character `{}` (at place {place})", .character.escape_debug())]
    Character {
        /// Which.
        character: char,
        /// Counted from 1.
        place: usize,
    },
    /// The checksum is wrong.
    #[error("it is mistyped somewhere: its checksum is wrong")]
    Checksum,
    /// A point of small order: everybody would have the same secret with it.
    #[error("it is no key that anybody could have made")]
    Weak,
    /// No key in a file that should have one.
    #[error("there is no line with a key")]
    Missing,
    /// More than one key.
    #[error("there is more than one line with a key")]
    Several,
}

/// In front of a public key. The digit is a version.
const PUBLIC: &str = "tp1";
/// In front of a secret one; said in full, so that nobody takes it for the public one.
const SECRET: &str = "tcp-punch-secret-1:";

const KEY: usize = 32;
/// 24 bits: one typo in 16 million is not noticed, and with the key it makes whole letters of
/// base32 (RFC 4648), 5 bits each.
const CHECKSUM: usize = 3;
const LETTERS: usize = (KEY + CHECKSUM) * 8 / 5;

const PUBLIC_CHECKSUM: &str = "tcp-punch 2026-11 checksum of a public key";
const SECRET_CHECKSUM: &str = "tcp-punch 2026-11 checksum of a secret key";
const PROOF: &str = "tcp-punch 2026-11 answer to the challenge of a server";

impl Identity {
    /// The key pair of 32 random bytes.
    pub fn generate(random: [u8; KEY]) -> Self {
        Self(StaticSecret::from(random))
    }

    /// What others know it by.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// The text for a file that nobody else may read. The public key stands above the secret one,
    /// as a comment.
    pub fn to_text(&self) -> Zeroizing<String> {
        let secret = letters(SECRET_CHECKSUM, self.0.as_bytes());
        let public = self.public();
        Zeroizing::new(format!(
            "# Secret key of tcp-punch. Whoever has it is taken for you.\n# Public key: {public}\n{SECRET}{}\n",
            *secret
        ))
    }

    /// Answers [`Answer::Challenge`](super::Answer::Challenge).
    ///
    /// A challenge that is no proper key is answered too: what comes out then helps nobody, since
    /// no server asks for it.
    pub fn prove(&self, challenge: [u8; 32]) -> [u8; 32] {
        let shared = self.0.diffie_hellman(&challenge.into());
        proof(shared.as_bytes(), challenge, self.public())
    }

    pub(super) fn secret(&self) -> &[u8; KEY] {
        self.0.as_bytes()
    }
}

impl FromStr for Identity {
    type Err = KeyError;

    /// From the text of a file: one line with a key; empty lines and those that begin with `#` do
    /// not count.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut lines =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or(KeyError::Missing)?;
        if lines.next().is_some() {
            return Err(KeyError::Several);
        }
        let secret = key(SECRET, SECRET_CHECKSUM, line)?;
        Ok(Self(StaticSecret::from(*secret)))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(secret of {})", self.public())
    }
}

impl PublicKey {
    /// Whether it is a point of small order. Such a key has the same secret, zero, with every
    /// other (RFC 7748 section 6.1), so it is nobody's.
    pub fn is_weak(&self) -> bool {
        // Which secret is used does not matter: all are multiples of the cofactor.
        let shared = StaticSecret::from([0; KEY]).diffie_hellman(&self.0.into());
        !shared.was_contributory()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", *letters(PUBLIC_CHECKSUM, &self.0))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let key = Self(*key(PUBLIC, PUBLIC_CHECKSUM, text.trim())?);
        if key.is_weak() { Err(KeyError::Weak) } else { Ok(key) }
    }
}

impl Challenge {
    /// From 32 random bytes, fresh for each question.
    pub fn new(random: [u8; 32]) -> Self {
        Self(StaticSecret::from(random))
    }

    /// What goes to the client.
    pub fn public(&self) -> [u8; 32] {
        x25519_dalek::PublicKey::from(&self.0).to_bytes()
    }

    /// Whether this is the answer of who holds the key. It takes equally long for all answers.
    pub fn check(&self, name: PublicKey, answer: &[u8; 32]) -> bool {
        let shared = self.0.diffie_hellman(&name.0.into());
        let expected = proof(shared.as_bytes(), self.public(), name);
        // Equality of hashes takes constant time.
        let equal = blake3::Hash::from(expected) == blake3::Hash::from(*answer);
        equal & shared.was_contributory()
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenge(secret)")
    }
}

fn proof(shared: &[u8; 32], challenge: [u8; 32], name: PublicKey) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(PROOF);
    for part in [*shared, challenge, name.0] {
        hasher.update(&part);
    }
    let proof = hasher.finalize().into();
    hasher.zeroize();
    proof
}

fn checksum(context: &str, key: &[u8; KEY]) -> [u8; CHECKSUM] {
    let [first, second, third, ..] = blake3::derive_key(context, key);
    [first, second, third]
}

fn letters(context: &str, key: &[u8; KEY]) -> Zeroizing<String> {
    let bytes = Zeroizing::new([&key[..], &checksum(context, key)].concat());
    let mut text = BASE32_NOPAD.encode(&bytes);
    text.make_ascii_lowercase();
    Zeroizing::new(text)
}

fn key(
    beginning: &'static str,
    context: &str,
    text: &str,
) -> Result<Zeroizing<[u8; KEY]>, KeyError> {
    let begins = text.get(..beginning.len()).filter(|it| it.eq_ignore_ascii_case(beginning));
    let letters = &text[begins.ok_or(KeyError::Beginning(beginning))?.len()..];
    let of_base32 = |c: char| matches!(c.to_ascii_lowercase(), 'a'..='z' | '2'..='7');
    if let Some((place, character)) =
        (1..).zip(text.chars()).skip(beginning.len()).find(|(_, c)| !of_base32(*c))
    {
        return Err(KeyError::Character { character, place });
    }
    if letters.len() != LETTERS {
        return Err(KeyError::Length { found: letters.len(), beginning });
    }
    let letters = Zeroizing::new(letters.to_ascii_uppercase());
    let bytes = BASE32_NOPAD.decode(letters.as_bytes()).map_err(|_| KeyError::Checksum)?;
    let bytes = Zeroizing::new(bytes);
    let (key, sum) = bytes.split_first_chunk::<KEY>().ok_or(KeyError::Checksum)?;
    if checksum(context, key) != sum {
        return Err(KeyError::Checksum);
    }
    Ok(Zeroizing::new(*key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(byte: u8) -> Identity {
        Identity::generate([byte; 32])
    }

    fn hex(bytes: [u8; 32]) -> String {
        data_encoding::HEXLOWER.encode(&bytes)
    }

    /// As other implementations of BLAKE3 and X25519 have them.
    #[test]
    fn keys_and_proofs_are_those_of_all_releases() {
        assert_eq!(
            identity(1).public().to_string(),
            "tp1utqjfevwkhbhrolxfrlj6x5jxmj5sbvunk3izhpz3qvuicpyuie7swfj"
        );
        assert_eq!(
            identity(1).to_text().lines().last(),
            Some("tcp-punch-secret-1:aeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaea66wah")
        );
        let challenge = Challenge::new([2; 32]).public();
        assert_eq!(
            hex(identity(1).prove(challenge)),
            "0d0505d3cf83aa9add6da9afb4443e096f5040a68894e0270588b2c976cf838e"
        );
    }

    #[test]
    fn a_key_pair_comes_back_from_its_file() {
        let text = identity(1).to_text();
        assert!(text.contains(&format!("# Public key: {}\n", identity(1).public())));
        let back: Identity = text.parse().unwrap();
        assert_eq!(back.secret(), identity(1).secret());
        let edited = format!("\n  # mine\r\n{}\r\n\n", text.lines().last().unwrap());
        assert_eq!(edited.parse::<Identity>().unwrap().public(), identity(1).public());
    }

    #[test]
    fn a_file_without_exactly_one_key_is_refused() {
        let text = identity(1).to_text();
        let error = |text: &str| text.parse::<Identity>().unwrap_err();
        assert_eq!(error("# nothing\n"), KeyError::Missing);
        assert_eq!(error(&format!("{}{}", *text, *identity(2).to_text())), KeyError::Several);
        assert_eq!(error(&identity(1).public().to_string()), KeyError::Beginning(SECRET));
        assert_eq!(
            error(&text[..text.len() - 2]),
            KeyError::Length { found: 55, beginning: SECRET }
        );
    }

    #[test]
    fn a_public_key_is_read_in_either_case() {
        let key = identity(3).public();
        assert_eq!(key.to_string().to_uppercase().parse(), Ok(key));
        assert_eq!(format!(" {key}\n").parse(), Ok(key));
    }

    #[test]
    fn a_mistyped_public_key_is_told_what_is_wrong() {
        let text = identity(3).public().to_string();
        let error = |text: &str| text.parse::<PublicKey>().unwrap_err();
        assert_eq!(error(&text[3..]), KeyError::Beginning(PUBLIC));
        assert_eq!(error(""), KeyError::Beginning(PUBLIC));
        assert_eq!(error("ä"), KeyError::Beginning(PUBLIC));
        assert_eq!(error(&format!("{text}a")), KeyError::Length { found: 57, beginning: PUBLIC });
        let with_one = format!("{}1{}", &text[..9], &text[10..]);
        assert_eq!(error(&with_one), KeyError::Character { character: '1', place: 10 });
        assert_eq!(error(&with_one).to_string(), "no key has the character `1` (at place 10)");
        assert_eq!(error(&format!("tp1ß{text}")), KeyError::Character { character: 'ß', place: 4 });
    }

    /// 0 and 1, and the points of order 8 (RFC 7748 section 7; curve25519's cofactor is 8).
    fn weak() -> Vec<PublicKey> {
        let points = &curve25519_dalek::constants::EIGHT_TORSION;
        points.iter().map(|point| PublicKey(point.to_montgomery().to_bytes())).collect()
    }

    #[test]
    fn a_point_of_small_order_is_nobodys_key() {
        for key in weak() {
            assert!(key.is_weak());
            assert_eq!(key.to_string().parse::<PublicKey>(), Err(KeyError::Weak));
        }
        assert!(!identity(1).public().is_weak());
    }

    #[test]
    fn who_has_the_key_proves_it() {
        let challenge = Challenge::new([9; 32]);
        let answer = identity(1).prove(challenge.public());
        assert!(challenge.check(identity(1).public(), &answer));
    }

    #[test]
    fn an_answer_serves_for_one_challenge_and_one_name() {
        let challenge = Challenge::new([9; 32]);
        let answer = identity(1).prove(challenge.public());
        assert!(!challenge.check(identity(2).public(), &answer));
        assert!(!challenge.check(identity(1).public(), &identity(2).prove(challenge.public())));
        assert!(!Challenge::new([8; 32]).check(identity(1).public(), &answer));
        let mut changed = answer;
        changed[31] ^= 1;
        assert!(!challenge.check(identity(1).public(), &changed));
    }

    /// Its secret is zero with every challenge, so anybody could answer.
    #[test]
    fn nobody_proves_a_name_of_small_order() {
        let challenge = Challenge::new([9; 32]);
        for name in weak() {
            let answer = proof(&[0; 32], challenge.public(), name);
            assert!(!challenge.check(name, &answer));
        }
    }

    #[test]
    fn nothing_secret_shows_in_debug() {
        let public = identity(1).public();
        assert_eq!(format!("{:?}", identity(1)), format!("Identity(secret of {public})"));
        assert_eq!(format!("{:?}", Challenge::new([1; 32])), "Challenge(secret)");
    }

    proptest! {
        #[test]
        fn another_letter_is_noticed(place in 3_usize..59, letter in "[a-z2-7]") {
            let text = identity(3).public().to_string();
            let changed = format!("{}{letter}{}", &text[..place], &text[place + 1..]);
            prop_assert_eq!(changed.parse::<PublicKey>().is_ok(), changed == text);
        }

        #[test]
        fn no_text_panics(text in "(tp1|tcp-punch-secret-1:)?.{0,70}") {
            let _ = text.parse::<PublicKey>();
            let _ = text.parse::<Identity>();
        }
    }
}
