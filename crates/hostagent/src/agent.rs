//! Wires the tasks together.
