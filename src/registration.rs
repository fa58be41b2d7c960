//! The registration loop: performs what `machine` decides.
