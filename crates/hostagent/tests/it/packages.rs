//! Tests of packages against real parts.
