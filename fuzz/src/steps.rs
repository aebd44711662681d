//! The steps of an upstream, encoded so that a mutation of one byte is a small change.
//!
//! A byte below 0x80 is a byte of the event stream. The others are line ends, field names, the ends of frames, and the steps
//! that may stand between two frames.

use testkit::script::{Step, data};

/// The next byte is a byte of the stream.
const RAW: u8 = 0x80;
const CUT: u8 = 0x81;
/// The upstream waits.
pub const PENDING: u8 = 0x82;
const YIELD: u8 = 0x83;
const EMPTY: u8 = 0x84;
const TRAILERS: u8 = 0x85;
const ERROR: u8 = 0x86;
/// Repeats the unfinished frame as 1 to 32 frames.
const REPEAT: std::ops::RangeInclusive<u8> = 0xA0..=0xBF;

/// The meanings of the bytes from 0x87 on.
const PIECES: [&[u8]; 25] = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\r\r",
    b"\r\n\r\n",
    b": ",
    b"data",
    b"data: ",
    b"data: x\n\n",
    b"id: 7\n",
    b"id",
    b"event: close\n",
    b"retry: 5\n",
    b"\xEF\xBB\xBF",
    b"\xEF\xBB",
    b"\xEF",
    b"\xFF",
    b":\n",
    b"\0",
    b"id: 8\r\ndata: y\r\n\r\n",
    b"\n\r",
    b"\r:",
    b"data:\n",
    b"\xBB\xBF",
];

/// The meanings of the bytes from 0xC0 on, in turns.
const BYTES: &[u8; 16] = b"\n\r:\n\r: \ndatidex1";

/// Several times the maximum number of frames in one poll.
const MAX_STEPS: usize = 320;
const MAX_BYTES: usize = 2048;

/// Reads steps, up to the limits of a fast run.
pub fn read(bytes: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut frame = Vec::new();
    let mut length = 0;
    let mut bytes = bytes.iter().copied();
    while let Some(byte) = bytes.next() {
        if steps.len() > MAX_STEPS || length + frame.len() > MAX_BYTES {
            break;
        }
        let between = match byte {
            0..RAW => {
                frame.push(byte);
                continue;
            }
            RAW => {
                frame.extend(bytes.next());
                continue;
            }
            CUT => None,
            PENDING => Some(Step::Pending),
            YIELD => Some(Step::Yield),
            EMPTY => Some(data(b"")),
            TRAILERS => Some(Step::Trailers),
            ERROR => Some(Step::Error),
            _ if REPEAT.contains(&byte) => {
                let times = usize::from(byte - REPEAT.start()) + 1;
                let again = data(&frame);
                for _ in 0..times {
                    if frame.len() + length > MAX_BYTES {
                        break;
                    }
                    length += frame.len();
                    steps.push(again.clone());
                }
                None
            }
            0xC0.. => {
                frame.push(BYTES[usize::from(byte) % BYTES.len()]);
                continue;
            }
            _ => {
                frame.extend_from_slice(PIECES[usize::from(byte) - 0x87]);
                continue;
            }
        };
        length += frame.len();
        if !frame.is_empty() {
            steps.push(data(std::mem::take(&mut frame)));
        }
        steps.extend(between);
    }
    if !frame.is_empty() {
        steps.push(data(frame));
    }
    steps
}

/// Writes frames with these bytes, for [`read`].
pub fn write_frames<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut written = Vec::new();
    for frame in frames {
        for &byte in frame {
            if byte >= RAW {
                written.push(RAW);
            }
            written.push(byte);
        }
        written.push(CUT);
    }
    written
}
