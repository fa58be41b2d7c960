//! Valid configuration: each part of the program gets its own piece of it, never the whole.
