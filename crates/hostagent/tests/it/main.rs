//! Tests against real parts.

// So that clippy takes the helpers of tests for tests.
#![cfg(test)]

mod app_config;
mod commands;
mod download;
mod clock;
mod packages;
mod services;
mod settings;
mod sweep;
mod transactions;
