//! The host id: settings, else a permanent MAC address, else the hostname.
