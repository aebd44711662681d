//! The one event that the layer may add.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};

/// The event that ends a stream on purpose.
///
/// The default is `event: close` with empty data. A close event can carry data and a reconnection time:
///
/// ```
/// use std::time::Duration;
/// use tower_sse_completion::CloseEvent;
///
/// # fn main() -> Result<(), tower_sse_completion::InvalidCloseEvent> {
/// let plain = CloseEvent::new();
///
/// let restart = CloseEvent::named("bye")?
///     .data(r#"{"reason":"restart"}"#)
///     .retry(Duration::from_secs(2))?;
/// # assert_ne!(plain, restart);
/// # Ok(())
/// # }
/// ```
///
/// Pass it to [`close_event`](crate::SseCompletionLayer::close_event) for all streams of a layer, or insert it into the
/// extensions of a response for that stream. A clone costs a reference count.
///
/// # On the wire
///
/// The event is written in the format of the [HTML standard, 9.2.5 and 9.2.6][html], always with LF:
///
/// ```text
/// event: bye
/// data: {"reason":"restart"}
/// retry: 2000
///
/// ```
///
/// There is always a `data` field, because clients drop an event without one. There is never an `id` field, because an `id`
/// would move the client's resume point.
///
/// # Choosing the data
///
/// Some clients parse the data of every event. The SDKs of OpenAI-shaped APIs fail on data that is not JSON. A JSON object
/// such as `{"error":{"message":"server is restarting"}}` reaches their users as a typed error. Do not send the protocol's
/// own success terminator (`[DONE]`, `message_stop`): the client would treat the truncated response as complete.
///
/// [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html
#[derive(Clone)]
pub struct CloseEvent {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// An event of this type with empty data, which can be built in a constant.
    Named(&'static str),
    Custom(Arc<CustomEvent>),
}

impl CloseEvent {
    /// Returns the default event: `event: close` with empty data.
    ///
    /// ```
    /// use tower_sse_completion::CloseEvent;
    ///
    /// const CLOSE: CloseEvent = CloseEvent::new();
    /// assert_eq!(CLOSE, CloseEvent::default());
    /// ```
    pub const fn new() -> Self {
        Self {
            kind: Kind::Named(DEFAULT_NAME),
        }
    }

    /// Returns an event of this type with empty data, like [`named`](Self::named). For literals.
    ///
    /// ```
    /// use tower_sse_completion::CloseEvent;
    ///
    /// const BYE: CloseEvent = CloseEvent::from_static("bye");
    /// assert_eq!(CloseEvent::named("bye"), Ok(BYE));
    /// ```
    ///
    /// # Panics
    ///
    /// Panics where `named` returns an error. In a constant that is an error of the compiler:
    ///
    /// ```compile_fail
    /// # use tower_sse_completion::CloseEvent;
    /// const FORGED: CloseEvent = CloseEvent::from_static("bye\ndata: forged");
    /// # let _ = FORGED;
    /// ```
    pub const fn from_static(name: &'static str) -> Self {
        match validate_name(name) {
            Ok(()) => Self {
                kind: Kind::Named(name),
            },
            Err(reason) => panic!("{}", reason.as_str()),
        }
    }

    /// Returns an event of this type (the `event` field) with empty data.
    ///
    /// `EventSource` fires events of its own under the names `open`, `message` and `error`. A close event named `error`
    /// reaches the page's `onerror`, where it looks like a lost connection, and one named `message` looks like data. Prefer
    /// another name.
    ///
    /// # Errors
    ///
    /// Returns an error if the name is empty or contains LF, CR or NUL: a client would see another name or more fields.
    ///
    /// ```
    /// use tower_sse_completion::CloseEvent;
    ///
    /// assert!(CloseEvent::named("session-expired").is_ok());
    /// assert!(CloseEvent::named("bye\ndata: forged").is_err());
    /// ```
    pub fn named(name: impl AsRef<str>) -> Result<Self, InvalidCloseEvent> {
        let name = name.as_ref();
        validate_name(name)?;
        Ok(Self::new().with(|custom| custom.name = name.to_owned()))
    }

    /// Replaces the data.
    ///
    /// Each line becomes a `data` field, whether it ends in LF, CR or CRLF. A client joins the fields with LF.
    #[must_use]
    pub fn data(self, data: impl AsRef<str>) -> Self {
        self.with(|custom| custom.data = data.as_ref().to_owned())
    }

    /// Sets the reconnection time of the client (the `retry` field) in whole milliseconds. A fraction of a millisecond is
    /// dropped.
    ///
    /// The client keeps the time for all of its later connections. If many clients are closed together, use
    /// [`retry_between`](Self::retry_between).
    ///
    /// # Errors
    ///
    /// Returns an error below 1 ms and above 2³¹ − 1 ms (about 24.8 days). Clients reconnect in a hot loop outside of these
    /// limits, because a timer of zero fires at once and the timers of several clients overflow.
    pub fn retry(self, retry: Duration) -> Result<Self, InvalidCloseEvent> {
        self.retry_between(retry..=retry)
    }

    /// Sets the reconnection time of each client to a time that is drawn from this range.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sse_completion::CloseEvent;
    ///
    /// # fn main() -> Result<(), tower_sse_completion::InvalidCloseEvent> {
    /// let spread = CloseEvent::new().retry_between(Duration::from_secs(1)..=Duration::from_secs(10))?;
    /// # let _ = spread;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the range ends before it starts, starts below 1 ms, or ends above 2³¹ − 1 ms.
    pub fn retry_between(self, range: RangeInclusive<Duration>) -> Result<Self, InvalidCloseEvent> {
        let retry = validate_retry(&range)?;
        Ok(self.with(|custom| custom.retry = Some(retry)))
    }

    /// Returns the name: the type of the event.
    ///
    /// ```
    /// use tower_sse_completion::CloseEvent;
    ///
    /// assert_eq!(CloseEvent::new().name(), "close");
    /// ```
    pub fn name(&self) -> &str {
        let (name, _, _) = self.fields();
        name
    }

    /// Returns the bytes for one stream. With `after_cr`, they begin with the LF that completes a line end.
    pub(crate) fn encode(&self, after_cr: bool) -> Bytes {
        let mut encoded = match &self.kind {
            Kind::Named(DEFAULT_NAME) => Bytes::from_static(DEFAULT_EVENT),
            Kind::Named(name) => CustomEvent::named(name).encode(),
            Kind::Custom(custom) => custom.encode(),
        };
        if !after_cr {
            encoded.advance(1);
        }
        encoded
    }

    fn fields(&self) -> (&str, &str, Option<&RangeInclusive<u64>>) {
        match &self.kind {
            Kind::Named(name) => (name, "", None),
            Kind::Custom(custom) => (&custom.name, &custom.data, custom.retry.as_ref()),
        }
    }

    fn with(self, change: impl FnOnce(&mut CustomEvent)) -> Self {
        let mut custom = match self.kind {
            Kind::Named(name) => Arc::new(CustomEvent::named(name)),
            Kind::Custom(custom) => custom,
        };
        let changed = Arc::make_mut(&mut custom);
        change(changed);
        changed.encode_in_advance();
        Self {
            kind: Kind::Custom(custom),
        }
    }
}

impl Default for CloseEvent {
    fn default() -> Self {
        Self::new()
    }
}

impl TryFrom<&str> for CloseEvent {
    type Error = InvalidCloseEvent;

    /// Returns an event of this type, as [`CloseEvent::named`] does.
    fn try_from(name: &str) -> Result<Self, InvalidCloseEvent> {
        Self::named(name)
    }
}

impl fmt::Debug for CloseEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, data, retry) = self.fields();
        f.debug_struct("CloseEvent")
            .field("name", &name)
            .field("data", &data)
            .field("retry", &retry)
            .finish()
    }
}

impl PartialEq for CloseEvent {
    fn eq(&self, other: &Self) -> bool {
        self.fields() == other.fields()
    }
}

impl Eq for CloseEvent {}

/// The reason why a [`CloseEvent`](CloseEvent) could not be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCloseEvent {
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    EmptyName,
    NameWithLineBreak,
    NameWithNul,
    RetryTooShort,
    RetryTooLong,
    EmptyRetryRange,
}

/// Maximum reconnection time, in milliseconds. The timers of several clients are 32-bit integers, overflow above it, and
/// reconnect in a hot loop.
const MAX_RETRY: u64 = (1 << 31) - 1;

/// Validates the name of a close event.
const fn validate_name(name: &str) -> Result<(), Reason> {
    let mut rest = name.as_bytes();
    if rest.is_empty() {
        return Err(Reason::EmptyName);
    }
    while let [byte, after @ ..] = rest {
        match byte {
            b'\n' | b'\r' => return Err(Reason::NameWithLineBreak),
            0 => return Err(Reason::NameWithNul),
            _ => rest = after,
        }
    }
    Ok(())
}

/// Validates a range of reconnection times, and returns it in milliseconds.
fn validate_retry(range: &RangeInclusive<Duration>) -> Result<RangeInclusive<u64>, Reason> {
    if range.is_empty() {
        return Err(Reason::EmptyRetryRange);
    }
    let (start, end) = (range.start().as_millis(), range.end().as_millis());
    if start == 0 {
        return Err(Reason::RetryTooShort);
    }
    match (u64::try_from(start), u64::try_from(end)) {
        (Ok(start), Ok(end)) if end <= MAX_RETRY => Ok(start..=end),
        _ => Err(Reason::RetryTooLong),
    }
}

impl fmt::Display for InvalidCloseEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.as_str())
    }
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::EmptyName => "the name of a close event is empty",
            Self::NameWithLineBreak => "the name of a close event contains a line break",
            Self::NameWithNul => "the name of a close event contains a NUL",
            Self::RetryTooShort => "the reconnection time of a close event is below 1 ms",
            Self::RetryTooLong => "the reconnection time of a close event is above 2147483647 ms",
            Self::EmptyRetryRange => {
                "the range of reconnection times of a close event ends before it starts"
            }
        }
    }
}

impl std::error::Error for InvalidCloseEvent {}

impl From<Reason> for InvalidCloseEvent {
    fn from(reason: Reason) -> Self {
        Self { reason }
    }
}

const DEFAULT_NAME: &str = "close";

/// The default close event after an LF, which is sliced off unless a CR precedes the event.
static DEFAULT_EVENT: &[u8] = b"\nevent: close\ndata:\n\n";

/// A close event other than the default.
#[derive(Clone)]
struct CustomEvent {
    name: String,
    data: String,
    /// In milliseconds.
    retry: Option<RangeInclusive<u64>>,
    /// The event after an LF. Without `retry` and its blank line if `retry` is drawn for each stream.
    encoded: Bytes,
}

impl CustomEvent {
    /// Returns an event of this type with empty data.
    fn named(name: &str) -> Self {
        let mut event = Self {
            name: name.to_owned(),
            data: String::new(),
            retry: None,
            encoded: Bytes::new(),
        };
        event.encode_in_advance();
        event
    }

    /// Encodes the part of the event that all streams share. Called after each change.
    fn encode_in_advance(&mut self) {
        let mut event = format!("\nevent: {}\n", self.name);
        push_lines(&mut event, "data:", &self.data);
        match &self.retry {
            None => event.push('\n'),
            Some(retry) if retry.start() == retry.end() => {
                event.push_str(&retry_and_end(*retry.start()));
            }
            Some(_) => {}
        }
        self.encoded = event.into();
    }

    /// Returns the event of one stream after an LF.
    fn encode(&self) -> Bytes {
        match &self.retry {
            Some(retry) if retry.start() < retry.end() => {
                let drawn = retry_and_end(fastrand::u64(retry.clone()));
                [&self.encoded, drawn.as_bytes()].concat().into()
            }
            _ => self.encoded.clone(),
        }
    }
}

fn retry_and_end(milliseconds: u64) -> String {
    format!("retry: {milliseconds}\n\n")
}

/// Appends a line for each line of the text, whose lines end in LF, CR or CRLF.
pub(crate) fn push_lines(to: &mut String, prefix: &str, text: &str) {
    // CRLF is one line end, so it is replaced before a lone CR.
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        to.push_str(prefix);
        if !line.is_empty() {
            to.push(' ');
            to.push_str(line);
        }
        to.push('\n');
    }
}
