//! The hyper shell that both servers share: limits, accept, drain.
