//! The real agent in a sandbox root: real packages and services, in this process.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use bus::{Link, Queue};
use harness::http::HttpServer;
use harness::packages::{Family, Sandbox, example_app};
use hostagent::agent::{Agent, Parts};
use hostagent::host::{self, facts};
use hostagent::settings::{Settings, Sources};
use protocol::{HostId, Limits};
use serde_json::{Value, json};

/// A host that outlives its agents.
pub struct RealHost {
    pub id: HostId,
    sandbox: Sandbox,
    agent: Option<Agent>,
}

/// With the first package manager whose tools this machine has.
pub fn family() -> Family {
    let mut families = Family::ALL.into_iter();
    families.find(|family| family.is_available()).unwrap()
}

impl RealHost {
    /// Without an agent yet.
    pub fn new(id: &str) -> Self {
        Self {
            id: HostId::new(id).unwrap(),
            sandbox: Sandbox::temporary(family()).unwrap(),
            agent: None,
        }
    }

    pub fn queue(&self) -> Queue {
        Queue::of_agent(&self.id, None)
    }

    pub fn start_agent(&mut self, link: Link) {
        let sources = Sources {
            overrides: vec![
                format!("hostagent.host_id={}", self.id),
                format!("hostagent.root={}", self.sandbox.root().display()),
                format!("hostagent.package_family={}", family().extension()),
                "hostagent.heartbeat_period=2".to_owned(),
                "hostagent.bake_period=1".to_owned(),
            ],
            ..Sources::default()
        };
        let settings = Settings::load(&sources).unwrap().settings;
        let state_dir = settings.state_dir();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state_dir)
            .unwrap();
        let opened = host::open(settings.host_options()).unwrap();
        let facts = facts::Collector::new(&settings.root(), opened.packages.family(), "sysv");
        let agent = Agent::start(Parts {
            host_id: self.id.clone(),
            host: opened,
            state_dir,
            link,
            limits: Limits::default(),
            trusted_users: Vec::new(),
            heartbeat_period: settings.hostagent.heartbeat_period,
            bake_period: settings.hostagent.bake_period,
            max_crashes: settings.hostagent.max_converge_attempts,
            collect_facts: Box::new(move || facts.collect()),
        });
        self.agent = Some(agent.unwrap());
    }

    pub async fn stop_agent(&mut self) {
        self.agent.take().unwrap().stop().await;
    }
}

/// Builds the example application and serves it. Returns the body of a PUT.
pub fn serve(server: &HttpServer, folder: &Path, name: &str, version: &str) -> Value {
    let file = example_app(name, version).build(family(), folder).unwrap();
    let path = format!("/{}", file.file_name().unwrap().to_str().unwrap());
    let url = server.put_file(&path, std::fs::read(&file).unwrap());
    json!({ name: { "version": version, "url": url } })
}
