//! Internet checksums, whole (RFC 1071) and corrected (RFC 1624).

/// A ones' complement sum of words, or of what changes in one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let words = bytes.chunks(2);
        self.0 += words
            .map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |it| (*it).into()))
            .sum::<u64>();
    }

    /// The complement of each word stands for its opposite.
    pub(crate) fn take_away(&mut self, bytes: &[u8]) {
        let words = bytes.chunks_exact(2);
        self.0 += words.map(|word| u64::from(!u16::from_be_bytes([word[0], word[1]]))).sum::<u64>();
    }

    pub(crate) fn replace(&mut self, bytes: &mut [u8], at: usize, by: &[u8]) {
        let old = &mut bytes[at..at + by.len()];
        self.take_away(old);
        self.add(by);
        old.copy_from_slice(by);
    }

    fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    pub(crate) fn checksum(self) -> [u8; 2] {
        (!self.folded()).to_be_bytes()
    }

    /// RFC 1624 equation 3: HC' = ~(~HC + ~m + m').
    pub(crate) fn apply(self, bytes: &mut [u8], at: usize) {
        let all = Self(self.0 + u64::from(!u16::from_be_bytes([bytes[at], bytes[at + 1]])));
        bytes[at..at + 2].copy_from_slice(&all.checksum());
    }
}
