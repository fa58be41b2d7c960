//! What is drawn from the system's random source.

use ring::rand::{SecureRandom as _, SystemRandom};

use tollgate_marketplace::schedule::Draw;

/// New ones on each call; `None` where the system has none to give.
#[must_use]
pub fn bytes<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// A draw only spreads retries: without entropy the middle of the range will do.
#[must_use]
pub fn draw() -> Draw {
    bytes().map_or(Draw::MIDDLE, |bytes| Draw::from_bits(u64::from_ne_bytes(bytes)))
}
