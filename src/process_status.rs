//! What the kernel tells of a process: the lines of `/proc/PID/status` (proc(5)).

use std::fs;

/// The lines, as they were when they were read.
#[derive(Debug)]
pub struct ProcessStatus(String);

impl ProcessStatus {
    /// Of a process by its number, or of `self`; `None` where it has ended or there is no `/proc`.
    #[must_use]
    pub fn of(process: &str) -> Option<Self> {
        fs::read_to_string(format!("/proc/{process}/status")).ok().map(Self)
    }

    /// What stands behind a name such as `PPid`; nothing where there is no such line.
    #[must_use]
    pub fn value(&self, name: &str) -> &str {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(known, _)| *known == name).map_or("", |(_, value)| value.trim())
    }
}
