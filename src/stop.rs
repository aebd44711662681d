//! The reasons for which a stream stops before its upstream ends.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "tokio"),
    allow(dead_code, reason = "deadlines need a timer")
)]
pub(crate) enum Stop {
    /// A shutdown or the layer's cancellation has fired.
    Cancelled,
    /// The stream has reached its maximum age.
    Expired,
    /// No event has been delivered for the idle timeout.
    Idle,
}
