//! The operator's command line. It uses the master's REST API.
//!
//! A command passes through these modules, in this order:
//!
//! | module | job |
//! |---|---|
//! | [`commands`] | parses the command line and runs one command |
//! | [`settings`] | which master, with which token |
//! | [`desired`] | reads desired applications from a file |
//! | [`client`] | sends requests to the master |
//! | [`output`] | prints the answer |
//!
//! There is one thread. `ping` has more, because requests block.

pub mod commands;
pub mod settings;
pub mod desired;
pub mod client;
pub mod output;
