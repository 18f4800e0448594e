//! Tests against real parts.

// So that clippy takes the helpers of tests for tests.
#![cfg(test)]

mod app_config;
mod certificates;
mod clock;
mod commands;
mod crash;
mod download;
mod idle;
mod packages;
mod scenarios;
mod services;
mod settings;
mod sweep;
mod transactions;
