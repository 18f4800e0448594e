//! The one writer of files that must survive a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Replaces `path` with `bytes`: temporary file in the same folder, fsync, rename, fsync of the
/// folder. After a crash at any instant `path` holds either the old bytes or the new ones. A
/// temporary file `.NAME.new` may be left; the next write replaces it. Use `mode` 0600 for files
/// that may hold secrets.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_owned(path, bytes, mode, None)
}

/// As [`replace`], with the user and group of the file (`None`: the agent's own).
pub fn replace_owned(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let (folder, name) = match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => (folder, name),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file's path")),
    };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".new");
    let temporary = folder.join(temporary_name);
    let written = write_synced(&temporary, bytes, mode, owner).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

/// As [`replace_owned`]. But a file that is a mount point (bind mounts of containers) cannot be
/// replaced: then its content is overwritten in place, and a crash meanwhile may leave a mixture of
/// old and new bytes.
pub fn replace_or_overwrite(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> io::Result<()> {
    match replace_owned(path, bytes, mode, owner) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            tracing::info!(path = %path.display(), "the file is a mount point; overwriting it in place");
            overwrite(path, bytes)
        }
        done => done,
    }
}

fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(no_follow)
        .open(path)?;
    file.write_all(bytes)?;
    // After the write, so that a full disk leaves no empty file.
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    // Left by a crash, or a symbolic link of another user: the folder may not be the agent's own.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if let Some((user, group)) = owner {
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (user, group) {
            fchown(&file, Some(user), Some(group))?;
        }
    }
    // After the change of owner, and independent of the umask.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.json");
        replace(&path, b"old, and longer", 0o600).unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symlink_in_the_way_of_the_temporary_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(".app.ini.new")).unwrap();
        replace(&dir.path().join("app.ini"), b"new", 0o640).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        let made = fs::symlink_metadata(dir.path().join("app.ini")).unwrap();
        assert!(made.is_file());
        assert_eq!(made.permissions().mode() & 0o777, 0o640);
    }

    /// R21: containers mount single files. Needs the right to mount; without it, nothing is tested
    /// here.
    #[test]
    fn a_file_that_is_a_mount_point_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (path, source) = (dir.path().join("app.ini"), dir.path().join("source"));
        fs::write(&path, "hidden").unwrap();
        fs::write(&source, "old, and longer").unwrap();
        let run = |program: &str, arguments: &[&Path]| {
            let done = std::process::Command::new(program).args(arguments).output();
            done.is_ok_and(|output| output.status.success())
        };
        if !run("mount", &[Path::new("--bind"), &source, &path]) {
            return;
        }
        let replaced = replace_owned(&path, b"new", 0o600, None);
        let overwritten = replace_or_overwrite(&path, b"new", 0o600, None);
        let seen = fs::read(&source).unwrap();
        assert!(run("umount", &[&path]));
        assert_eq!(replaced.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        overwritten.unwrap();
        assert_eq!(seen, b"new");
    }

    #[test]
    fn a_file_is_overwritten_in_place_with_a_shorter_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.ini");
        fs::write(&path, "old, and longer").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        overwrite(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn an_error_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("is-a-folder");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
