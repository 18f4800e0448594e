use std::time::Duration;

use protocol::Config;
use serde_json::json;

use super::*;
use crate::ledger::Record;
use host::fake::{FakeHost, State};

struct World {
    fake: FakeHost,
    observer: Observer,
    desired: Arc<Desired>,
    records: Arc<Records>,
}

impl World {
    /// Two applications, of which the first has a service.
    fn new() -> Self {
        let fake = FakeHost::default();
        let package = InstalledPackage {
            version: "1-1".into(),
            arch: "all".into(),
            broken: false,
            waits: false,
            is_application: true,
        };
        let runs = ServiceState {
            running: true,
            enabled: Some(true),
            instance: Some(1),
        };
        fake.with(|state| {
            for name in ["a", "b"] {
                state.packages.insert(name.into(), package.clone());
                state.shipped.insert(name.into(), BTreeSet::new());
            }
            state.services.insert("a".into(), runs);
            state.configs.insert("a".into(), config("v"));
        });
        Self {
            observer: Observer::new(fake.host()),
            fake,
            desired: Arc::default(),
            records: Arc::default(),
        }
    }

    async fn look(&self, freshness: Freshness) -> Arc<Observed> {
        self.observer
            .observe(&self.desired, &self.records, freshness)
            .await
            .unwrap()
    }
}

fn config(value: &str) -> Config {
    serde_json::from_value(json!({"s": {"k": value}})).unwrap()
}

fn app(observed: &Observed) -> &ObservedApp {
    &observed.apps["a"]
}

#[tokio::test(start_paused = true)]
async fn a_look_that_finds_nothing_new_gives_the_value_of_the_one_before() {
    let world = World::new();
    let first = world.look(Freshness::Full).await;
    let second = world.look(Freshness::Light).await;
    assert!(Arc::ptr_eq(&first, &second));
    // Files and hooks are asked anew, and say the same, at a later time.
    let read_at = app(&first).config_read_at.clone().unwrap();
    let began = read_at.get();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(Arc::ptr_eq(&first, &world.look(Freshness::Light).await));
    assert_eq!(read_at.get(), began, "nothing was read for a ping");
    assert!(Arc::ptr_eq(&first, &world.look(Freshness::Full).await));
    assert_eq!(read_at.get(), began + Duration::from_secs(1));

    // What has changed is no longer told of as if it were from then on.
    world
        .fake
        .with(|state| state.configs.insert("a".into(), config("w")));
    tokio::time::advance(Duration::from_secs(1)).await;
    let changed = world.look(Freshness::Full).await;
    assert_eq!(*app(&changed).config, Ok(config("w")));
    assert_eq!(read_at.get(), began + Duration::from_secs(1));
    let read_anew = app(&changed).config_read_at.clone().unwrap();
    assert_eq!(read_anew.get(), began + Duration::from_secs(2));
}

/// A change, and whether a look shows it.
type Case = (&'static str, fn(&mut State), fn(&ObservedApp) -> bool);

#[tokio::test(start_paused = true)]
async fn what_has_changed_is_seen() {
    fn package(state: &mut State) -> &mut InstalledPackage {
        state.packages.get_mut("a").unwrap()
    }
    fn service(state: &mut State) -> &mut ServiceState {
        state.services.get_mut("a").unwrap()
    }
    let table: [Case; 6] = [
        (
            "version",
            |state| package(state).version = "2".into(),
            |app| app.version == "2",
        ),
        ("broken", |state| package(state).broken = true, |app| app.broken),
        (
            "runs",
            |state| service(state).running = false,
            |app| !app.running(),
        ),
        (
            "enabled",
            |state| service(state).enabled = None,
            |app| app.services["a"].unwrap().enabled.is_none(),
        ),
        (
            "started anew",
            |state| service(state).instance = Some(2),
            |app| app.services["a"].unwrap().instance == Some(2),
        ),
        (
            "contract",
            |state| {
                state.without_contract.insert("a".into());
            },
            |app| app.contract == ContractKind::None && *app.config == Ok(Config::new()),
        ),
    ];
    for (what, change, shows) in table {
        let world = World::new();
        let before = world.look(Freshness::Full).await;
        assert!(!shows(app(&before)), "{what}");
        world.fake.with(change);
        let after = world.look(Freshness::Light).await;
        assert!(shows(app(&after)), "{what}");
        assert_eq!(before.apps["b"], after.apps["b"], "{what}");
        assert!(Arc::ptr_eq(&after, &world.look(Freshness::Light).await), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_agent_itself_remembers_is_seen() {
    let mut world = World::new();
    let before = world.look(Freshness::Full).await;
    let record = Record {
        package: "a".into(),
        rank: Some(serde_json::from_value(json!(3)).unwrap()),
        arriving: None,
        provenance: Some(crate::ledger::Provenance {
            version: "1-1".into(),
            url: Some("http://host/a.deb".into()),
            sha256: None,
            file: None,
        }),
    };
    let name = AppName::new("a").unwrap();
    world.records = Arc::new([(name.clone(), record)].into());
    let recorded = world.look(Freshness::Light).await;
    assert_eq!(app(&before).url, None);
    assert_eq!(app(&recorded).url.as_deref(), Some("http://host/a.deb"));
    assert!(app(&recorded).rank.is_some());

    // A config as it was read, until something says that it may have changed.
    world
        .fake
        .with(|state| state.configs.insert("a".into(), config("w")));
    assert!(Arc::ptr_eq(&recorded, &world.look(Freshness::Light).await));
    world.observer.forget_config(&name);
    assert_eq!(*app(&*world.look(Freshness::Light).await).config, Ok(config("w")));

    world.fake.with(|state| state.unhealthy.insert("a".into()));
    assert!(
        app(&*world.look(Freshness::Light).await).healthy,
        "asked at a full look"
    );
    assert!(!app(&*world.look(Freshness::Full).await).healthy);
    assert!(!app(&*world.look(Freshness::Light).await).healthy);

    world.fake.with(|state| state.remove("b"));
    assert_eq!(world.look(Freshness::Light).await.apps.len(), 1);
}
