//! A batch of statuses in one transaction: this is the master's hottest path, so its cost per status is a
//! row in three statements, whatever the size of the batch.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use protocol::rest::HostState;
use protocol::{Apps, HostId, Status, apps_satisfied};
use sqlx::QueryBuilder;

use super::events::{NewEvent, insert_events};
use super::fold::{self, Known, Order};
use super::query::host_state;
use super::row::Columns;
use super::{Result, Store, StoreError, clean, signed, unsigned, writing};

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

/// What saves reading: both are only ever right or missing.
#[derive(Default)]
pub(super) struct Cache {
    /// Hosts that have a row, less those that were deleted since by another master.
    rows: HashSet<HostId>,
    /// By host: generation, and what it holds.
    desired: HashMap<HostId, (u64, Arc<Apps>)>,
}

/// Desired states kept parsed; all are dropped when there are more.
const MAX_DESIRED: usize = 20_000;
/// Rows per statement: few enough for every limit on bound values, and statements are kept prepared.
const ROWS: usize = 100;

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
    fn satisfied(&self) -> bool {
        match (&self.desired, self.last) {
            (Some(desired), Some(report)) => apps_satisfied(desired, &report.status.apps),
            (None, _) => true,
            (Some(_), None) => false,
        }
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
        let unknown: Vec<&str> = {
            let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            ids.values()
                .filter(|id| !cache.rows.contains(**id))
                .map(|id| id.as_str())
                .collect()
        };
        let names: Vec<&str> = ids.keys().copied().collect();
        let mut done = Ingested::default();
        let told;
        writing!(self, tx => {
            for chunk in unknown.chunks(ROWS) {
                // Two masters that meet a host at the same time: one makes the row, the other waits for it.
                let mut query = QueryBuilder::new("INSERT INTO hosts (host_id) ");
                query.push_values(chunk, |mut row, id| { row.push_bind((*id).to_owned()); });
                query.push(" ON CONFLICT (host_id) DO NOTHING");
                query.build().execute(&mut *tx).await?;
            }
            let mut hosts: HashMap<String, Host<'_>> = HashMap::with_capacity(names.len());
            for chunk in names.chunks(ROWS) {
                let mut query = QueryBuilder::new(
                    "SELECT h.host_id, h.first_seen, COALESCE(h.last_seen, 0), h.boot_id, h.previous_boot_id, \
                     h.seq, h.lost, h.state, h.responding, h.apps_digest, h.errors_digest, d.generation \
                     FROM hosts h LEFT JOIN desired d ON d.host_id = h.host_id WHERE h.host_id IN (",
                );
                let mut list = query.separated(", ");
                for id in chunk {
                    list.push_bind((*id).to_owned());
                }
                query.push(") ORDER BY h.host_id");
                if self.is_postgres() {
                    query.push(" FOR UPDATE OF h");
                }
                for row in query.build().fetch_all(&mut *tx).await? {
                    hosts.insert(row.text(0)?, Host {
                        known: known(&row)?,
                        desired_generation: row.number_or_null(11)?.map(unsigned),
                        desired: None,
                        last: None,
                        apps_changed: false,
                    });
                }
            }
            // A row that was there is gone: another master has deleted the host since.
            for id in &names {
                hosts.entry((*id).to_owned()).or_insert_with(|| Host {
                    known: Known::default(),
                    desired_generation: None,
                    desired: None,
                    last: None,
                    apps_changed: false,
                });
            }
            let events = fold_batch(batch, &mut hosts, &mut done);
            let missing = self.recall_desired(&ids, &mut hosts);
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
                    self.remember_desired(&id, unsigned(row.number(1)?), apps.clone());
                    if let Some(host) = hosts.get_mut(&id) {
                        host.desired_generation = Some(unsigned(row.number(1)?));
                        host.desired = Some(apps);
                    }
                }
            }
            let mut changed: Vec<(&str, &Host<'_>)> = hosts
                .iter()
                .filter(|(_, host)| host.last.is_some())
                .map(|(id, host)| (id.as_str(), host))
                .collect();
            changed.sort_unstable_by_key(|(id, _)| *id);
            for chunk in changed.chunks(ROWS) {
                let mut query = QueryBuilder::new(
                    "INSERT INTO hosts (host_id, first_seen, last_seen, boot_id, previous_boot_id, seq, lost, state, \
                     responding, satisfied, reported_generation, hostname, os_info, agent_version, error, \
                     apps_digest, errors_digest, body) ",
                );
                query.push_values(chunk, |mut row, (id, host)| {
                    let Some(report) = host.last else { return };
                    let Known { first_seen, last_seen, .. } = host.known;
                    let status = &report.status;
                    row.push_bind((*id).to_owned())
                        .push_bind(first_seen)
                        .push_bind(last_seen)
                        .push_bind(host.known.boot_id.clone())
                        .push_bind(host.known.previous_boot_id.clone())
                        .push_bind(host.known.seq)
                        .push_bind(host.known.lost)
                        .push_bind(host.known.state.as_str())
                        .push_bind(1i64)
                        .push_bind(i64::from(host.satisfied()))
                        .push_bind(status.generation.map(signed))
                        .push_bind(fact(status, "hostname"))
                        .push_bind(fact(status, "os_info"))
                        .push_bind(clean(&status.host_agent.version))
                        .push_bind(fold::first_error(status))
                        .push_bind(host.known.apps_digest)
                        .push_bind(host.known.errors_digest)
                        .push_bind(report.body.clone());
                });
                query.push(
                    " ON CONFLICT (host_id) DO UPDATE SET first_seen = excluded.first_seen, \
                     last_seen = excluded.last_seen, boot_id = excluded.boot_id, \
                     previous_boot_id = excluded.previous_boot_id, seq = excluded.seq, lost = excluded.lost, \
                     state = excluded.state, responding = excluded.responding, satisfied = excluded.satisfied, \
                     reported_generation = excluded.reported_generation, hostname = excluded.hostname, \
                     os_info = excluded.os_info, agent_version = excluded.agent_version, error = excluded.error, \
                     apps_digest = excluded.apps_digest, errors_digest = excluded.errors_digest, \
                     body = excluded.body",
                );
                query.build().execute(&mut *tx).await?;
            }
            let with_new_apps: Vec<&(&str, &Host<'_>)> =
                changed.iter().filter(|(_, host)| host.apps_changed).collect();
            for chunk in with_new_apps.chunks(ROWS) {
                let mut query = QueryBuilder::new("DELETE FROM host_apps WHERE desired = 0 AND host_id IN (");
                let mut list = query.separated(", ");
                for (id, _) in chunk {
                    list.push_bind((*id).to_owned());
                }
                query.push(")");
                query.build().execute(&mut *tx).await?;
            }
            let rows: Vec<_> = with_new_apps
                .iter()
                .filter_map(|(id, host)| Some((id, &host.last?.status.apps)))
                .flat_map(|(id, apps)| apps.iter().map(move |(name, app)| (*id, name, app)))
                .collect();
            for chunk in rows.chunks(ROWS) {
                let mut query =
                    QueryBuilder::new("INSERT INTO host_apps (host_id, desired, name, version, running, failing) ");
                query.push_values(chunk, |mut row, (id, name, app)| {
                    row.push_bind((*id).to_owned())
                        .push_bind(0i64)
                        .push_bind(name.as_str().to_owned())
                        .push_bind(clean(&app.version))
                        .push_bind(i64::from(app.running))
                        .push_bind(i64::from(app.health == protocol::status::Health::Failing));
                });
                query.build().execute(&mut *tx).await?;
            }
            insert_events!(self, tx, &events);
            done.seen = changed.iter().filter_map(|(_, host)| seen(host)).collect();
            told = !events.is_empty();
        });
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            let new: HashSet<&str> = unknown.into_iter().collect();
            cache.rows.extend(
                ids.values()
                    .filter(|id| new.contains(id.as_str()))
                    .map(|id| (*id).clone()),
            );
        }
        if told {
            self.refresh_newest_event().await?;
        }
        Ok(done)
    }

    /// Fills in the desired states that are known here; the hosts of which they must be read.
    fn recall_desired(
        &self,
        ids: &BTreeMap<&str, &HostId>,
        hosts: &mut HashMap<String, Host<'_>>,
    ) -> Vec<String> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = Vec::new();
        for (name, host) in hosts.iter_mut() {
            let Some(generation) = host.desired_generation else {
                continue;
            };
            let kept = ids.get(name.as_str()).and_then(|id| cache.desired.get(*id));
            match kept {
                Some((kept, apps)) if *kept == generation => host.desired = Some(apps.clone()),
                _ => missing.push(name.clone()),
            }
        }
        missing.sort_unstable();
        missing
    }

    fn remember_desired(&self, id: &str, generation: u64, apps: Arc<Apps>) {
        let Ok(id) = HostId::new(id) else { return };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.desired.len() >= MAX_DESIRED {
            cache.desired.clear();
        }
        cache.desired.insert(id, (generation, apps));
    }

    /// The host was deleted: what is kept of it here is wrong.
    pub(super) fn forget(&self, id: &HostId) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.rows.remove(id);
        cache.desired.remove(id);
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
        match fold::order(&host.known, &clean(&status.boot_id), signed(status.seq)) {
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

fn fact(status: &Status, name: &str) -> String {
    clean(
        status
            .info
            .get(name)
            .and_then(|fact| fact.as_str())
            .unwrap_or_default(),
    )
}

fn seen(host: &Host<'_>) -> Option<Seen> {
    let (desired, generation) = host.desired.as_ref().zip(host.desired_generation)?;
    let status = &host.last?.status;
    Some(Seen {
        host_id: status.host_id.clone(),
        state: host.known.state,
        satisfied: host.satisfied(),
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
