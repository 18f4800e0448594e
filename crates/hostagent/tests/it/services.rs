//! Tests of services against real parts: SysV scripts in a sandbox, systemd in a machine of its own.

mod systemd;
mod sysv;
mod units;
