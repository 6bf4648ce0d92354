//! The window scale that this host's kernel would choose.

use std::fs;

/// The smallest shift with which the largest receive buffer fits into 16 bits, as Linux chooses it
/// (net/ipv4/tcp_output.c, tcp_select_initial_window), so that the kernel can grow the window of a
/// connection that it takes over as it grows any other's.
pub fn receive_window_scale() -> u8 {
    let largest = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        text.split_whitespace().last()?.parse::<u64>().ok()
    };
    let tcp = largest("/proc/sys/net/ipv4/tcp_rmem").unwrap_or(6 << 20);
    let core = largest("/proc/sys/net/core/rmem_max").unwrap_or(0);
    shift_for(tcp.max(core))
}

fn shift_for(space: u64) -> u8 {
    (0..14).find(|shift| space >> shift <= 0xffff).unwrap_or(14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shift_fits_the_largest_buffer_into_sixteen_bits() {
        assert_eq!(shift_for(65_535), 0);
        assert_eq!(shift_for(65_536), 1);
        assert_eq!(shift_for(6 << 20), 7);
        assert_eq!(shift_for(32 << 20), 10);
        assert_eq!(shift_for(u64::MAX), 14);
    }
}
