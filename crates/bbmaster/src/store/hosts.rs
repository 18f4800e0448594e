//! Hosts as the API shows them; deleting them, their labels, and marking silent ones.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use protocol::rest::{
    AppList, AppUsage, EventKind, Host, HostIds, HostList, HostQuery, HostState, HostSummary, Labels,
};
use protocol::{HostId, Limits, Status};
use serde_json::json;

use super::events::{EventData, NewEvent};
use super::query::{host_state, push_page, search_text, select_count};
use super::row::Row;
use super::statement::Statement;
use super::{Result, Store, StoreError, now, show_time, signed, unsigned};

/// Columns of a host in a list.
const COLUMNS: &str = "h.host_id, h.state, h.responding, h.satisfied, h.hostname, h.os_info, h.agent_version, h.error, \
     COALESCE(d.generation, 0), h.last_seen";
/// Applications and labels of hosts; a list of ids follows.
pub(super) const APPS_OF: &str =
    "SELECT host_id, name, version FROM host_apps WHERE desired = 0 AND host_id IN ";
pub(super) const LABELS_OF: &str = "SELECT host_id, name, value FROM labels WHERE host_id IN ";
const DESIRED: &str = "LEFT JOIN desired d ON d.host_id = h.host_id";

fn host_id(text: String) -> Result<HostId> {
    HostId::new(text).map_err(|_| StoreError::Content("hosts.host_id".to_owned()))
}

fn summary(row: &Row) -> Result<HostSummary> {
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
    /// A page of hosts, sorted by id.
    pub async fn hosts(&self, wanted: &HostQuery, limit: u32) -> Result<HostList> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // Indexes alone give the ids; only the rows of this page are read then.
        let select = Statement::new("SELECT ").push(COLUMNS).push(" FROM (");
        let select = push_page(select, wanted, signed(limit as u64 + 1))
            .push(") p CROSS JOIN hosts h ")
            .push(DESIRED)
            .push(" WHERE h.host_id = p.host_id ORDER BY h.host_id");
        let rows = self.read(select).await?;
        let mut hosts: Vec<HostSummary> = rows.iter().map(summary).collect::<Result<_>>()?;
        let is_whole = wanted.after.is_none() && hosts.len() <= limit;
        let total = match is_whole {
            true => hosts.len() as u64,
            false => self.count_matching(wanted).await?,
        };
        let more = hosts.len() > limit;
        hosts.truncate(limit);
        self.add_apps_and_labels(&mut hosts).await?;
        let next = hosts.last().filter(|_| more);
        let next = next.map(|host| host.host_id.to_string());
        Ok(HostList { hosts, next, total })
    }

    async fn count_matching(&self, wanted: &HostQuery) -> Result<u64> {
        match self.read_one(select_count(wanted)).await? {
            Some(row) => Ok(unsigned(row.number(0)?)),
            None => Ok(0),
        }
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
        for (select, has_apps) in [(APPS_OF, true), (LABELS_OF, false)] {
            let select = Statement::new(select).list(places.keys().map(String::as_str));
            for row in self.read(select).await? {
                let host = places.get(&row.text(0)?).and_then(|place| hosts.get_mut(*place));
                if let Some(host) = host {
                    let map = if has_apps {
                        &mut host.apps
                    } else {
                        &mut host.labels
                    };
                    map.insert(row.text(1)?, row.text(2)?);
                }
            }
        }
        Ok(())
    }

    /// A page of ids, sorted.
    pub async fn host_ids(&self, wanted: &HostQuery, limit: u32) -> Result<HostIds> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let select = push_page(Statement::default(), wanted, signed(limit as u64 + 1));
        let rows = self.read(select).await?;
        let ids = rows.iter().map(|row| host_id(row.text(0)?));
        let mut ids: Vec<HostId> = ids.collect::<Result<_>>()?;
        let more = ids.len() > limit;
        ids.truncate(limit);
        let next = ids.last().filter(|_| more).map(HostId::to_string);
        Ok(HostIds { ids, next })
    }

    /// Everything known about a host.
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
        let select = Statement::new("SELECT ")
            .push(COLUMNS)
            .push(", h.first_seen, h.lost, s.body FROM hosts h ")
            .push(DESIRED)
            .push(" LEFT JOIN statuses s ON s.host_id = h.host_id WHERE h.host_id = ")
            .bind(id.as_str());
        let Some(row) = self.read_one(select).await? else {
            return Ok(None);
        };
        // The status was within the limits when it was received. They may have been lowered since.
        let limits = Limits {
            max_size: usize::MAX,
            ..Limits::default()
        };
        let status = row
            .text_or_null(12)?
            .and_then(|body| Status::decode(body.as_bytes(), limits).ok());
        let (first_seen, lost) = (row.number_or_null(10)?, unsigned(row.number(11)?));
        Ok(Some((summary(&row)?, status, first_seen, lost)))
    }

    /// Deletes a host and its desired state. Returns whether it existed. If it reports again, it is
    /// listed again.
    pub async fn delete_host(&self, id: &HostId, author: &str) -> Result<bool> {
        let mut tx = self.begin().await?;
        let delete = Statement::new("DELETE FROM hosts WHERE host_id = ").bind(id.as_str());
        let existed = tx.execute(delete).await? > 0;
        for delete in [
            "DELETE FROM statuses WHERE host_id = ",
            "DELETE FROM desired WHERE host_id = ",
            "DELETE FROM host_apps WHERE host_id = ",
            "DELETE FROM labels WHERE host_id = ",
            "DELETE FROM enrolled WHERE host_id = ",
        ] {
            tx.execute(Statement::new(delete).bind(id.as_str())).await?;
        }
        if existed {
            let event = NewEvent {
                at: now(),
                kind: EventKind::HostDeleted,
                host_id: Some(id.as_str().into()),
                author: Some(author.into()),
                message: "deleted".to_owned(),
                data: None,
            };
            tx.insert_events(vec![event]).await?;
        }
        tx.commit().await?;
        self.forget_host(id);
        self.refresh_newest_event().await?;
        Ok(existed)
    }

    /// `None`: there is no such host.
    pub async fn labels(&self, id: &HostId) -> Result<Option<Labels>> {
        let select = Statement::new("SELECT 1 FROM hosts WHERE host_id = ").bind(id.as_str());
        if self.read_one(select).await?.is_none() {
            return Ok(None);
        }
        let select = Statement::new("SELECT name, value FROM labels WHERE host_id = ").bind(id.as_str());
        let mut labels = Labels::new();
        for row in self.read(select).await? {
            labels.insert(row.text(0)?, row.text(1)?);
        }
        Ok(Some(labels))
    }

    /// Replaces all labels of a host. A host that has never reported gets a row.
    pub async fn put_labels(&self, id: &HostId, labels: &Labels, author: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let insert = Statement::new("INSERT INTO hosts (host_id, search) ")
            .rows([[id.as_str().into(), search_text(id.as_str(), "", "").into()]])
            .push(" ON CONFLICT (host_id) DO NOTHING");
        tx.execute(insert).await?;
        let delete = Statement::new("DELETE FROM labels WHERE host_id = ").bind(id.as_str());
        tx.execute(delete).await?;
        for (name, value) in labels {
            // Another PUT at the same time may have set the label already.
            let insert = Statement::new("INSERT INTO labels (host_id, name, value) ")
                .rows([[id.as_str().into(), name.as_str().into(), value.as_str().into()]])
                .push(" ON CONFLICT (host_id, name) DO UPDATE SET value = excluded.value");
            tx.execute(insert).await?;
        }
        let list: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let event = NewEvent {
            at: now(),
            kind: EventKind::LabelsChanged,
            host_id: Some(id.as_str().into()),
            author: Some(author.into()),
            message: format!("labels are now: {}", list.join(", ")),
            data: EventData::of(&json!({ "labels": labels })),
        };
        tx.insert_events(vec![event]).await?;
        tx.commit().await?;
        self.refresh_newest_event().await
    }

    /// Marks hosts that have not reported since `before`. Returns how many were marked now.
    pub async fn mark_silent(&self, before: i64) -> Result<u64> {
        // Read first, so that writers wait only if there is such a host. No index has `last_seen`,
        // because each heartbeat changes it.
        let select = Statement::new("SELECT 1 FROM hosts WHERE responding + 0 = 1 AND last_seen < ")
            .bind(before)
            .push(" LIMIT 1");
        if self.read_one(select).await?.is_none() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let update = Statement::new(
            "UPDATE hosts SET responding = 0, facts_digest = 0 WHERE responding = 1 AND last_seen < ",
        )
        .bind(before)
        .push(" RETURNING host_id, last_seen");
        let rows = tx.fetch(update).await?;
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
        tx.insert_events(events).await?;
        tx.commit().await?;
        if !rows.is_empty() {
            self.refresh_newest_event().await?;
        }
        Ok(rows.len() as u64)
    }

    /// The applications of the fleet, sorted by name.
    pub async fn apps(&self) -> Result<AppList> {
        let select = Statement::new(
            "SELECT desired, name, version, COUNT(*), CAST(SUM(running) AS BIGINT), CAST(SUM(failing) AS BIGINT) \
             FROM host_apps GROUP BY desired, name, version",
        );
        let mut apps: BTreeMap<String, AppUsage> = BTreeMap::new();
        for row in self.read(select).await? {
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
        Ok(AppList {
            apps: apps.into_values().collect(),
        })
    }

    /// How many hosts have each state, and how many respond.
    pub async fn count_hosts(&self) -> Result<(Vec<(HostState, u64)>, u64)> {
        let select =
            Statement::new("SELECT state, responding, COUNT(*) FROM hosts GROUP BY state, responding");
        let mut states: Vec<(HostState, u64)> = HostState::ALL.map(|state| (state, 0)).into();
        let mut responding = 0;
        for row in self.read(select).await? {
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
        Ok((states, responding))
    }

    /// Ids above `after` of hosts that have reported, sorted.
    pub async fn reporting_hosts(&self, after: &str, limit: u32) -> Result<Vec<HostId>> {
        let select = Statement::new("SELECT host_id FROM hosts WHERE first_seen IS NOT NULL AND host_id > ")
            .bind(after)
            .push(" ORDER BY host_id LIMIT ")
            .bind(i64::from(limit));
        let rows = self.read(select).await?;
        rows.iter().map(|row| host_id(row.text(0)?)).collect()
    }
}
