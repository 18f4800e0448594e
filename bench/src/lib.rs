//! Benchmarks of agent and master, compared with limits and peers; and the simulated fleet that
//! they need.
//!
//! A run: `main` selects the [`benches`]. Each starts its own [`stage`] (a private broker, real
//! programs as [`process`]es), and a [`fleet`] if it needs one, and returns rows ([`measure`]).
//! [`report`] prints and stores the rows.

pub mod fleet;
pub mod http;
pub mod measure;
pub mod process;
pub mod stage;
pub mod trace;
pub mod agent;
pub mod machine_agent;
pub mod peers;
pub mod benches;
pub mod report;
