//! A convergence is a transaction: shown on real dpkg and real rpm, real init scripts, hooks and downloads,
//! through a whole agent on the in-process bus.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bus::local::LocalBroker;
use bus::{Link, Queue};
use harness::http::HttpServer;
use harness::packages::{Family, Moment, Package, Sandbox, example_app};
use host::packages::{self, Options};
use host::{
    self, Applied, ApplyError, EarlierRuns, HostError, InstalledPackages, PackageFile, Packages, Root,
    Simulation, Source, Transaction,
};
use hostagent::agent::{Agent, Parts};
use hostagent::engine::book::ProgressBook;
use hostagent::engine::progress::Progress;
use hostagent::settings::{Settings, Sources};
use protocol::{
    Apps, Category, ErrorReport, HostId, Limits, Phase, PlanAnswer, SetConfig, State, Status, encode_plan,
};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Each test for each package manager.
macro_rules! for_both_families {
    ($($test:ident),* $(,)?) => {
        mod on_deb { $( #[tokio::test] async fn $test() { super::$test(super::Family::Deb).await } )* }
        mod on_rpm { $( #[tokio::test] async fn $test() { super::$test(super::Family::Rpm).await } )* }
    };
}

mod commands;
mod counted;
mod damage;
mod failures;
mod health;
mod master;
mod odd_script;
mod retry;
mod slow_hook;
mod together;
mod untouched;
mod way_back;
mod wire;
mod world;

use counted::Counted;
use master::Master;
use world::{OLD_CONFIG, Run, World, read_tree};

const PATIENCE: Duration = Duration::from_secs(40);
const HEARTBEAT: Duration = Duration::from_millis(300);
const HOST: &str = "web-1";

fn parse_apps(apps: Value) -> Apps {
    serde_json::from_value(apps).unwrap()
}

fn app<'a>(status: &'a Status, name: &str) -> &'a protocol::AppStatus {
    let found = status.apps.iter().find(|(app, _)| app.as_str() == name);
    found.unwrap_or_else(|| panic!("no {name} in {status:#?}")).1
}

fn only_error(status: &Status) -> &ErrorReport {
    assert_eq!(status.errors.len(), 1, "{:#?}", status.errors);
    &status.errors[0]
}

/// An example application whose service ends by itself after `seconds`.
fn dying(name: &str, version: &str, seconds: u32) -> Package {
    example_app(name, version).file(
        &format!("/opt/pf9/{name}/bin/{name}"),
        0o755,
        format!("#!/bin/sh\nsleep {seconds}\n"),
    )
}

/// One whose installation ends with a script that fails.
fn unconfigurable(name: &str, version: &str) -> Package {
    example_app(name, version).script(Moment::AfterInstall, "echo 'no database to migrate' >&2; exit 3")
}

/// Waits until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "in vain awaited: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
