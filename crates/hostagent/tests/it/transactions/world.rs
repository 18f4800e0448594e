//! A sandbox host with its agent, and what may be asked of them.

use super::*;

/// A sandbox host, its agent, a master that listens, and a server of packages.
pub(super) struct World {
    pub(super) sandbox: Sandbox,
    pub(super) server: HttpServer,
    pub(super) built: tempfile::TempDir,
    pub(super) packages: Arc<Counted>,
    pub(super) broker: LocalBroker,
    pub(super) master: Master,
    pub(super) agent: Option<Agent>,
    pub(super) sent: u32,
}

/// How an agent is to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) bake: Duration,
    /// For one run of the package manager.
    pub(super) deadline: Duration,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            // Enough where nothing is to be seen in it.
            bake: Duration::from_millis(300),
            deadline: Duration::from_secs(60),
        }
    }
}

impl World {
    pub(super) async fn new(family: Family) -> Self {
        Self::with(family, Run::default()).await
    }

    pub(super) async fn with(family: Family, run: Run) -> Self {
        let mut world = Self::without_agent(family).await;
        world.start_agent(run);
        world
    }

    pub(super) async fn without_agent(family: Family) -> Self {
        let sandbox = Sandbox::temporary(family).unwrap();
        let broker = LocalBroker::new();
        let master = Master::listen(broker.connect(Queue::of_master("master", 64)));
        let packages = Counted::open(&sandbox, Run::default().deadline);
        Self {
            server: HttpServer::start().await.unwrap(),
            built: tempfile::tempdir().unwrap(),
            packages,
            sandbox,
            broker,
            master,
            agent: None,
            sent: 0,
        }
    }

    pub(super) fn start_agent(&mut self, run: Run) {
        let sources = Sources {
            overrides: vec![
                format!("hostagent.root={}", self.sandbox.root().display()),
                format!("hostagent.package_family={}", self.sandbox.family().extension()),
            ],
            ..Sources::default()
        };
        let settings = Settings::load(&sources).unwrap().settings;
        let state_dir = self.state_dir();
        std::fs::create_dir_all(&state_dir).unwrap();
        let mut host = host::open(settings.host_options()).unwrap();
        self.packages = Counted::open(&self.sandbox, run.deadline);
        host.packages = self.packages.clone();
        let host_id = HostId::new(HOST).unwrap();
        let agent = Agent::start(Parts {
            link: self.broker.connect(Queue::of_agent(&host_id, None)),
            host_id,
            host,
            state_dir,
            limits: Limits::default(),
            trusted_users: Vec::new(),
            heartbeat_period: HEARTBEAT,
            bake_period: run.bake,
            max_crashes: 5,
            collect_facts: Box::new(host::Facts::new),
        });
        self.agent = Some(agent.unwrap());
    }

    /// The same host with another agent.
    pub(super) async fn restart_agent(&mut self, run: Run) {
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
        self.start_agent(run);
    }

    pub(super) fn family(&self) -> Family {
        self.sandbox.family()
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.sandbox.join("/var/lib/hostagent")
    }

    pub(super) fn build(&self, package: &Package) -> PathBuf {
        package.build(self.family(), self.built.path()).unwrap()
    }

    /// Builds a package and serves it; its URL.
    pub(super) fn offer(&self, package: &Package) -> String {
        let name = format!("/{}_{}", package.name(), package.full_version());
        self.offer_at(&name, package)
    }

    /// `path`: without the extension.
    pub(super) fn offer_at(&self, path: &str, package: &Package) -> String {
        let bytes = std::fs::read(self.build(package)).unwrap();
        let extension = self.family().extension();
        self.server.put_file(&format!("{path}.{extension}"), bytes)
    }

    /// The desired state of one example application, with its package on offer.
    pub(super) fn desired(&self, package: &Package, greeting: &str) -> Value {
        let name = package.name();
        json!({
            "version": package.full_version(),
            "url": self.offer(package),
            "config": {name: {"greeting": greeting}},
        })
    }

    /// Sends the desired state; the message's id.
    pub(super) async fn ask(&mut self, apps: Value) -> String {
        self.ask_if(apps, None).await
    }

    pub(super) async fn ask_if(&mut self, apps: Value, only_if_plan: Option<String>) -> String {
        let id = self.next_id();
        let message = SetConfig {
            id: Some(id.clone()),
            generation: None,
            only_if_plan,
            retry: false,
            apps: parse_apps(apps),
        };
        self.master.publish(message.encode()).await;
        id
    }

    /// What asking for it would do.
    pub(super) async fn plan(&mut self, apps: Value) -> PlanAnswer {
        let id = self.next_id();
        let message = encode_plan(&parse_apps(apps), Some(&id));
        self.master.publish(message).await;
        let plan = self.master.plan(&id).await;
        assert_eq!(plan.error, None);
        plan
    }

    pub(super) fn next_id(&mut self) -> String {
        self.sent += 1;
        format!("m{}", self.sent)
    }

    /// What the agent answers in the end. Until then it never says that all is well.
    pub(super) async fn outcome(&mut self, id: &str) -> Status {
        let is_last =
            |status: &Status| status.reply_to.as_deref() == Some(id) && status.status != State::Converging;
        let all = self
            .master
            .wait("the end", |all| all.iter().any(is_last).then(|| all.to_vec()))
            .await;
        let begun = all
            .iter()
            .position(|status| status.reply_to.as_deref() == Some(id))
            .unwrap_or_default();
        let ended = all.iter().position(is_last).unwrap_or_default();
        for status in &all[begun..ended] {
            assert_eq!(status.status, State::Converging, "{status:?}");
        }
        all[ended].clone()
    }

    /// Asks, and expects that it goes well.
    pub(super) async fn reach(&mut self, apps: Value) -> Status {
        let id = self.ask(apps).await;
        let status = self.outcome(&id).await;
        assert_eq!(status.status, State::Ok, "{status:#?}");
        assert!(!self.has_journal());
        status
    }

    /// Asks, and expects that it does not.
    pub(super) async fn fail_at(&mut self, apps: Value) -> Status {
        let id = self.ask(apps).await;
        let status = self.outcome(&id).await;
        assert_eq!(status.status, State::Errors, "{status:#?}");
        assert!(status.desired_apps.is_some());
        status
    }

    /// Application `app` at 1.0, running, with a config of its own.
    pub(super) async fn with_app_at_1(&mut self) {
        let apps = json!({"app": self.desired(&example_app("app", "1.0"), "old")});
        let status = self.reach(apps).await;
        assert!(app(&status, "app").running);
        self.assert_at_1().await;
    }

    /// `app` is what [`Self::with_app_at_1`] made it, and no package is half-configured.
    pub(super) async fn assert_at_1(&self) {
        assert_eq!(self.database(), ["app 1.0-1"]);
        assert_eq!(self.read("/etc/pf9/app/config.json").trim_end(), OLD_CONFIG);
        assert_eq!(self.sandbox.service("app", "status").unwrap(), 0);
        self.loaded("app", &format!("1.0\n{OLD_CONFIG}")).await;
    }

    /// `app` fell back to 1.0, for a reason of `phase` and `category`; it is left in peace now.
    pub(super) async fn assert_back_at_1(&mut self, status: &Status, phase: Phase, category: Category) {
        let error = only_error(status);
        let found = (error.phase, error.category, error.rolled_back, &error.next_retry);
        assert_eq!(found, (phase, category, true, &None), "{error:?}");
        let there = app(status, "app");
        assert_eq!((&*there.package_version, there.running), ("1.0-1", true));
        assert_eq!(json!(there.config), json!({"app": {"greeting": "old"}}));
        self.assert_at_1().await;
        assert!(!self.has_journal());
        self.assert_held().await;
    }

    /// Over several heartbeats nothing is tried, and the status stays `errors`.
    pub(super) async fn assert_held(&mut self) {
        const HEARTBEATS: usize = 3;
        let runs = self.packages.runs();
        let before = self.master.count();
        let later = self
            .master
            .wait("heartbeats", |all| {
                let later = &all[before..];
                (later.len() >= HEARTBEATS).then(|| later.to_vec())
            })
            .await;
        for status in later {
            assert_eq!(status.status, State::Errors, "{status:?}");
        }
        assert_eq!(
            self.packages.runs(),
            runs,
            "the package manager was at work again"
        );
    }

    /// Waits until the service of `name` runs with this version and config.
    pub(super) async fn loaded(&self, name: &str, expected: &str) {
        let path = format!("/run/{name}.loaded");
        until(&format!("{path} {expected:?}"), || {
            self.sandbox.read(&path).unwrap_or_default().trim_end() == expected
        })
        .await;
    }

    /// What the package manager's own tools say is there, but for the sandbox's own: `name version`, and the
    /// state of what is not wholly installed.
    pub(super) fn database(&self) -> Vec<String> {
        let root = self.sandbox.root();
        let output = match self.family() {
            Family::Deb => Command::new("dpkg-query")
                .arg(format!("--admindir={}/var/lib/dpkg", root.display()))
                .args([
                    "--show",
                    "--showformat=${Package} ${Version} ${db:Status-Status}\n",
                ])
                .output(),
            Family::Rpm => Command::new("rpm")
                .arg(format!("--dbpath={}/var/lib/rpm", root.display()))
                .args(["-qa", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\n"])
                .output(),
        };
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| line.trim_end_matches(" installed").to_owned())
            // What dpkg remembers of a removed package is its configuration files.
            .filter(|line| !line.starts_with("sandbox-shell ") && !line.ends_with(" config-files"))
            .collect();
        lines.sort();
        lines
    }

    /// Every byte of the package database.
    pub(super) fn database_bytes(&self) -> Vec<(String, Vec<u8>)> {
        let folder = match self.family() {
            Family::Deb => "/var/lib/dpkg",
            Family::Rpm => "/var/lib/rpm",
        };
        let mut files = Vec::new();
        read_tree(&self.sandbox.join(folder), &mut files);
        // SQLite's index of its log is rebuilt by every reader; locks are touched.
        let is_data =
            |name: &str| !name.ends_with("-shm") && !name.ends_with(".lock") && !name.contains("/lock");
        files.retain(|(name, _)| is_data(name));
        files
    }

    /// Whether anything is being changed, or could not be undone.
    pub(super) fn has_journal(&self) -> bool {
        ProgressBook::has_changes(&self.state_dir()).unwrap()
    }

    pub(super) fn read(&self, path: &str) -> String {
        self.sandbox.read(path).unwrap()
    }
}

pub(super) const OLD_CONFIG: &str = r#"{"app":{"greeting":"old"}}"#;

/// Services are processes of the real host: they would outlive the test.
impl Drop for World {
    fn drop(&mut self) {
        let scripts = std::fs::read_dir(self.sandbox.join("/etc/init.d"));
        for script in scripts.into_iter().flatten().flatten() {
            let _ = self
                .sandbox
                .service(&script.file_name().to_string_lossy(), "stop");
        }
    }
}

pub(super) fn read_tree(folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_tree(&path, files);
        } else {
            files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}
