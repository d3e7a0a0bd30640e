//! One connection: two streams of bytes, each with its own way of being late.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::Link;
use crate::life::{Condition, Life};

/// How many bytes may be on their way before who writes has to wait.
const WINDOW_BYTES: usize = 32 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Towards the coordinator.
    There = 0,
    /// From the coordinator.
    Back = 1,
}

impl Way {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::There, Self::Back];
}

/// A connection, as the network sees it.
pub(super) struct Connection {
    link: Arc<Link>,
    ways: [Mutex<Stream>; 2],
}

#[derive(Default)]
struct Stream {
    /// What is on its way, and when it arrives.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// The stream ends after this many more bytes.
    cut_after: Option<usize>,
    /// Nothing arrives any more, and nobody knows.
    void: bool,
    ending: Option<Ending>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Closed,
    Reset,
}

/// One end of a connection, held by a process. What a dead process wrote still arrives, and then its end.
pub struct End {
    connection: Arc<Connection>,
    writes: Way,
    life: Arc<Life>,
    seat: u64,
    until: Option<Pin<Box<Sleep>>>,
}

pub(super) fn connection(link: &Arc<Link>, near: &Arc<Life>, far: &Arc<Life>) -> (End, End, Arc<Connection>) {
    let connection = Arc::new(Connection { link: Arc::clone(link), ways: Default::default() });
    let end = |writes, life: &Arc<Life>| End {
        connection: Arc::clone(&connection),
        writes,
        life: Arc::clone(life),
        seat: life.seat(),
        until: None,
    };
    (end(Way::There, near), end(Way::Back, far), connection)
}

impl Connection {
    pub(super) fn reset(&self) {
        for way in Way::BOTH {
            let mut stream = self.stream(way);
            stream.pieces.clear();
            stream.end(Ending::Reset);
        }
    }

    pub(super) fn void(&self) {
        for way in Way::BOTH {
            self.stream(way).void = true;
        }
    }

    pub(super) fn cut_after(&self, way: Way, bytes: usize) {
        self.stream(way).cut_after = Some(bytes);
    }

    fn stream(&self, way: Way) -> MutexGuard<'_, Stream> {
        self.ways[way as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts bytes on their way. `None` while too many are.
    fn send(&self, way: Way, bytes: &[u8], context: &Context<'_>) -> Option<io::Result<usize>> {
        let latency = self.link.latency();
        let mut stream = self.stream(way);
        if stream.ending.is_some() {
            return Some(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let most = bytes.len().min(WINDOW_BYTES - stream.bytes);
        if most == 0 {
            stream.writer = Some(context.waker().clone());
            return None;
        }
        let sent = most.min(stream.cut_after.unwrap_or(most));
        let arrives = stream.pieces.back().map_or(Instant::now(), |(before, _)| *before);
        stream.pieces.push_back((arrives.max(Instant::now() + latency), bytes[..sent].to_vec()));
        stream.bytes += sent;
        wake(&mut stream.reader);
        let cut = stream.cut_after.is_some_and(|left| left <= most);
        stream.cut_after = stream.cut_after.map(|left| left - sent);
        if cut {
            stream.end(Ending::Reset);
            drop(stream);
            self.stream(opposite(way)).end(Ending::Reset);
        }
        Some(Ok(most))
    }
}

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

fn opposite(way: Way) -> Way {
    match way {
        Way::There => Way::Back,
        Way::Back => Way::There,
    }
}

impl Stream {
    fn end(&mut self, ending: Ending) {
        if self.void {
            return;
        }
        if self.ending != Some(Ending::Reset) {
            self.ending = Some(ending);
        }
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// Takes what has arrived, or tells until when to wait.
    fn receive(&mut self, buffer: &mut ReadBuf<'_>, held_until: Instant) -> Received {
        if self.void {
            return Received::NothingYet(None);
        }
        let Some((arrives, piece)) = self.pieces.front_mut() else {
            return match self.ending {
                None => Received::NothingYet(None),
                Some(ending) if held_until <= Instant::now() => Received::End(ending),
                Some(_) => Received::NothingYet(Some(held_until)),
            };
        };
        let arrives = held_until.max(*arrives);
        if arrives > Instant::now() {
            return Received::NothingYet(Some(arrives));
        }
        let taken = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece[..taken]);
        piece.drain(..taken);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        self.bytes -= taken;
        wake(&mut self.writer);
        Received::Bytes
    }
}

enum Received {
    Bytes,
    End(Ending),
    NothingYet(Option<Instant>),
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.life.poll_condition(self.seat, context) {
            Condition::Dead => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Condition::Frozen => return Poll::Pending,
            Condition::Running => {}
        }
        let way = opposite(self.writes);
        loop {
            let held_until = self.connection.link.held_until(way);
            let received = {
                let mut stream = self.connection.stream(way);
                stream.reader = Some(context.waker().clone());
                stream.receive(buffer, held_until)
            };
            match received {
                Received::Bytes | Received::End(Ending::Closed) => return Poll::Ready(Ok(())),
                Received::End(Ending::Reset) => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Received::NothingYet(None) => return Poll::Pending,
                Received::NothingYet(Some(until)) => {
                    let mut sleep = Box::pin(sleep_until(until));
                    if sleep.as_mut().poll(context).is_pending() {
                        self.until = Some(sleep);
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.life.poll_condition(self.seat, context) {
            Condition::Dead => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Condition::Frozen => Poll::Pending,
            Condition::Running => match self.connection.send(self.writes, bytes, context) {
                Some(sent) => Poll::Ready(sent),
                None => Poll::Pending,
            },
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.stream(self.writes).end(Ending::Closed);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    /// Who goes away writes nothing more, and reads nothing more: a side that goes on writing is told.
    fn drop(&mut self) {
        self.connection.stream(self.writes).end(Ending::Closed);
        let mut unread = self.connection.stream(opposite(self.writes));
        unread.pieces.clear();
        unread.bytes = 0;
        unread.end(Ending::Reset);
    }
}
