//! The lines of `/proc/PID/status` (proc(5)): what the kernel says about a process.

use std::fs;

/// The lines at the time of reading.
#[derive(Debug)]
pub struct ProcessStatus(String);

impl ProcessStatus {
    /// The status of a process by its number, or of `self`; `None` if the process has ended or there is no `/proc`.
    #[must_use]
    pub fn of(process: &str) -> Option<Self> {
        fs::read_to_string(format!("/proc/{process}/status")).ok().map(Self)
    }

    /// The value of a name such as `PPid`; empty if there is no such line.
    #[must_use]
    pub fn value(&self, name: &str) -> &str {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(known, _)| *known == name).map_or("", |(_, value)| value.trim())
    }
}
