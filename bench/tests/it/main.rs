//! The simulated fleet against a real broker and the real master.

// So that clippy takes the helpers of tests for tests.
#![cfg(test)]

mod fleet;
mod instructions;
