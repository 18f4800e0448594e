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
use sqlx::QueryBuilder;
use tokio::sync::oneshot;

use super::desired::{Desired, NewDesired, PutError, Stored, changed, parse};
use super::events::{NewEvent, insert_events};
use super::query::search_text;
use super::row::Columns;
use super::{ROWS, Result, Store, StoreError, now, signed, unsigned, writing};

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
    author: String,
    done: oneshot::Sender<std::result::Result<Stored, PutError>>,
}

/// The host has another generation than the PUT was made for.
struct Overtaken {
    current: u64,
}

/// What became of each PUT of a batch.
type Answers = Vec<std::result::Result<Stored, Overtaken>>;

/// A host on the way through a batch.
struct Target {
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
        let list = |desired: &Option<Desired>| {
            let apps = desired.as_ref().map(|desired| desired.apps.iter());
            let rows = apps.into_iter().flatten();
            rows.map(|(name, spec)| (name.clone(), spec.version.clone(), spec.running))
                .collect::<Vec<_>>()
        };
        list(&self.before) != list(&self.now)
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
            author: new.author.to_owned(),
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
        let ids: BTreeMap<&str, &HostId> = batch.iter().map(|put| (put.host.as_str(), &put.host)).collect();
        let names: Vec<&str> = ids.keys().copied().collect();
        let unknown = self.without_row(ids.values().copied());
        let mut answers = Vec::with_capacity(batch.len());
        let mut refused = Vec::new();
        let told;
        writing!(self, tx => {
            let mut targets: BTreeMap<String, Target> = BTreeMap::new();
            let mut made = HashSet::new();
            for chunk in unknown.chunks(ROWS) {
                let mut query = QueryBuilder::new("INSERT INTO hosts (host_id, search) ");
                query.push_values(chunk, |mut row, id| {
                    row.push_bind(id.as_str().to_owned()).push_bind(search_text(id.as_str(), "", ""));
                });
                query.push(" ON CONFLICT (host_id) DO NOTHING RETURNING host_id");
                for row in query.build().fetch_all(&mut *tx).await? {
                    made.insert(row.text(0)?);
                }
            }
            for chunk in names.chunks(ROWS) {
                let mut query =
                    QueryBuilder::new("SELECT host_id, reported_generation, satisfied FROM hosts WHERE host_id IN (");
                let mut list = query.separated(", ");
                chunk.iter().for_each(|id| { list.push_bind((*id).to_owned()); });
                query.push(") ORDER BY host_id");
                if self.is_postgres() {
                    query.push(" FOR UPDATE");
                }
                for row in query.build().fetch_all(&mut *tx).await? {
                    let id = row.text(0)?;
                    let is_new = made.contains(&id);
                    targets.insert(id, Target {
                        reported: row.number_or_null(1)?.map_or(0, unsigned),
                        satisfied: row.flag(2)?,
                        before: None,
                        now: None,
                        is_new,
                    });
                }
                // Not read together with the rows that are locked: while that waits, these may change.
                let mut query = QueryBuilder::new(
                    "SELECT host_id, generation, apps, author, changed_at, only_if_plan FROM desired WHERE host_id IN (",
                );
                let mut list = query.separated(", ");
                chunk.iter().for_each(|id| { list.push_bind((*id).to_owned()); });
                query.push(")");
                for row in query.build().fetch_all(&mut *tx).await? {
                    let id = row.text(0)?;
                    if let (Some(target), Some(host)) = (targets.get_mut(&id), ids.get(id.as_str())) {
                        let generation = unsigned(row.number(1)?);
                        let kept = self.recall_desired(host, generation);
                        target.before = Some(Desired {
                            generation,
                            apps: match kept {
                                Some(apps) => apps,
                                None => Arc::new(parse(&row.text(2)?)?),
                            },
                            author: row.text(3)?,
                            changed_at: row.number(4)?,
                            only_if_plan: row.text_or_null(5)?,
                            is_taken: target.reported >= generation,
                        });
                    }
                }
            }
            let mut events: Vec<NewEvent> = Vec::new();
            for put in batch {
                let Some(target) = targets.get_mut(put.host.as_str()) else {
                    self.forget(&put.host);
                    return Ok(None);
                };
                let taken = target.take(put);
                if let Ok(stored) = &taken && stored.is_change {
                    events.push(changed(&put.host, &stored.desired));
                }
                answers.push(taken);
            }
            // A PUT that was refused leaves nothing behind.
            for (id, target) in &targets {
                if target.is_new && target.now.is_none() {
                    refused.push(id.clone());
                    sqlx::query("DELETE FROM hosts WHERE host_id = $1").bind(id).execute(&mut *tx).await?;
                }
            }
            let new: Vec<(&String, &Target, &Desired)> = targets
                .iter()
                .filter_map(|(id, target)| Some((id, target, target.now.as_ref()?)))
                .collect();
            let texts = Texts::of_all(new.iter().map(|(.., desired)| &desired.apps))?;
            for chunk in new.chunks(ROWS) {
                let mut query = QueryBuilder::new(
                    "INSERT INTO desired (host_id, generation, apps, author, changed_at, only_if_plan) ",
                );
                query.push_values(chunk.iter(), |mut row, (id, _, desired)| {
                    row.push_bind((*id).clone())
                        .push_bind(signed(desired.generation))
                        .push_bind(texts.of(&desired.apps))
                        .push_bind(desired.author.clone())
                        .push_bind(desired.changed_at)
                        .push_bind(desired.only_if_plan.clone());
                });
                query.push(
                    " ON CONFLICT (host_id) DO UPDATE SET generation = excluded.generation, apps = excluded.apps, \
                     author = excluded.author, changed_at = excluded.changed_at, only_if_plan = excluded.only_if_plan",
                );
                query.build().execute(&mut *tx).await?;
                let mut installed = HashMap::new();
                let mut query = QueryBuilder::new("SELECT host_id, body FROM statuses WHERE host_id IN (");
                let mut list = query.separated(", ");
                chunk.iter().for_each(|(id, ..)| { list.push_bind((*id).clone()); });
                query.push(")");
                for row in query.build().fetch_all(&mut *tx).await? {
                    if let Ok(status) = serde_json::from_str::<Installed>(&row.text(1)?) {
                        installed.insert(row.text(0)?, status.data.apps);
                    }
                }
                for satisfied in [false, true] {
                    let others = chunk.iter().filter(|(id, target, desired)| {
                        let apps = installed.get(*id);
                        let is = apps.is_some_and(|apps| apps_satisfied(&desired.apps, apps));
                        is == satisfied && target.satisfied != satisfied
                    });
                    let others: Vec<String> = others.map(|(id, ..)| (*id).clone()).collect();
                    if others.is_empty() {
                        continue;
                    }
                    let mut query = QueryBuilder::new("UPDATE hosts SET facts_digest = 0, satisfied = ");
                    query.push_bind(i64::from(satisfied)).push(" WHERE host_id IN (");
                    let mut list = query.separated(", ");
                    others.into_iter().for_each(|id| { list.push_bind(id); });
                    query.push(")");
                    query.build().execute(&mut *tx).await?;
                }
            }
            let listed: Vec<&(&String, &Target, &Desired)> =
                new.iter().filter(|(_, target, _)| target.lists_change()).collect();
            for chunk in listed.chunks(ROWS) {
                let mut query = QueryBuilder::new("DELETE FROM host_apps WHERE desired = 1 AND host_id IN (");
                let mut list = query.separated(", ");
                chunk.iter().for_each(|(id, ..)| { list.push_bind((*id).clone()); });
                query.push(")");
                query.build().execute(&mut *tx).await?;
            }
            let rows: Vec<_> = listed
                .iter()
                .flat_map(|(id, _, desired)| desired.apps.iter().map(move |(name, spec)| (*id, name, spec)))
                .collect();
            for chunk in rows.chunks(ROWS) {
                let mut query =
                    QueryBuilder::new("INSERT INTO host_apps (host_id, desired, name, version, running, failing) ");
                query.push_values(chunk, |mut row, (id, name, spec)| {
                    row.push_bind((*id).clone())
                        .push_bind(1i64)
                        .push_bind(name.as_str().to_owned())
                        .push_bind(spec.version.clone())
                        .push_bind(i64::from(spec.running))
                        .push_bind(0i64);
                });
                query.build().execute(&mut *tx).await?;
            }
            insert_events!(self, tx, &events);
            told = !events.is_empty();
        });
        let gone: HashSet<&str> = refused.iter().map(String::as_str).collect();
        self.remember_rows(
            unknown
                .into_iter()
                .filter(|id| !gone.contains(id.as_str()))
                .cloned(),
        );
        for (put, answer) in batch.iter().zip(&answers) {
            if let Ok(Stored { desired, .. }) = answer {
                self.remember_desired(put.host.clone(), desired.generation, desired.apps.clone());
            }
        }
        if told {
            // It is written: what cannot be seen now is found a second later.
            if let Err(error) = self.refresh_newest_event().await {
                tracing::warn!("a change of desired states cannot be told yet: {error}");
            }
        }
        Ok(Some(answers))
    }
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

/// Applications as they are stored: made once for all hosts that share them.
struct Texts(HashMap<usize, String>);

impl Texts {
    fn of_all<'a>(all: impl Iterator<Item = &'a Arc<Apps>>) -> Result<Self> {
        let mut texts = HashMap::new();
        for apps in all {
            if let Entry::Vacant(place) = texts.entry(Arc::as_ptr(apps).addr()) {
                place.insert(serde_json::to_string(apps.as_ref())?);
            }
        }
        Ok(Self(texts))
    }

    /// Empty, which no application's text is, where it was not in all.
    fn of(&self, apps: &Arc<Apps>) -> String {
        self.0.get(&Arc::as_ptr(apps).addr()).cloned().unwrap_or_default()
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
