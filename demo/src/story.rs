//! The acts. Each one says what is wanted, waits for the agents' answers, and then looks for itself: what
//! the statuses tell, what the master knows and what is on the hosts must all be what is wanted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::rest::HostState;
use protocol::{AppName, Apps as DesiredApps, HostId, State};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::hosts::DemoHost;
use crate::screen::Screen;
use crate::stage::Set;
use crate::state::{Apps, Wanted, wanted};

/// How long a process may take to say with what it runs, after its start was reported.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Indices of [`crate::hosts::NAMES`].
const PARIS: usize = 0;
const TOKYO: usize = 1;
const LIMA: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    AsWanted,
    NotAsWanted,
}

struct Story<'a> {
    set: Set<'a>,
    screen: Arc<Screen>,
    /// By host: the operator's book.
    wanted: [Vec<Wanted>; 3],
}

pub async fn play(set: Set<'_>, screen: &Arc<Screen>) -> Result<Verdict> {
    let mut story = Story {
        set,
        screen: screen.clone(),
        wanted: Default::default(),
    };
    let acts = story.acts().await;
    if let Err(error) = &acts {
        screen.failure(&format!("the play stops here: {error:#}"));
    }
    story.summary(acts.is_ok()).await
}

impl Story<'_> {
    async fn acts(&mut self) -> Result<()> {
        self.roll_call().await?;
        self.install_everywhere().await?;
        self.reconfigure_paris().await?;
        self.upgrade_cache_as_planned().await?;
        self.stop_cache_in_tokyo().await?;
        self.refuse_a_tampered_package_in_lima().await?;
        self.repair_three_accidents().await?;
        self.remove().await
    }

    async fn roll_call(&mut self) -> Result<()> {
        self.screen
            .heading(1, "Morning: three empty hosts report for work, and answer a ping");
        let ids = self.ids();
        for id in &ids {
            self.set.witness.first_ok(id).await?;
        }
        for (host, id) in ids.iter().enumerate() {
            let milliseconds = self.set.operator.ping(id).await?;
            self.screen.pinged(id, milliseconds);
            self.check(host, State::Ok).await?;
        }
        Ok(())
    }

    async fn install_everywhere(&mut self) -> Result<()> {
        self.screen.heading(2, "Two applications for everyone");
        let both = vec![wanted("shop", "1.0"), wanted("cache", "1.0")];
        self.wanted = [both.clone(), both.clone(), both.clone()];
        self.bring_all_about().await
    }

    async fn reconfigure_paris(&mut self) -> Result<()> {
        self.screen.heading(
            3,
            "paris gets a greeting of its own; the other two do not hear of it",
        );
        let downloads = self.set.catalogue.downloads();
        self.want(PARIS, wanted("shop", "1.0").greeting("bonjour"));
        self.bring_about(PARIS).await?;
        ensure!(
            self.set.catalogue.downloads() == downloads,
            "a change of config downloaded a package"
        );
        Ok(())
    }

    async fn upgrade_cache_as_planned(&mut self) -> Result<()> {
        self.screen.heading(
            4,
            "cache 1.1 is out: each host says what it would do, and is told to do that and nothing else",
        );
        let upgraded = wanted("cache", "1.1");
        for host in [PARIS, TOKYO, LIMA] {
            self.want(host, upgraded);
        }
        let mut sent = Vec::new();
        for (host, id) in self.ids().into_iter().enumerate() {
            let apps = self.desired(&self.wanted[host])?;
            let plan = self.set.operator.plan(&id, &apps).await?;
            let [step] = &plan.steps[..] else {
                bail!(
                    "{id} would take {} steps to upgrade cache, and not one",
                    plan.steps.len()
                )
            };
            ensure!(step.app.as_str() == "cache", "{id} would change {}", step.app);
            sent.push(self.set(host, apps, Some(&plan.hash)).await?);
        }
        for (host, sent) in sent.iter().enumerate() {
            self.expect_ok(host, sent).await?;
        }
        Ok(())
    }

    async fn stop_cache_in_tokyo(&mut self) -> Result<()> {
        self.screen
            .heading(5, "tokyo's cache is stopped for maintenance; it stays installed");
        self.want(TOKYO, wanted("cache", "1.1").stopped());
        self.bring_about(TOKYO).await
    }

    async fn refuse_a_tampered_package_in_lima(&mut self) -> Result<()> {
        self.screen.heading(
            6,
            "lima is sent to a mirror where somebody has changed one bit of shop 2.0",
        );
        let lima = self.id(LIMA);
        let family = self.set.hosts[LIMA].family();
        let before = self.set.hosts[LIMA].process_of("shop");
        let catalogue = &self.set.catalogue;
        let digest = catalogue.digest("shop", "2.0", family)?;
        let tampered = catalogue.tampered_url("shop", "2.0", family)?;
        let upgraded = wanted("shop", "2.0");
        let mut apps = self.desired(&[upgraded, wanted("cache", "1.1")])?;
        change(&mut apps, "shop", |spec| {
            spec.sha256 = Some(digest.clone());
            spec.url = Some(tampered);
        });
        let sent = self.set(LIMA, apps.clone(), None).await?;
        self.set.witness.outcome(&lima, &sent, State::Errors).await?;
        // Still as before: it is not in the book yet.
        self.check(LIMA, State::Errors).await?;
        ensure!(
            before.is_some() && self.set.hosts[LIMA].process_of("shop") == before,
            "shop on lima is not the process that it was before the refusal"
        );
        self.screen.note(
            "Refused before anything was touched: shop 1.0 is still the same process. Now the true package:",
        );
        let url = self.set.catalogue.url("shop", "2.0");
        change(&mut apps, "shop", |spec| spec.url = Some(url));
        self.want(LIMA, upgraded);
        let sent = self.set(LIMA, apps, None).await?;
        self.expect_ok(LIMA, &sent).await
    }

    async fn repair_three_accidents(&mut self) -> Result<()> {
        self.screen.heading(
            7,
            "Three accidents, of which nobody tells the master: each agent finds and repairs its own",
        );
        let mark = self.set.witness.mark();
        let [paris, tokyo, lima] = &self.set.hosts[..] else {
            bail!("three hosts are needed")
        };
        let killed = lima.process_of("cache");
        self.screen.accident(
            paris.name,
            "somebody edits shop's config file: greeting is now \"oops\"",
        );
        paris.edit_config("shop", "oops")?;
        self.screen
            .accident(tokyo.name, "somebody removes the package shop by hand");
        let hosts = self.set.hosts.clone();
        spawn_blocking(move || hosts[TOKYO].remove_package("shop")).await??;
        self.screen.accident(lima.name, "cache is killed with signal 9");
        lima.kill("cache")?;
        for id in self.ids() {
            self.set.witness.repaired(&id, mark).await?;
        }
        for host in [PARIS, TOKYO, LIMA] {
            self.check(host, State::Ok).await?;
        }
        ensure!(
            self.set.hosts[LIMA].process_of("cache") != killed,
            "cache on lima was never killed"
        );
        Ok(())
    }

    async fn remove(&mut self) -> Result<()> {
        self.screen
            .heading(8, "Evening: cache leaves paris, and everything leaves lima");
        self.wanted[PARIS].retain(|app| app.app != "cache");
        self.bring_about(PARIS).await?;
        self.wanted[LIMA].clear();
        self.bring_about(LIMA).await
    }

    /// A last look at all hosts. `to_the_end`: no act failed.
    async fn summary(&mut self, to_the_end: bool) -> Result<Verdict> {
        let mut all = true;
        let mut rows = Vec::new();
        for host in [PARIS, TOKYO, LIMA] {
            let expected = Apps::wanted(&self.wanted[host]);
            let (found, as_wanted) = match look(&self.set.hosts, host).await {
                Ok(found) => (found.to_string(), found == expected),
                Err(error) => (format!("{error:#}"), false),
            };
            all &= as_wanted;
            let verdict = if as_wanted { "as wanted" } else { "NOT SO" };
            let name = self.set.hosts[host].name.to_owned();
            rows.push([name, expected.to_string(), found, verdict.to_owned()]);
        }
        self.screen.table(&rows);
        let (sent, received) = self.set.witness.traffic();
        let changes = self.set.operator.changes();
        let downloads = self.set.catalogue.downloads();
        let (verdict, end) = match (all, to_the_end) {
            (true, true) => (Verdict::AsWanted, "Every host ended where it should"),
            (true, false) => (
                Verdict::NotAsWanted,
                "Every host is as wanted by now, but the play was broken off",
            ),
            (false, true | false) => (Verdict::NotAsWanted, "Not every host ended where it should"),
        };
        let seconds = self.screen.seconds();
        let text = format!(
            "{end}: {changes} changes asked for, {sent} messages sent, {received} statuses received, packages \
             asked for {downloads} times, {seconds:.1} s."
        );
        self.screen.verdict(verdict == Verdict::AsWanted, &text);
        Ok(verdict)
    }

    fn id(&self, host: usize) -> HostId {
        self.set.hosts[host].id.clone()
    }

    fn ids(&self) -> Vec<HostId> {
        self.set.hosts.iter().map(|host| host.id.clone()).collect()
    }

    /// Enters `app` in the book of `host`.
    fn want(&mut self, host: usize, app: Wanted) {
        self.wanted[host].retain(|other| other.app != app.app);
        self.wanted[host].push(app);
    }

    fn desired(&self, apps: &[Wanted]) -> Result<DesiredApps> {
        let catalogue = &self.set.catalogue;
        let entry = |app: &Wanted| {
            let url = catalogue.url(app.app, app.version);
            Ok((AppName::new(app.app)?, app.spec(url)))
        };
        apps.iter().map(entry).collect()
    }

    /// Has the master bring `host` to `apps`; the `id` of its message.
    async fn set(&mut self, host: usize, apps: DesiredApps, only_if_plan: Option<&str>) -> Result<String> {
        let id = self.id(host);
        self.screen.put(&id, &apps, only_if_plan);
        self.set.operator.set(&id, &apps, only_if_plan).await
    }

    /// Sets for `host` what stands in its book.
    async fn bring_about(&mut self, host: usize) -> Result<()> {
        let apps = self.desired(&self.wanted[host])?;
        let sent = self.set(host, apps, None).await?;
        self.expect_ok(host, &sent).await
    }

    /// The same for all, side by side.
    async fn bring_all_about(&mut self) -> Result<()> {
        let mut sent = Vec::new();
        for host in [PARIS, TOKYO, LIMA] {
            let apps = self.desired(&self.wanted[host])?;
            sent.push(self.set(host, apps, None).await?);
        }
        for (host, sent) in sent.iter().enumerate() {
            self.expect_ok(host, sent).await?;
        }
        Ok(())
    }

    async fn expect_ok(&mut self, host: usize, sent: &str) -> Result<()> {
        let id = self.id(host);
        self.set.witness.outcome(&id, sent, State::Ok).await?;
        self.check(host, State::Ok).await
    }

    /// Whether `host` is as its book says: by its newest status, by what the master knows, and by a look at it.
    async fn check(&self, host: usize, state: State) -> Result<()> {
        let expected = Apps::wanted(&self.wanted[host]);
        let DemoHost { name, id, .. } = &self.set.hosts[host];
        let told = self.set.witness.told_by(id);
        if told != Some((state, expected.clone())) {
            let told = told.map(|(_, told)| told).unwrap_or_default();
            self.screen.found(name, false, &format!("it says: {told}"));
            bail!("{name} reports \"{told}\", wanted is \"{expected}\"");
        }
        let satisfied = state == State::Ok;
        let is_known = |host: &protocol::rest::Host| {
            (host.status, host.satisfied) == (HostState::from(state), satisfied)
        };
        let known = self.set.operator.host(id, is_known).await?;
        ensure!(
            is_known(&known),
            "the master has {name} as {:?}, and satisfied: {}",
            known.status,
            known.satisfied
        );
        let until = Instant::now() + SETTLED_WITHIN;
        let found = loop {
            let found = look(&self.set.hosts, host).await;
            match found {
                Ok(found) if found == expected || Instant::now() > until => break found,
                Err(error) if Instant::now() > until => return Err(error),
                Ok(_) | Err(_) => sleep(LOOK_AGAIN).await,
            }
        };
        let as_wanted = found == expected;
        self.screen.found(name, as_wanted, &found.to_string());
        ensure!(as_wanted, "on {name} is \"{found}\", wanted is \"{expected}\"");
        Ok(())
    }
}

fn change(apps: &mut DesiredApps, name: &str, change: impl FnOnce(&mut protocol::AppSpec)) {
    if let Some(spec) = apps.get_mut(name) {
        change(spec);
    }
}

/// On a thread of its own: it asks the package manager.
async fn look(hosts: &Arc<Vec<DemoHost>>, host: usize) -> Result<Apps> {
    let hosts = hosts.clone();
    spawn_blocking(move || hosts[host].look())
        .await?
        .context("looking at a host")
}
