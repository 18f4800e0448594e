//! A database that an earlier master has filled: the first start of this version loses nothing.

use std::borrow::Cow;

use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Executor, PgPool, SqlSafeStr, SqliteConnection};

use crate::agent::{Agent, Script};
use crate::fleet::{Database, Fleet, until};

/// The migrations of earlier versions, oldest first. The second differs between the databases.
const MIGRATIONS: [(&str, &str, &str); 5] = [
    (
        "first",
        include_str!("../../src/store/migrations/0001_first.sql"),
        include_str!("../../src/store/migrations/0001_first.sql"),
    ),
    (
        "events",
        include_str!("../../src/store/migrations/0002_sqlite.sql"),
        include_str!("../../src/store/migrations/0002_postgres.sql"),
    ),
    (
        "plans",
        include_str!("../../src/store/migrations/0003_plans.sql"),
        include_str!("../../src/store/migrations/0003_plans.sql"),
    ),
    (
        "enroll",
        include_str!("../../src/store/migrations/0004_enroll.sql"),
        include_str!("../../src/store/migrations/0004_enroll.sql"),
    ),
    (
        "once",
        include_str!("../../src/store/migrations/0005_once.sql"),
        include_str!("../../src/store/migrations/0005_once.sql"),
    ),
];
const SECRET: &str = "a token of long ago";

/// A database as a master with the first `known` migrations had it.
fn migrator(known: usize, is_postgres: bool) -> Migrator {
    let migrations = MIGRATIONS.iter().zip(1..).take(known);
    let migrations = migrations.map(|((name, sqlite, postgres), version)| {
        let text: &'static str = if is_postgres { postgres } else { sqlite };
        let name = Cow::Borrowed(*name);
        Migration::new(version, name, MigrationType::Simple, text.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// A host that has reported, one that has not, the desired states of both, a label, a token, and
/// what later versions added.
fn content(known: usize) -> String {
    let status = json!({"opcode": "status", "data": {
        "host_id": "h1", "status": "ok", "boot_id": "b", "seq": 7, "desired_generation": 3,
        "info": {"hostname": "Web-1.example", "os_info": "Debian 12"},
        "apps": {"foo": {"version": "1", "running": true, "config": {}}},
    }});
    let digest: String = Sha256::digest(SECRET)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut content = format!(
        "INSERT INTO hosts (host_id, first_seen, last_seen, boot_id, seq, state, responding, satisfied, \
             reported_generation, hostname, os_info, body) \
             VALUES ('h1', 1000000, 2000000, 'b', 7, 'ok', 1, 1, 3, 'Web-1.example', 'Debian 12', '{status}'); \
         INSERT INTO hosts (host_id) VALUES ('h2'); \
         INSERT INTO desired (host_id, generation, apps, author, changed_at) VALUES \
             ('h1', 3, '{{\"foo\":{{\"version\":\"1\"}}}}', 'ann', 1500000), ('h2', 1, '{{\"bar\":{{\"version\":\"2\"}}}}', 'bob', 1500000); \
         INSERT INTO host_apps VALUES ('h1', 0, 'foo', '1', 1, 0), ('h1', 1, 'foo', '1', 1, 0), ('h2', 1, 'bar', '2', 1, 0); \
         INSERT INTO labels VALUES ('h1', 'role', 'web'); \
         INSERT INTO tokens VALUES ('old', '{digest}', 'admin', 1000000, 'ann', NULL);"
    );
    if known >= 2 {
        // Of today, because old events are deleted by any master.
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
        content.push_str(&format!(
            "INSERT INTO events (at, kind, host_id, author, message) \
             VALUES ({now}, 'desired_changed', 'h1', 'ann', 'by an earlier master');",
        ));
    }
    if known >= 4 {
        content.push_str("INSERT INTO enrolled VALUES ('h1', 1000000, 'rack-1');");
    }
    content
}

async fn fill(database: &Database, known: usize) {
    match database {
        Database::Sqlite(folder) => {
            let file = SqliteConnectOptions::new().filename(folder.path().join("bbmaster.db"));
            let mut connection = SqliteConnection::connect_with(&file.create_if_missing(true))
                .await
                .unwrap();
            migrator(known, false)
                .run_direct(None, &mut connection, false)
                .await
                .unwrap();
            connection
                .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(content(known))))
                .await
                .unwrap();
            connection.close().await.unwrap();
        }
        Database::Postgres(cluster) => {
            let mut connection = PgPool::connect(&cluster.url())
                .await
                .unwrap()
                .acquire()
                .await
                .unwrap()
                .detach();
            migrator(known, true)
                .run_direct(None, &mut connection, false)
                .await
                .unwrap();
            connection
                .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(content(known))))
                .await
                .unwrap();
            connection.close().await.unwrap();
        }
    }
}

async fn nothing_is_lost(known: usize, database: Database) {
    fill(&database, known).await;
    let fleet = Fleet::new(database);
    let (_master, client) = fleet.master().await;
    assert_eq!(
        client.get("/v1/hosts/").await.status,
        401,
        "a token was made: none come in without"
    );
    let client = client.with_token(SECRET);

    let host = client.get("/v1/hosts/h1").await.expect(200);
    assert_eq!(host["info"]["hostname"], "Web-1.example", "{host}");
    assert_eq!(host["apps"]["foo"]["version"], "1", "{host}");
    assert_eq!(host["labels"], json!({"role": "web"}), "{host}");
    assert_eq!(host["satisfied"], true, "{host}");
    for filter in [
        "text=web-1",
        "label=role%3Dweb",
        "application=foo&version=1",
        "status=ok",
    ] {
        let found = client.get(&format!("/v1/hosts/?{filter}")).await.expect(200);
        assert_eq!(found["hosts"][0]["host_id"], "h1", "{filter}: {found}");
        assert_eq!(found["hosts"].as_array().unwrap().len(), 1, "{filter}: {found}");
    }
    let silent = client.get("/v1/hosts/h2").await.expect(200);
    assert_eq!(silent["desired_apps"]["bar"]["version"], "2", "{silent}");
    if known >= 2 {
        let events = client.get("/v1/events/?host_id=h1").await.expect(200);
        assert_eq!(events["events"][0]["message"], "by an earlier master", "{events}");
    }

    // The host continues: its earlier statuses count, and the next generation is higher than its
    // own.
    let agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    let put = client
        .put("/v1/hosts/h1/apps", &json!({"foo": {"version": "2"}}))
        .await
        .expect(200);
    assert_eq!(put["generation"], 4, "{put}");
    until(&client, "/v1/hosts/h1", |host| {
        host["apps"]["foo"]["version"] == "2" && host["satisfied"] == true
    })
    .await;
    drop(agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_of_any_earlier_version_is_migrated() {
    for known in 1..=MIGRATIONS.len() {
        nothing_is_lost(known, Database::sqlite()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_of_any_earlier_version_is_migrated() {
    for known in 1..=MIGRATIONS.len() {
        if let Some(database) = Database::postgres() {
            nothing_is_lost(known, database).await;
        }
    }
}
