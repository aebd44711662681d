//! The scanner of event streams agrees with the decoder of the test kit on every stream, in every framing; the reader of end marks
//! sees the events of the decoder; and the buffer forwards the bytes that the model of the contract predicts, for every short
//! stream, framing and limit.
//!
//! The proof for the scanner is an induction whose steps are loops of this program:
//!
//! 1. **States.** A scanner that is fed byte by byte has 25 states, which are found by feeding every symbol to every state. Step
//!    2 shows that the other bytes lead to no other state. Each state keeps the decoder that was fed the same bytes.
//! 2. **Bytes.** From every state, each of the 256 bytes has the same boundary and delivery in the scanner and in the decoder.
//!    Afterwards, the decoder returns the same for all [`PROBES`] as the decoder of the scanner's new state. Therefore the
//!    two agree on streams of any length that are fed byte by byte.
//! 3. **Pieces.** From every state, every short string of [`SYMBOLS`], [`WORDS`] and [`LONG`] parts has the same result in
//!    one piece as byte by byte, and leaves the same state. Therefore the cuts do not matter.
//!
//! **The symbols are complete.** The scanner and the decoder compare bytes with LF, CR, the colon, the letters of `data` and the
//! byte order mark. The tenth symbol stands for the other 247 bytes, and step 2 checks for each state that they have its effect.
//!
//! **The probes are complete.** The decoder keeps whole lines, so the number of its states is not finite. However, of a line the
//! decoder reads the mark, whether the line is empty, and the name before the first colon; and of an event only a `data` field
//! matters here. The probes complete a mark and a `data` line from each of their prefixes. They divide the 25 states into 15
//! groups, and step 2 checks that no byte distinguishes the states of a group. The decoder is also fed every short string of
//! symbols after each state.
//!
//! **The pieces are complete.** The shortcuts of the scanner search the whole piece, but each of them decides by a bounded part:
//! the last three bytes, a line end and the two bytes before it, or `data:` at the start of a line. The bytes before that part
//! have led to one of the states. One constant counts line ends, so there are parts with more line ends than that, and one
//! line is longer than a vector of the searches.
//!
//! That the bounded parts and the parts of a line are all that the scanner and the decoder read is an argument about their code.
//! Everything else is checked.
//!
//! The reader of end marks receives its lines from the same loop of the scanner. From every state, and for every short string of
//! [`FIELDS`] in one piece and in two, the scanner returns the same with the reader as without it, the reader sees the types and
//! the data of the decoder, and a scan that an event ends has its boundary there.
//!
//! The buffer is tested through the layer. Of the bytes that lead a scanner from one state to the same state with the same
//! result, the streams for the buffer have one.

#[allow(dead_code, reason = "the crate uses more of the scanner")]
#[path = "../src/wire/scanner.rs"]
mod scanner;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "the crate uses more of the reader"
)]
#[path = "../src/wire/event_match.rs"]
mod event_match;

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use testkit::{
    MIRI_STRIDE,
    decoder::{Decoder, decode as decode_all, deliveries},
    exchange::{CLOSE, cancellation_layer, drive},
    model::Forwarding,
    script::{AfterScript, Script},
};
use tokio_util::sync::CancellationToken;

use self::{
    event_match::{EventMatch, EventReader},
    scanner::{Scanned, Scanner},
};

/// One byte of each kind. `x` stands for all bytes without a meaning.
const SYMBOLS: &[u8] = b"x\n\r:dat\xEF\xBB\xBF";

/// Streams that distinguish the states of a decoder by their boundaries and deliveries.
const PROBES: [&[u8]; 11] = [
    b"x\n\n",
    b"\n\n",
    b"\r",
    b":\n\n",
    b"data\n\n",
    b"ata\n\n",
    b"ta\n\n",
    b"a\n\n",
    b"\xEF\xBB\xBFdata\n\n",
    b"\xBB\xBFdata\n\n",
    b"\xBFdata\n\n",
];

/// Parts of lines.
const WORDS: [&str; 5] = ["\n", "\r", ":", "data", "x"];

/// Parts of long pieces. The scanner searches the last 16 line ends of a piece before it searches the whole piece.
const LONG: [&str; 8] = [
    "\n",
    "\r",
    "data:",
    "a line that is longer than a vector of the searches for its end",
    "x\nx\nx\nx\nx\nx\nx\nx\nx\nx\nx\nx\nx\nx\nx\nx\nx\n",
    "x\rx\rx\rx\rx\rx\rx\rx\rx\rx\rx\rx\rx\rx\rx\rx\rx\r",
    "x\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\nx\r\n",
    ":\n:\n:\n:\n:\n:\n:\n:\n:\n:\n:\n:\n:\n:\n:\n:\n:\n",
];

/// Parts of the lines of whole events.
const FIELDS: [&str; 8] = [
    "\n", "\r", "\r\n", ":", "data", "event:x", "data: x", "\u{feff}",
];

/// Maximum numbers of symbols, words and long parts in a string.
const LENGTHS: [usize; 3] = if cfg!(debug_assertions) {
    [3, 5, 3]
} else {
    [5, 6, 4]
};

/// Maximum number of parts of lines in a string.
const FIELDS_READ: usize = if cfg!(debug_assertions) { 3 } else { 5 };

/// Maximum number of bytes that follow each start of a stream for the buffer.
const BUFFERED: usize = if cfg!(miri) {
    2
} else if cfg!(debug_assertions) {
    4
} else {
    6
};

/// A scanner and a decoder that have been fed the same stream, byte by byte.
#[derive(Clone)]
struct Pair {
    stream: Vec<u8>,
    scanner: Scanner,
    decoder: Decoder,
}

/// A piece of a stream, and the results of a scanner for the piece byte by byte.
#[derive(Clone)]
struct Piece {
    bytes: Vec<u8>,
    scanner: Scanner,
    scanned: Scanned,
}

#[test]
fn c5_scanner_and_decoder_agree_byte_by_byte_from_every_state() {
    let states = states();
    let results: Vec<_> = states.iter().map(Pair::probe_results).collect();
    let mut strings = 0;
    for (index, state) in states.iter().enumerate().step_by(MIRI_STRIDE) {
        let twin = results.iter().position(|twin| *twin == results[index]);
        let twin = &states[twin.expect("at least this state")];
        for byte in (0..=u8::MAX).step_by(MIRI_STRIDE) {
            let (scanned, next) = state.next(byte);
            let known = states
                .iter()
                .position(|known| known.scanner == next.scanner);
            let known = known.expect("all states are known");
            assert_eq!(next.probe_results(), results[known], "{next}");

            let (twin_scanned, twin_next) = twin.next(byte);
            assert_eq!(scanned, twin_scanned, "{next} and {twin_next}");
            assert_eq!(
                results[known],
                twin_next.probe_results(),
                "{next} and {twin_next}"
            );

            if !SYMBOLS.contains(&byte) {
                let (scanned_x, next_x) = state.next(b'x');
                assert_eq!(scanned, scanned_x, "{next}");
                assert_eq!(next.scanner, next_x.scanner, "{next}");
            }
        }
        strings += state.feed_strings(LENGTHS[0].div_ceil(MIRI_STRIDE));
    }
    let distinct = (0..states.len()).filter(|&index| !results[..index].contains(&results[index]));
    assert_eq!((states.len(), distinct.count()), (25, 15));
    println!("{strings} strings");
}

#[test]
fn c5_scanner_returns_the_same_for_a_piece_as_for_its_bytes_from_every_state() {
    let symbols: Vec<_> = SYMBOLS.chunks(1).collect();
    let (words, long) = (WORDS.map(str::as_bytes), LONG.map(str::as_bytes));
    let mut pieces = 0;
    for state in states().iter().step_by(MIRI_STRIDE) {
        for (parts, length) in [&symbols[..], &words, &long].into_iter().zip(LENGTHS) {
            let empty = Piece {
                bytes: Vec::new(),
                scanner: state.scanner.clone(),
                scanned: Scanned {
                    boundary: None,
                    delivered: false,
                },
            };
            pieces += empty.scan_longer(state, parts, length.div_ceil(MIRI_STRIDE));
        }
    }
    println!("{pieces} pieces");
}

#[test]
fn c26_reader_sees_the_events_of_the_decoder_from_every_state() {
    let mut strings = 0;
    for state in states().iter().step_by(MIRI_STRIDE) {
        strings += state.read_longer(&mut Vec::new(), FIELDS_READ.div_ceil(MIRI_STRIDE));
    }
    println!("{strings} strings");
}

#[test]
fn c6_and_c7_buffer_agrees_with_the_model_for_every_stream_framing_and_limit() {
    let mut runs = 0;
    // An empty start, an event that a few bytes complete, and a delivered event.
    for start in ["", "data", "data:\n\n"] {
        let mut state = Pair::new();
        for byte in start.bytes() {
            state.feed(byte);
        }
        let mut streams = Vec::new();
        state.distinct_streams(BUFFERED, &mut streams);
        for stream in streams.iter().step_by(MIRI_STRIDE) {
            let added = &stream[start.len()..];
            for cuts in 0..1_u32 << (added.len() - 1) {
                let frames = added.chunk_by({
                    let mut index = 0;
                    move |_, _| {
                        index += 1;
                        cuts >> (index - 1) & 1 == 0
                    }
                });
                let frames: Vec<&[u8]> = [start.as_bytes()].into_iter().chain(frames).collect();
                // Nothing exceeds a limit above the length.
                for limit in 0..=stream.len() {
                    assert_buffered(&frames, limit);
                    runs += 1;
                }
            }
        }
    }
    println!("{runs} runs");
}

/// Sends these frames through a layer with this limit, and cancels.
fn assert_buffered(frames: &[&[u8]], limit: usize) {
    let mut expected = Forwarding::new(limit);
    frames.iter().for_each(|frame| expected.receive(frame));
    let token = CancellationToken::new();
    let layer = cancellation_layer(&token).buffer_limit(limit);
    let mut body = drive(&layer, Script::frames(frames).then(AfterScript::Pending));

    let shown = || {
        format!(
            "{:?}, limit {limit}",
            frames
                .iter()
                .map(|frame| frame.escape_ascii().to_string())
                .collect::<Vec<_>>()
        )
    };
    let forwarded = body.ready_data().concat();
    assert_eq!(forwarded, expected.released_from(0), "{}", shown());
    token.cancel();
    let lf: &[u8] = if forwarded.ends_with(b"\r") {
        b"\n"
    } else {
        b""
    };
    let closing = match expected.facts().mid_event {
        true => Vec::new(),
        false => [lf, CLOSE].concat(),
    };
    assert_eq!(body.rest().bytes(), closing, "{}", shown());
}

impl Pair {
    fn new() -> Self {
        Self {
            stream: Vec::new(),
            scanner: Scanner::new(),
            decoder: Decoder::new(),
        }
    }

    /// Feeds this byte to both, and returns the result on which they agree.
    fn feed(&mut self, byte: u8) -> Scanned {
        self.stream.push(byte);
        let scanned = self.scanner.feed(&[byte], true);
        assert_eq!(scanned, decode(&mut self.decoder, byte), "{self}");
        assert_eq!(
            self.scanner.is_in_event(),
            self.decoder.is_in_event(),
            "{self}"
        );
        scanned
    }

    /// Returns the result and the next state when both are fed this byte.
    fn next(&self, byte: u8) -> (Scanned, Self) {
        let mut next = self.clone();
        (next.feed(byte), next)
    }

    /// Feeds all strings of up to this many symbols, and returns their number.
    fn feed_strings(&self, length: usize) -> usize {
        let Some(length) = length.checked_sub(1) else {
            return 0;
        };
        let feed = |&byte| {
            let (_, next) = self.next(byte);
            1 + next.feed_strings(length)
        };
        SYMBOLS.iter().map(feed).sum()
    }

    /// Adds the streams that have up to this many more bytes, with one byte for each different effect on the scanner.
    fn distinct_streams(&self, length: usize, streams: &mut Vec<Vec<u8>>) {
        let Some(length) = length.checked_sub(1) else {
            return;
        };
        let mut effects = Vec::new();
        for (scanned, next) in SYMBOLS.iter().map(|&byte| self.next(byte)) {
            let effect = (scanned, next.scanner.clone());
            if !effects.contains(&effect) {
                effects.push(effect);
                streams.push(next.stream.clone());
                next.distinct_streams(length, streams);
            }
        }
    }

    /// Reads all strings of up to this many more parts, and returns their number.
    fn read_longer(&self, bytes: &mut Vec<u8>, length: usize) -> usize {
        let Some(length) = length.checked_sub(1) else {
            return 0;
        };
        let mut strings = 0;
        for field in FIELDS {
            let start = bytes.len();
            bytes.extend_from_slice(field.as_bytes());
            for cut in (0..bytes.len()).step_by(MIRI_STRIDE) {
                self.assert_read(&[&bytes[..cut], &bytes[cut..]]);
            }
            strings += 1 + self.read_longer(bytes, length);
            bytes.truncate(start);
        }
        strings
    }

    /// Asserts that a reader sees the events of these pieces, and that each of the events can end the scan.
    fn assert_read(&self, pieces: &[&[u8]]) {
        let stream = [&self.stream, &pieces.concat()[..]].concat();
        let shown = || format!("{self} + {pieces:?}");
        let mut scanner = self.scanner.clone();
        let mut reading = Reading::of(&self.stream, usize::MAX);
        for piece in pieces {
            assert_eq!(
                reading.read(piece),
                scanner.feed(piece, true),
                "{}",
                shown()
            );
            assert_eq!(reading.scanner, scanner, "{}", shown());
        }
        let events = decode_all(&stream).events.into_iter();
        let events: Vec<_> = events.map(|it| (it.event_type, it.data)).collect();
        assert_eq!(*reading.events.lock().unwrap(), events, "{}", shown());

        let deliveries = deliveries(&stream);
        for (last, &delivery) in deliveries.iter().enumerate() {
            if delivery <= self.stream.len() {
                continue;
            }
            let mut reading = Reading::of(&self.stream, last);
            let mut start = self.stream.len();
            let boundary = pieces.iter().find_map(|piece| {
                let scanned = reading.read(piece);
                let end = scanned.boundary.map(|end| start + end);
                let is_last = reading.reader.has_end_mark();
                assert_eq!(is_last, delivery <= start + piece.len(), "{}", shown());
                start += piece.len();
                is_last.then_some((end, scanned.delivered, start))
            });
            let (end, delivered, piece_end) = boundary.expect("the event ends the scan");
            let is_crlf = stream[delivery - 1..piece_end].starts_with(b"\r\n");
            let expected = Some(delivery + usize::from(is_crlf));
            assert_eq!((end, delivered), (expected, true), "{}", shown());
            assert_eq!(reading.events.lock().unwrap()[..], events[..=last]);
        }
    }

    /// Returns the result of the decoder for each byte of the probes.
    fn probe_results(&self) -> Vec<Scanned> {
        let results = PROBES.iter().flat_map(|probe| {
            let mut decoder = self.decoder.clone();
            probe.iter().map(move |&byte| decode(&mut decoder, byte))
        });
        results.collect()
    }
}

/// A scanner with a reader, and the types and the data of the events that the reader has seen.
struct Reading {
    scanner: Scanner,
    reader: EventReader,
    events: Arc<Mutex<Vec<(String, String)>>>,
}

impl Reading {
    /// Reads this stream byte by byte. The event of this number will be an end mark.
    fn of(stream: &[u8], last: usize) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let end_mark = EventMatch::when(move |event| {
            let mut seen = seen.lock().unwrap();
            seen.push((event.event_type().to_owned(), event.data().to_owned()));
            seen.len() > last
        });
        let mut reading = Self {
            scanner: Scanner::new(),
            reader: EventReader::default(),
            events,
        };
        reading.reader.add_end_marks(&[end_mark]);
        reading.reader.prepare(1024);
        for byte in stream {
            reading.read(&[*byte]);
        }
        reading
    }

    fn read(&mut self, piece: &[u8]) -> Scanned {
        self.scanner.read(piece, &mut self.reader)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stream.escape_ascii())
    }
}

impl Piece {
    /// Scans all pieces that have up to this many more parts, from this state, and returns their number.
    fn scan_longer(&self, state: &Pair, parts: &[&[u8]], length: usize) -> usize {
        let Some(length) = length.checked_sub(1) else {
            return 0;
        };
        let scan = |part: &&[u8]| {
            let mut longer = self.clone();
            part.iter().for_each(|&byte| longer.push(byte));
            longer.scan(state);
            1 + longer.scan_longer(state, parts, length)
        };
        parts.iter().map(scan).sum()
    }

    fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
        let scanned = self.scanner.feed(&[byte], true);
        if scanned.boundary.is_some() {
            self.scanned.boundary = Some(self.bytes.len());
        }
        self.scanned.delivered |= scanned.delivered;
    }

    /// Scans the piece at once, with the search for deliveries and without it.
    fn scan(&self, state: &Pair) {
        for detect_delivery in [true, false] {
            let mut scanner = state.scanner.clone();
            let scanned = scanner.feed(&self.bytes, detect_delivery);
            let shown = || format!("{state} + {}", self.bytes.escape_ascii());
            assert_eq!(scanned.boundary, self.scanned.boundary, "{}", shown());
            assert_eq!(scanner, self.scanner, "{}", shown());
            if detect_delivery || scanned.delivered {
                assert_eq!(scanned.delivered, self.scanned.delivered, "{}", shown());
            }
        }
    }
}

/// Returns the result that a scanner has to return for this byte.
fn decode(decoder: &mut Decoder, byte: u8) -> Scanned {
    let delivered = !decoder.feed(&[byte]).is_empty();
    let boundary = (!decoder.is_pending()).then_some(1);
    Scanned {
        boundary,
        delivered,
    }
}

/// Finds all states of a scanner, each with the shortest stream that leads to it.
fn states() -> Vec<Pair> {
    let mut states = vec![Pair::new()];
    let mut index = 0;
    while let Some(state) = states.get(index).cloned() {
        for &byte in SYMBOLS {
            let (_, next) = state.next(byte);
            if states.iter().all(|known| known.scanner != next.scanner) {
                states.push(next);
            }
        }
        index += 1;
    }
    states
}
