//! The application server.
