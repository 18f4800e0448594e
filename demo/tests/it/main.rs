//! Runs the demo as a program: checks its output, its exit code, and that it leaves nothing behind.

// With this attribute clippy treats the helper functions as tests.
#![cfg(test)]

mod broker;
mod here;
mod run;
