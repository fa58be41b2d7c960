//! Forgets what is no longer needed, in small pieces.
