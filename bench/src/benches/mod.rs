//! Each benchmark by its name. One that cannot be measured here gives the reason, and the others go on.

mod converge;
mod fleets;
mod footprint;
mod ingest;
mod observe;
mod ping;
mod reconnect;
mod repair;
mod salt;
mod thousands;

use anyhow::Result;
use futures_util::future::BoxFuture;

use crate::measure::Row;
use crate::process::Programs;

pub struct Bench {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Programs) -> BoxFuture<'_, Result<Vec<Row>>>,
}

macro_rules! bench {
    ($name:literal, $about:literal, $run:path) => {
        Bench {
            name: $name,
            about: $about,
            run: |programs| Box::pin($run(programs)),
        }
    };
}

/// In the order in which they are run.
pub const ALL: &[Bench] = &[
    bench!("ping", "an agent's answer beside a bare echo's", ping::run),
    bench!(
        "footprint",
        "an agent's memory, size, start and idle processor time",
        footprint::run
    ),
    bench!(
        "converge",
        "20 packages beside the bare package manager",
        converge::run
    ),
    bench!("repair", "a service killed behind the agent's back", repair::run),
    bench!(
        "observe",
        "what looking at 100 services of a real systemd costs",
        observe::run
    ),
    bench!(
        "salt",
        "Salt's answer to a ping and to a state that is so",
        salt::run
    ),
    bench!(
        "ingest",
        "the master's drain rate beside a null consumer's",
        ingest::run
    ),
    bench!(
        "heartbeats",
        "the master's processor time with 10,000 hosts",
        fleets::heartbeats
    ),
    bench!(
        "dispatch",
        "a desired state for 10,000 hosts, beside a bare publisher",
        fleets::dispatch
    ),
    bench!(
        "announce",
        "100,000 hosts announce themselves at once; pages of them by REST",
        fleets::announce
    ),
    bench!(
        "thousand",
        "1,000 connected agents answer one ping",
        thousands::run
    ),
    bench!("reconnect", "2,000 connections lose their broker", reconnect::run),
];
