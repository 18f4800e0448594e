//! Each benchmark by its name. One that cannot be measured here gives the reason, and the others go on.

mod ingest;
mod fleets;
mod thousands;
mod reconnect;

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
