//! Tests of download against real parts.
