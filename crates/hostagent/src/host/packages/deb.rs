//! dpkg and apt.
