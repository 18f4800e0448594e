//! Links to RabbitMQ, with lapin.
//!
//! [`connect()`] spawns one task, the supervisor. A connection passes through these modules, in
//! this order:
//!
//! | module | job |
//! |---|---|
//! | `supervisor` | runs everything below; if one part ends, it ends the connection and opens a new one |
//! | `settings` | where the broker is and how to log in |
//! | `connect`, `tls`, `stream` | name resolution, TCP, TLS, AMQP handshake |
//! | `topology` | exchange, queue, bindings |
//! | `consume`, `acks` | messages in |
//! | `publish` | messages out |
//! | `activity` | what these must know about each other |
//! | `probe`, `silence` | detect a connection that no longer works |
//! | `failure` | why a connection ended |
//!
//! lapin's own recovery is off. lapin logs each of its errors from its own thread; its log target
//! must be off ([`crate::levels_of_lapin`]) if each reason is to be logged once.

mod settings;
mod supervisor;
mod connect;
mod tls;
mod stream;
mod topology;
mod activity;
mod consume;
mod acks;
mod publish;
mod probe;
mod silence;
mod failure;

pub use connect::{ConnectError, log_in};
pub use settings::{AmqpSettings, ClientCertificate, Login, Roots, Secret, TlsSettings};
pub use supervisor::connect;
