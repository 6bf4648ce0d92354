//! Random numbers where a caller gave only a seed: this room draws none itself.

use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroize;

/// As many random bytes as anybody asks for, from 32 that nobody else knows.
pub(super) struct Seed(blake3::OutputReader);

impl Seed {
    /// `purpose` keeps what is drawn here apart from what the same seed gives elsewhere.
    pub(super) fn new(purpose: &str, random: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(purpose);
        hasher.update(random);
        let reader = hasher.finalize_xof();
        hasher.zeroize();
        Self(reader)
    }
}

impl RngCore for Seed {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

impl CryptoRng for Seed {}

impl snow::types::Random for Seed {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
