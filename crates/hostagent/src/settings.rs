//! Settings: INI file, drop-ins, environment, command line, each over the one before.
