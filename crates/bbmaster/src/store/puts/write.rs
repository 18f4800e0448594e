//! Writes a batch of PUTs in one transaction.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use protocol::{AppName, AppStatus, Apps, HostId, apps_satisfied};
use serde::Deserialize;

use super::super::desired::{Desired, StoredDesired, parse_apps};
use super::super::query::search_text;
use super::super::statement::{Statement, Value};
use super::super::transaction::Tx;
use super::super::{ROWS, Result, Store, signed, unsigned};
use super::decide::{BatchIds, DesiredChange, PendingPut, PutAnswers, PutTarget, PutTargets, decide_all};

impl Store {
    pub(super) async fn write_puts_together(&self, batch: &[PendingPut]) -> Result<PutAnswers> {
        loop {
            if let Some(answers) = self.try_to_write_puts(batch).await? {
                return Ok(answers);
            }
        }
    }

    /// `None`: another master has deleted a host whose row was cached. The cache is right now, and
    /// nothing was written.
    async fn try_to_write_puts(&self, batch: &[PendingPut]) -> Result<Option<PutAnswers>> {
        // Sorted by id. All masters lock rows in this order, so none can deadlock with another.
        let ids: BatchIds<'_> = batch
            .iter()
            .map(|put| (put.host.as_str(), (&put.host, put.host.as_str().into())))
            .collect();
        let unknown = self.without_row(ids.values().map(|(host, _)| *host));
        let mut tx = self.begin().await?;
        let made = insert_rows(&mut tx, &unknown).await?;
        let mut targets = lock_rows(&mut tx, &ids, &made).await?;
        self.read_desired(&mut tx, &ids, &mut targets).await?;
        let (answers, events) = match decide_all(batch, &mut targets) {
            Ok(decided) => decided,
            Err(gone) => {
                self.forget_host(gone);
                return Ok(None);
            }
        };
        let deleted = delete_unused_rows(&mut tx, &targets).await?;
        let changes: Vec<DesiredChange<'_>> = targets.values().filter_map(DesiredChange::of).collect();
        write_desired(&mut tx, &changes).await?;
        write_satisfied(&mut tx, &changes).await?;
        write_lists(&mut tx, &changes).await?;
        let has_events = !events.is_empty();
        tx.insert_events(events).await?;
        tx.commit().await?;
        let kept = unknown.into_iter().filter(|id| !deleted.contains(&id.as_str()));
        self.remember_rows(kept.cloned());
        self.remember_answers(batch, &answers);
        if has_events {
            // The change is committed. Listeners see its event within a second.
            if let Err(error) = self.refresh_newest_event().await {
                tracing::warn!("cannot read the id of the newest event, will be retried: {error}");
            }
        }
        Ok(Some(answers))
    }

    /// Reads the desired states from before this batch.
    async fn read_desired(
        &self,
        tx: &mut Tx,
        ids: &BatchIds<'_>,
        targets: &mut PutTargets<'_>,
    ) -> Result<()> {
        let ids: Vec<&Arc<str>> = ids.values().map(|(_, id)| id).collect();
        for chunk in ids.chunks(ROWS) {
            let select = Statement::new(
                "SELECT host_id, generation, apps, author, changed_at, only_if_plan FROM desired WHERE host_id IN ",
            );
            for row in tx.fetch(select.list(chunk.iter().copied())).await? {
                let id = row.text(0)?;
                let Some(target) = targets.get_mut(id.as_str()) else {
                    continue;
                };
                let generation = unsigned(row.number(1)?);
                target.before = Some(Desired {
                    generation,
                    apps: match self.recall_desired(&id, generation) {
                        Some(apps) => apps,
                        None => Arc::new(parse_apps(&row.text(2)?)?),
                    },
                    author: row.text(3)?.into(),
                    changed_at: row.number(4)?,
                    only_if_plan: row.text_or_null(5)?,
                    is_taken: target.reported >= generation,
                });
            }
        }
        Ok(())
    }

    fn remember_answers(&self, batch: &[PendingPut], answers: &PutAnswers) {
        for (put, answer) in batch.iter().zip(answers) {
            if let Ok(StoredDesired { desired, .. }) = answer {
                self.remember_desired(put.host.clone(), desired.generation, desired.apps.clone());
            }
        }
    }
}

/// Inserts the missing rows of hosts. Returns the ids of those that were missing.
async fn insert_rows(tx: &mut Tx, unknown: &[&HostId]) -> Result<HashSet<String>> {
    let mut made = HashSet::new();
    for chunk in unknown.chunks(ROWS) {
        let rows = chunk.iter().map(|id| {
            let search = search_text(id.as_str(), "", "");
            [id.as_str().into(), search.into()]
        });
        let insert = Statement::new("INSERT INTO hosts (host_id, search) ")
            .rows(rows)
            .push(" ON CONFLICT (host_id) DO NOTHING RETURNING host_id");
        for row in tx.fetch(insert).await? {
            made.insert(row.text(0)?);
        }
    }
    Ok(made)
}

/// Locks the rows of hosts until the end of the transaction. A host without a row has no target.
async fn lock_rows<'a>(tx: &mut Tx, ids: &BatchIds<'a>, made: &HashSet<String>) -> Result<PutTargets<'a>> {
    let mut targets = BTreeMap::new();
    let all: Vec<&Arc<str>> = ids.values().map(|(_, id)| id).collect();
    // Desired states are read later: they may change while this waits for a row.
    for chunk in all.chunks(ROWS) {
        let mut select =
            Statement::new("SELECT host_id, reported_generation, satisfied FROM hosts WHERE host_id IN ")
                .list(chunk.iter().copied())
                .push(" ORDER BY host_id");
        if tx.is_postgres() {
            select = select.push(" FOR UPDATE");
        }
        for row in tx.fetch(select).await? {
            let id = row.text(0)?;
            let Some((host, shared)) = ids.get(id.as_str()) else {
                continue;
            };
            let target = PutTarget {
                id: shared.clone(),
                reported: row.number_or_null(1)?.map_or(0, unsigned),
                satisfied: row.flag(2)?,
                before: None,
                now: None,
                is_new: made.contains(&id),
            };
            targets.insert(host.as_str(), target);
        }
    }
    Ok(targets)
}

/// Deletes the new rows of hosts whose PUTs were all refused. Returns their ids.
async fn delete_unused_rows<'a>(tx: &mut Tx, targets: &'a PutTargets<'_>) -> Result<HashSet<&'a str>> {
    let empty = targets
        .values()
        .filter(|target| target.is_new && target.now.is_none());
    let empty: Vec<&Arc<str>> = empty.map(|target| &target.id).collect();
    for chunk in empty.chunks(ROWS) {
        let delete = Statement::new("DELETE FROM hosts WHERE host_id IN ");
        tx.execute(delete.list(chunk.iter().copied())).await?;
    }
    Ok(empty.into_iter().map(AsRef::as_ref).collect())
}

async fn write_desired(tx: &mut Tx, changes: &[DesiredChange<'_>]) -> Result<()> {
    let mut texts = PerApps::default();
    for chunk in changes.chunks(ROWS) {
        let mut rows = Vec::with_capacity(chunk.len());
        for DesiredChange { id, desired, .. } in chunk {
            rows.push([
                (*id).into(),
                signed(desired.generation).into(),
                texts.of(&desired.apps, as_json)?,
                (&desired.author).into(),
                desired.changed_at.into(),
                desired.only_if_plan.as_deref().into(),
            ]);
        }
        let insert = Statement::new(
            "INSERT INTO desired (host_id, generation, apps, author, changed_at, only_if_plan) ",
        )
        .rows(rows)
        .push(
            " ON CONFLICT (host_id) DO UPDATE SET generation = excluded.generation, apps = excluded.apps, \
             author = excluded.author, changed_at = excluded.changed_at, only_if_plan = excluded.only_if_plan",
        );
        tx.execute(insert).await?;
    }
    Ok(())
}

/// Writes whether the hosts run what is desired now.
async fn write_satisfied(tx: &mut Tx, changes: &[DesiredChange<'_>]) -> Result<()> {
    for chunk in changes.chunks(ROWS) {
        let installed = read_installed(tx, chunk).await?;
        for satisfied in [false, true] {
            let others = chunk.iter().filter(|DesiredChange { id, target, desired }| {
                let apps = installed.get(id.as_ref());
                let is = apps.is_some_and(|apps| apps_satisfied(&desired.apps, apps));
                is == satisfied && target.satisfied != satisfied
            });
            let others: Vec<&Arc<str>> = others.map(|change| change.id).collect();
            if others.is_empty() {
                continue;
            }
            let update = Statement::new("UPDATE hosts SET facts_digest = 0, satisfied = ")
                .bind(i64::from(satisfied))
                .push(" WHERE host_id IN ")
                .list(others);
            tx.execute(update).await?;
        }
    }
    Ok(())
}

/// Reads the installed applications from the last status of each host.
async fn read_installed(
    tx: &mut Tx,
    changes: &[DesiredChange<'_>],
) -> Result<HashMap<String, BTreeMap<AppName, AppStatus>>> {
    let select = Statement::new("SELECT host_id, body FROM statuses WHERE host_id IN ")
        .list(changes.iter().map(|change| change.id));
    let mut installed = HashMap::new();
    for row in tx.fetch(select).await? {
        if let Ok(status) = serde_json::from_str::<StoredStatus>(&row.text(1)?) {
            installed.insert(row.text(0)?, status.data.apps);
        }
    }
    Ok(installed)
}

/// Writes the desired applications to `host_apps`.
async fn write_lists(tx: &mut Tx, changes: &[DesiredChange<'_>]) -> Result<()> {
    let listed = changes.iter().filter(|change| change.target.lists_change());
    let listed: Vec<&DesiredChange<'_>> = listed.collect();
    for chunk in listed.chunks(ROWS) {
        let delete = Statement::new("DELETE FROM host_apps WHERE desired = 1 AND host_id IN ");
        tx.execute(delete.list(chunk.iter().map(|change| change.id)))
            .await?;
    }
    let mut shared = PerApps::default();
    let mut rows = Vec::with_capacity(ROWS);
    for DesiredChange { id, desired, .. } in listed {
        for [name, version, running] in shared.of(&desired.apps, as_rows)?.iter().cloned() {
            rows.push([(*id).into(), 1.into(), name, version, running, 0.into()]);
            if rows.len() == ROWS {
                insert_lists(tx, &mut rows).await?;
            }
        }
    }
    insert_lists(tx, &mut rows).await
}

/// Inserts `rows` and empties it.
async fn insert_lists(tx: &mut Tx, rows: &mut Vec<[Value; 6]>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let insert = Statement::new("INSERT INTO host_apps (host_id, desired, name, version, running, failing) ");
    tx.execute(insert.rows(rows.drain(..))).await?;
    Ok(())
}

/// The installed applications of a stored status, which was decoded in full when it was received.
#[derive(Deserialize)]
struct StoredStatus {
    data: StoredStatusData,
}

#[derive(Deserialize)]
struct StoredStatusData {
    #[serde(default)]
    apps: BTreeMap<AppName, AppStatus>,
}

/// The applications as they are stored.
fn as_json(apps: &Apps) -> Result<Value> {
    Ok(serde_json::to_string(apps)?.into())
}

/// Name, version and `running` of each application.
fn as_rows(apps: &Apps) -> Result<Arc<[[Value; 3]]>> {
    let values = apps.iter().map(|(name, spec)| {
        [
            name.as_str().into(),
            spec.version.as_str().into(),
            i64::from(spec.running).into(),
        ]
    });
    Ok(values.collect())
}

/// A value made from applications: once for all hosts that share the same `Arc`.
struct PerApps<T>(HashMap<usize, T>);

impl<T> Default for PerApps<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone> PerApps<T> {
    fn of(&mut self, apps: &Arc<Apps>, make: impl FnOnce(&Apps) -> Result<T>) -> Result<T> {
        Ok(match self.0.entry(Arc::as_ptr(apps).addr()) {
            Entry::Occupied(made) => made.get().clone(),
            Entry::Vacant(place) => place.insert(make(apps)?).clone(),
        })
    }
}
