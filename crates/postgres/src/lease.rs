//! The lease: which replica seals and sends.
