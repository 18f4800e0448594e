use std::time::Duration;

use protocol::Config;
use serde_json::json;

use super::*;
use crate::ledger::Record;
use host::fake::{FakeHost, FakeState};

struct World {
    fake: FakeHost,
    observer: Observer,
    desired: Apps,
    records: Records,
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
            masked: false,
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
            desired: Apps::new(),
            records: Records::new(),
        }
    }

    async fn look(&self, freshness: Freshness) -> Observed {
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
async fn a_config_is_read_at_a_full_look_and_has_that_age() {
    let world = World::new();
    let first = world.look(Freshness::Full).await;
    let read_at = app(&first).config_read_at.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    let light = world.look(Freshness::Light).await;
    assert_eq!(
        app(&light).config_read_at,
        Some(read_at),
        "nothing was read for a ping"
    );
    world
        .fake
        .with(|state| state.configs.insert("a".into(), config("w")));
    tokio::time::advance(Duration::from_secs(1)).await;
    let full = world.look(Freshness::Full).await;
    assert_eq!(*app(&full).config, Ok(config("w")));
    assert_eq!(app(&full).config_read_at, Some(read_at + Duration::from_secs(2)));
}

/// A change, and whether a look shows it.
type Case = (&'static str, fn(&mut FakeState), fn(&ObservedApp) -> bool);

#[tokio::test(start_paused = true)]
async fn what_has_changed_is_seen() {
    fn package(state: &mut FakeState) -> &mut InstalledPackage {
        state.packages.get_mut("a").unwrap()
    }
    fn service(state: &mut FakeState) -> &mut ServiceState {
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
            |app| app.contract_kind() == ContractKind::None && *app.config == Ok(Config::new()),
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
    world.records = [(name.clone(), record)].into();
    let recorded = world.look(Freshness::Light).await;
    assert_eq!(app(&before).url, None);
    assert_eq!(app(&recorded).url.as_deref(), Some("http://host/a.deb"));
    assert!(app(&recorded).rank.is_some());

    // A config as it was read, until something says that it may have changed.
    world
        .fake
        .with(|state| state.configs.insert("a".into(), config("w")));
    assert_eq!(recorded, world.look(Freshness::Light).await);
    world.observer.forget_config(&name);
    assert_eq!(*app(&world.look(Freshness::Light).await).config, Ok(config("w")));

    world.fake.with(|state| state.unhealthy.insert("a".into()));
    assert!(
        app(&world.look(Freshness::Light).await).healthy,
        "asked at a full look"
    );
    assert!(!app(&world.look(Freshness::Full).await).healthy);
    assert!(!app(&world.look(Freshness::Light).await).healthy);

    world.fake.with(|state| state.remove("b"));
    assert_eq!(world.look(Freshness::Light).await.apps.len(), 1);
}
