//! The one loop that changes the host.
