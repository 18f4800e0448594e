//! Tests of settings against real parts.
