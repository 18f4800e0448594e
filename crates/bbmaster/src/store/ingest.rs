//! Stores a batch of statuses in one transaction.
//!
//! Most of the master's work is done here, so each status costs one row in three statements,
//! whatever the size of the batch. For a heartbeat (a status that differs from the one before in
//! nothing but count and time) no index changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use protocol::rest::HostState;
use protocol::status::Health;
use protocol::{Apps, HostId, Status};

use super::desired::parse_apps;
use super::events::NewEvent;
use super::fold::{self, HostFacts, HostRecord, StatusOrder};
use super::query::{host_state, search_text};
use super::row::Row;
use super::statement::Statement;
use super::transaction::Tx;
use super::{ROWS, Result, Store, StoreError, clean_up_to, signed, unsigned};

/// A status that was received.
#[derive(Debug, Clone)]
pub struct Report {
    pub status: Status,
    /// The message that the status was decoded from.
    pub body: String,
    /// Microseconds, by the master's clock.
    pub received_at: i64,
}

/// The result of storing a batch.
#[derive(Debug, Default)]
pub struct Ingested {
    pub accepted: u64,
    pub duplicate: u64,
    pub late: u64,
    /// Statuses that are missing before those that were accepted; some may still come.
    pub lost: u64,
    /// Hosts that have a desired state, as they are now.
    pub reported: Vec<ReportedHost>,
}

/// What the dispatcher needs to know of a host that has reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedHost {
    pub host_id: HostId,
    pub state: HostState,
    /// It runs what is desired.
    pub satisfied: bool,
    /// It says that it works towards the current desired state.
    pub towards_current: bool,
    /// Generation of the current desired state, and the one that the host has.
    pub generation: u64,
    pub reported_generation: Option<u64>,
    /// `id` of the last message that the host refused.
    pub rejected_id: Option<String>,
}

/// Characters of an installed version that can be searched for. An index of PostgreSQL takes no
/// more.
const MAX_VERSION: usize = 256;

/// What one batch does to one host.
struct HostInBatch<'a> {
    record: HostRecord,
    desired_generation: Option<u64>,
    desired: Option<Arc<Apps>>,
    /// The newest status of the batch that was accepted.
    last: Option<&'a Report>,
    apps_changed: bool,
}

impl HostInBatch<'_> {
    fn new(record: HostRecord, desired_generation: Option<u64>) -> Self {
        Self {
            record,
            desired_generation,
            desired: None,
            last: None,
            apps_changed: false,
        }
    }
}

/// The hosts of a batch, by their ids.
type HostsInBatch<'a> = HashMap<String, HostInBatch<'a>>;

/// A host that is written.
struct ChangedHost<'a> {
    id: &'a str,
    host: &'a HostInBatch<'a>,
    report: &'a Report,
    facts: HostFacts,
    /// Not a heartbeat.
    is_news: bool,
}

impl<'a> ChangedHost<'a> {
    fn of(id: &'a str, host: &'a HostInBatch<'a>) -> Option<Self> {
        let report = host.last?;
        let facts = HostFacts::of(&host.record, &report.status, host.desired.as_deref());
        Some(Self {
            id,
            host,
            report,
            is_news: facts.digest != host.record.facts_digest,
            facts,
        })
    }

    /// `None`: the host has no desired state.
    fn reported(&self) -> Option<ReportedHost> {
        let host = self.host;
        let (desired, generation) = host.desired.as_ref().zip(host.desired_generation)?;
        let status = &self.report.status;
        let rejected = status.last_rejected.as_ref();
        Some(ReportedHost {
            host_id: status.host_id.clone(),
            state: host.record.state,
            satisfied: self.facts.satisfied,
            towards_current: status.generation == Some(generation)
                || status.desired_apps.as_ref() == Some(desired.as_ref()),
            generation,
            reported_generation: status.generation,
            rejected_id: rejected.and_then(|rejected| rejected.id.clone()),
        })
    }
}

impl Store {
    /// Stores statuses in the order in which they were received: all of them or, on an error, none.
    pub async fn ingest(&self, batch: &[Report]) -> Result<Ingested> {
        // Sorted by id. All masters lock rows in this order, so none can deadlock with another.
        let ids: BTreeMap<&str, &HostId> = batch
            .iter()
            .map(|report| (report.status.host_id.as_str(), &report.status.host_id))
            .collect();
        let unknown = self.without_row(ids.values().copied());
        let names: Vec<&str> = ids.keys().copied().collect();
        let mut done = Ingested::default();
        let mut tx = self.begin().await?;
        insert_missing_rows(&mut tx, &unknown).await?;
        let mut hosts = read_hosts(&mut tx, &names).await?;
        let events = fold_batch(batch, &mut hosts, &mut done);
        self.read_desired_states(&mut tx, &mut hosts).await?;
        let changed = changed_hosts(&hosts);
        write_news(&mut tx, &changed).await?;
        write_heartbeats(&mut tx, &changed).await?;
        write_bodies(&mut tx, &changed).await?;
        write_installed(&mut tx, &changed).await?;
        let has_events = !events.is_empty();
        tx.insert_events(events).await?;
        tx.commit().await?;
        done.reported = changed.iter().filter_map(ChangedHost::reported).collect();
        self.remember_rows(unknown.into_iter().cloned());
        if has_events {
            self.refresh_newest_event().await?;
        }
        Ok(done)
    }

    /// Fills in the desired state of each host that has one: from the cache, else from the
    /// database.
    async fn read_desired_states(&self, tx: &mut Tx, hosts: &mut HostsInBatch<'_>) -> Result<()> {
        let missing = self.fill_in_cached(hosts);
        for chunk in missing.chunks(ROWS) {
            let select = Statement::new("SELECT host_id, generation, apps FROM desired WHERE host_id IN ")
                .list(chunk.iter().map(String::as_str));
            for row in tx.fetch(select).await? {
                let id = row.text(0)?;
                let generation = unsigned(row.number(1)?);
                let apps = Arc::new(parse_apps(&row.text(2)?)?);
                if let Ok(id) = HostId::new(id.as_str()) {
                    self.remember_desired(id, generation, apps.clone());
                }
                if let Some(host) = hosts.get_mut(&id) {
                    host.desired_generation = Some(generation);
                    host.desired = Some(apps);
                }
            }
        }
        Ok(())
    }

    /// Fills in what the cache has. Returns the ids of the hosts whose desired state must be read.
    fn fill_in_cached(&self, hosts: &mut HostsInBatch<'_>) -> Vec<String> {
        let mut missing = Vec::new();
        for (name, host) in hosts.iter_mut() {
            let Some(generation) = host.desired_generation else {
                continue;
            };
            host.desired = self.recall_desired(name, generation);
            if host.desired.is_none() {
                missing.push(name.clone());
            }
        }
        missing.sort_unstable();
        missing
    }
}

/// Two masters may get the first status of a host at the same time: one inserts, the other waits
/// for it.
async fn insert_missing_rows(tx: &mut Tx, unknown: &[&HostId]) -> Result<()> {
    for chunk in unknown.chunks(ROWS) {
        let insert = Statement::new("INSERT INTO hosts (host_id) ")
            .rows(chunk.iter().map(|id| [id.as_str().into()]))
            .push(" ON CONFLICT (host_id) DO NOTHING");
        tx.execute(insert).await?;
    }
    Ok(())
}

/// Locks and reads the rows of the hosts.
async fn read_hosts<'a>(tx: &mut Tx, names: &[&str]) -> Result<HostsInBatch<'a>> {
    let mut hosts = HashMap::with_capacity(names.len());
    for chunk in names.chunks(ROWS) {
        lock_hosts(tx, chunk).await?;
        let select = Statement::new(
            "SELECT h.host_id, h.first_seen, COALESCE(h.last_seen, 0), h.boot_id, h.previous_boot_id, h.seq, \
             h.lost, h.state, h.responding, h.apps_digest, h.errors_digest, h.facts_digest, d.generation \
             FROM hosts h LEFT JOIN desired d ON d.host_id = h.host_id WHERE h.host_id IN ",
        );
        for row in tx.fetch(select.list(chunk.iter().copied())).await? {
            let desired_generation = row.number_or_null(12)?.map(unsigned);
            hosts.insert(
                row.text(0)?,
                HostInBatch::new(host_record(&row)?, desired_generation),
            );
        }
    }
    // A cached row may be gone: another master has deleted the host since.
    for id in names {
        hosts
            .entry((*id).to_owned())
            .or_insert_with(|| HostInBatch::new(HostRecord::default(), None));
    }
    Ok(hosts)
}

/// A statement of its own: what is read together with a lock is from before the wait for that lock.
async fn lock_hosts(tx: &mut Tx, names: &[&str]) -> Result<()> {
    // SQLite has one writer, which holds a lock on everything.
    if tx.is_postgres() {
        let select = Statement::new("SELECT 1 FROM hosts WHERE host_id IN ")
            .list(names.iter().copied())
            .push(" ORDER BY host_id FOR UPDATE");
        tx.execute(select).await?;
    }
    Ok(())
}

fn host_record(row: &Row) -> Result<HostRecord> {
    Ok(HostRecord {
        first_seen: row.number_or_null(1)?,
        last_seen: row.number(2)?,
        boot_id: row.text(3)?,
        previous_boot_id: row.text(4)?,
        seq: row.number(5)?,
        lost: row.number(6)?,
        state: host_state(&row.text(7)?)?,
        responding: row.flag(8)?,
        apps_digest: row.number(9)?,
        errors_digest: row.number(10)?,
        facts_digest: row.number(11)?,
    })
}

/// Applies the statuses to their hosts, in order. Returns the events.
fn fold_batch<'a>(batch: &'a [Report], hosts: &mut HostsInBatch<'a>, done: &mut Ingested) -> Vec<NewEvent> {
    let mut events = Vec::new();
    for report in batch {
        let status = &report.status;
        let Some(host) = hosts.get_mut(status.host_id.as_str()) else {
            continue;
        };
        match fold::order(&host.record, status) {
            StatusOrder::Duplicate => done.duplicate += 1,
            StatusOrder::Late => done.late += 1,
            StatusOrder::Newer { lost } => {
                done.accepted += 1;
                done.lost += unsigned(lost);
                events.extend(fold::apply(&mut host.record, status, lost, report.received_at));
                let apps_digest = fold::apps_digest(status);
                host.apps_changed |= apps_digest != host.record.apps_digest;
                host.record.apps_digest = apps_digest;
                host.last = Some(report);
            }
        }
    }
    events
}

/// The hosts that have an accepted status, sorted by id.
fn changed_hosts<'a>(hosts: &'a HostsInBatch<'a>) -> Vec<ChangedHost<'a>> {
    let mut changed: Vec<ChangedHost<'_>> = hosts
        .iter()
        .filter_map(|(id, host)| ChangedHost::of(id, host))
        .collect();
    changed.sort_unstable_by_key(|changed| changed.id);
    changed
}

/// Writes all columns of the hosts that have news.
async fn write_news(tx: &mut Tx, changed: &[ChangedHost<'_>]) -> Result<()> {
    let news: Vec<&ChangedHost<'_>> = changed.iter().filter(|changed| changed.is_news).collect();
    for chunk in news.chunks(ROWS) {
        let rows = chunk.iter().map(
            |ChangedHost {
                 id,
                 host,
                 report,
                 facts,
                 ..
             }| {
                let record = &host.record;
                [
                    (*id).into(),
                    record.first_seen.into(),
                    record.last_seen.into(),
                    record.boot_id.as_str().into(),
                    record.previous_boot_id.as_str().into(),
                    record.seq.into(),
                    record.lost.into(),
                    record.state.as_str().into(),
                    1.into(),
                    i64::from(facts.satisfied).into(),
                    report.status.generation.map(signed).into(),
                    facts.hostname.as_str().into(),
                    facts.os_info.as_str().into(),
                    facts.agent_version.as_str().into(),
                    facts.error.as_deref().into(),
                    record.apps_digest.into(),
                    record.errors_digest.into(),
                    facts.digest.into(),
                    search_text(id, &facts.hostname, &facts.os_info).into(),
                ]
            },
        );
        let insert = Statement::new(
            "INSERT INTO hosts (host_id, first_seen, last_seen, boot_id, previous_boot_id, seq, lost, state, \
             responding, satisfied, reported_generation, hostname, os_info, agent_version, error, \
             apps_digest, errors_digest, facts_digest, search) ",
        )
        .rows(rows)
        .push(
            " ON CONFLICT (host_id) DO UPDATE SET first_seen = excluded.first_seen, \
             last_seen = excluded.last_seen, boot_id = excluded.boot_id, \
             previous_boot_id = excluded.previous_boot_id, seq = excluded.seq, lost = excluded.lost, \
             state = excluded.state, responding = excluded.responding, satisfied = excluded.satisfied, \
             reported_generation = excluded.reported_generation, hostname = excluded.hostname, \
             os_info = excluded.os_info, agent_version = excluded.agent_version, error = excluded.error, \
             apps_digest = excluded.apps_digest, errors_digest = excluded.errors_digest, \
             facts_digest = excluded.facts_digest, search = excluded.search",
        );
        tx.execute(insert).await?;
    }
    Ok(())
}

/// Writes count and time of the hosts that have no news. Their rows exist and, on PostgreSQL, are
/// locked, so none is inserted.
async fn write_heartbeats(tx: &mut Tx, changed: &[ChangedHost<'_>]) -> Result<()> {
    let heartbeats: Vec<&ChangedHost<'_>> = changed.iter().filter(|changed| !changed.is_news).collect();
    for chunk in heartbeats.chunks(ROWS) {
        let rows = chunk.iter().map(|ChangedHost { id, host, .. }| {
            let record = &host.record;
            [
                (*id).into(),
                record.last_seen.into(),
                record.seq.into(),
                record.lost.into(),
            ]
        });
        let insert = Statement::new("INSERT INTO hosts (host_id, last_seen, seq, lost) ")
            .rows(rows)
            .push(
                " ON CONFLICT (host_id) DO UPDATE SET last_seen = excluded.last_seen, seq = excluded.seq, \
                 lost = excluded.lost",
            );
        tx.execute(insert).await?;
    }
    Ok(())
}

/// Writes the messages themselves.
async fn write_bodies(tx: &mut Tx, changed: &[ChangedHost<'_>]) -> Result<()> {
    for chunk in changed.chunks(ROWS) {
        let rows = chunk
            .iter()
            .map(|ChangedHost { id, report, .. }| [(*id).into(), report.body.as_str().into()]);
        let insert = Statement::new("INSERT INTO statuses (host_id, body) ")
            .rows(rows)
            .push(" ON CONFLICT (host_id) DO UPDATE SET body = excluded.body");
        tx.execute(insert).await?;
    }
    Ok(())
}

/// Replaces the installed applications of the hosts where they have changed.
async fn write_installed(tx: &mut Tx, changed: &[ChangedHost<'_>]) -> Result<()> {
    let changed: Vec<&ChangedHost<'_>> = changed
        .iter()
        .filter(|changed| changed.host.apps_changed)
        .collect();
    for chunk in changed.chunks(ROWS) {
        let delete = Statement::new("DELETE FROM host_apps WHERE desired = 0 AND host_id IN ");
        tx.execute(delete.list(chunk.iter().map(|changed| changed.id)))
            .await?;
    }
    let installed: Vec<_> = changed
        .iter()
        .flat_map(|ChangedHost { id, report, .. }| {
            let apps = report.status.apps.iter();
            apps.map(move |(name, app)| (*id, name, app))
        })
        .collect();
    for chunk in installed.chunks(ROWS) {
        let rows = chunk.iter().map(|(id, name, app)| {
            [
                (*id).into(),
                0.into(),
                name.as_str().into(),
                clean_up_to(MAX_VERSION, &app.version).into(),
                i64::from(app.running).into(),
                i64::from(app.health == Health::Failing).into(),
            ]
        });
        let insert =
            Statement::new("INSERT INTO host_apps (host_id, desired, name, version, running, failing) ");
        tx.execute(insert.rows(rows)).await?;
    }
    Ok(())
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Content(error.to_string())
    }
}
