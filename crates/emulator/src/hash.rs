//! Hashes for recognising texts, and hexadecimal digits.

use ring::digest;

/// Half of a SHA-256: a collision by chance needs 2^64 texts.
pub(super) type Digest = [u64; 2];

/// Half of the SHA-256 of some texts, each with its length, so that different lists of texts have different hashes.
pub(super) fn of(parts: &[&[u8]]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    let half = |range: std::ops::Range<usize>| {
        let bytes = digest.as_ref().get(range).and_then(|bytes| bytes.try_into().ok());
        u64::from_be_bytes(bytes.unwrap_or_default())
    };
    [half(0..8), half(8..16)]
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS.get(usize::from(value)).copied().unwrap_or(b'?'));
    bytes.as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
