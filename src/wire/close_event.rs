//! The one event that the layer may add: validated when it is built, encoded once.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;

/// The event that tells a client that its stream has ended on purpose.
///
/// The default is `event: close` with empty data. It can carry data and a reconnection time:
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
/// Give it to [`close_event`](crate::SseCompletionLayer::close_event) for every stream of a layer, or put
/// it into the extensions of a response for that stream alone. A clone is a reference count.
///
/// # On the wire
///
/// The event is written as the [HTML standard, 9.2.5 and 9.2.6][html] parses it, always with LF:
///
/// ```text
/// event: bye
/// data: {"reason":"restart"}
/// retry: 2000
///
/// ```
///
/// There is always a `data` line, because clients drop an event without one, and never an `id` line,
/// because it would move the client's resume point.
///
/// # Choosing the data
///
/// Some clients parse the data of every event they see. The SDKs for OpenAI-shaped APIs fail on data that
/// is not JSON: give them a JSON object, such as `{"error":{"message":"server is restarting"}}`, which they
/// raise as a typed error. Do not send the protocol's own end mark (`[DONE]`, `message_stop`): the
/// answer was cut, and the client would take it for whole.
///
/// [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html
#[derive(Clone, Default)]
pub struct CloseEvent {
    /// `None` is the default event, which needs no allocation and can be built in a constant.
    custom: Option<Arc<Custom>>,
}

/// Why a [`CloseEvent`] could not be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCloseEvent {
    reason: Reason,
}

#[derive(Clone)]
struct Custom {
    name: String,
    data: String,
    retry: Option<RangeInclusive<u64>>,
    /// The whole event behind an LF, or all but its end where `retry` has to be drawn per stream.
    encoded: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    EmptyName,
    NameWithLineBreak,
    NameWithNul,
    RetryUnderOneMillisecond,
    RetryRangeEndsBeforeItsStart,
}

const DEFAULT_NAME: &str = "close";

/// The LF in front is sliced off where no CR has to be completed.
static DEFAULT: &[u8] = b"\nevent: close\ndata:\n\n";

impl CloseEvent {
    /// `event: close` with empty data.
    ///
    /// ```
    /// use tower_sse_completion::CloseEvent;
    ///
    /// const CLOSE: CloseEvent = CloseEvent::new();
    /// assert_eq!(CLOSE, CloseEvent::default());
    /// ```
    pub const fn new() -> Self {
        Self { custom: None }
    }

    /// An event of this type (the `event` field), with empty data.
    ///
    /// `EventSource` fires its own events under the names `open`, `message` and `error`: a close event named
    /// `error` reaches the page's `onerror`, where it looks like a lost connection, and one named `message` cannot
    /// be told from data. Prefer another name.
    ///
    /// # Errors
    ///
    /// A name that is empty, or has a line break (LF or CR) or a NUL, is refused: a client would see
    /// another name, or more fields than this one.
    ///
    /// ```
    /// use tower_sse_completion::CloseEvent;
    ///
    /// assert!(CloseEvent::named("session-expired").is_ok());
    /// assert!(CloseEvent::named("bye\ndata: forged").is_err());
    /// ```
    pub fn named(name: impl AsRef<str>) -> Result<Self, InvalidCloseEvent> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(Reason::EmptyName.into());
        }
        if name.contains(['\n', '\r']) {
            return Err(Reason::NameWithLineBreak.into());
        }
        if name.contains('\0') {
            return Err(Reason::NameWithNul.into());
        }
        Ok(Self::new().with(|custom| custom.name = name.to_owned()))
    }

    /// Replaces the data.
    ///
    /// Each line of it becomes a `data` field, whether it ends in LF, CR or CRLF; a client joins them with LF.
    #[must_use]
    pub fn data(self, data: impl AsRef<str>) -> Self {
        self.with(|custom| custom.data = data.as_ref().to_owned())
    }

    /// Sets the client's reconnection time (the `retry` field), in whole milliseconds; what is left of a
    /// millisecond is dropped.
    ///
    /// The client keeps it for as long as it lives, not just for the next connection. When many clients are
    /// closed at once, [`retry_between`](Self::retry_between) keeps them from coming back in one wave.
    ///
    /// # Errors
    ///
    /// Less than one millisecond is refused, because clients then reconnect in a hot loop.
    pub fn retry(self, retry: Duration) -> Result<Self, InvalidCloseEvent> {
        self.retry_between(retry..=retry)
    }

    /// Sets the client's reconnection time to one drawn from this range for each stream.
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
    /// A start of less than one millisecond is refused, and so is a range whose end is before its start.
    pub fn retry_between(self, range: RangeInclusive<Duration>) -> Result<Self, InvalidCloseEvent> {
        if range.is_empty() {
            return Err(Reason::RetryRangeEndsBeforeItsStart.into());
        }
        let range = whole_milliseconds(*range.start())..=whole_milliseconds(*range.end());
        if *range.start() == 0 {
            return Err(Reason::RetryUnderOneMillisecond.into());
        }
        Ok(self.with(|custom| custom.retry = Some(range)))
    }

    /// The bytes for one stream. With `complete_crlf` one LF goes in front, for a stream whose last byte was a CR.
    pub(crate) fn encode(&self, complete_crlf: bool) -> Bytes {
        let mut encoded = match self.custom.as_deref() {
            None => Bytes::from_static(DEFAULT),
            Some(custom) => custom.encode(),
        };
        if !complete_crlf {
            bytes::Buf::advance(&mut encoded, 1);
        }
        encoded
    }

    fn fields(&self) -> (&str, &str, Option<&RangeInclusive<u64>>) {
        match self.custom.as_deref() {
            None => (DEFAULT_NAME, "", None),
            Some(custom) => (&custom.name, &custom.data, custom.retry.as_ref()),
        }
    }

    fn with(self, change: impl FnOnce(&mut Custom)) -> Self {
        let mut custom = self.custom.unwrap_or_default();
        let changed = Arc::make_mut(&mut custom);
        change(changed);
        changed.encode_in_advance();
        Self {
            custom: Some(custom),
        }
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

impl Custom {
    fn encode_in_advance(&mut self) {
        let mut text = format!("\nevent: {}\n", self.name);
        // CRLF is one line break, so it has to go before a lone CR.
        for line in self.data.replace("\r\n", "\n").split(['\n', '\r']) {
            text.push_str("data:");
            if !line.is_empty() {
                text.push(' ');
                text.push_str(line);
            }
            text.push('\n');
        }
        match &self.retry {
            None => text.push('\n'),
            Some(retry) if retry.start() == retry.end() => {
                text.push_str(&retry_and_end(*retry.start()));
            }
            Some(_) => {}
        }
        self.encoded = text.into();
    }

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

impl Default for Custom {
    fn default() -> Self {
        Self {
            name: DEFAULT_NAME.to_owned(),
            data: String::new(),
            retry: None,
            encoded: Bytes::new(),
        }
    }
}

impl fmt::Display for InvalidCloseEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            Reason::EmptyName => "the name of a close event is empty",
            Reason::NameWithLineBreak => "the name of a close event has a line break",
            Reason::NameWithNul => "the name of a close event has a NUL",
            Reason::RetryUnderOneMillisecond => {
                "the reconnection time of a close event is less than one millisecond"
            }
            Reason::RetryRangeEndsBeforeItsStart => {
                "the range of reconnection times of a close event ends before it starts"
            }
        })
    }
}

impl std::error::Error for InvalidCloseEvent {}

impl From<Reason> for InvalidCloseEvent {
    fn from(reason: Reason) -> Self {
        Self { reason }
    }
}

fn retry_and_end(milliseconds: u64) -> String {
    format!("retry: {milliseconds}\n\n")
}

/// `u64` holds half a billion years of milliseconds, so a `Duration` beyond it is as good as its end.
fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
