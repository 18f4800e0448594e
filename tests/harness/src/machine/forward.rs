//! Forwards a port of this computer's loopback to one machine. RabbitMQ and the tests' servers
//! listen only on loopback.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A forwarded port. Forwarding ends when it is dropped.
pub struct Forward(JoinHandle<()>);

impl Forward {
    /// `address`: this computer's address in the machine's network.
    pub(super) async fn start(address: Ipv4Addr, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((address, port))
            .await
            .with_context(|| format!("cannot listen on {address}:{port}"))?;
        Ok(Self(tokio::spawn(async move {
            while let Ok((inside, _)) = listener.accept().await {
                tokio::spawn(carry(inside, port));
            }
        })))
    }
}

async fn carry(mut inside: TcpStream, port: u16) {
    if let Ok(mut outside) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.0.abort();
    }
}
