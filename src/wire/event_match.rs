//! Matches events by their type and their data: end marks, and events that an idle timeout ignores.

use std::{borrow::Cow, fmt, mem, sync::Arc};

use memchr::memchr2;

use super::scanner::Lines;

/// A condition on an event of the upstream.
///
/// For [`end_mark`](crate::SseCompletionLayer::end_mark), and for the events that an [`IdleTimeout`](crate::IdleTimeout) ignores. Only
/// delivered events match: those with a `data` field, at their blank line. The type and the data are those that a client
/// receives ([HTML standard, 9.2.6][html]), and match byte for byte.
///
/// ```
/// use tower_sse_completion::{EventMatch, SseCompletionLayer};
///
/// // The last event of an OpenAI chat completion, and that of an Anthropic message.
/// let layer = SseCompletionLayer::new()
///     .end_mark(EventMatch::data("[DONE]"))
///     .end_mark(EventMatch::event("message_stop"));
/// # let _ = layer;
/// ```
///
/// A stream keeps no more of an event than the matches need: as many bytes as the longest type and the longest data have, and for
/// [`when`](Self::when) up to the [buffer limit](crate::SseCompletionLayer::buffer_limit). Events above that limit match by
/// their type and by their data, but not by a function.
///
/// [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
#[derive(Clone)]
pub struct EventMatch {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Event(String),
    Data(String),
    When(Arc<dyn Fn(&SseEvent<'_>) -> bool + Send + Sync>),
}

/// An event of the upstream, for [`EventMatch::when`] and the function of a `FirstEventLayer`.
#[derive(Debug, Clone)]
pub struct SseEvent<'a> {
    event_type: Cow<'a, str>,
    data: Cow<'a, str>,
}

/// Reads the events of one stream, and matches them.
#[derive(Default)]
pub(crate) struct EventReader {
    end_marks: Vec<EventMatch>,
    ignored: Vec<EventMatch>,
    /// The buffer limit: maximum number of bytes of a type or of data that a function receives.
    limit: usize,
    /// Maximum number of bytes of a type or of data that are kept.
    kept: usize,
    /// `true` if a match cannot be ruled out by single lines.
    needs_events: bool,
    /// The current line, if it began in an earlier piece.
    line: Vec<u8>,
    /// Fields of the current event.
    event_type: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// An event that counts for the idle timeout has been read since the last [`take_traffic`](Self::take_traffic).
    has_traffic: bool,
    /// The last event is an end mark.
    has_end_mark: bool,
}

/// Length of the longest field name with its colon and its space.
const NAME: usize = "event: ".len();

impl EventMatch {
    /// Matches events of this type, which is the value of the last `event` field, or `message` without such a field.
    pub fn event(event_type: impl Into<String>) -> Self {
        Self {
            kind: Kind::Event(event_type.into()),
        }
    }

    /// Matches events with exactly this data: the values of the `data` fields, joined with LF.
    pub fn data(data: impl Into<String>) -> Self {
        Self {
            kind: Kind::Data(data.into()),
        }
    }

    /// Matches the events for which this function returns `true`, for data that has to be parsed:
    ///
    /// ```
    /// use tower_sse_completion::{EventMatch, SseCompletionLayer};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Message {
    ///     r#type: String,
    /// }
    ///
    /// // The last event of an AG-UI run is `data: {"type":"RUN_FINISHED",…}`.
    /// let layer = SseCompletionLayer::new().end_mark(EventMatch::when(|event| {
    ///     let message = serde_json::from_str::<Message>(event.data());
    ///     message.is_ok_and(|message| message.r#type == "RUN_FINISHED")
    /// }));
    /// # let _ = layer;
    /// ```
    ///
    /// The function is called once for every delivered event whose type and data have up to
    /// [`buffer_limit`](crate::SseCompletionLayer::buffer_limit) bytes each, unless a match that was added earlier matches. End
    /// marks are tested before ignored events. The task that polls the body calls the function, which must not block.
    ///
    /// # Panics
    ///
    /// A panic of the function reaches the server that polls the body, and the stream ends. The stream is then reported as failed.
    pub fn when<F>(matches: F) -> Self
    where
        F: Fn(&SseEvent<'_>) -> bool + Send + Sync + 'static,
    {
        Self {
            kind: Kind::When(Arc::new(matches)),
        }
    }

    /// Returns `true` if both are the same condition.
    fn is_same(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Event(text), Kind::Event(other)) | (Kind::Data(text), Kind::Data(other)) => {
                text == other
            }
            (Kind::When(matches), Kind::When(other)) => Arc::ptr_eq(matches, other),
            _ => false,
        }
    }

    /// Returns `true` if an event can match without a line of the same value: a function, a text of several lines, or the type of
    /// events without an `event` field.
    fn needs_event(&self) -> bool {
        match &self.kind {
            Kind::Event(text) => text == "message",
            Kind::Data(text) => text.contains('\n'),
            Kind::When(_) => true,
        }
    }

    /// Returns the number of bytes that have to be kept for this match.
    fn kept(&self, buffer_limit: usize) -> usize {
        match &self.kind {
            Kind::Event(text) | Kind::Data(text) => text.len(),
            Kind::When(_) => buffer_limit,
        }
    }
}

impl<'a> SseEvent<'a> {
    pub(crate) fn new(event_type: &'a [u8], data: &'a [u8]) -> Self {
        Self {
            event_type: match event_type {
                [] => Cow::Borrowed("message"),
                _ => String::from_utf8_lossy(event_type),
            },
            data: String::from_utf8_lossy(data),
        }
    }

    /// Returns the type: the value of the last `event` field, or `message` without such a field.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// Returns the data: the values of the `data` fields, joined with LF. Bytes that are not UTF-8 are replaced, as clients
    /// replace them.
    pub fn data(&self) -> &str {
        &self.data
    }
}

impl EventReader {
    /// Reads one whole event, without a byte order mark.
    #[cfg(feature = "tokio")]
    pub(crate) fn read_event(event: &[u8]) -> Self {
        let mut reader = Self {
            kept: event.len(),
            ..Self::default()
        };
        // A CRLF yields one more empty line, which is not a field.
        for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
            reader.read_line(line);
        }
        reader
    }

    /// Returns the current event.
    pub(crate) fn event(&self) -> SseEvent<'_> {
        SseEvent::new(&self.event_type, &self.data)
    }

    /// Adds the end marks of a layer, each once.
    pub(crate) fn add_end_marks(&mut self, end_marks: &[EventMatch]) {
        for end_mark in end_marks {
            add_match(&mut self.end_marks, end_mark);
        }
    }

    /// Sets the events that do not reset the idle timeout.
    #[cfg(feature = "tokio")]
    pub(crate) fn set_ignored(&mut self, ignored: &[EventMatch]) {
        self.ignored.clear();
        for event_match in ignored {
            add_match(&mut self.ignored, event_match);
        }
    }

    /// Sets the buffer limit, and derives from the matches how much of an event is kept. Called after the last match is added.
    pub(crate) fn prepare(&mut self, buffer_limit: usize) {
        // An event that is no end mark does not match the same condition again.
        let end_marks = &self.end_marks;
        self.ignored
            .retain(|ignored| !end_marks.iter().any(|end_mark| end_mark.is_same(ignored)));
        self.limit = buffer_limit;
        self.kept = 0;
        self.needs_events = false;
        for event_match in self.end_marks.iter().chain(&self.ignored) {
            self.kept = self.kept.max(event_match.kept(buffer_limit));
            self.needs_events |= event_match.needs_event();
        }
    }

    /// Returns `false` if no event of this frame can match. The frame begins at a boundary after an LF and
    /// ends in a blank line.
    ///
    /// A type or a text of one line matches only if a line has that value, so no line is copied. Frames with a lone CR are read.
    #[inline(never)]
    pub(crate) fn may_match(&self, whole_events: &[u8]) -> bool {
        if self.needs_events {
            return true;
        }
        let mut rest = whole_events;
        loop {
            rest = match rest {
                [] => return false,
                [b'\n', rest @ ..] | [b'\r', b'\n', rest @ ..] => rest,
                _ => {
                    let Some(end) = memchr2(b'\n', b'\r', rest) else {
                        return true;
                    };
                    let (line, rest) = rest.split_at(end);
                    let may_match = match line {
                        // A lone CR.
                        [] => true,
                        [b'd', ..] => field(line, b"data").is_some_and(|value| {
                            self.any_match(|kind| matches!(kind, Kind::Data(data) if data.as_bytes() == value))
                        }),
                        [b'e', ..] => field(line, b"event").is_some_and(|value| {
                            self.any_match(|kind| matches!(kind, Kind::Event(name) if name.as_bytes() == value))
                        }),
                        _ => false,
                    };
                    if may_match {
                        return true;
                    }
                    match rest {
                        [b'\n', rest @ ..] | [b'\r', b'\n', rest @ ..] => rest,
                        _ => return true,
                    }
                }
            };
        }
    }

    #[inline(always)]
    fn any_match(&self, is: impl Fn(&Kind) -> bool) -> bool {
        let is = |event_match: &EventMatch| is(&event_match.kind);
        self.end_marks.iter().any(is) || self.ignored.iter().any(is)
    }

    /// Returns `true` if the stream is complete with an end mark only.
    pub(crate) fn expects_end_mark(&self) -> bool {
        !self.end_marks.is_empty()
    }

    /// Returns `true` once an end mark has been read.
    pub(crate) fn has_end_mark(&self) -> bool {
        self.has_end_mark
    }

    /// Returns `true` if an event that counts for the idle timeout has been read since the last call.
    pub(crate) fn take_traffic(&mut self) -> bool {
        mem::take(&mut self.has_traffic)
    }

    /// Ends the current event without its blank line. Returns `true` if the event is an end mark. If the last line has no end
    /// either, only the data decides, because more of the line may be missing.
    pub(crate) fn read_last_event(&mut self, is_in_line: bool) -> bool {
        if is_in_line {
            self.end_line(&[]);
        }
        let mut end_marks = self.end_marks.iter();
        let may_match = |end_mark: &&EventMatch| match end_mark.kind {
            Kind::Data(_) => true,
            Kind::Event(_) | Kind::When(_) => !is_in_line,
        };
        self.has_data && end_marks.any(|end_mark| may_match(&end_mark) && self.matches(end_mark))
    }

    fn matches(&self, event_match: &EventMatch) -> bool {
        match &event_match.kind {
            Kind::Event(event_type) if self.event_type.is_empty() => event_type == "message",
            Kind::Event(event_type) => self.event_type == event_type.as_bytes(),
            Kind::Data(data) => self.data == data.as_bytes(),
            Kind::When(matches) => {
                let is_whole = self.data.len() <= self.limit && self.event_type.len() <= self.limit;
                is_whole && matches(&self.event())
            }
        }
    }

    fn read_line(&mut self, line: &[u8]) {
        if let Some(value) = field(line, b"data") {
            if mem::replace(&mut self.has_data, true) {
                extend(&mut self.data, b"\n", self.kept);
            }
            extend(&mut self.data, value, self.kept);
        } else if let Some(value) = field(line, b"event") {
            self.event_type.clear();
            extend(&mut self.event_type, value, self.kept);
        }
    }
}

impl Lines for EventReader {
    const RECEIVES: bool = true;

    fn extend_line(&mut self, part: &[u8]) {
        extend(&mut self.line, part, self.kept.saturating_add(NAME));
    }

    fn discard_line(&mut self) {
        self.line.clear();
    }

    #[inline]
    fn end_line(&mut self, part: &[u8]) {
        if self.line.is_empty() {
            return self.read_line(part);
        }
        self.extend_line(part);
        let mut line = mem::take(&mut self.line);
        self.read_line(&line);
        line.clear();
        self.line = line;
    }

    fn end_event(&mut self, delivers: bool) -> bool {
        self.line.clear();
        if delivers {
            self.has_end_mark = self.end_marks.iter().any(|mark| self.matches(mark));
            self.has_traffic |=
                self.has_end_mark || !self.ignored.iter().any(|ignored| self.matches(ignored));
        }
        self.event_type.clear();
        self.data.clear();
        self.has_data = false;
        self.has_end_mark
    }
}

/// Returns the value of the line if the line is a field of this name.
#[inline(always)]
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// Appends a match, unless the list has it.
fn add_match(matches: &mut Vec<EventMatch>, added: &EventMatch) {
    if !matches.iter().any(|known| known.is_same(added)) {
        matches.push(added.clone());
    }
}

/// Appends to a text, up to `kept + 1` bytes: one byte more than any match, so that a longer text does not match.
fn extend(text: &mut Vec<u8>, part: &[u8], kept: usize) {
    let room = kept.saturating_add(1).saturating_sub(text.len());
    text.extend_from_slice(&part[..part.len().min(room)]);
}

impl fmt::Debug for EventMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Event(event_type) => f.debug_tuple("Event").field(event_type).finish(),
            Kind::Data(data) => f.debug_tuple("Data").field(data).finish(),
            Kind::When(_) => f.write_str("When(..)"),
        }
    }
}
