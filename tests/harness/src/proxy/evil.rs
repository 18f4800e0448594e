//! A broker that proposes wrong limits in `connection.tune`.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ServerThread;

/// The limits of a connection, as proposed or answered (AMQP 0-9-1, connection.tune).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tune {
    pub channel_max: u16,
    pub frame_max: u32,
    pub heartbeat: u16,
}

/// Does the AMQP handshake with every client, proposes the same limits, and then sends nothing.
pub struct EvilBroker {
    pub port: u16,
    answers: Arc<Mutex<Vec<Tune>>>,
    _server: ServerThread,
}

impl EvilBroker {
    pub fn start(proposal: Tune) -> Result<Self> {
        let answers: Arc<Mutex<Vec<Tune>>> = Arc::default();
        let (port, server) = ServerThread::start("evil-broker", {
            let answers = answers.clone();
            move |client| {
                let answers = answers.clone();
                async move {
                    // An error means that the client has closed the connection.
                    let _ = shake_hands(client, proposal, &answers).await;
                }
            }
        })?;
        Ok(Self {
            port,
            answers,
            _server: server,
        })
    }

    /// The limits that clients have answered so far.
    pub fn answers(&self) -> Vec<Tune> {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Class and method of the frames that are used here.
const START: [u8; 4] = [0, 10, 0, 10];
const TUNE: [u8; 4] = [0, 10, 0, 30];
const OPEN_OK: [u8; 4] = [0, 10, 0, 41];
const FRAME_END: u8 = 0xce;

async fn shake_hands(mut client: TcpStream, proposal: Tune, answers: &Mutex<Vec<Tune>>) -> io::Result<()> {
    let mut header = [0; 8];
    client.read_exact(&mut header).await?;
    let mut start = START.to_vec();
    start.extend([0, 9]);
    start.extend(0u32.to_be_bytes());
    for text in ["PLAIN EXTERNAL", "en_US"] {
        start.extend((text.len() as u32).to_be_bytes());
        start.extend(text.as_bytes());
    }
    send(&mut client, &start).await?;
    receive(&mut client).await?;
    let mut tune = TUNE.to_vec();
    tune.extend(proposal.channel_max.to_be_bytes());
    tune.extend(proposal.frame_max.to_be_bytes());
    tune.extend(proposal.heartbeat.to_be_bytes());
    send(&mut client, &tune).await?;
    let tune_ok = receive(&mut client).await?;
    if let [_, _, _, _, c0, c1, f0, f1, f2, f3, h0, h1] = tune_ok[..] {
        answers.lock().unwrap_or_else(PoisonError::into_inner).push(Tune {
            channel_max: u16::from_be_bytes([c0, c1]),
            frame_max: u32::from_be_bytes([f0, f1, f2, f3]),
            heartbeat: u16::from_be_bytes([h0, h1]),
        });
    }
    receive(&mut client).await?;
    let mut open_ok = OPEN_OK.to_vec();
    open_ok.push(0);
    send(&mut client, &open_ok).await?;
    tokio::io::copy(&mut client, &mut tokio::io::sink()).await?;
    Ok(())
}

/// One method frame on channel 0.
async fn send(client: &mut TcpStream, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![1, 0, 0];
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(FRAME_END);
    client.write_all(&frame).await
}

async fn receive(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = [0; 7];
    client.read_exact(&mut header).await?;
    let [_, _, _, l0, l1, l2, l3] = header;
    let mut payload = vec![0; u32::from_be_bytes([l0, l1, l2, l3]) as usize + 1];
    client.read_exact(&mut payload).await?;
    payload.pop();
    Ok(payload)
}
