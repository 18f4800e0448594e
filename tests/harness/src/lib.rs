//! Helpers of tests and of the demo.
//!
//! | module | job |
//! |---|---|
//! | [`certificates`] | a certificate authority and certificates |
//! | [`rabbitmq`], [`postgres`] | private servers |
//! | [`driver`] | a master in Python, independent of our code |
//! | [`proxy`] | a TCP proxy with faults, and a broker with a wrong handshake |
//! | [`http`] | an HTTP file server with faults |
//! | [`packages`] | small real packages, and sandbox roots |
//! | [`machine`] | real hosts in containers |
//! | [`skip`] | reports tests that cannot run here |

pub mod certificates;
pub mod rabbitmq;
pub mod postgres;
pub mod driver;
pub mod proxy;
pub mod http;
pub mod packages;
pub mod machine;
pub mod skip;
