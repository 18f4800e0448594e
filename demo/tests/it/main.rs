//! The demo as a program: what it prints, how it ends, and that it leaves nothing behind.

// So that clippy takes the helpers of tests for tests.
#![cfg(test)]

mod broker;
mod here;
mod run;
