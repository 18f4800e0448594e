//! Who holds the package manager's lock.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `process 4137 (unattended-upgr)`: the first process that holds a lock on one of `files`, as far
/// as this can be seen.
pub fn holder(files: &[PathBuf]) -> Option<String> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let mut holders = files.iter().filter_map(|file| {
        let metadata = fs::metadata(file).ok()?;
        holder_in(&locks, metadata.dev(), metadata.ino())
    });
    let pid = holders.next()?;
    let program = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"));
    Some(match program {
        Ok(program) => format!("process {pid} ({})", program.trim()),
        Err(_) => format!("process {pid}"),
    })
}

/// Lines of /proc/locks: `1: POSIX  ADVISORY  WRITE 4137 08:01:1234 0 EOF`. Those of processes that
/// wait have an arrow.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let place = format!(
        "{:02x}:{:02x}:{inode}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words {
            [_, _, _, _, pid, at, ..] if at == place => pid.parse().ok().filter(|pid| *pid > 0),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 4137 08:01:1234 0 EOF\n\
                     1: -> POSIX  ADVISORY  WRITE 99 08:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 0 08:01:77 0 EOF\n";
        let device = rustix::fs::makedev(8, 1);
        assert_eq!(holder_in(locks, device, 1234), Some(4137));
        for (device, inode) in [(device, 123), (device, 77), (rustix::fs::makedev(8, 2), 1234)] {
            assert_eq!(holder_in(locks, device, inode), None, "{inode}");
        }
    }
}
