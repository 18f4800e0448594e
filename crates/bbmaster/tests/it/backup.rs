//! A backup is taken as docs/operations.md says, while the master runs, and restored.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::agent::{Agent, Script};
use crate::fleet::{Database, Fleet, until};

/// What `sqlite3 bbmaster.db ".backup FILE"` does, by the same function of SQLite's library.
const BACKUP: &str = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_takes_nothing_from_hosts_with_a_higher_generation() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup.db");
    let mut fleet = Fleet::sqlite();
    let file = file_of(&fleet.database);
    let agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    let version = |version: &str| json!({"foo": {"version": version}});
    {
        let (_master, client) = fleet.master().await;
        client.put("/v1/hosts/h1/apps", &version("1")).await.expect(200);
        until(&client, "/v1/hosts/h1", |host| host["satisfied"] == true).await;
        let taken = Command::new("python3")
            .args(["-c", BACKUP])
            .args([&file, &backup])
            .status()
            .unwrap();
        assert!(taken.success());
        // After the backup, so lost with the restore.
        client.put("/v1/hosts/h1/apps", &version("2")).await.expect(200);
        until(&client, "/v1/hosts/h1", |host| {
            host["apps"]["foo"]["version"] == "2" && host["satisfied"] == true
        })
        .await;
    }
    let _lost = std::mem::replace(&mut fleet.database, Database::sqlite());
    std::fs::copy(&backup, file_of(&fleet.database)).unwrap();

    let before = agent.received().len();
    let (_master, client) = fleet.master().await;
    agent.report().await;
    let host = until(&client, "/v1/hosts/h1", |host| {
        host["apps"]["foo"]["version"] == "2"
    })
    .await;
    // The master sees that the host has a higher generation, and takes nothing back.
    assert_eq!(host["satisfied"], false, "{host}");
    agent.report().await;
    assert_eq!(agent.received().len(), before);
    // The next change takes effect.
    client.put("/v1/hosts/h1/apps", &version("3")).await.expect(200);
    until(&client, "/v1/hosts/h1", |host| {
        host["apps"]["foo"]["version"] == "3" && host["satisfied"] == true
    })
    .await;
}

fn file_of(database: &Database) -> PathBuf {
    match database {
        Database::Sqlite(folder) => folder.path().join("bbmaster.db"),
        Database::Postgres(_) => unreachable!("it is SQLite"),
    }
}
