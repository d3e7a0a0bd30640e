//! A piece of an attempt's log, and its form on the wire.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{AttemptId, BuildId};

/// The most bytes one piece of log carries.
pub const LOG_CHUNK_BYTES_MAX: usize = 64 * 1024;

/// Which of a command's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// What the runner itself says: the progress of the clone, of the image, why it stopped.
    Caisson,
}

impl Stream {
    /// The number that stands for it in files and frames.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Caisson => 3,
        }
    }

    /// The stream that a number stands for.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::Caisson].into_iter().find(|stream| stream.code() == code)
    }
}

/// A piece of an attempt's log: bytes of one stream that came at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Where the bytes stand in the attempt's log, all streams together.
    pub offset: u64,
    /// Which output they came from.
    pub stream: Stream,
    /// When they came, in milliseconds since 1970, by the runner's clock. For people only.
    pub time_ms: u64,
    /// The bytes, unaltered; at most [`LOG_CHUNK_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// A piece of log on its way to the coordinator: a fixed header, then the bytes.
///
/// | bytes | what |
/// |---|---|
/// | 1 | version, 1 |
/// | 16 | build id |
/// | 4 | attempt number |
/// | 1 | stream |
/// | 8 | offset |
/// | 8 | time, milliseconds since 1970 |
///
/// Numbers are big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFrame {
    /// The attempt that wrote it.
    pub attempt: AttemptId,
    /// What it wrote.
    pub chunk: LogChunk,
}

/// Why bytes are no log frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogFrameError {
    /// Shorter than its header.
    #[error("a log frame is at least {HEADER_BYTES} bytes long")]
    TooShort,
    /// More than a frame may carry.
    #[error("a log frame carries at most {LOG_CHUNK_BYTES_MAX} bytes")]
    TooLong,
    /// Made by another version of this protocol.
    #[error("unknown version {0} of log frames")]
    Version(u8),
    /// Not a stream.
    #[error("unknown stream {0}")]
    Stream(u8),
    /// An end beyond the largest offset there is.
    #[error("the offset is out of range")]
    Offset,
}

const FRAME_VERSION: u8 = 1;
const HEADER_BYTES: usize = 38;

impl LogFrame {
    /// The frame as it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER_BYTES + self.chunk.bytes.len());
        frame.push(FRAME_VERSION);
        frame.extend_from_slice(self.attempt.build.0.as_bytes());
        frame.extend_from_slice(&self.attempt.number.to_be_bytes());
        frame.push(self.chunk.stream.code());
        frame.extend_from_slice(&self.chunk.offset.to_be_bytes());
        frame.extend_from_slice(&self.chunk.time_ms.to_be_bytes());
        frame.extend_from_slice(&self.chunk.bytes);
        frame
    }

    /// Reads a frame that came over the wire.
    ///
    /// # Errors
    /// When the bytes are no frame of this version.
    pub fn decode(frame: &[u8]) -> Result<Self, LogFrameError> {
        let (version, rest) = take::<1>(frame)?;
        let (build, rest) = take::<16>(rest)?;
        let (number, rest) = take::<4>(rest)?;
        let (stream, rest) = take::<1>(rest)?;
        let (offset, rest) = take::<8>(rest)?;
        let (time_ms, bytes) = take::<8>(rest)?;
        if version != [FRAME_VERSION] {
            return Err(LogFrameError::Version(version[0]));
        }
        if bytes.len() > LOG_CHUNK_BYTES_MAX {
            return Err(LogFrameError::TooLong);
        }
        let offset = u64::from_be_bytes(offset);
        // An offset fits the signed numbers of files and databases, its end included.
        if offset > i64::MAX as u64 - LOG_CHUNK_BYTES_MAX as u64 {
            return Err(LogFrameError::Offset);
        }
        Ok(Self {
            attempt: AttemptId {
                build: BuildId(Uuid::from_bytes(build)),
                number: u32::from_be_bytes(number),
            },
            chunk: LogChunk {
                offset,
                stream: Stream::from_code(stream[0]).ok_or(LogFrameError::Stream(stream[0]))?,
                time_ms: u64::from_be_bytes(time_ms),
                bytes: bytes.to_vec(),
            },
        })
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), LogFrameError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(LogFrameError::TooShort)?;
    Ok((*head, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> LogFrame {
        LogFrame {
            attempt: "019aac1e-7c00-7000-8000-000000000001.2".parse().unwrap(),
            chunk: LogChunk { offset: 258, stream: Stream::Stderr, time_ms: 3, bytes: b"oh".to_vec() },
        }
    }

    #[test]
    fn the_wire_form_is_this_and_stays_this() {
        let golden = [
            &[1][..],
            &[0x01, 0x9a, 0xac, 0x1e, 0x7c, 0x00, 0x70, 0x00, 0x80, 0x00, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 2],
            &[2],
            &[0, 0, 0, 0, 0, 0, 1, 2],
            &[0, 0, 0, 0, 0, 0, 0, 3],
            b"oh",
        ]
        .concat();
        assert_eq!(frame().encode(), golden);
        assert_eq!(LogFrame::decode(&golden), Ok(frame()));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let good = frame().encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            LogFrame::decode(&bytes)
        };
        assert_eq!(LogFrame::decode(&good[..37]), Err(LogFrameError::TooShort));
        assert_eq!(with(0, 2), Err(LogFrameError::Version(2)));
        assert_eq!(with(21, 9), Err(LogFrameError::Stream(9)));
        assert_eq!(with(22, 0xff), Err(LogFrameError::Offset));
        let long = [good, vec![0; LOG_CHUNK_BYTES_MAX]].concat();
        assert_eq!(LogFrame::decode(&long), Err(LogFrameError::TooLong));
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic_and_what_is_read_is_written_back(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(frame) = LogFrame::decode(&bytes) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }
    }
}
