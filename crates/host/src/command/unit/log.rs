//! The output of a child in a unit of its own: two files, read when it has ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// In memory, and lost with a reboot, as the units are.
const FOLDER: &str = "/run/hostagent";
/// A file that takes more space than this many times the cap is cut.
const SLACK: u64 = 16;

pub(super) struct Logs {
    /// stdout and stderr.
    paths: [PathBuf; 2],
    cap: usize,
}

impl Logs {
    /// Of a unit that another process has started.
    pub fn of(unit: &str) -> Self {
        Self::new(Path::new(FOLDER), unit, 64 * 1024)
    }

    fn new(folder: &Path, unit: &str, cap: usize) -> Self {
        let path = |stream: &str| folder.join(format!("{unit}.{stream}"));
        Self {
            paths: [path("stdout"), path("stderr")],
            cap,
        }
    }

    /// `cap`: how many bytes of each are kept.
    pub fn create(unit: &str, cap: usize) -> io::Result<Self> {
        let folder = Path::new(FOLDER);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let logs = Self::new(folder, unit, cap);
        logs.open()?;
        Ok(logs)
    }

    /// For appending: a write goes to the end of the file, also after it was cut.
    pub fn open(&self) -> io::Result<[File; 2]> {
        let [stdout, stderr] = &self.paths;
        Ok([appending(stdout)?, appending(stderr)?])
    }

    /// Keeps a child that prints without end from filling the memory: the newest output stays. A
    /// hole replaces the oldest output, so that nothing is lost that is printed at that instant.
    pub fn cut(&self) {
        for path in &self.paths {
            if let Err(error) = self.cut_one(path) {
                tracing::warn!(
                    "cannot truncate {}, the output of a child: {error}",
                    path.display()
                );
            }
        }
    }

    fn cut_one(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().append(true).open(path)?;
        let data = file.metadata()?;
        if data.blocks() * 512 <= SLACK * self.cap as u64 {
            return Ok(());
        }
        let oldest = data.len().saturating_sub(self.cap as u64);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&file, hole, 0, oldest)?)
    }

    /// The newest output on stdout and on stderr.
    pub fn read(&self) -> (Vec<u8>, Vec<u8>) {
        let [stdout, stderr] = &self.paths;
        let read = |path| tail(path, self.cap).unwrap_or_default();
        (read(stdout), read(stderr))
    }

    pub fn delete(&self) {
        for path in &self.paths {
            let _ = fs::remove_file(path);
        }
    }
}

fn appending(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

fn tail(path: &Path, cap: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(cap as u64)))?;
    let mut bytes = Vec::new();
    file.take(cap as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_grows_is_cut_to_its_end_and_the_writer_goes_on() {
        // Memory, as the real folder is; not every file system on disk can make holes.
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let logs = Logs::new(folder.path(), "u", 5000);
        let [mut stdout, mut stderr] = logs.open().unwrap();
        stdout.write_all(&[b'x'; 1_000_000]).unwrap();
        stderr.write_all(b"short").unwrap();
        logs.cut();
        assert!(fs::metadata(&logs.paths[0]).unwrap().blocks() * 512 < 20_000);
        stdout.write_all(b"the end").unwrap();
        let (out, err) = logs.read();
        assert!(out.len() == 5000 && out.starts_with(b"xx") && out.ends_with(b"xthe end"));
        assert_eq!(err, b"short");
        logs.delete();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
