//! Takes events: gathers requests that wait at the same time into one commit.
