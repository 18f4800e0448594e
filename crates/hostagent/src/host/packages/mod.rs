//! The package manager: dpkg/apt or rpm/dnf.
pub mod deb;
pub mod rpm;
