//! The byte stream that lapin uses: plain TCP or TLS, opened and owned by this crate.
//!
//! lapin uses sockets through [`async_rs`]. [`LapinRuntime`] is its tokio runtime with [`Stream`]
//! in place of the TCP stream. So TLS needs none of lapin's features, and [`LastRead`] sees every
//! read.

use std::future::{Future, ready};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::slack;

pub(super) struct Stream {
    transport: Transport,
    last_read: LastRead,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) fn plain(tcp: TcpStream, last_read: LastRead) -> Self {
        Self {
            transport: Transport::Plain(tcp),
            last_read,
        }
    }

    pub(super) fn tls(tls: TlsStream<TcpStream>, last_read: LastRead) -> Self {
        Self {
            transport: Transport::Tls(Box::new(tls)),
            last_read,
        }
    }

    fn transport(self: Pin<&mut Self>) -> Pin<&mut dyn AsyncReadWrite> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::<&mut TcpStream>::new(tcp),
            Transport::Tls(tls) => Pin::<&mut TlsStream<TcpStream>>::new(tls),
        }
    }
}

trait AsyncReadWrite: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> AsyncReadWrite for T {}

impl futures_io::AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let last_read = self.last_read.clone();
        let mut buf = ReadBuf::new(buf);
        ready!(self.transport().poll_read(cx, &mut buf))?;
        last_read.touch();
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl futures_io::AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.transport().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport().poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport().poll_shutdown(cx)
    }
}

/// When bytes were last received. Shared with lapin's thread.
#[derive(Clone)]
pub(super) struct LastRead {
    start: Instant,
    millis: Arc<AtomicU64>,
}

impl LastRead {
    pub(super) fn now() -> Self {
        Self {
            start: Instant::now(),
            millis: Arc::default(),
        }
    }

    fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// The time since bytes were last received.
    pub(super) fn silence(&self) -> Duration {
        let at = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(at)
    }
}

/// A second descriptor of the connection's socket. Dropping it shuts the connection down, so that
/// lapin's thread sees the end of the stream and ends, even if the peer sends nothing. Works with
/// TLS as well.
pub(super) struct SocketGuard(std::net::TcpStream);

impl SocketGuard {
    pub(super) fn of(tcp: &TcpStream) -> io::Result<Self> {
        Ok(Self(tcp.as_fd().try_clone_to_owned()?.into()))
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        // An error means that it is already closed.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// The runtime for lapin: tokio, but with [`Stream`] and with fewer wake-ups.
#[derive(Debug, Clone)]
pub(super) struct LapinRuntime {
    tokio: Tokio,
    /// The longest sleep that lapin has asked for, in milliseconds.
    longest_sleep: Arc<AtomicU64>,
}

impl LapinRuntime {
    /// With the runtime of the caller.
    pub(super) fn current() -> Self {
        Self {
            tokio: Tokio::current(),
            longest_sleep: Arc::default(),
        }
    }
}

impl RuntimeKit for LapinRuntime {}

impl Executor for LapinRuntime {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, f: F) -> T {
        self.tokio.block_on(f)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, f: F) -> Task<Self::Task<T>> {
        self.tokio.spawn(f)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        f: F,
    ) -> Task<Self::Task<T>> {
        self.tokio.spawn_blocking(f)
    }
}

impl Reactor for LapinRuntime {
    type TcpStream = Stream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    /// Only lapin's heartbeat sleeps: for the rest of half a heartbeat since its last write. The
    /// broker waits for a whole heartbeat, so the sleep may be somewhat longer.
    fn sleep(&self, dur: Duration) -> Self::Sleep {
        let millis = u64::try_from(dur.as_millis()).unwrap_or(u64::MAX);
        let longest = self
            .longest_sleep
            .fetch_max(millis, Ordering::Relaxed)
            .max(millis);
        let now = tokio::time::Instant::now();
        let due = slack::not_before(now + dur, Duration::from_millis(longest));
        self.tokio.sleep(due - now)
    }

    fn interval(&self, dur: Duration) -> impl futures_core::Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(dur)
    }

    /// Never called: `Connection::connector` gets a stream that is already open.
    fn tcp_connect_addr(
        &self,
        _addr: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        ready(Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the bus opens its sockets itself",
        )))
    }
}
