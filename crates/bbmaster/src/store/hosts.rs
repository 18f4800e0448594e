//! Hosts as the API shows them, and what is changed of them beside the desired state.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use protocol::rest::{
    AppList, AppUsage, EventKind, Host, HostIds, HostList, HostQuery, HostState, HostSummary, Labels,
};
use protocol::{HostId, Limits, Status};
use serde_json::json;
use sqlx::QueryBuilder;

use super::events::{Json, NewEvent, insert_events};
use super::query::{host_state, push_count, push_page, search_text};
use super::row::Columns;
use super::{Result, Store, StoreError, now, reading, show_time, signed, unsigned, writing};

/// What is in the columns of `hosts` and `desired`.
const COLUMNS: &str = "h.host_id, h.state, h.responding, h.satisfied, h.hostname, h.os_info, h.agent_version, h.error, \
     COALESCE(d.generation, 0), h.last_seen";
/// What a page shows of its hosts; a list of their ids follows.
pub(super) const APPS_OF: &str =
    "SELECT host_id, name, version FROM host_apps WHERE desired = 0 AND host_id IN (";
pub(super) const LABELS_OF: &str = "SELECT host_id, name, value FROM labels WHERE host_id IN (";
const DESIRED: &str = "LEFT JOIN desired d ON d.host_id = h.host_id";

fn host_id(text: String) -> Result<HostId> {
    HostId::new(text).map_err(|_| StoreError::Content("hosts.host_id".to_owned()))
}

fn summary(row: &impl Columns) -> Result<HostSummary> {
    Ok(HostSummary {
        host_id: host_id(row.text(0)?)?,
        status: host_state(&row.text(1)?)?,
        responding: row.flag(2)?,
        satisfied: row.flag(3)?,
        hostname: row.text(4)?,
        os_info: row.text(5)?,
        agent_version: row.text(6)?,
        error: row.text_or_null(7)?,
        generation: unsigned(row.number(8)?),
        last_seen: row.number_or_null(9)?.map(show_time),
        apps: BTreeMap::new(),
        labels: Labels::new(),
    })
}

impl Store {
    /// A page of hosts, by id.
    pub async fn hosts(&self, wanted: &HostQuery, limit: u32) -> Result<HostList> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut hosts = Vec::new();
        let total;
        reading!(self, pool => {
            // The ids first, which indexes alone answer; the rows of those that are shown then.
            let mut query = QueryBuilder::new("SELECT ");
            query.push(COLUMNS).push(" FROM (");
            push_page(&mut query, wanted, signed(limit as u64 + 1));
            query.push(format_args!(") p CROSS JOIN hosts h {DESIRED} WHERE h.host_id = p.host_id ORDER BY h.host_id"));
            for row in query.build().fetch_all(pool).await? {
                hosts.push(summary(&row)?);
            }
            // The first page may be all there is.
            if wanted.after.is_none() && hosts.len() <= limit {
                total = hosts.len() as u64;
            } else {
                let mut query = QueryBuilder::default();
                push_count(&mut query, wanted);
                total = unsigned(query.build().fetch_one(pool).await?.number(0)?);
            }
        });
        let more = hosts.len() > limit;
        hosts.truncate(limit);
        self.add_apps_and_labels(&mut hosts).await?;
        let next = hosts
            .last()
            .filter(|_| more)
            .map(|host: &HostSummary| host.host_id.to_string());
        Ok(HostList { hosts, next, total })
    }

    async fn add_apps_and_labels(&self, hosts: &mut [HostSummary]) -> Result<()> {
        let places: HashMap<String, usize> = hosts
            .iter()
            .enumerate()
            .map(|(place, host)| (host.host_id.to_string(), place))
            .collect();
        if places.is_empty() {
            return Ok(());
        }
        reading!(self, pool => {
            for (select, of_apps) in [
                (APPS_OF, true),
                (LABELS_OF, false),
            ] {
                let mut query = QueryBuilder::new(select);
                let mut list = query.separated(", ");
                for id in places.keys() {
                    list.push_bind(id.clone());
                }
                query.push(")");
                for row in query.build().fetch_all(pool).await? {
                    let host = places.get(&row.text(0)?).and_then(|place| hosts.get_mut(*place));
                    if let Some(host) = host {
                        let map = if of_apps { &mut host.apps } else { &mut host.labels };
                        map.insert(row.text(1)?, row.text(2)?);
                    }
                }
            }
        });
        Ok(())
    }

    pub async fn host_ids(&self, wanted: &HostQuery, limit: u32) -> Result<HostIds> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut ids = Vec::new();
        reading!(self, pool => {
            let mut query = QueryBuilder::default();
            push_page(&mut query, wanted, signed(limit as u64 + 1));
            for row in query.build().fetch_all(pool).await? {
                ids.push(host_id(row.text(0)?)?);
            }
        });
        let more = ids.len() > limit;
        ids.truncate(limit);
        let next = ids.last().filter(|_| more).map(HostId::to_string);
        Ok(HostIds { ids, next })
    }

    /// All that is known of a host.
    pub async fn host(&self, id: &HostId) -> Result<Option<Host>> {
        let Some((summary, status, first_seen, lost)) = self.host_row(id).await? else {
            return Ok(None);
        };
        let desired = self.desired(id).await?;
        let mut one = [summary];
        self.add_apps_and_labels(&mut one).await?;
        let [summary] = one;
        let generation = desired.as_ref().map_or(0, |desired| desired.generation);
        let mut host = Host {
            host_id: id.clone(),
            status: summary.status,
            responding: summary.responding,
            satisfied: desired.is_none() || summary.satisfied,
            detail: None,
            info: BTreeMap::new(),
            apps: BTreeMap::new(),
            desired_apps: desired.map(|desired| Arc::unwrap_or_clone(desired.apps)),
            generation,
            reported_generation: None,
            errors: Vec::new(),
            last_rejected: None,
            host_agent: protocol::status::AgentInfo::default(),
            labels: summary.labels,
            timestamp: None,
            first_seen: first_seen.map(show_time),
            last_seen: summary.last_seen,
            boot_id: String::new(),
            seq: 0,
            lost_statuses: lost,
        };
        if let Some(status) = status {
            host.detail = status.detail;
            host.info = status.info;
            host.apps = status.apps;
            host.reported_generation = status.generation;
            host.errors = status.errors;
            host.last_rejected = status.last_rejected;
            host.host_agent = status.host_agent;
            host.timestamp = Some(status.timestamp);
            host.boot_id = status.boot_id;
            host.seq = status.seq;
        }
        Ok(Some(host))
    }

    async fn host_row(&self, id: &HostId) -> Result<Option<(HostSummary, Option<Status>, Option<i64>, u64)>> {
        reading!(self, pool => {
            let row = QueryBuilder::new("SELECT ")
                .push(COLUMNS)
                .push(", h.first_seen, h.lost, s.body FROM hosts h ")
                .push(DESIRED)
                .push(" LEFT JOIN statuses s ON s.host_id = h.host_id WHERE h.host_id = ")
                .push_bind(id.as_str())
                .build()
                .fetch_optional(pool)
                .await?;
            let Some(row) = row else { return Ok(None) };
            // It was decoded when it came; a limit that was lowered since is no reason to lose sight of a host.
            let limits = Limits { max_size: usize::MAX, ..Limits::default() };
            let status = row
                .text_or_null(12)?
                .and_then(|body| Status::decode(body.as_bytes(), limits).ok());
            Ok(Some((summary(&row)?, status, row.number_or_null(10)?, unsigned(row.number(11)?))))
        })
    }

    /// Forgets a host and what was desired of it; whether there was one. It comes back if it reports again.
    pub async fn delete_host(&self, id: &HostId, author: &str) -> Result<bool> {
        let existed = writing!(self, tx => {
            let deleted = sqlx::query("DELETE FROM hosts WHERE host_id = $1")
                .bind(id.as_str())
                .execute(&mut *tx)
                .await?
                .rows_affected();
            for table in [
                "DELETE FROM statuses WHERE host_id = $1",
                "DELETE FROM desired WHERE host_id = $1",
                "DELETE FROM host_apps WHERE host_id = $1",
                "DELETE FROM labels WHERE host_id = $1",
                "DELETE FROM enrolled WHERE host_id = $1",
            ] {
                sqlx::query(table).bind(id.as_str()).execute(&mut *tx).await?;
            }
            if deleted > 0 {
                insert_events!(self, tx, vec![NewEvent {
                    at: now(),
                    kind: EventKind::HostDeleted,
                    host_id: Some(id.as_str().into()),
                    author: Some(author.into()),
                    message: "deleted".to_owned(),
                    data: None,
                }]);
            }
            deleted > 0
        });
        self.forget(id);
        self.refresh_newest_event().await?;
        Ok(existed)
    }

    /// `None`: there is no such host.
    pub async fn labels(&self, id: &HostId) -> Result<Option<Labels>> {
        reading!(self, pool => {
            let host = sqlx::query("SELECT 1 FROM hosts WHERE host_id = $1")
                .bind(id.as_str())
                .fetch_optional(pool)
                .await?;
            if host.is_none() {
                return Ok(None);
            }
            let mut labels = Labels::new();
            for row in sqlx::query("SELECT name, value FROM labels WHERE host_id = $1")
                .bind(id.as_str())
                .fetch_all(pool)
                .await?
            {
                labels.insert(row.text(0)?, row.text(1)?);
            }
            Ok(Some(labels))
        })
    }

    /// Replaces all labels of a host; one that was never seen gets a row.
    pub async fn put_labels(&self, id: &HostId, labels: &Labels, author: &str) -> Result<()> {
        writing!(self, tx => {
            sqlx::query("INSERT INTO hosts (host_id, search) VALUES ($1, $2) ON CONFLICT (host_id) DO NOTHING")
                .bind(id.as_str())
                .bind(search_text(id.as_str(), "", ""))
                .execute(&mut *tx)
                .await?;
            sqlx::query("DELETE FROM labels WHERE host_id = $1")
                .bind(id.as_str())
                .execute(&mut *tx)
                .await?;
            for (name, value) in labels {
                // A second PUT at the same time may have set it already.
                sqlx::query(
                    "INSERT INTO labels (host_id, name, value) VALUES ($1, $2, $3) \
                     ON CONFLICT (host_id, name) DO UPDATE SET value = excluded.value",
                )
                .bind(id.as_str())
                .bind(name)
                .bind(value)
                .execute(&mut *tx)
                .await?;
            }
            let list: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            insert_events!(self, tx, vec![NewEvent {
                at: now(),
                kind: EventKind::LabelsChanged,
                host_id: Some(id.as_str().into()),
                author: Some(author.into()),
                message: format!("labels are now: {}", list.join(", ")),
                data: Json::of(&json!({ "labels": labels })),
            }]);
        });
        self.refresh_newest_event().await
    }

    /// Marks hosts that have not reported since `before`; how many are newly so.
    pub async fn mark_silent(&self, before: i64) -> Result<u64> {
        // Looked for before, so that writers wait only if there are any: no index has `last_seen`, which each
        // heartbeat changes.
        let any = reading!(self, pool => {
            sqlx::query("SELECT 1 FROM hosts WHERE responding + 0 = 1 AND last_seen < $1 LIMIT 1")
                .bind(before)
                .fetch_optional(pool)
                .await?
                .is_some()
        });
        if !any {
            return Ok(0);
        }
        let silent = writing!(self, tx => {
            let rows = sqlx::query(
                "UPDATE hosts SET responding = 0, facts_digest = 0 WHERE responding = 1 AND last_seen < $1 \
                 RETURNING host_id, last_seen",
            )
            .bind(before)
            .fetch_all(&mut *tx)
            .await?;
            let mut events = Vec::with_capacity(rows.len());
            for row in &rows {
                events.push(NewEvent {
                    at: now(),
                    kind: EventKind::HostSilent,
                    host_id: Some(row.text(0)?.into()),
                    author: None,
                    message: format!("has not reported since {}", show_time(row.number(1)?)),
                    data: None,
                });
            }
            insert_events!(self, tx, events);
            rows.len()
        });
        if silent > 0 {
            self.refresh_newest_event().await?;
        }
        Ok(silent as u64)
    }

    /// Each application of the fleet, by name.
    pub async fn apps(&self) -> Result<AppList> {
        let mut apps: BTreeMap<String, AppUsage> = BTreeMap::new();
        reading!(self, pool => {
            let rows = sqlx::query(
                "SELECT desired, name, version, COUNT(*), CAST(SUM(running) AS BIGINT), CAST(SUM(failing) AS BIGINT) \
                 FROM host_apps GROUP BY desired, name, version",
            )
            .fetch_all(pool)
            .await?;
            for row in rows {
                let name = row.text(1)?;
                let usage = apps.entry(name.clone()).or_insert_with(|| AppUsage {
                    name,
                    installed: BTreeMap::new(),
                    desired: BTreeMap::new(),
                    running: 0,
                    failing: 0,
                });
                let hosts = unsigned(row.number(3)?);
                if row.flag(0)? {
                    usage.desired.insert(row.text(2)?, hosts);
                } else {
                    usage.installed.insert(row.text(2)?, hosts);
                    usage.running += unsigned(row.number(4)?);
                    usage.failing += unsigned(row.number(5)?);
                }
            }
        });
        Ok(AppList {
            apps: apps.into_values().collect(),
        })
    }

    /// Hosts by state, and those that respond.
    pub async fn count_hosts(&self) -> Result<(Vec<(HostState, u64)>, u64)> {
        let mut states: Vec<(HostState, u64)> = HostState::ALL.map(|state| (state, 0)).into();
        let mut responding = 0;
        reading!(self, pool => {
            let rows = sqlx::query("SELECT state, responding, COUNT(*) FROM hosts GROUP BY state, responding")
                .fetch_all(pool)
                .await?;
            for row in rows {
                let state = host_state(&row.text(0)?)?;
                let count = unsigned(row.number(2)?);
                for (candidate, total) in &mut states {
                    if *candidate == state {
                        *total += count;
                    }
                }
                if row.flag(1)? {
                    responding += count;
                }
            }
        });
        Ok((states, responding))
    }

    /// Ids of the hosts that have ever reported, by id, after `after`.
    pub async fn reporting_hosts(&self, after: &str, limit: u32) -> Result<Vec<HostId>> {
        reading!(self, pool => {
            let rows = sqlx::query(
                "SELECT host_id FROM hosts WHERE first_seen IS NOT NULL AND host_id > $1 ORDER BY host_id LIMIT $2",
            )
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await?;
            rows.iter().map(|row| host_id(row.text(0)?)).collect()
        })
    }
}
