//! The Backbone master: stores what hosts should run, sends it to them, and shows what they report.
//!
//! ```text
//!                       bus::Link
//!      deliveries |                   ^ publisher
//!                 v                   |
//!     [collect] decode, write     [dispatch] decide, send
//!                 |    \               ^  ^
//!                 |     `-- reported --'  | changed
//!                 v                       |
//!              [store] <-------------- [api] REST, events, web page
//! ```
//!
//! A status: `collect` decodes it, writes it in a batch, acknowledges it, and tells `dispatch`
//! about the hosts that have a desired state. A PUT: `api` writes it, then tells `dispatch`.
//! `dispatch` compares what is desired with what was reported and sends what is needed. Tasks share
//! nothing but the store.
//!
//! | task | started by | input | output |
//! |---|---|---|---|
//! | decode | [`collect`] | deliveries of the link | batches (channel of one) |
//! | write | [`collect`] | batches | store, answers in [`replies`], inputs of `dispatch` |
//! | dispatch | [`dispatch`] | reported hosts, desired states, state of the link | publisher |
//! | HTTP server | [`master`] | requests | store, inputs of `dispatch`, publisher |
//! | write PUTs | [`store`], while there are any | queue of PUTs | store |
//! | ping at start | [`master`] | state of the link | publisher |
//! | mark silent hosts, prune events | [`master`] | timer | store |
//! | hear other masters | [`master`] | LISTEN of PostgreSQL, timer | newest event, [`replies`] |
//!
//! Listeners of events on all masters see what any task wrote: [`store::Store::watch_events`].
//!
//! Modules are declared in the order in which a message passes through them: settings; then
//! `collect`, `replies` and `store`; then `dispatch`; then `api` and `metrics`; then the broker's
//! set-up, enrolment, the command line and the whole ([`master`]).

pub mod settings;

pub mod collect;
pub mod replies;
pub mod store;

pub mod dispatch;

pub mod api;
pub mod metrics;

pub mod broker_setup;
pub mod enroll;
pub mod commands;
mod logging;
pub mod master;

pub use master::{Config, Master};
