//! Tests of engine against real parts.
