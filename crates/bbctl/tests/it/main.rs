//! Runs the program against a real master, with an in-process broker and scripted agents.

// With this attribute clippy treats the helper functions as tests.
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
