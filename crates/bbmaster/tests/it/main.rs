//! The whole master over an in-process broker, with scripted agents; on SQLite and on PostgreSQL.

// So that clippy treats helpers as test code.
#![cfg(test)]

mod access;
mod agent;
mod api;
mod backup;
mod broker_setup;
mod client;
mod definitions;
mod enroll;
mod fleet;
mod kills;
mod least_rights;
mod lifetime;
mod logs;
mod many;
mod masters;
mod monitoring;
mod old_database;
mod openapi;
mod plans;
mod rabbitmq;
mod real;
mod scenarios;
mod schemathesis;
mod settings;
mod start;
mod tls;
