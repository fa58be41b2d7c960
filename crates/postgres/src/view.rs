//! Reading, for people.
