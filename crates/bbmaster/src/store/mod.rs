//! The master's database, in SQLite or PostgreSQL.
//!
//! There is one style of SQL: a [`statement::Statement`], which holds SQL that both databases
//! understand and its values. It is executed by `Store::read` or, in a transaction, by
//! [`transaction::Tx`], which functions can pass on. Only [`transaction`] and [`row`] know which
//! database it is.
//!
//! SQLite has one writer: transactions that write wait in the pool for its one connection. On
//! PostgreSQL rows are locked in the order of their host ids.

mod row;
mod statement;
mod transaction;

mod cache;
mod digest;
mod events;

mod fold;
mod ingest;
mod quarantine;
mod replies;

mod desired;
mod puts;

mod hosts;
mod query;

mod enroll;
mod tokens;

use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{PgPool, SqlSafeStr, SqlitePool};
use tokio::sync::watch;

pub use desired::{Desired, NewDesired, PutError, StoredDesired};
pub use enroll::EnrollDenied;
pub use ingest::{Ingested, Report, ReportedHost};
pub use tokens::{TokenError, digest as token_digest};

/// A failure of the database. The caller can report it or retry.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database failed: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("cannot upgrade the database to the schema of this version: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("this version cannot read a value of the database: {0}")]
    Content(String),
    #[error("the master is stopping")]
    Stopping,
    /// One failure for all PUTs of a transaction.
    #[error("{0}")]
    Shared(Arc<StoreError>),
}

impl StoreError {
    /// Whether the database refused the data, so that a retry cannot succeed.
    pub fn is_about_data(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => {
                // PostgreSQL: class 22, data exception; 23, constraint. SQLite: 18 too big, 19
                // constraint.
                error.code().is_some_and(|code| {
                    code.starts_with("22") || code.starts_with("23") || code == "18" || code == "19"
                })
            }
            Self::Sql(sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
            | Self::Content(_) => true,
            Self::Shared(error) => error.is_about_data(),
            Self::Sql(_) | Self::Migrate(_) | Self::Stopping => false,
        }
    }
}

/// Rows per statement, at most: few enough for every limit on bound values. Statements of the same
/// size stay prepared.
const ROWS: usize = 100;

pub type Result<T> = std::result::Result<T, StoreError>;

/// Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store {
    pools: Pools,
    cache: Arc<Mutex<cache::Cache>>,
    puts: Arc<Mutex<puts::PutQueue>>,
    /// The id of the newest event that is known, written here or by another master.
    events: Arc<watch::Sender<u64>>,
}

#[derive(Clone)]
enum Pools {
    Sqlite { read: SqlitePool, write: SqlitePool },
    Postgres(PgPool),
}

const FIRST: &str = include_str!("migrations/0001_first.sql");
const SECOND_SQLITE: &str = include_str!("migrations/0002_sqlite.sql");
const SECOND_POSTGRES: &str = include_str!("migrations/0002_postgres.sql");
const THIRD: &str = include_str!("migrations/0003_plans.sql");
const FOURTH: &str = include_str!("migrations/0004_enroll.sql");
const FIFTH: &str = include_str!("migrations/0005_once.sql");
const SIXTH: &str = include_str!("migrations/0006_lists.sql");

fn migrator(second: &'static str) -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(vec![
        migration(1, "first", FIRST),
        migration(2, "events", second),
        migration(3, "plans", THIRD),
        migration(4, "enroll", FOURTH),
        migration(5, "once", FIFTH),
        migration(6, "lists", SIXTH),
    ])
}

impl Store {
    /// Opens SQLite in this file, which is created if it is missing.
    pub async fn open_sqlite(file: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged survives a power failure.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(30))
            // Room for all rows of a statement, so that SQLite's thread need not wait between them.
            .row_buffer_size(ROWS + 1);
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        migrator(SECOND_SQLITE).run(&write).await?;
        let read = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await?;
        Self::with_pools(Pools::Sqlite { read, write }).await
    }

    /// Opens PostgreSQL, which any number of masters can share.
    pub async fn open_postgres(url: &str, max_connections: u32) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)?.application_name("bbmaster");
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await?;
        migrator(SECOND_POSTGRES).run(&pool).await?;
        Self::with_pools(Pools::Postgres(pool)).await
    }

    async fn with_pools(pools: Pools) -> Result<Self> {
        let store = Self {
            pools,
            cache: Arc::default(),
            puts: Arc::default(),
            events: Arc::new(watch::channel(0).0),
        };
        store.refresh_newest_event().await?;
        Ok(store)
    }

    fn is_postgres(&self) -> bool {
        matches!(self.pools, Pools::Postgres(_))
    }

    /// Checks that the database answers.
    pub async fn check(&self) -> Result<()> {
        self.read(statement::Statement::new("SELECT 1")).await?;
        Ok(())
    }

    /// Notifications from other masters on the same PostgreSQL. `None` on SQLite, which has one
    /// master.
    pub async fn listener(&self) -> Result<Option<PgListener>> {
        let Pools::Postgres(pool) = &self.pools else {
            return Ok(None);
        };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen_all([events::CHANNEL, replies::CHANNEL]).await?;
        Ok(Some(listener))
    }

    /// Whether a notification is about a reply. Otherwise it is about events.
    pub fn is_about_replies(channel: &str) -> bool {
        channel == replies::CHANNEL
    }
}

/// Microseconds since 1970, UTC.
pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .unwrap_or(0)
}

/// A time in RFC 3339, as the API shows it.
pub fn show_time(micros: i64) -> String {
    let since = Duration::from_micros(micros.max(0).unsigned_abs());
    // humantime supports years up to 9999.
    let latest = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since.min(latest)).to_string()
}

/// Makes text from outside fit for the database and for output: without control characters
/// (PostgreSQL accepts no NUL), and limited in length.
fn clean(text: &str) -> String {
    clean_up_to(1024, text)
}

fn clean_up_to(longest: usize, text: &str) -> String {
    if text.len() <= longest && !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().filter(|c| !c.is_control()).take(longest).collect()
}

/// For a column: numbers of a database are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    number.max(0).unsigned_abs()
}
