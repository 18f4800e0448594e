//! Downloads and verifies everything before anything is touched.
