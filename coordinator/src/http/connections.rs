//! Connections: how many there may be, and one that is cut when its client does not take what it is sent.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::front::network;

/// How long a client may take nothing of what it is sent. Whoever follows something is given up earlier.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How many connections there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// All in all.
    pub total: usize,
    /// From one address, unless it is this machine's or a proxy's.
    pub per_address: usize,
}

/// Those that are connected.
pub(super) struct Crowd {
    limits: ConnectionLimits,
    /// How many connections each address has, or network of version 6; those that have none are not listed.
    present: Mutex<HashMap<IpAddr, usize>>,
}

impl Crowd {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, present: Mutex::default() })
    }

    /// A place for one more connection from `address`, if there is any.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = present.values().sum();
        let from_there = present.get(&address).copied().unwrap_or_default();
        let alone = address.is_loopback() || from_there < self.limits.per_address;
        if total >= self.limits.total || !alone {
            return None;
        }
        present.insert(address, from_there + 1);
        Some(Place { crowd: Arc::clone(self), address })
    }
}

/// A connection's place among all.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = self.crowd.present.lock().unwrap_or_else(PoisonError::into_inner);
        match present.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                present.remove(&self.address);
            }
        }
    }
}

/// What carries a connection's bytes, and its place: both last as long as the connection, also when it becomes a
/// WebSocket.
pub(super) struct Line<S> {
    stream: S,
    /// Set while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl<S> Line<S> {
    pub(super) fn new(stream: S, place: Place) -> Self {
        Self { stream, stalled: None, _place: place }
    }

    /// Passes on how a write went, and ends the patience with one that does not go on.
    fn patiently<T>(&mut self, cx: &mut Context<'_>, went: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if went.is_ready() {
            self.stalled = None;
            return went;
        }
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of what it is sent",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let went = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.patiently(cx, went)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let went = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.patiently(cx, went)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let went = Pin::new(&mut self.stream).poll_flush(cx);
        self.patiently(cx, went)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let went = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.patiently(cx, went)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn crowd(total: usize, per_address: usize) -> Arc<Crowd> {
        Crowd::new(ConnectionLimits { total, per_address })
    }

    #[test]
    fn s51_nobody_takes_all_places() {
        let crowd = crowd(5, 2);
        let from = |last: u8| crowd.admit([203, 0, 113, last].into());
        let first = (from(1), from(1));
        assert!(first.0.is_some() && first.1.is_some() && from(1).is_none());
        let others = (from(2), from(3), from(4));
        assert!(others.2.is_some() && from(5).is_none(), "all places are taken");
        drop(first);
        let again = from(1);
        assert!(again.is_some());
        drop(others);
        let of_one_network = |last: u16| crowd.admit([0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into());
        let places = (of_one_network(1), of_one_network(2), of_one_network(3));
        assert!(places.1.is_some() && places.2.is_none());
        drop((places, again));
        assert!(crowd.present.lock().unwrap().is_empty());
    }

    #[test]
    fn s51_this_machine_may_have_them_all() {
        let crowd = crowd(3, 1);
        let places: Vec<_> = (0..4).map(|_| crowd.admit([127, 0, 0, 1].into())).collect();
        assert_eq!(places.iter().flatten().count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn s51_a_client_that_never_reads_is_cut() {
        let crowd = crowd(1, 1);
        let (ours, _theirs) = duplex(16);
        let mut line = Line::new(ours, crowd.admit([127, 0, 0, 1].into()).unwrap());
        let began = Instant::now();
        let error = line.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_not() {
        let crowd = crowd(1, 1);
        let (ours, mut theirs) = duplex(16);
        let mut line = Line::new(ours, crowd.admit([127, 0, 0, 1].into()).unwrap());
        let writing = tokio::spawn(async move { line.write_all(&[0; 160]).await });
        for _ in 0..10 {
            tokio::time::sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
            theirs.read_exact(&mut [0; 16]).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }
}
