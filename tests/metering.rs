//! End-to-end tests of usage: the whole binary against the emulator, a day of hours in seconds, with kills, lost
//! answers, throttling, damaged files and full disks. They compare the emulator's bill with the acknowledged
//! usage.

#![cfg(feature = "emulator")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's way to fail")]

#[path = "metering/application.rs"]
mod application;
#[path = "metering/bench.rs"]
mod bench;
#[path = "metering/damage.rs"]
mod damage;
#[path = "metering/door.rs"]
mod door;
#[path = "metering/exec.rs"]
mod exec;
#[path = "metering/heartbeat.rs"]
mod heartbeat;
#[path = "metering/incidents.rs"]
mod incidents;
#[path = "metering/lifecycle.rs"]
mod lifecycle;
#[path = "gate/processes.rs"]
#[expect(dead_code, reason = "shared with tests/gate.rs, which uses all of it")]
mod processes;
#[path = "metering/proof.rs"]
mod proof;
#[path = "metering/repair.rs"]
mod repair;
#[path = "metering/rules.rs"]
mod rules;
#[path = "metering/semantics.rs"]
mod semantics;
#[path = "metering/unsent.rs"]
mod unsent;
