//! The resources of this process, as the kernel counts them.

use std::{fs, io};

/// Returns the resident memory in bytes.
///
/// # Errors
///
/// Fails if the kernel does not state the memory.
pub fn memory() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| 1024 * kibibytes)
        .ok_or_else(|| io::Error::other("no memory in /proc/self/status"))
}

/// Returns the number of open files.
///
/// # Errors
///
/// Fails if the kernel does not list them.
pub fn open_files() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}
