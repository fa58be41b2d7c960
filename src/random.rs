//! Random values from the system's source.

use ring::rand::{SecureRandom as _, SystemRandom};

use tollgate_marketplace::schedule::Draw;

/// New random bytes; `None` if the system provides none.
#[must_use]
pub fn bytes<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// A random draw to spread retries; without entropy the middle of the range is used.
#[must_use]
pub fn draw() -> Draw {
    bytes().map_or(Draw::MIDDLE, |bytes| Draw::from_bits(u64::from_ne_bytes(bytes)))
}
