//! The backbone master: stores what hosts should run, sends it out, sees what comes of it.
//!
//! ```text
//!                     bus::Link
//!     deliveries |                 ^ publisher
//!                v                 |
//!   [collect] decode -> write     [dispatch] <- what hosts say and what is desired
//!                |   \              ^  ^
//!                |    `- Seen ------'  | changed
//!                v                     |
//!             [store] <----------- [api] REST, events, web page
//! ```
//!
//! A status: collect decodes it, writes a batch, acknowledges; what it saw of hosts of which something is
//! desired goes to dispatch, which decides. A change over the API: written, then told to dispatch. Tasks
//! share nothing but the store; what one writes, listeners of all masters see ([`store::Store::watch_events`]).

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
