//! The parts of the demo. Each part sets a desired state, waits for the agents' answers, and then
//! checks that the statuses, the master's data and the hosts themselves are all as desired.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::rest::HostState;
use protocol::{AppName, Apps, HostId, State};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::fleet::Setup;
use crate::hosts::DemoHost;
use crate::screen::Screen;
use crate::state::{DesiredApp, ObservedApps, app};

/// Time limit for a process to write what it has loaded, after its start was reported.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Indices of [`crate::hosts::NAMES`].
const PARIS: usize = 0;
const TOKYO: usize = 1;
const LIMA: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    AsDesired,
    NotAsDesired,
}

struct Story<'a> {
    setup: Setup<'a>,
    screen: Arc<Screen>,
    /// The desired applications of each host.
    desired: [Vec<DesiredApp>; 3],
}

pub async fn run(setup: Setup<'_>, screen: &Arc<Screen>) -> Result<Verdict> {
    let mut story = Story {
        setup,
        screen: screen.clone(),
        desired: Default::default(),
    };
    let parts = story.parts().await;
    if let Err(error) = &parts {
        screen.failure(&format!("the demo stops here: {error:#}"));
    }
    story.summary(parts.is_ok()).await
}

impl Story<'_> {
    async fn parts(&mut self) -> Result<()> {
        self.ping_everyone().await?;
        self.install_everywhere().await?;
        self.reconfigure_paris().await?;
        self.upgrade_cache_as_planned().await?;
        self.stop_cache_on_tokyo().await?;
        self.refuse_a_tampered_package_on_lima().await?;
        self.repair_three_external_changes().await?;
        self.remove().await
    }

    async fn ping_everyone(&mut self) -> Result<()> {
        self.screen
            .heading(1, "Three empty hosts report to the master and answer a ping");
        let ids = self.ids();
        for id in &ids {
            self.setup.listener.first_ok(id).await?;
        }
        for (host, id) in ids.iter().enumerate() {
            let milliseconds = self.setup.operator.ping(id).await?;
            self.screen.pinged(id, milliseconds);
            self.check(host, State::Ok).await?;
        }
        Ok(())
    }

    async fn install_everywhere(&mut self) -> Result<()> {
        self.screen
            .heading(2, "Two applications are installed on all hosts");
        let both = vec![app("shop", "1.0"), app("cache", "1.0")];
        self.desired = [both.clone(), both.clone(), both.clone()];
        self.set_all_hosts().await
    }

    async fn reconfigure_paris(&mut self) -> Result<()> {
        self.screen.heading(
            3,
            "paris gets another greeting in its config; the other hosts do not change",
        );
        let downloads = self.setup.catalogue.downloads();
        self.desire(PARIS, app("shop", "1.0").greeting("bonjour"));
        self.set_host(PARIS).await?;
        ensure!(
            self.setup.catalogue.downloads() == downloads,
            "a package was downloaded for a change of config"
        );
        Ok(())
    }

    async fn upgrade_cache_as_planned(&mut self) -> Result<()> {
        self.screen.heading(
            4,
            "Upgrade to cache 1.1: each host first sends its plan, and then does exactly that",
        );
        let upgraded = app("cache", "1.1");
        for host in [PARIS, TOKYO, LIMA] {
            self.desire(host, upgraded);
        }
        let mut sent = Vec::new();
        for (host, id) in self.ids().into_iter().enumerate() {
            let apps = self.specs(&self.desired[host])?;
            let plan = self.setup.operator.plan(&id, &apps).await?;
            let [step] = &plan.steps[..] else {
                bail!(
                    "the plan of {id} to upgrade cache has {} steps instead of one",
                    plan.steps.len()
                )
            };
            ensure!(
                step.app.as_str() == "cache",
                "the plan of {id} changes {} instead of cache",
                step.app
            );
            sent.push(self.send(host, apps, Some(&plan.hash)).await?);
        }
        for (host, sent) in sent.iter().enumerate() {
            self.expect_ok(host, sent).await?;
        }
        Ok(())
    }

    async fn stop_cache_on_tokyo(&mut self) -> Result<()> {
        self.screen
            .heading(5, "On tokyo, cache is stopped but stays installed");
        self.desire(TOKYO, app("cache", "1.1").stopped());
        self.set_host(TOKYO).await
    }

    async fn refuse_a_tampered_package_on_lima(&mut self) -> Result<()> {
        self.screen.heading(
            6,
            "lima must install shop 2.0 from a mirror where one bit of the package was changed",
        );
        let lima = self.id(LIMA);
        let family = self.setup.hosts[LIMA].family();
        let before = self.setup.hosts[LIMA].process_of("shop");
        let catalogue = &self.setup.catalogue;
        let digest = catalogue.digest("shop", "2.0", family)?;
        let tampered = catalogue.tampered_url("shop", "2.0", family)?;
        let upgraded = app("shop", "2.0");
        let mut apps = self.specs(&[upgraded, app("cache", "1.1")])?;
        change(&mut apps, "shop", |spec| {
            spec.sha256 = Some(digest.clone());
            spec.url = Some(tampered);
        });
        let sent = self.send(LIMA, apps.clone(), None).await?;
        self.setup.listener.outcome(&lima, &sent, State::Errors).await?;
        // Unchanged: the upgrade is not in `desired` yet.
        self.check(LIMA, State::Errors).await?;
        ensure!(
            before.is_some() && self.setup.hosts[LIMA].process_of("shop") == before,
            "shop on lima was restarted by the refused upgrade"
        );
        self.screen.note(
            "Refused before anything was changed: the process of shop 1.0 is still the same. Now the \
             original package:",
        );
        let url = self.setup.catalogue.url("shop", "2.0");
        change(&mut apps, "shop", |spec| spec.url = Some(url));
        self.desire(LIMA, upgraded);
        let sent = self.send(LIMA, apps, None).await?;
        self.expect_ok(LIMA, &sent).await
    }

    async fn repair_three_external_changes(&mut self) -> Result<()> {
        self.screen.heading(
            7,
            "Three external changes that nobody reports: each agent detects and repairs the drift of its \
             host",
        );
        let mark = self.setup.listener.mark();
        let [paris, tokyo, lima] = &self.setup.hosts[..] else {
            bail!("three hosts are needed")
        };
        let killed = lima.process_of("cache");
        self.screen.external_change(
            paris.name,
            "the config file of shop is edited: greeting is now \"oops\"",
        );
        paris.edit_config("shop", "oops")?;
        self.screen
            .external_change(tokyo.name, "the package shop is removed by hand");
        let hosts = self.setup.hosts.clone();
        spawn_blocking(move || hosts[TOKYO].remove_package("shop")).await??;
        self.screen
            .external_change(lima.name, "the process of cache is killed with signal 9");
        lima.kill("cache")?;
        for id in self.ids() {
            self.setup.listener.repaired(&id, mark).await?;
        }
        for host in [PARIS, TOKYO, LIMA] {
            self.check(host, State::Ok).await?;
        }
        ensure!(
            self.setup.hosts[LIMA].process_of("cache") != killed,
            "cache on lima was not killed"
        );
        Ok(())
    }

    async fn remove(&mut self) -> Result<()> {
        self.screen.heading(
            8,
            "cache is removed from paris, and everything is removed from lima",
        );
        self.desired[PARIS].retain(|app| app.app != "cache");
        self.set_host(PARIS).await?;
        self.desired[LIMA].clear();
        self.set_host(LIMA).await
    }

    /// Observes all hosts for the last time. `complete`: no part failed.
    async fn summary(&mut self, complete: bool) -> Result<Verdict> {
        let mut all = true;
        let mut rows = Vec::new();
        for host in [PARIS, TOKYO, LIMA] {
            let expected = ObservedApps::expected(&self.desired[host]);
            let (found, as_desired) = match observe(&self.setup.hosts, host).await {
                Ok(found) => (found.to_string(), found == expected),
                Err(error) => (format!("{error:#}"), false),
            };
            all &= as_desired;
            let verdict = if as_desired { "as desired" } else { "DIFFERENT" };
            let name = self.setup.hosts[host].name.to_owned();
            rows.push([name, expected.to_string(), found, verdict.to_owned()]);
        }
        self.screen.table(&rows);
        let (sent, received) = self.setup.listener.traffic();
        let changes = self.setup.operator.changes();
        let downloads = self.setup.catalogue.downloads();
        let (verdict, end) = match (all, complete) {
            (true, true) => (Verdict::AsDesired, "All hosts are as desired"),
            (true, false) => (
                Verdict::NotAsDesired,
                "All hosts are as desired now, but the demo has failed",
            ),
            (false, true | false) => (Verdict::NotAsDesired, "Not all hosts are as desired"),
        };
        let seconds = self.screen.seconds();
        let text = format!(
            "{end}: {changes} changes requested, {sent} messages sent, {received} statuses received, \
             {downloads} package downloads, {seconds:.1} s."
        );
        self.screen.verdict(verdict == Verdict::AsDesired, &text);
        Ok(verdict)
    }

    fn id(&self, host: usize) -> HostId {
        self.setup.hosts[host].id.clone()
    }

    fn ids(&self) -> Vec<HostId> {
        self.setup.hosts.iter().map(|host| host.id.clone()).collect()
    }

    /// Adds `app` to the desired applications of `host`, or replaces it there.
    fn desire(&mut self, host: usize, app: DesiredApp) {
        self.desired[host].retain(|other| other.app != app.app);
        self.desired[host].push(app);
    }

    fn specs(&self, apps: &[DesiredApp]) -> Result<Apps> {
        let catalogue = &self.setup.catalogue;
        let entry = |app: &DesiredApp| {
            let url = catalogue.url(app.app, app.version);
            Ok((AppName::new(app.app)?, app.spec(url)))
        };
        apps.iter().map(entry).collect()
    }

    /// Sends `apps` to the master for `host`. Returns the `id` of the master's message to the host.
    async fn send(&mut self, host: usize, apps: Apps, only_if_plan: Option<&str>) -> Result<String> {
        let id = self.id(host);
        self.screen.put(&id, &apps, only_if_plan);
        self.setup.operator.set(&id, &apps, only_if_plan).await
    }

    /// Sets the desired applications of `host`, and waits until it reports and has them.
    async fn set_host(&mut self, host: usize) -> Result<()> {
        let apps = self.specs(&self.desired[host])?;
        let sent = self.send(host, apps, None).await?;
        self.expect_ok(host, &sent).await
    }

    /// As [`Self::set_host`], for all hosts concurrently.
    async fn set_all_hosts(&mut self) -> Result<()> {
        let mut sent = Vec::new();
        for host in [PARIS, TOKYO, LIMA] {
            let apps = self.specs(&self.desired[host])?;
            sent.push(self.send(host, apps, None).await?);
        }
        for (host, sent) in sent.iter().enumerate() {
            self.expect_ok(host, sent).await?;
        }
        Ok(())
    }

    async fn expect_ok(&mut self, host: usize, sent: &str) -> Result<()> {
        let id = self.id(host);
        self.setup.listener.outcome(&id, sent, State::Ok).await?;
        self.check(host, State::Ok).await
    }

    /// Checks that `host` has `self.desired`: in its newest status, in the master's data, and on
    /// the host itself.
    async fn check(&self, host: usize, state: State) -> Result<()> {
        let expected = ObservedApps::expected(&self.desired[host]);
        let DemoHost { name, id, .. } = &self.setup.hosts[host];
        let reported = self.setup.listener.reported_by(id);
        if reported != Some((state, expected.clone())) {
            let reported = reported.map(|(_, reported)| reported).unwrap_or_default();
            self.screen
                .observed(name, None, &format!("the host reports: {reported}"));
            bail!("{name} reports \"{reported}\", expected is \"{expected}\"");
        }
        let satisfied = state == State::Ok;
        let is_known = |host: &protocol::rest::Host| {
            (host.status, host.satisfied) == (HostState::from(state), satisfied)
        };
        let known = self.setup.operator.host(id, is_known).await?;
        ensure!(
            is_known(&known),
            "the master reports {name} with status {:?} and satisfied {}",
            known.status,
            known.satisfied
        );
        let until = Instant::now() + SETTLED_WITHIN;
        let found = loop {
            let found = observe(&self.setup.hosts, host).await;
            match found {
                Ok(found) if found == expected || Instant::now() > until => break found,
                Err(error) if Instant::now() > until => return Err(error),
                Ok(_) | Err(_) => sleep(POLL_EVERY).await,
            }
        };
        let is_expected = found == expected;
        let word = match state {
            // The host has refused the desired state, and must be as before.
            State::Errors => "unchanged",
            State::Ok | State::Converging => "as desired",
        };
        self.screen
            .observed(name, is_expected.then_some(word), &found.to_string());
        ensure!(is_expected, "{name} has \"{found}\", expected is \"{expected}\"");
        Ok(())
    }
}

fn change(apps: &mut Apps, name: &str, change: impl FnOnce(&mut protocol::AppSpec)) {
    if let Some(spec) = apps.get_mut(name) {
        change(spec);
    }
}

/// Observes a host on a separate thread, because it runs the package manager.
async fn observe(hosts: &Arc<Vec<DemoHost>>, host: usize) -> Result<ObservedApps> {
    let hosts = hosts.clone();
    spawn_blocking(move || hosts[host].observe())
        .await?
        .context("cannot observe a host")
}
