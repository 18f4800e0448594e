//! The operator's command line over bbmaster's REST API.
//!
//! A command reads top to bottom: [`commands`] takes it apart, [`settings`] says which master is meant and with which
//! token, [`desired`] reads what a host should run from a file, [`client`] asks the master, [`output`] shows the
//! answer. It has one thread; `ping` and `watch` have more, since requests block.

pub mod settings;

pub mod desired;

pub mod client;

pub mod output;

pub mod commands;
