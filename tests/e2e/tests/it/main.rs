//! Whole hosts. `make e2e` runs all of it; tests that need machines say so where there can be none.

// So that clippy takes the helpers of tests for tests.
#![cfg(test)]

mod agent_upgrade;
mod enroll_tls;
mod first_boot;
mod fleet;
mod hooks;
mod network;
mod our_packages;
mod package_runs;
mod power_cut;
mod readme;
mod rollback;
mod rpm;
mod wedged;
