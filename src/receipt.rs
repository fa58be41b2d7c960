//! Verification of a RegisterUsage signature: token, key, nonce and product in, `Receipt` out.
