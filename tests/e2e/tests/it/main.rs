//! Whole hosts. `make e2e` runs all of it; tests that need machines say so where there can be none.

mod agent_upgrade;
mod package_runs;
mod rollback;
