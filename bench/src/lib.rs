//! Benchmarks of agent and master, against limits and peers; and the simulated fleet that they need.
//!
//! A run: `main` picks [`benches`]; each puts up its own [`stage`] (a private broker, real programs as
//! [`process`]es) and a [`fleet`] where it needs one, and gives rows ([`measure`]), which [`report`] prints
//! and keeps.

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
