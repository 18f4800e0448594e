//! rpm and dnf.
