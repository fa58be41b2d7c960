//! `ledger_url_file`: a ledger that several replicas share.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use tollgate_clock::WallClock;
use tollgate_ledger::LedgerSettings;
use tollgate_ledger::engine::{Examined, MoveFuture};
use tollgate_ledger::store::{Store, StoreFuture, View};
use tollgate_ledger::writer::Observer;
use tollgate_marketplace::service::BoxFuture;

/// Judges URLs, and does nothing else.
#[derive(Debug)]
struct Judge;

impl Engine for Judge {
    fn check_url(&self, url: &str) -> Result<(), String> {
        if url.starts_with("postgres://") { Ok(()) } else { Err("holds no URL of a ledger".to_owned()) }
    }

    fn open(&self, _: PathBuf, _: LedgerSettings, _: WallClock, _: Box<dyn Observer>) -> Arc<dyn Store> {
        unreachable!("the configuration opens no ledger")
    }

    fn look(&self, _: PathBuf, _: Option<LedgerSettings>) -> StoreFuture<'_, Box<dyn View>> {
        unreachable!("the configuration opens no ledger")
    }

    fn examine(&self, _: PathBuf, _: LedgerSettings) -> BoxFuture<'_, Vec<Examined>> {
        unreachable!("the configuration opens no ledger")
    }

    fn take_over<'a>(&'a self, _: PathBuf, _: String, _: &'a mut dyn FnMut(String)) -> MoveFuture<'a> {
        unreachable!("the configuration opens no ledger")
    }
}

const URL: &str = "postgres://app:the-password@db/ledger\n";

fn case(mode: &str) -> Case {
    let case = Case::empty()
        .env("TOLLGATE_PRODUCT_CODE", "demo")
        .env("TOLLGATE_MODE", mode)
        .env("TOLLGATE_DIMENSIONS", "requests")
        .env("TOLLGATE_LEDGER_URL_FILE", "/url")
        .disk("/url", URL);
    Case { engine: Some(&Judge), ..case }
}

#[test]
fn a_shared_ledger_needs_no_state_folder() {
    let config = case("saas").read_only("/var/lib/tollgate").valid();
    assert_eq!((config.state.url_file, config.state.dir), (Some("/url".into()), StateDir::None));
    assert_eq!(case("saas").read_only("/var/lib/tollgate").warnings(), Vec::<String>::new());
}

#[test]
fn settings_of_a_ledger_in_a_file_are_named_as_without_effect() {
    let case =
        case("saas").env("TOLLGATE_SEAL_ON_SHUTDOWN", "false").env("TOLLGATE_LEDGER_BYTES_MAX", "1GiB");
    let warnings = case.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].starts_with("seal_on_shutdown (") && warnings[0].contains("ledger_url_file"),
        "{warnings:?}"
    );
}

#[test]
fn the_sidecar_says_which_program_has_it() {
    let faults = Case { engine: None, ..case("saas") }.faults();
    assert!(
        faults.contains("ledger_url_file = \"/url\"") && faults.contains("run tollgate-saas"),
        "{faults}"
    );
}

#[test]
fn a_file_that_holds_no_url_is_a_fault_that_shows_nothing_of_it() {
    for (content, expected) in
        [("mysql://app:the-password@db/x", "holds no URL of a ledger"), ("", "holds no")]
    {
        let faults = case("saas").disk("/url", content).faults();
        assert!(faults.contains(expected) && !faults.contains("the-password"), "{faults}");
    }
    let absent = case("saas").env("TOLLGATE_LEDGER_URL_FILE", "/none").faults();
    assert!(
        absent.contains("cannot be read") && absent.contains("postgres://user:password@host"),
        "{absent}"
    );
    let pasted = case("saas").env("TOLLGATE_LEDGER_URL_FILE", URL.trim()).faults();
    assert!(!pasted.contains("the-password"), "{pasted}");
}

#[test]
fn elsewhere_it_has_no_effect() {
    for engine in [None, Some(&Judge as &'static dyn Engine)] {
        let loaded = Case { engine, ..case("metered") }.load().unwrap();
        assert_eq!((loaded.config.state.url_file, loaded.warnings.len()), (None, 1), "{:?}", loaded.warnings);
        assert!(loaded.config.state.dir.path().is_some());
    }
}
