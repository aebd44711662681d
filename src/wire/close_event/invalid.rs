//! The reasons for which a close event is invalid.

use std::{fmt, ops::RangeInclusive, time::Duration};

/// The reason why a [`CloseEvent`](super::CloseEvent) could not be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCloseEvent {
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
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
pub(super) const fn validate_name(name: &str) -> Result<(), Reason> {
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
pub(super) fn validate_retry(
    range: &RangeInclusive<Duration>,
) -> Result<RangeInclusive<u64>, Reason> {
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
    pub(super) const fn as_str(self) -> &'static str {
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
