//! The simulated fleet with a real broker and the real master, and the cost of the agent's frequent
//! operations.

// So that clippy treats the helpers of tests as tests.
#![cfg(test)]

mod fleet;
mod instructions;
