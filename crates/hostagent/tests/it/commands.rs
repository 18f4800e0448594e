//! Tests of commands against real parts.
