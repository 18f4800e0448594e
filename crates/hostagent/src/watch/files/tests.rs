use std::time::Duration;

use super::*;

/// Files watched in a temporary folder.
struct Setup {
    folder: tempfile::TempDir,
    files: WatchedFiles,
}

impl Setup {
    /// `make` prepares the folder; `wanted` is relative to it.
    fn new(wanted: &[&str], make: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        let mut files = WatchedFiles::new().unwrap();
        files.set_wanted(wanted.iter().map(|path| folder.path().join(path)).collect());
        Self { folder, files }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Wanted files that change because of `what`, relative to the folder.
    async fn after(&mut self, what: impl FnOnce(&Path)) -> BTreeSet<String> {
        what(self.folder.path());
        self.next(Duration::from_secs(5)).await
    }

    /// As [`Self::after`], for what changes nothing: inotify's events are there as soon as `what`
    /// is done.
    async fn nothing_after(&mut self, what: impl FnOnce(&Path)) {
        what(self.folder.path());
        assert_eq!(self.next(Duration::from_millis(50)).await, BTreeSet::new());
    }

    async fn next(&mut self, patience: Duration) -> BTreeSet<String> {
        let changed = match tokio::time::timeout(patience, self.files.changed()).await {
            Ok(changed) => changed.unwrap(),
            Err(_) => BTreeSet::new(),
        };
        let relative = |file: &PathBuf| {
            file.strip_prefix(self.folder.path())
                .unwrap()
                .display()
                .to_string()
        };
        changed.iter().map(relative).collect()
    }
}

fn set(files: &[&str]) -> BTreeSet<String> {
    files.iter().map(|&file| file.to_owned()).collect()
}

#[tokio::test]
async fn a_file_is_watched_through_writes_renames_and_removal() {
    let mut setup = Setup::new(&["status"], |folder| {
        fs::write(folder.join("status"), "1").unwrap()
    });
    for round in 0..3 {
        let replace = |folder: &Path| {
            fs::write(folder.join("status-new"), format!("{round}")).unwrap();
            fs::rename(folder.join("status-new"), folder.join("status")).unwrap();
        };
        assert_eq!(setup.after(replace).await, set(&["status"]));
        let append = |folder: &Path| fs::write(folder.join("status"), format!("{round}, more")).unwrap();
        assert_eq!(setup.after(append).await, set(&["status"]));
    }
    let remove = |folder: &Path| fs::remove_file(folder.join("status")).unwrap();
    assert_eq!(setup.after(remove).await, set(&["status"]));
}

#[tokio::test]
async fn what_does_not_change_a_wanted_file_is_no_news() {
    let mut setup = Setup::new(&["a/status"], |folder| {
        fs::create_dir(folder.join("a")).unwrap();
        fs::write(folder.join("a/status"), "1").unwrap();
    });
    setup
        .nothing_after(|folder| fs::write(folder.join("a/lock"), "1").unwrap())
        .await;
    setup
        .nothing_after(|folder| drop(fs::read(folder.join("a/status")).unwrap()))
        .await;
    // As a database opens its file to be able to lock it.
    let open = |folder: &Path| {
        drop(
            fs::File::options()
                .append(true)
                .open(folder.join("a/status"))
                .unwrap(),
        )
    };
    setup.nothing_after(open).await;
}

#[tokio::test]
async fn a_file_may_come_later_with_all_its_folders_and_go_with_them() {
    let mut setup = Setup::new(&["etc/app/conf.d/app.ini"], |_| {});
    for _ in 0..2 {
        let create = |folder: &Path| {
            fs::create_dir_all(folder.join("etc/app/conf.d")).unwrap();
            fs::write(folder.join("etc/app/conf.d/app.ini"), "x").unwrap();
        };
        assert_eq!(setup.after(create).await, set(&["etc/app/conf.d/app.ini"]));
        let remove = |folder: &Path| fs::remove_dir_all(folder.join("etc")).unwrap();
        assert_eq!(setup.after(remove).await, set(&["etc/app/conf.d/app.ini"]));
    }
}

#[tokio::test]
async fn folders_made_step_by_step_are_followed() {
    let mut setup = Setup::new(&["etc/app/app.ini"], |_| {});
    setup
        .nothing_after(|folder| fs::create_dir(folder.join("etc")).unwrap())
        .await;
    setup
        .nothing_after(|folder| fs::create_dir(folder.join("etc/app")).unwrap())
        .await;
    let write = |folder: &Path| fs::write(folder.join("etc/app/app.ini"), "x").unwrap();
    assert_eq!(setup.after(write).await, set(&["etc/app/app.ini"]));
}

#[tokio::test]
async fn links_are_watched_themselves_and_where_they_lead() {
    let mut setup = Setup::new(&["etc/app.ini"], |folder| {
        for path in ["etc", "v1", "v2"] {
            fs::create_dir(folder.join(path)).unwrap();
            fs::write(folder.join(path).join("real.ini"), path).unwrap();
        }
        std::os::unix::fs::symlink("../v1/real.ini", folder.join("etc/app.ini")).unwrap();
    });
    let write = |folder: &Path| fs::write(folder.join("v1/real.ini"), "changed").unwrap();
    assert_eq!(setup.after(write).await, set(&["etc/app.ini"]));
    let turn = |folder: &Path| {
        std::os::unix::fs::symlink("../v2/real.ini", folder.join("etc/new")).unwrap();
        fs::rename(folder.join("etc/new"), folder.join("etc/app.ini")).unwrap();
    };
    assert_eq!(setup.after(turn).await, set(&["etc/app.ini"]));
    setup
        .nothing_after(|folder| fs::write(folder.join("v1/real.ini"), "old one").unwrap())
        .await;
    let write = |folder: &Path| fs::write(folder.join("v2/real.ini"), "changed").unwrap();
    assert_eq!(setup.after(write).await, set(&["etc/app.ini"]));
}

#[tokio::test]
async fn a_wanted_folder_stands_for_what_is_in_it() {
    let mut setup = Setup::new(&["conf.d"], |folder| {
        fs::create_dir(folder.join("conf.d")).unwrap()
    });
    for text in ["1", "22"] {
        let write = |folder: &Path| fs::write(folder.join("conf.d/10-app.ini"), text).unwrap();
        assert_eq!(setup.after(write).await, set(&["conf.d"]));
    }
}

#[tokio::test]
async fn only_the_files_last_asked_for_are_watched() {
    let mut setup = Setup::new(&["a/x", "b/x"], |folder| {
        fs::create_dir(folder.join("a")).unwrap();
        fs::create_dir(folder.join("b")).unwrap();
    });
    let wanted = [setup.path("b/x"), setup.path("c")].into();
    setup.files.set_wanted(wanted);
    setup
        .nothing_after(|folder| fs::write(folder.join("a/x"), "1").unwrap())
        .await;
    let write = |folder: &Path| {
        fs::write(folder.join("b/x"), "1").unwrap();
        fs::write(folder.join("c"), "1").unwrap();
    };
    assert_eq!(setup.after(write).await, set(&["b/x", "c"]));
    assert_eq!(setup.files.folders.len(), 2, "a is let go of");
}
