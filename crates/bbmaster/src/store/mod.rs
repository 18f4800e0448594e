//! What the master must remember, in SQLite or PostgreSQL.
//!
//! One text of SQL serves both: sqlx takes `$1` for either, and the statements keep to what both know. The
//! two macros below pick the pool; all else is written once. SQLite has one writer, so that writers queue
//! here instead of failing there; PostgreSQL's rows are locked in the order of their host ids.

mod cache;
mod desired;
mod enroll;
mod events;
mod fold;
mod hosts;
mod ingest;
mod puts;
mod quarantine;
mod query;
mod replies;
mod row;
mod statement;
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

pub use desired::{Desired, NewDesired, PutError, Stored};
pub use enroll::NotLetIn;
pub use ingest::{Ingested, Report, Seen};
pub use tokens::{TokenError, digest as token_digest};

/// Every database failure; who asked can do no more than say so or try again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the database cannot be brought to this version's layout: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the database holds what this version cannot read: {0}")]
    Content(String),
    /// The same for all that were to be written together.
    #[error("{0}")]
    Shared(Arc<StoreError>),
}

impl StoreError {
    /// Whether the data itself was refused, so that trying again is of no use.
    pub fn is_about_data(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => {
                // PostgreSQL: class 22, data exception; 23, constraint. SQLite: 18 too big, 19 constraint.
                error.code().is_some_and(|code| {
                    code.starts_with("22") || code.starts_with("23") || code == "18" || code == "19"
                })
            }
            Self::Sql(sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
            | Self::Content(_) => true,
            Self::Shared(error) => error.is_about_data(),
            Self::Sql(_) | Self::Migrate(_) => false,
        }
    }
}

/// Rows per statement: few enough for every limit on bound values, and statements are kept prepared.
const ROWS: usize = 100;

pub type Result<T> = std::result::Result<T, StoreError>;

/// Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store {
    pools: Pools,
    cache: Arc<Mutex<cache::Cache>>,
    puts: Arc<Mutex<puts::Puts>>,
    /// Told when events were written, here or (PostgreSQL) by any master.
    events: Arc<watch::Sender<u64>>,
}

#[derive(Clone)]
enum Pools {
    Sqlite { read: SqlitePool, write: SqlitePool },
    Postgres(PgPool),
}

/// Runs a block with a pool to read from.
macro_rules! reading {
    ($store:expr, $pool:ident => $body:block) => {
        match &$store.pools {
            $crate::store::Pools::Sqlite { read: $pool, .. } => $body,
            $crate::store::Pools::Postgres($pool) => $body,
        }
    };
}

/// Runs a block in a transaction, committed at its end; leaving it by `?` or `return` rolls back.
macro_rules! writing {
    ($store:expr, $tx:ident => $body:block) => {
        match &$store.pools {
            $crate::store::Pools::Sqlite { write, .. } => {
                // At once for writing: a lock taken later could fail.
                let mut $tx = write.begin_with("BEGIN IMMEDIATE").await?;
                let done = $body;
                $tx.commit().await?;
                done
            }
            $crate::store::Pools::Postgres(pool) => {
                let mut $tx = pool.begin().await?;
                let done = $body;
                $tx.commit().await?;
                done
            }
        }
    };
}
pub(crate) use {reading, writing};

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
    /// SQLite in this file, made if it is not there.
    pub async fn open_sqlite(file: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged survives a power cut, too; batches make it cheap.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(30))
            // Its thread hands over the rows of a statement without being waited for in between.
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
        Self::started(Pools::Sqlite { read, write }).await
    }

    /// PostgreSQL, shared with any number of other masters.
    pub async fn open_postgres(url: &str, max_connections: u32) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)?.application_name("bbmaster");
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await?;
        migrator(SECOND_POSTGRES).run(&pool).await?;
        Self::started(Pools::Postgres(pool)).await
    }

    async fn started(pools: Pools) -> Result<Self> {
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

    /// Whether it answers.
    pub async fn check(&self) -> Result<()> {
        reading!(self, pool => { sqlx::query("SELECT 1").execute(pool).await?; });
        Ok(())
    }

    /// Where masters on one PostgreSQL tell each other what is new; `None` on SQLite, which has one master.
    pub async fn listener(&self) -> Result<Option<PgListener>> {
        let Pools::Postgres(pool) = &self.pools else {
            return Ok(None);
        };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen_all([events::CHANNEL, replies::CHANNEL]).await?;
        Ok(Some(listener))
    }

    /// Whether a notification is about a reply; else it is about events.
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

/// RFC 3339, as the API shows times.
pub fn show_time(micros: i64) -> String {
    let since = Duration::from_micros(micros.max(0).unsigned_abs());
    // humantime knows the years up to 9999.
    let latest = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since.min(latest)).to_string()
}

/// Text from outside as it may be stored and shown: no control characters (PostgreSQL takes no NUL), and
/// not without end.
fn clean(text: &str) -> String {
    clean_up_to(1024, text)
}

fn clean_up_to(longest: usize, text: &str) -> String {
    if text.len() <= longest && !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().filter(|c| !c.is_control()).take(longest).collect()
}

/// For a column: what a database counts with has a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    number.max(0).unsigned_abs()
}
