//! Desired states that come together share one commit: what makes them durable is the most that each costs.
//!
//! One task at a time writes whatever has come in meanwhile; there is none while nothing comes. Each PUT is decided on by
//! itself, in the order in which they came, and answered after the commit. It belongs to no request, so that
//! one that is given up takes no others with it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::{AppName, AppStatus, Apps, HostId, apps_satisfied};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::desired::{Desired, NewDesired, PutError, Stored, changed, parse};
use super::events::NewEvent;
use super::query::search_text;
use super::row::Columns;
use super::statement::{Statement, Tx, Value};
use super::{ROWS, Result, Store, StoreError, now, signed, unsigned};

/// Written at once, at most.
const BATCH: usize = 1000;

/// PUTs on their way to the database.
#[derive(Default)]
pub(super) struct Puts {
    waiting: Vec<Put>,
    /// A task takes them from here.
    is_writing: bool,
}

struct Put {
    host: HostId,
    apps: Arc<Apps>,
    only_if_plan: Option<String>,
    if_match: Option<Vec<u64>>,
    author: Arc<str>,
    done: oneshot::Sender<std::result::Result<Stored, PutError>>,
}

/// The host has another generation than the PUT was made for.
struct Overtaken {
    current: u64,
}

/// What became of each PUT of a batch.
type Answers = Vec<std::result::Result<Stored, Overtaken>>;

/// The hosts of a batch, in the order of their ids; beside each, its id as it goes into statements.
type Ids<'a> = BTreeMap<&'a str, (&'a HostId, Arc<str>)>;

/// The hosts of a batch that have a row, by their ids.
type Targets<'a> = BTreeMap<&'a str, Target>;

/// A host on the way through a batch.
struct Target {
    id: Arc<str>,
    /// The generation that the host has.
    reported: u64,
    satisfied: bool,
    before: Option<Desired>,
    now: Option<Desired>,
    /// It has no row but the one that this batch has made.
    is_new: bool,
}

impl Target {
    fn current(&self) -> Option<&Desired> {
        self.now.as_ref().or(self.before.as_ref())
    }

    /// Decides on one PUT. Pure, but for the time.
    fn take(&mut self, put: &Put) -> std::result::Result<Stored, Overtaken> {
        let current = self.current().map_or(0, |current| current.generation);
        if put
            .if_match
            .as_ref()
            .is_some_and(|wanted| !wanted.contains(&current))
        {
            return Err(Overtaken { current });
        }
        if let Some(current) = self.current()
            && current.apps == put.apps
            && current.only_if_plan == put.only_if_plan
        {
            return Ok(Stored {
                desired: current.clone(),
                is_change: false,
            });
        }
        let desired = Desired {
            apps: put.apps.clone(),
            // Above what the host has, too: after a restored backup it may be ahead, and would refuse.
            generation: current.max(self.reported).saturating_add(1),
            author: put.author.clone(),
            changed_at: now(),
            only_if_plan: put.only_if_plan.clone(),
            is_taken: false,
        };
        self.now = Some(desired.clone());
        Ok(Stored {
            desired,
            is_change: true,
        })
    }

    /// Whether what can be searched for has changed.
    fn lists_change(&self) -> bool {
        fn listed(desired: Option<&Desired>) -> impl Iterator<Item = (&AppName, &str, bool)> {
            let apps = desired.into_iter().flat_map(|desired| desired.apps.iter());
            apps.map(|(name, spec)| (name, spec.version.as_str(), spec.running))
        }
        listed(self.before.as_ref()).ne(listed(self.now.as_ref()))
    }
}

/// A host of which something else is desired after the batch than before it.
struct Change<'a> {
    id: &'a Arc<str>,
    target: &'a Target,
    desired: &'a Desired,
}

impl<'a> Change<'a> {
    fn of(target: &'a Target) -> Option<Self> {
        let (id, desired) = (&target.id, target.now.as_ref()?);
        Some(Self { id, target, desired })
    }
}

impl Store {
    /// Sets a host's desired state. A host that was never seen gets a row. Setting what is set already changes
    /// nothing, the generation neither; the same tied to another plan, or to none any more, is a new one: the
    /// host may have refused the first.
    pub async fn put_desired(
        &self,
        host: &HostId,
        new: NewDesired<'_>,
    ) -> std::result::Result<Stored, PutError> {
        let (done, answer) = oneshot::channel();
        let put = Put {
            host: host.clone(),
            apps: new.apps,
            only_if_plan: new.only_if_plan.map(str::to_owned),
            if_match: new.if_match.map(<[u64]>::to_vec),
            author: new.author,
            done,
        };
        let is_writing = {
            let mut puts = self.puts.lock().unwrap_or_else(PoisonError::into_inner);
            puts.waiting.push(put);
            std::mem::replace(&mut puts.is_writing, true)
        };
        if !is_writing {
            tokio::spawn(self.clone().write_puts());
        }
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Content("the master is ending".to_owned()).into()))
    }

    /// Until none waits.
    async fn write_puts(self) {
        while let Some(batch) = next_batch(&self.puts) {
            match self.write_together(&batch).await {
                Ok(answers) => answer(batch, answers),
                // One of them holds what the database refuses: the others are not to suffer for it.
                Err(error) if error.is_about_data() && batch.len() > 1 => {
                    for put in batch {
                        let put = vec![put];
                        match self.write_together(&put).await {
                            Ok(answers) => answer(put, answers),
                            Err(error) => fail(put, error),
                        }
                    }
                }
                Err(error) => fail(batch, error),
            }
        }
    }

    async fn write_together(&self, batch: &[Put]) -> Result<Answers> {
        loop {
            if let Some(answers) = self.write_if_rows_are_there(batch).await? {
                return Ok(answers);
            }
        }
    }

    /// `None`: another master has deleted a host whose row was taken to be there. This is known now, and nothing was written.
    async fn write_if_rows_are_there(&self, batch: &[Put]) -> Result<Option<Answers>> {
        // In the order of ids, as statuses are written: then nobody waits for another's rows in a circle.
        let ids: Ids<'_> = batch
            .iter()
            .map(|put| (put.host.as_str(), (&put.host, put.host.as_str().into())))
            .collect();
        let unknown = self.without_row(ids.values().map(|(host, _)| *host));
        let mut tx = self.begin().await?;
        let made = make_rows(&mut tx, &unknown).await?;
        let mut targets = lock_rows(&mut tx, &ids, &made).await?;
        self.read_desired(&mut tx, &ids, &mut targets).await?;
        let (answers, events) = match take_all(batch, &mut targets) {
            Ok(taken) => taken,
            Err(gone) => {
                self.forget(gone);
                return Ok(None);
            }
        };
        let left_empty = delete_made_for_nothing(&mut tx, &targets).await?;
        let changes: Vec<Change<'_>> = targets.values().filter_map(Change::of).collect();
        write_desired(&mut tx, &changes).await?;
        write_satisfied(&mut tx, &changes).await?;
        write_lists(&mut tx, &changes).await?;
        let told = !events.is_empty();
        tx.insert_events(self, events).await?;
        tx.commit().await?;
        let kept = unknown
            .into_iter()
            .filter(|id| !left_empty.contains(&id.as_str()));
        self.remember_rows(kept.cloned());
        self.remember_answers(batch, &answers);
        if told {
            // It is written: what cannot be seen now is found a second later.
            if let Err(error) = self.refresh_newest_event().await {
                tracing::warn!("a change of desired states cannot be told yet: {error}");
            }
        }
        Ok(Some(answers))
    }

    /// What is desired of them before this batch.
    async fn read_desired(&self, tx: &mut Tx, ids: &Ids<'_>, targets: &mut Targets<'_>) -> Result<()> {
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
                        None => Arc::new(parse(&row.text(2)?)?),
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

    fn remember_answers(&self, batch: &[Put], answers: &Answers) {
        for (put, answer) in batch.iter().zip(answers) {
            if let Ok(Stored { desired, .. }) = answer {
                self.remember_desired(put.host.clone(), desired.generation, desired.apps.clone());
            }
        }
    }
}

/// Makes the rows that are not there; the ids of those.
async fn make_rows(tx: &mut Tx, unknown: &[&HostId]) -> Result<HashSet<String>> {
    let mut made = HashSet::new();
    for chunk in unknown.chunks(ROWS) {
        let rows = chunk.iter().map(|id| {
            let search = search_text(id.as_str(), "", "");
            [id.as_str().into(), Value::Text(search.into())]
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

/// Holds the hosts' rows until the end of the transaction. One that has none is missing from the answer.
async fn lock_rows<'a>(tx: &mut Tx, ids: &Ids<'a>, made: &HashSet<String>) -> Result<Targets<'a>> {
    let mut targets = BTreeMap::new();
    let all: Vec<&Arc<str>> = ids.values().map(|(_, id)| id).collect();
    // Nothing else is read with them: while this waits for a row, that may change.
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
            let target = Target {
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

/// Decides on each PUT in its turn, and says what happens by it. The error is a host that has no row.
fn take_all<'a>(
    batch: &'a [Put],
    targets: &mut Targets<'_>,
) -> std::result::Result<(Answers, Vec<NewEvent>), &'a HostId> {
    let mut answers = Vec::with_capacity(batch.len());
    let mut events = Vec::new();
    for put in batch {
        let target = targets.get_mut(put.host.as_str()).ok_or(&put.host)?;
        let taken = target.take(put);
        if let Ok(stored) = &taken
            && stored.is_change
        {
            events.push(changed(&target.id, &stored.desired));
        }
        answers.push(taken);
    }
    Ok((answers, events))
}

/// A PUT that was refused leaves nothing behind; the ids of the hosts whose rows are gone again.
async fn delete_made_for_nothing<'a>(tx: &mut Tx, targets: &'a Targets<'_>) -> Result<HashSet<&'a str>> {
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

async fn write_desired(tx: &mut Tx, changes: &[Change<'_>]) -> Result<()> {
    let mut texts = Shared::default();
    for chunk in changes.chunks(ROWS) {
        let mut rows = Vec::with_capacity(chunk.len());
        for Change { id, desired, .. } in chunk {
            rows.push([
                (*id).into(),
                signed(desired.generation).into(),
                texts.of(&desired.apps, text)?,
                (&desired.author).into(),
                desired.changed_at.into(),
                Value::TextOrNull(desired.only_if_plan.as_deref().map(Into::into)),
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

/// Whether the hosts run what is desired of them now.
async fn write_satisfied(tx: &mut Tx, changes: &[Change<'_>]) -> Result<()> {
    for chunk in changes.chunks(ROWS) {
        let installed = read_installed(tx, chunk).await?;
        for satisfied in [false, true] {
            let others = chunk.iter().filter(|Change { id, target, desired }| {
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

/// What hosts have said last that they run.
async fn read_installed(
    tx: &mut Tx,
    changes: &[Change<'_>],
) -> Result<HashMap<String, BTreeMap<AppName, AppStatus>>> {
    let select = Statement::new("SELECT host_id, body FROM statuses WHERE host_id IN ")
        .list(changes.iter().map(|change| change.id));
    let mut installed = HashMap::new();
    for row in tx.fetch(select).await? {
        if let Ok(status) = serde_json::from_str::<Installed>(&row.text(1)?) {
            installed.insert(row.text(0)?, status.data.apps);
        }
    }
    Ok(installed)
}

/// What can be searched for.
async fn write_lists(tx: &mut Tx, changes: &[Change<'_>]) -> Result<()> {
    let listed = changes.iter().filter(|change| change.target.lists_change());
    let listed: Vec<&Change<'_>> = listed.collect();
    for chunk in listed.chunks(ROWS) {
        let delete = Statement::new("DELETE FROM host_apps WHERE desired = 1 AND host_id IN ");
        tx.execute(delete.list(chunk.iter().map(|change| change.id)))
            .await?;
    }
    let mut shared = Shared::default();
    let mut rows = Vec::with_capacity(ROWS);
    for Change { id, desired, .. } in listed {
        for [name, version, running] in shared.of(&desired.apps, searchable)?.iter().cloned() {
            rows.push([(*id).into(), 1.into(), name, version, running, 0.into()]);
            if rows.len() == ROWS {
                insert_lists(tx, &mut rows).await?;
            }
        }
    }
    insert_lists(tx, &mut rows).await
}

/// Leaves `rows` empty.
async fn insert_lists(tx: &mut Tx, rows: &mut Vec<[Value; 6]>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let insert = Statement::new("INSERT INTO host_apps (host_id, desired, name, version, running, failing) ");
    tx.execute(insert.rows(rows.drain(..))).await
}

/// Of a stored status, what is installed: it was decoded in full when it came.
#[derive(Deserialize)]
struct Installed {
    data: InstalledApps,
}

#[derive(Deserialize)]
struct InstalledApps {
    #[serde(default)]
    apps: BTreeMap<AppName, AppStatus>,
}

/// As they are stored.
fn text(apps: &Apps) -> Result<Value> {
    Ok(Value::Text(serde_json::to_string(apps)?.into()))
}

/// Name, version and whether it is to run, of each.
fn searchable(apps: &Apps) -> Result<Arc<[[Value; 3]]>> {
    let values = apps.iter().map(|(name, spec)| {
        [
            name.as_str().into(),
            spec.version.as_str().into(),
            i64::from(spec.running).into(),
        ]
    });
    Ok(values.collect())
}

/// What is made of applications, once for all hosts that share them.
struct Shared<T>(HashMap<usize, T>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone> Shared<T> {
    fn of(&mut self, apps: &Arc<Apps>, make: impl FnOnce(&Apps) -> Result<T>) -> Result<T> {
        Ok(match self.0.entry(Arc::as_ptr(apps).addr()) {
            Entry::Occupied(made) => made.get().clone(),
            Entry::Vacant(place) => place.insert(make(apps)?).clone(),
        })
    }
}

/// `None`: none waits, and the next to come starts a task.
fn next_batch(puts: &Mutex<Puts>) -> Option<Vec<Put>> {
    let mut puts = puts.lock().unwrap_or_else(PoisonError::into_inner);
    let many = puts.waiting.len().min(BATCH);
    puts.is_writing = many > 0;
    puts.is_writing.then(|| puts.waiting.drain(..many).collect())
}

fn answer(batch: Vec<Put>, answers: Answers) {
    for (put, answer) in batch.into_iter().zip(answers) {
        let answer = answer.map_err(|Overtaken { current }| PutError::GenerationChanged { current });
        // Nobody waits any more.
        let _ = put.done.send(answer);
    }
}

fn fail(batch: Vec<Put>, error: StoreError) {
    let error = Arc::new(error);
    for put in batch {
        let _ = put.done.send(Err(StoreError::Shared(error.clone()).into()));
    }
}
