//! The host agent: a small daemon that keeps its host at a desired set of applications.
//!
//! ```text
//!         deliveries        store           watch: desired
//!   bus ------------> inbox ------> ledger ================> reconciler
//!    ^                  |  \                                   |  ^   |
//!    |                  |   `---- questions about a plan ------|--'   | changes the host
//!    |                  | requests                             |      v
//!    |    publish       v         watch: state, announcements  |     host
//!    `-------------- reporter <================================'      |
//!                       |                                             | watch
//!                       `------- wake -------> reconciler <--- wake - drift
//! ```
//!
//! # Tasks, all on one thread
//!
//! - the supervisor of the connection to the broker (crate `bus`)
//! - [`inbox`]: decodes, stores and acknowledges messages
//! - the reconciler ([`engine::reconcile`]): the only task that changes the host
//! - the reporter ([`report`]): the only task that publishes
//! - [`drift`]: wakes the reconciler when [`watch`] sees the host change
//!
//! # Channels
//!
//! | from | to | what |
//! |---|---|---|
//! | bus | inbox | deliveries; each is acknowledged after it is stored |
//! | inbox | reconciler | questions: is this still the plan? |
//! | [`ledger`] | reconciler | `watch` of the desired state |
//! | inbox | reporter | requests for an answer |
//! | reconciler | reporter, drift | `watch` of the [`host_state`] |
//! | reconciler | reporter | announcements: states that must be reported |
//! | reporter, drift | reconciler | `Notify` that wakes it |
//! | reporter | bus | outgoing messages |
//!
//! # Folders
//!
//! [`agent`] starts the tasks and connects them. [`engine`] observes, plans and applies. [`guard`]
//! rolls back a failed upgrade of the agent itself. [`settings`] are the settings; [`commands`] are
//! the commands, one file each.
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
