//! `tollgate install DIR`: copies this program there, for images that have no `cp`.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::complain;
use crate::config::OWN_PROGRAM;
use crate::exit::Exit;

/// Arguments of `install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// An existing folder, such as a volume shared with another container
    dir: PathBuf,
}

/// Copies atomically: a reader sees no file, the old one, or the whole new one.
pub fn run(args: &InstallArgs) -> Exit {
    match install(&args.dir) {
        Ok(()) => Exit::Done,
        Err(error) => complain(
            Exit::Config,
            &format!(
                "cannot install into {}: {error}; give an existing folder that may be written",
                args.dir.display()
            ),
        ),
    }
}

fn install(dir: &Path) -> io::Result<()> {
    let temporary = dir.join(".tollgate.new");
    let result = copy(&temporary).and_then(|()| fs::rename(&temporary, dir.join("tollgate")));
    if result.is_err() {
        // No partial file is left; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    result?;
    File::open(dir)?.sync_all()
}

fn copy(to: &Path) -> io::Result<()> {
    let mut from = File::open(OWN_PROGRAM)?;
    // Created as new: in a volume that others can write to, an existing file may be a link to another place.
    let _ = fs::remove_file(to);
    let mut file = File::create_new(to)?;
    io::copy(&mut from, &mut file)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}
