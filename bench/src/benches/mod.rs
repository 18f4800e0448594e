//! The benchmarks, by name. Each starts what it needs and returns rows of the report. One that
//! fails or cannot be run gives its reason; the others go on.

mod apt;
mod converge;
mod fleets;
mod footprint;
mod ingest;
mod no_op;
mod observe;
mod ping;
mod reconnect;
mod repair;
mod salt;
mod thousands;

use anyhow::Result;
use futures_util::future::BoxFuture;
use harness::machine;

use crate::measure::Row;
use crate::process::Programs;

pub struct Bench {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Programs) -> BoxFuture<'_, Result<Vec<Row>>>,
}

/// Why a benchmark cannot be run on this machine. Any other error is a failure of the benchmark.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub String);

/// An error if no container with a systemd of its own can be booted here.
fn need_machines() -> Result<(), Skip> {
    machine::skip_reason().map_or(Ok(()), |reason| Err(Skip(reason)))
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
    bench!("ping", "answer to a ping, compared with an echo's", ping::run),
    bench!(
        "footprint",
        "memory, program size, start and idle processor time of an agent",
        footprint::run
    ),
    bench!(
        "converge",
        "20 packages in a sandbox, compared with dpkg and rpm",
        converge::run
    ),
    bench!(
        "apt",
        "20 packages on a host with apt, compared with apt-get",
        apt::run
    ),
    bench!(
        "repair",
        "external changes: time until the master is told, and until they are repaired",
        repair::run
    ),
    bench!(
        "observe",
        "observation of 100 services of a real systemd",
        observe::run
    ),
    bench!("salt", "Salt: a ping, and a run that changes nothing", salt::run),
    bench!("puppet", "Puppet: a run that changes nothing", no_op::puppet),
    bench!(
        "cfengine",
        "CFEngine: a run that changes nothing",
        no_op::cfengine
    ),
    bench!(
        "ingest",
        "statuses stored by the master, compared with a null consumer",
        ingest::run
    ),
    bench!(
        "heartbeats",
        "processor time and memory of the master with 10,000 and 100,000 hosts",
        fleets::heartbeats
    ),
    bench!(
        "dispatch",
        "a desired state sent to 10,000 hosts, compared with a bare publisher",
        fleets::dispatch
    ),
    bench!(
        "announce",
        "100,000 hosts that start at once; REST requests for them",
        fleets::announce
    ),
    bench!(
        "thousand",
        "one ping, answered by 1,000 connected agents",
        thousands::run
    ),
    bench!(
        "reconnect",
        "2,000 connections after a restart of the broker",
        reconnect::run
    ),
];
