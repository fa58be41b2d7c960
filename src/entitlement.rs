//! The published fact: is the gate open, and why.
