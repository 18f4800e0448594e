//! A batch of statuses in one transaction: this is the master's hottest path, so its cost per status is a
//! row in three statements, whatever the size of the batch. Of a host that says the same as before, two numbers and
//! the message itself are written, and no index changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use protocol::rest::HostState;
use protocol::{Apps, HostId, Status};
use sqlx::QueryBuilder;

use super::events::{NewEvent, insert_events};
use super::fold::{self, Facts, Known, Order};
use super::query::{host_state, search_text};
use super::row::Columns;
use super::{ROWS, Result, Store, StoreError, clean_up_to, signed, unsigned, writing};

/// A status on its way in.
#[derive(Debug, Clone)]
pub struct Report {
    pub status: Status,
    /// The message it was decoded from.
    pub body: String,
    /// Microseconds, by the master's clock.
    pub received_at: i64,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Ingested {
    pub accepted: u64,
    pub duplicate: u64,
    pub late: u64,
    /// Gaps seen: statuses that have not come (yet).
    pub lost: u64,
    /// Hosts of which something is desired, as they are now.
    pub seen: Vec<Seen>,
}

/// What the dispatcher needs to know of a host that has just reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub host_id: HostId,
    pub state: HostState,
    /// It runs what is desired of it.
    pub satisfied: bool,
    /// It says itself that it is after the current desired state.
    pub towards_current: bool,
    /// Generation of the current desired state, and the one that the host has.
    pub generation: u64,
    pub reported_generation: Option<u64>,
    /// `id` of the last message that it refused.
    pub rejected_id: Option<String>,
}

/// Characters of an installed version that can be searched for: more would not fit into an index of PostgreSQL.
const MAX_VERSION: usize = 256;

/// A host on the way through a batch.
struct Host<'a> {
    known: Known,
    desired_generation: Option<u64>,
    desired: Option<Arc<Apps>>,
    /// The newest status, if any counted.
    last: Option<&'a Report>,
    apps_changed: bool,
}

impl Host<'_> {
    fn new(known: Known, desired_generation: Option<u64>) -> Self {
        Self {
            known,
            desired_generation,
            desired: None,
            last: None,
            apps_changed: false,
        }
    }
}

/// A host to be written.
struct Changed<'a> {
    id: &'a str,
    host: &'a Host<'a>,
    report: &'a Report,
    facts: Facts,
    /// Something beside the count and the time of its statuses has changed.
    is_news: bool,
}

impl<'a> Changed<'a> {
    fn of(id: &'a str, host: &'a Host<'a>) -> Option<Self> {
        let report = host.last?;
        let facts = Facts::of(&host.known, &report.status, host.desired.as_deref());
        Some(Self {
            id,
            host,
            report,
            is_news: facts.digest != host.known.facts_digest,
            facts,
        })
    }
}

impl Store {
    /// Takes in statuses, in the order in which they came: all of them or, on an error, none.
    pub async fn ingest(&self, batch: &[Report]) -> Result<Ingested> {
        // In the order of ids, so that two masters never wait for each other's rows in a circle.
        let ids: BTreeMap<&str, &HostId> = batch
            .iter()
            .map(|report| (report.status.host_id.as_str(), &report.status.host_id))
            .collect();
        let unknown = self.without_row(ids.values().copied());
        let names: Vec<&str> = ids.keys().copied().collect();
        let mut done = Ingested::default();
        let told;
        writing!(self, tx => {
            for chunk in unknown.chunks(ROWS) {
                // Two masters that meet a host at the same time: one makes the row, the other waits for it.
                let mut query = QueryBuilder::new("INSERT INTO hosts (host_id) ");
                query.push_values(chunk, |mut row, id| { row.push_bind(id.as_str().to_owned()); });
                query.push(" ON CONFLICT (host_id) DO NOTHING");
                query.build().execute(&mut *tx).await?;
            }
            let mut hosts: HashMap<String, Host<'_>> = HashMap::with_capacity(names.len());
            for chunk in names.chunks(ROWS) {
                if self.is_postgres() {
                    // By itself: what is read with it would be from before the wait for it.
                    let mut query = QueryBuilder::new("SELECT 1 FROM hosts WHERE host_id IN (");
                    let mut list = query.separated(", ");
                    for id in chunk {
                        list.push_bind((*id).to_owned());
                    }
                    query.push(") ORDER BY host_id FOR UPDATE");
                    query.build().execute(&mut *tx).await?;
                }
                let mut query = QueryBuilder::new(
                    "SELECT h.host_id, h.first_seen, COALESCE(h.last_seen, 0), h.boot_id, h.previous_boot_id, \
                     h.seq, h.lost, h.state, h.responding, h.apps_digest, h.errors_digest, h.facts_digest, \
                     d.generation \
                     FROM hosts h LEFT JOIN desired d ON d.host_id = h.host_id WHERE h.host_id IN (",
                );
                let mut list = query.separated(", ");
                for id in chunk {
                    list.push_bind((*id).to_owned());
                }
                query.push(")");
                for row in query.build().fetch_all(&mut *tx).await? {
                    let desired_generation = row.number_or_null(12)?.map(unsigned);
                    hosts.insert(row.text(0)?, Host::new(known(&row)?, desired_generation));
                }
            }
            // A row that was there is gone: another master has deleted the host since.
            for id in &names {
                hosts.entry((*id).to_owned()).or_insert_with(|| Host::new(Known::default(), None));
            }
            let events = fold_batch(batch, &mut hosts, &mut done);
            let missing = self.fill_in_desired(&mut hosts);
            for chunk in missing.chunks(ROWS) {
                let mut query =
                    QueryBuilder::new("SELECT host_id, generation, apps FROM desired WHERE host_id IN (");
                let mut list = query.separated(", ");
                for id in chunk {
                    list.push_bind(id.clone());
                }
                query.push(")");
                for row in query.build().fetch_all(&mut *tx).await? {
                    let id = row.text(0)?;
                    let apps = Arc::new(super::desired::parse(&row.text(2)?)?);
                    if let Ok(id) = HostId::new(id.as_str()) {
                        self.remember_desired(id, unsigned(row.number(1)?), apps.clone());
                    }
                    if let Some(host) = hosts.get_mut(&id) {
                        host.desired_generation = Some(unsigned(row.number(1)?));
                        host.desired = Some(apps);
                    }
                }
            }
            let mut changed: Vec<Changed<'_>> =
                hosts.iter().filter_map(|(id, host)| Changed::of(id, host)).collect();
            changed.sort_unstable_by_key(|changed| changed.id);
            let (news, heartbeats): (Vec<_>, Vec<_>) = changed.iter().partition(|changed| changed.is_news);
            for chunk in news.chunks(ROWS) {
                let mut query = QueryBuilder::new(
                    "INSERT INTO hosts (host_id, first_seen, last_seen, boot_id, previous_boot_id, seq, lost, state, \
                     responding, satisfied, reported_generation, hostname, os_info, agent_version, error, \
                     apps_digest, errors_digest, facts_digest, search) ",
                );
                query.push_values(chunk, |mut row, Changed { id, host, report, facts, .. }| {
                    let known = &host.known;
                    row.push_bind((*id).to_owned())
                        .push_bind(known.first_seen)
                        .push_bind(known.last_seen)
                        .push_bind(known.boot_id.clone())
                        .push_bind(known.previous_boot_id.clone())
                        .push_bind(known.seq)
                        .push_bind(known.lost)
                        .push_bind(known.state.as_str())
                        .push_bind(1i64)
                        .push_bind(i64::from(facts.satisfied))
                        .push_bind(report.status.generation.map(signed))
                        .push_bind(facts.hostname.clone())
                        .push_bind(facts.os_info.clone())
                        .push_bind(facts.agent_version.clone())
                        .push_bind(facts.error.clone())
                        .push_bind(known.apps_digest)
                        .push_bind(known.errors_digest)
                        .push_bind(facts.digest)
                        .push_bind(search_text(id, &facts.hostname, &facts.os_info));
                });
                query.push(
                    " ON CONFLICT (host_id) DO UPDATE SET first_seen = excluded.first_seen, \
                     last_seen = excluded.last_seen, boot_id = excluded.boot_id, \
                     previous_boot_id = excluded.previous_boot_id, seq = excluded.seq, lost = excluded.lost, \
                     state = excluded.state, responding = excluded.responding, satisfied = excluded.satisfied, \
                     reported_generation = excluded.reported_generation, hostname = excluded.hostname, \
                     os_info = excluded.os_info, agent_version = excluded.agent_version, error = excluded.error, \
                     apps_digest = excluded.apps_digest, errors_digest = excluded.errors_digest, \
                     facts_digest = excluded.facts_digest, search = excluded.search",
                );
                query.build().execute(&mut *tx).await?;
            }
            // Their rows were read above and, on PostgreSQL, locked: none of these inserts.
            for chunk in heartbeats.chunks(ROWS) {
                let mut query = QueryBuilder::new("INSERT INTO hosts (host_id, last_seen, seq, lost) ");
                query.push_values(chunk, |mut row, Changed { id, host, .. }| {
                    row.push_bind((*id).to_owned())
                        .push_bind(host.known.last_seen)
                        .push_bind(host.known.seq)
                        .push_bind(host.known.lost);
                });
                query.push(
                    " ON CONFLICT (host_id) DO UPDATE SET last_seen = excluded.last_seen, seq = excluded.seq, \
                     lost = excluded.lost",
                );
                query.build().execute(&mut *tx).await?;
            }
            for chunk in changed.chunks(ROWS) {
                let mut query = QueryBuilder::new("INSERT INTO statuses (host_id, body) ");
                query.push_values(chunk, |mut row, Changed { id, report, .. }| {
                    row.push_bind((*id).to_owned()).push_bind(report.body.clone());
                });
                query.push(" ON CONFLICT (host_id) DO UPDATE SET body = excluded.body");
                query.build().execute(&mut *tx).await?;
            }
            let with_new_apps: Vec<&Changed<'_>> =
                changed.iter().filter(|changed| changed.host.apps_changed).collect();
            for chunk in with_new_apps.chunks(ROWS) {
                let mut query = QueryBuilder::new("DELETE FROM host_apps WHERE desired = 0 AND host_id IN (");
                let mut list = query.separated(", ");
                for Changed { id, .. } in chunk {
                    list.push_bind((*id).to_owned());
                }
                query.push(")");
                query.build().execute(&mut *tx).await?;
            }
            let rows: Vec<_> = with_new_apps
                .iter()
                .flat_map(|Changed { id, report, .. }| {
                    report.status.apps.iter().map(move |(name, app)| (*id, name, app))
                })
                .collect();
            for chunk in rows.chunks(ROWS) {
                let mut query =
                    QueryBuilder::new("INSERT INTO host_apps (host_id, desired, name, version, running, failing) ");
                query.push_values(chunk, |mut row, (id, name, app)| {
                    row.push_bind((*id).to_owned())
                        .push_bind(0i64)
                        .push_bind(name.as_str().to_owned())
                        .push_bind(clean_up_to(MAX_VERSION, &app.version))
                        .push_bind(i64::from(app.running))
                        .push_bind(i64::from(app.health == protocol::status::Health::Failing));
                });
                query.build().execute(&mut *tx).await?;
            }
            told = !events.is_empty();
            insert_events!(self, tx, events);
            done.seen = changed.iter().filter_map(seen).collect();
        });
        self.remember_rows(unknown.into_iter().cloned());
        if told {
            self.refresh_newest_event().await?;
        }
        Ok(done)
    }

    /// Fills in the desired states that are known here; the hosts of which they must be read.
    fn fill_in_desired(&self, hosts: &mut HashMap<String, Host<'_>>) -> Vec<String> {
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

fn known(row: &impl Columns) -> Result<Known> {
    Ok(Known {
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

/// Goes through the batch in its order.
fn fold_batch<'a>(
    batch: &'a [Report],
    hosts: &mut HashMap<String, Host<'a>>,
    done: &mut Ingested,
) -> Vec<NewEvent> {
    let mut events = Vec::new();
    for report in batch {
        let status = &report.status;
        let Some(host) = hosts.get_mut(status.host_id.as_str()) else {
            continue;
        };
        match fold::order(&host.known, status) {
            Order::Duplicate => done.duplicate += 1,
            Order::Late => done.late += 1,
            Order::Newer { lost } => {
                done.accepted += 1;
                done.lost += unsigned(lost);
                events.extend(fold::take(&mut host.known, status, lost, report.received_at));
                let apps_digest = fold::apps_digest(status);
                host.apps_changed |= apps_digest != host.known.apps_digest;
                host.known.apps_digest = apps_digest;
                host.last = Some(report);
            }
        }
    }
    events
}

fn seen(
    Changed {
        host, report, facts, ..
    }: &Changed<'_>,
) -> Option<Seen> {
    let (desired, generation) = host.desired.as_ref().zip(host.desired_generation)?;
    let status = &report.status;
    Some(Seen {
        host_id: status.host_id.clone(),
        state: host.known.state,
        satisfied: facts.satisfied,
        towards_current: status.generation == Some(generation)
            || status.desired_apps.as_ref() == Some(desired.as_ref()),
        generation,
        reported_generation: status.generation,
        rejected_id: status
            .last_rejected
            .as_ref()
            .and_then(|rejected| rejected.id.clone()),
    })
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Content(error.to_string())
    }
}
