//! Any text as the emulator's world file: a world or faults, never a panic, and no line of the faults is empty.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate_emulator::check_world;

fuzz_target!(|text: &str| {
    if let Err(error) = check_world(text) {
        let faults = error.to_string();
        assert!(!faults.is_empty());
        assert!(faults.lines().all(|line| !line.is_empty()), "{faults:?}");
    }
});
