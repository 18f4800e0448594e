//! Facts for a status's info.
