//! The host agent: one small daemon that keeps its host at a desired set of applications.
//!
//! ```text
//! bus --deliveries--> inbox --accept--> ledger ==watch==> reconcile ==watch==> report --publish--> bus
//!                                                   observe | plan | apply
//!                                                       host facilities
//! ```
//!
//! Tasks, all on one thread: the bus's supervisor; [`inbox`] (decode, persist, acknowledge);
//! [`reconcile`] (the only one that changes the host); [`report`] (the only one that publishes);
//! [`drift`] (wakes `reconcile` when [`watch`] sees the host change). They meet in three channels: the ledger's `watch` of the
//! desired state, the reconciler's `watch` of the host's state, and a wake-up `Notify`.
//!
//! The modules stand in the order in which a message passes through them.

pub mod settings;
pub mod logging;
pub mod identity;
pub mod lock;
pub mod agent;
pub mod inbox;
pub mod ledger;
pub mod state_file;
pub mod engine;
pub mod guard;
pub mod host_state;
pub mod status;
pub mod report;
pub mod watch;
pub mod drift;

pub mod alarm;
pub mod commands;
