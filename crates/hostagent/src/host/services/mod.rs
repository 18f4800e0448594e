//! The init system: systemd or SysV scripts.
pub mod systemd;
pub mod sysv;
