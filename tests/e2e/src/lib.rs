//! What the tests of whole hosts stand on: machines with the agent installed as a package ([`host`]), and a broker with a
//! master on it, outside ([`world`]).

pub mod agent_package;
pub mod app;
pub mod host;
pub mod repository;
pub mod rpm_host;
pub mod world;
