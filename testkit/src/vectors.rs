//! Test vectors for decoders of event streams, written from the [HTML standard, 9.2.5 and 9.2.6][html].
//!
//! ```
//! use testkit::{decoder::decode, vectors::cases};
//!
//! for case in cases() {
//!     assert_eq!(decode(&case.stream), case.decoded, "{}", case.name);
//! }
//! ```
//!
//! [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

use std::{collections::BTreeSet, str::Chars, time::Duration};

use crate::{
    MIRI_STRIDE,
    decoder::{BYTE_ORDER_MARK, Decoded, Event},
};

/// A stream, and its interpretation by the standard.
#[derive(Debug, Clone)]
pub struct Case {
    /// The rule and the name of the case.
    pub name: String,
    /// The bytes of the stream.
    pub stream: Vec<u8>,
    /// The lengths of all prefixes of the stream that end at a boundary.
    pub boundaries: Vec<usize>,
    /// The lengths of the prefixes whose last byte delivers an event.
    pub deliveries: Vec<usize>,
    /// The result of decoding the whole stream.
    pub decoded: Decoded,
    /// The published decoders whose result differs.
    deviating: Vec<String>,
}

/// Returns all cases.
///
/// # Panics
///
/// Panics if `event_streams.txt` is malformed. The file describes its format.
pub fn cases() -> Vec<Case> {
    let mut rule = "";
    let mut cases = Vec::new();
    for block in include_str!("vectors/event_streams.txt").split("\n\n") {
        let lines = block.lines().filter(|line| !line.starts_with('#'));
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        match lines.first().copied().map(keyword) {
            Some(("rule", text)) => rule = text,
            Some(("case", name)) => cases.push(Case::parse(format!("{rule}: {name}"), &lines[1..])),
            Some(_) => panic!("neither a rule nor a case: {block}"),
            None => {}
        }
    }
    cases
}

impl Case {
    fn parse(name: String, lines: &[&str]) -> Self {
        let mut text = Text::default();
        let mut decoded = Decoded::default();
        let mut deviating = Vec::new();
        let mut last_event_id = None;
        let mut says_none = false;
        for (keyword, value) in lines.iter().copied().map(keyword) {
            match keyword {
                "in" => text.read(value),
                "event" => decoded.events.push(event(value)),
                "none" => says_none = true,
                "retry" => decoded.retry = value.parse().ok().map(Duration::from_millis),
                "id" => last_event_id = Some(string(value.trim_matches('"'))),
                "deviates" => {
                    let (decoder, reason) = value.split_once(' ').expect("a decoder and a reason");
                    assert!(!reason.is_empty());
                    deviating.push(decoder.to_owned());
                }
                other => panic!("{name}: unknown keyword {other:?}"),
            }
        }
        assert_eq!(
            text.boundaries.first(),
            Some(&0),
            "{name}: no mark at the start"
        );
        assert_eq!(
            says_none,
            decoded.events.is_empty(),
            "{name}: events or none"
        );
        assert_eq!(
            text.deliveries.len(),
            decoded.events.len(),
            "{name}: a mark for each event"
        );
        let of_last_event = decoded
            .events
            .last()
            .map(|event| event.last_event_id.clone());
        decoded.last_event_id = last_event_id.or(of_last_event).unwrap_or_default();
        decoded.pending = text.boundaries.last() != Some(&text.bytes.len());
        Self {
            name,
            stream: text.bytes,
            boundaries: text.boundaries,
            deliveries: text.deliveries,
            decoded,
            deviating,
        }
    }

    /// Returns the positions at which tests cut the stream: all, or a sample and those around the boundaries if the stream is
    /// long.
    pub fn cuts(&self) -> Vec<usize> {
        let length = self.stream.len();
        if length <= 256 {
            return (0..=length).collect();
        }
        let around = self
            .boundaries
            .iter()
            .flat_map(|&at| at.saturating_sub(2)..=at + 2);
        let cuts = (0..length)
            .step_by(length / 32)
            .chain(around)
            .chain([length]);
        cuts.filter(|&at| at <= length)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Returns the first `length` bytes of the stream as one frame, in two frames split at every cut, and in frames of one byte.
    pub fn framings(&self, length: usize) -> impl Iterator<Item = Vec<&[u8]>> {
        let bytes = &self.stream[..length];
        let cuts = self.cuts().into_iter().step_by(MIRI_STRIDE);
        let in_two = cuts.filter(move |&cut| cut < length);
        let in_two = in_two.map(move |cut| vec![&bytes[..cut], &bytes[cut..]]);
        in_two.chain([vec![bytes], bytes.chunks(1).collect()])
    }

    /// Returns the last boundary up to this position.
    pub fn boundary_before(&self, length: usize) -> usize {
        let before = self.boundaries.iter().take_while(|&&at| at <= length);
        before.last().copied().unwrap_or(0)
    }

    /// Returns `true` if the stream ends inside an event, and not merely inside a comment or a byte order mark.
    pub fn ends_in_event(&self) -> bool {
        let start = self.boundary_before(self.stream.len());
        let rest = &self.stream[start..];
        let rest = match start {
            0 if BYTE_ORDER_MARK.starts_with(rest) => &[],
            0 => rest.strip_prefix(BYTE_ORDER_MARK).unwrap_or(rest),
            _ => rest,
        };
        !rest.is_empty() && !rest.starts_with(b":")
    }

    /// Returns `true` if the result of this published decoder differs.
    pub fn deviates(&self, decoder: &str) -> bool {
        self.deviating.iter().any(|it| it == decoder)
    }

    /// Returns the number of events that are delivered up to this position.
    pub fn delivered_before(&self, length: usize) -> usize {
        self.deliveries.iter().filter(|&&at| at <= length).count()
    }
}

/// Bytes, and the marks between them.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    boundaries: Vec<usize>,
    deliveries: Vec<usize>,
}

impl Text {
    fn read(&mut self, text: &str) {
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            match char {
                '|' => self.boundaries.push(self.bytes.len()),
                '!' => {
                    self.boundaries.push(self.bytes.len());
                    self.deliveries.push(self.bytes.len());
                }
                '\\' => self.read_escape(&mut rest),
                '{' => {
                    let (count, repeated) = rest.as_str().split_once(' ').expect("{count text}");
                    let (repeated, after) = repeated.split_once("}").expect("{count text}");
                    rest = after.chars();
                    let count = count.parse().expect("a number");
                    (0..count).for_each(|_| self.read(repeated));
                }
                other => self.push(other),
            }
        }
    }

    fn read_escape(&mut self, rest: &mut Chars<'_>) {
        match rest.next().expect("an escape") {
            'n' => self.push('\n'),
            'r' => self.push('\r'),
            't' => self.push('\t'),
            '0' => self.push('\0'),
            'x' => {
                let digits: String = rest.by_ref().take(2).collect();
                let byte = u8::from_str_radix(&digits, 16).expect("two hexadecimal digits");
                self.bytes.push(byte);
            }
            'u' => {
                let digits: String = rest
                    .skip_while(|&char| char == '{')
                    .by_ref()
                    .take_while(|&char| char != '}')
                    .collect();
                let number = u32::from_str_radix(&digits, 16).expect("hexadecimal digits");
                self.push(char::from_u32(number).expect("a character"));
            }
            other => self.push(other),
        }
    }

    fn push(&mut self, char: char) {
        self.bytes.extend(char.encode_utf8(&mut [0; 4]).bytes());
    }
}

/// The type, the data, and the last event ID if there is one.
fn event(line: &str) -> Event {
    let parts: Vec<&str> = line.split('"').collect();
    let (kind, data, last_event_id) = match parts[..] {
        [kind, data, ""] => (kind, data, ""),
        [kind, data, " ", last_event_id, ""] => (kind, data, last_event_id),
        _ => panic!("not an event: {line}"),
    };
    Event {
        event_type: string(kind.strip_suffix(' ').expect("a type")),
        data: string(data),
        last_event_id: string(last_event_id),
    }
}

fn string(text: &str) -> String {
    let mut read = Text::default();
    read.read(text);
    assert_eq!(read.boundaries, [0; 0], "a mark within {text}");
    String::from_utf8(read.bytes).expect("text")
}

fn keyword(line: &str) -> (&str, &str) {
    let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
    (keyword, value.trim_start())
}
