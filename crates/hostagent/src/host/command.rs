//! The one spawner of child processes.
