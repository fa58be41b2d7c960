//! End-to-end tests: the whole binary against the emulator, each a process of its own, over real
//! sockets.
//!
//! No test sleeps to wait: it reads the sidecar's log until the expected line.

#![cfg(feature = "emulator")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's way to fail")]

#[path = "gate/causes.rs"]
mod causes;
#[path = "gate/commands.rs"]
mod commands;
#[path = "gate/configuration.rs"]
mod configuration;
#[path = "gate/contract.rs"]
mod contract;
#[path = "gate/credentials.rs"]
mod credentials;
#[path = "gate/doctor.rs"]
mod doctor;
#[path = "gate/exec.rs"]
mod exec;
#[path = "gate/exits.rs"]
mod exits;
#[path = "gate/faults.rs"]
mod faults;
#[path = "gate/network.rs"]
mod network;
#[path = "gate/processes.rs"]
mod processes;
#[path = "gate/restarts.rs"]
mod restarts;
#[path = "gate/round_trips.rs"]
mod round_trips;
#[path = "gate/stand_in.rs"]
mod stand_in;
#[path = "gate/story.rs"]
mod story;
#[path = "gate/support.rs"]
mod support;
#[path = "gate/waits.rs"]
mod waits;
