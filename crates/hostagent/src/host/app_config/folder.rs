//! What a folder holds, so that an observation asks the kernel once and not for each application.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use super::Root;
use super::paths::{exists, resolve};

/// What a folder held at one moment. Nothing is kept from one moment to the next: whether that still holds
/// would cost nearly as much to find out, and could be wrong where a file system's times are coarse.
pub struct Listing {
    path: &'static str,
    /// Where the folder of a sandbox is, if no link leads there.
    plain: Option<PathBuf>,
    /// `None`: not known.
    names: Option<HashSet<OsString>>,
}

impl Listing {
    /// Of `path`, as the host's programs name it.
    pub fn of(root: &Root, path: &'static str) -> Self {
        let real = root.join(path);
        // In a sandbox what a link leads to is left to whoever follows it within the root.
        let is_plain = || resolve(root, Path::new(path)).is_ok_and(|resolved| resolved == real);
        let plain = (!root.is_host() && is_plain()).then(|| real.clone());
        let names = match root.is_host() || plain.is_some() {
            true => names(&real),
            false => None,
        };
        Self { path, plain, names }
    }

    /// Of a folder that nobody has looked into.
    pub fn unknown(path: &'static str) -> Self {
        Self {
            path,
            plain: None,
            names: None,
        }
    }

    /// False only where it is certain that there is no such entry.
    pub fn may_hold(&self, name: impl AsRef<OsStr>) -> bool {
        self.names
            .as_ref()
            .is_none_or(|names| names.contains(name.as_ref()))
    }

    pub fn path(&self) -> &'static str {
        self.path
    }

    /// The real path of an entry of a sandbox's folder, were it no link; `None`: to be resolved part by part.
    pub fn plain(&self, name: &str) -> Option<PathBuf> {
        Some(self.plain.as_ref()?.join(name))
    }
}

fn names(folder: &Path) -> Option<HashSet<OsString>> {
    match exists(fs::read_dir(folder)) {
        Ok(Some(entries)) => entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()
            .ok(),
        Ok(None) => Some(HashSet::new()),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const PATH: &str = "/etc/apps";

    #[test]
    fn it_holds_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(!Listing::of(&root, PATH).may_hold("a"), "there is no folder");
        fs::create_dir_all(root.join(PATH)).unwrap();
        assert!(!Listing::of(&root, PATH).may_hold("a"));
        fs::write(root.join("/etc/apps/a"), "").unwrap();
        let listing = Listing::of(&root, PATH);
        assert!(listing.may_hold("a"));
        assert_eq!(listing.plain("a"), Some(root.join("/etc/apps/a")));
    }

    #[test]
    fn of_a_link_in_a_sandbox_nothing_is_known_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(root.join("/srv/apps")).unwrap();
        fs::create_dir_all(root.join("/etc")).unwrap();
        symlink("/srv/apps", root.join(PATH)).unwrap();
        let listing = Listing::of(&root, PATH);
        assert!(listing.may_hold("a"));
        assert_eq!(listing.plain("a"), None);
    }
}
