//! The code that two people tell each other: `7-guitar-umbrella`.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A number, under which the server has two peers meet, and two words that it never learns.
///
/// The words are drawn from 1,295: 1,677,025 pairs, 20.7 bits. That is enough since a guess can
/// only be tried by taking the peer's place at the server, once: the key exchange tells nothing
/// that could be tried later, and the place is gone after it. One attempt in 1.7 million gets
/// through, and every other one is seen by the people it hits.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Code {
    number: u32,
    /// Their places in the list.
    words: [usize; 2],
}

/// Why a text is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Nothing.
    #[error("the code is empty; a code looks like 7-guitar-umbrella")]
    Empty,
    /// Longer than any code, so it is not even read.
    #[error("{0} bytes are no code; a code looks like 7-guitar-umbrella")]
    TooLong(usize),
    /// It does not begin with a number.
    #[error("a code begins with its number, as in 7-guitar-umbrella, and not with `{0}`")]
    NoNumber(String),
    /// Not two words.
    #[error("a code has two words after its number, as in 7-guitar-umbrella, and not {0}")]
    WordCount(usize),
    /// A word that is not on the list.
    #[error("no code has the word `{word}`; is it `{nearest}`?")]
    UnknownWord {
        /// As it was typed.
        word: String,
        /// The word on the list that looks most like it.
        nearest: &'static str,
    },
}

/// The most bytes of text that are looked at. The longest code has 10 digits and two words of 12
/// letters.
const LONGEST: usize = 100;

/// The word of the list that holds a dash, which separates words here.
const DASHED: &str = "yo-yo";

/// The EFF's short list 2 of 2016 (<https://www.eff.org/dice>, CC BY 3.0 US), sorted: any three
/// letters begin one word at most, and any two words differ in three letters at least, so that a
/// slip of the finger is no other word.
fn listed() -> &'static [&'static str] {
    &diceware_wordlists::EFF_SHORT_WORDLIST_2_0
}

impl Code {
    /// With two words that `random` chooses.
    pub fn new(number: u32, random: [u8; 32]) -> Self {
        let random = Zeroizing::new(random);
        let (first, second) = random.split_at(16);
        Self { number, words: [first, second].map(drawn) }
    }

    /// The place at the server.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What the key exchange takes for the password.
    pub(super) fn password(&self) -> Zeroizing<String> {
        Zeroizing::new(self.to_string())
    }
}

/// Any place on the list but that of the dashed word. Of a number of 128 bits the remainder is
/// taken: none is likelier than another by more than 2^-117.
fn drawn(bytes: &[u8]) -> usize {
    let choices = listed().len() - 1;
    let at = bytes.iter().fold(0, |rest, byte| (rest * 256 + usize::from(*byte)) % choices);
    let (Ok(dashed) | Err(dashed)) = listed().binary_search(&DASHED);
    at + usize::from(at >= dashed)
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.words.map(|at| listed()[at]);
        write!(f, "{}-{first}-{second}", self.number)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}-secret)", self.number)
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        if text.len() > LONGEST {
            return Err(CodeError::TooLong(text.len()));
        }
        let text = Zeroizing::new(text.to_lowercase());
        let mut parts = text.split(separates).filter(|part| !part.is_empty());
        let number = parts.next().ok_or(CodeError::Empty)?;
        // Without a sign, which `parse` would take.
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number
            .parse()
            .ok()
            .filter(|_| digits)
            .ok_or_else(|| CodeError::NoNumber(shown(number)))?;
        let words: Vec<&str> = parts.collect();
        let [first, second] = words[..] else { return Err(CodeError::WordCount(words.len())) };
        Ok(Self { number, words: [place(first)?, place(second)?] })
    }
}

/// A dash, or what people and their programs put in its place: typographers make a dash of a
/// hyphen.
fn separates(c: char) -> bool {
    matches!(c, '-' | '_' | '\u{2010}'..='\u{2015}' | '\u{2212}') || c.is_whitespace()
}

fn place(word: &str) -> Result<usize, CodeError> {
    let unknown = |_| CodeError::UnknownWord { word: shown(word), nearest: nearest(word) };
    listed().binary_search(&word).map_err(unknown)
}

fn nearest(word: &str) -> &'static str {
    let words = listed().iter().filter(|listed| **listed != DASHED);
    let nearest = words.min_by_key(|listed| {
        // Half a word is the beginning of one, and of two that are equally near the one is meant
        // that begins alike.
        let alike = listed.bytes().zip(word.bytes()).take_while(|(a, b)| a == b).count();
        (alike < word.len(), strsim::osa_distance(listed, word), Reverse(alike))
    });
    nearest.copied().unwrap_or_default()
}

/// For a terminal: what is no letter may do something there.
fn shown(word: &str) -> String {
    word.escape_debug().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn code(text: &str) -> Code {
        text.parse().unwrap()
    }

    fn error(text: &str) -> String {
        text.parse::<Code>().unwrap_err().to_string()
    }

    /// Both ends have to have the same words, whichever release they are.
    #[test]
    fn the_list_is_the_one_that_all_releases_have() {
        let hash = blake3::hash(listed().join("\n").as_bytes());
        assert_eq!(hash.to_hex()[..16], *"cea44039ef38f4c8");
        assert_eq!(listed().len(), 1296);
        assert!(listed().is_sorted(), "words are looked up by halving");
        assert!(listed().iter().all(|word| word.is_ascii() && word.len() <= 13));
    }

    #[test]
    fn three_letters_tell_words_apart() {
        let beginnings: HashSet<_> = listed().iter().map(|word| &word[..3]).collect();
        assert_eq!(beginnings.len(), listed().len());
    }

    #[test]
    fn a_code_is_read_however_people_write_it() {
        let expected = code("7-guitar-umbrella");
        for text in [
            "7-Guitar-UMBRELLA",
            " 7 guitar umbrella\n",
            "7_guitar_umbrella",
            "7 - guitar - umbrella",
            "07-guitar-umbrella",
            "7–guitar—umbrella",
            "7\tguitar\u{a0}umbrella-",
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text:?}");
        }
        assert_eq!(expected.to_string(), "7-guitar-umbrella");
        assert_eq!(expected.number(), 7);
    }

    #[test]
    fn a_mistyped_code_is_told_what_is_wrong() {
        assert_eq!(error("7-guitr-umbrella"), "no code has the word `guitr`; is it `guitar`?");
        assert_eq!(
            error("7-guitar-umberlla"),
            "no code has the word `umberlla`; is it `umbrella`?"
        );
        assert_eq!(error("7-umb-guitar"), "no code has the word `umb`; is it `umbrella`?");
        assert!(error("guitar-umbrella").contains("not with `guitar`"));
        assert!(error("+7-guitar-umbrella").contains("not with `+7`"));
        assert!(error("4294967296-guitar-umbrella").contains("not with `4294967296`"));
        assert!(error("7-guitar").ends_with("and not 1"));
        assert!(error("7").ends_with("and not 0"));
        assert!(error("7-guitar-umbrella-vixen").ends_with("and not 3"));
        assert!(error(" - ").starts_with("the code is empty"));
        assert!(error(&"guitar-".repeat(100)).starts_with("700 bytes"));
        assert!(error("7-\u{1b}[2J-umbrella").contains(r"`\u{1b}[2j`"), "a terminal is safe");
    }

    #[test]
    fn the_order_of_the_words_counts() {
        assert_ne!(code("7-guitar-umbrella"), code("7-umbrella-guitar"));
    }

    #[test]
    fn every_word_but_the_dashed_one_is_drawn_and_read_back() {
        let mut drawn = HashSet::new();
        for round in 0_u32..12_000 {
            let made = Code::new(round, *blake3::hash(&round.to_be_bytes()).as_bytes());
            assert_eq!(code(&made.to_string()), made);
            drawn.extend(made.words);
        }
        assert_eq!(drawn.len(), 1295);
    }

    #[test]
    fn the_words_do_not_show_in_debug() {
        assert_eq!(format!("{:?}", code("7-guitar-umbrella")), "Code(7-secret)");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,120}") {
            let _ = text.parse::<Code>();
        }
    }
}
