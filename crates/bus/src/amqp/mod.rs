//! RabbitMQ, by lapin.
//!
//! [`connect`] spawns one task, the supervisor. A connection passes through these modules in this order:
//! [`settings`] -> `connect` (name, TCP, `tls`, AMQP handshake, over a `stream` of our own) -> `topology`
//! (exchange, queue, bindings) -> `consume` and `publish`, side by side, while `probe` and `silence` see
//! to it that they live. `supervisor` holds it all: whichever of them ends first ends the connection, and
//! it is built anew. lapin's own recovery is off.
//!
//! lapin logs each of its errors on its own, from its own thread: silence the target `lapin` where the
//! promise of one line per change of reason is to hold.

mod activity;
mod acks;
mod connect;
mod consume;
mod failure;
mod probe;
mod publish;
mod settings;
mod silence;
mod stream;
mod supervisor;
mod tls;
mod topology;

pub use connect::{ConnectError, log_in};
pub use settings::{AmqpSettings, ClientCertificate, Login, Roots, Secret, TlsSettings};
pub use supervisor::connect;
