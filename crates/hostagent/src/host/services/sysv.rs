//! SysV scripts with LSB exit codes.
