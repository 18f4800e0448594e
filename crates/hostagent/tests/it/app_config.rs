//! Tests of app_config against real parts.
