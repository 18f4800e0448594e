//! Tests of services against real parts.
