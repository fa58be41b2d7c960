//! The one wiring file: configuration in, running parts out, drained at the end.
