//! The dependencies between the crates of the workspace, by `cargo metadata`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A crate that a `Cargo.toml` names, except for tests.
pub(crate) struct Need {
    /// The `Cargo.toml`, below the root: `crates/http/Cargo.toml`.
    pub(crate) manifest: String,
    /// Its name in a path: `tollgate_http`.
    pub(crate) to: String,
    pub(crate) optional: bool,
}

/// The output of `cargo metadata` for the workspace at `root`.
pub(crate) fn metadata(root: &Path) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root);
    let output = cargo.output().expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// Reads that text; empty if it is no such text.
pub(crate) fn needs(metadata: &str) -> Vec<Need> {
    let metadata: Value = serde_json::from_str(metadata).unwrap_or_default();
    let mut needs = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let manifest = manifest.rfind("crates/").map_or("Cargo.toml", |at| &manifest[at..]);
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        needs.extend(dependencies.filter(|needed| needed["kind"] != "dev").map(|needed| Need {
            manifest: manifest.to_owned(),
            to: needed["name"].as_str().unwrap_or_default().replace('-', "_"),
            optional: needed["optional"] == true,
        }));
    }
    needs
}
