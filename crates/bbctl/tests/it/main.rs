//! The program itself against a master of its own, over an in-process broker, with scripted agents.

// So that clippy takes the helpers of tests for tests.
#![cfg(test)]

mod access;
mod agent;
mod cli;
mod edit;
mod fleet;
mod live;
mod real;
mod set;
mod set_many;
mod show;
mod terminal;
