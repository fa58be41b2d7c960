//! Any bytes as configuration: it is loaded or there are faults, each of one line, and never a panic.
//!
//! An input has up to four sections, divided by lines of five equals signs: the operator's file, the seller's file,
//! the key file `1.pem`, and the environment as `NAME=value` lines. Without a second section there is no seller's
//! file. All files are in memory: no file of the machine is read or written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::config::{Flags, Installation, MapEnvironment, MemoryDisk, Role, load};

fuzz_target!(|input: &[u8]| {
    let mut sections = divide(input).into_iter();
    let mut disk = MemoryDisk::default().with("/fuzz/tollgate.toml", sections.next().unwrap_or_default());
    if let Some(seller) = sections.next() {
        disk = disk.with("/fuzz/seller.toml", seller);
    }
    disk = disk.with("/fuzz/keys/1.pem", sections.next().unwrap_or_default());
    let variables = String::from_utf8_lossy(sections.next().unwrap_or_default()).into_owned();
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let env: MapEnvironment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();

    let installed = Installation {
        seller_file: "/fuzz/seller.toml".into(),
        default_file: "/fuzz/tollgate.toml".into(),
        engine: None,
        emulator: true,
        disk: &disk,
    };
    match load(&Flags::default(), &env, &installed, Role::Run) {
        Ok(loaded) => assert!(!loaded.origins.is_empty()),
        Err(faults) => {
            assert!(!faults.as_slice().is_empty());
            assert!(faults.as_slice().iter().all(|fault| fault.to_string().lines().count() == 1));
            assert!(faults.summary().len() <= 512);
        }
    }
});

/// The parts of `input` between lines of five equals signs.
fn divide(input: &[u8]) -> Vec<&[u8]> {
    const DIVIDER: &[u8] = b"\n=====\n";
    let mut parts = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.windows(DIVIDER.len()).position(|window| window == DIVIDER) {
        parts.push(&rest[..at]);
        rest = &rest[at + DIVIDER.len()..];
    }
    parts.push(rest);
    parts
}
