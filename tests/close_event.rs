//! The close event: its validation and its bytes.

use std::time::Duration;

use testkit::{
    decoder::{Event, decode},
    driver::Driver,
    exchange::{CLOSE, event_stream},
    script::Script,
};
use tower_sse_completion::{CloseEvent, InvalidCloseEvent, SseCompletionLayer};

/// Returns the bytes of the event, which an empty stream sends.
fn encoded(event: CloseEvent) -> Vec<u8> {
    let layer = SseCompletionLayer::new().close_event(event);
    Driver::new(event_stream(&layer, Script::new([])))
        .rest()
        .bytes()
}

fn decoded(event: CloseEvent) -> Event {
    let decoded = decode(&encoded(event));
    assert!(!decoded.pending);
    assert_eq!(decoded.last_event_id, "", "a close event never has an ID");
    let [event] = &decoded.events[..] else {
        panic!("expected one event, got {:?}", decoded.events)
    };
    event.clone()
}

fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn c8_default_is_twenty_bytes_and_dispatched_by_a_conforming_client() {
    assert_eq!(encoded(CloseEvent::new()), b"event: close\ndata:\n\n");
    assert_eq!(CLOSE.len(), 20);
    let event = decoded(CloseEvent::new());
    assert_eq!((&*event.event_type, &*event.data), ("close", ""));
    assert!(
        decode(b"event: close\n\n").events.is_empty(),
        "without a data field, the event is not dispatched"
    );
}

#[test]
fn c8_name_data_and_retry_reach_the_client_in_this_order() -> Result<(), InvalidCloseEvent> {
    const BYE: CloseEvent = CloseEvent::from_static("bye");
    for (event, expected) in [
        (BYE, "event: bye\ndata:\n\n"),
        (CloseEvent::named("bye")?, "event: bye\ndata:\n\n"),
        (CloseEvent::try_from("bye")?, "event: bye\ndata:\n\n"),
        (CloseEvent::from_static("close"), "event: close\ndata:\n\n"),
        (
            BYE.data(r#"{"reason":"restart"}"#),
            "event: bye\ndata: {\"reason\":\"restart\"}\n\n",
        ),
        (
            CloseEvent::new().data("x").retry(milliseconds(1234))?,
            "event: close\ndata: x\nretry: 1234\n\n",
        ),
        (
            CloseEvent::new().retry(milliseconds(1234))?.data("x"),
            "event: close\ndata: x\nretry: 1234\n\n",
        ),
    ] {
        assert_eq!(encoded(event), expected.as_bytes());
    }
    Ok(())
}

#[test]
fn c8_data_is_received_as_it_is_and_forges_no_field() {
    for data in [
        "a\nb\rc\r\nd\n\ne",
        " indented",
        "\n",
        "ends\n",
        "\r\n\r",
        ":",
        "id: 7",
        "x\n\nevent: forged\ndata: y\rid: 9",
    ] {
        let expected = data.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(decoded(CloseEvent::new().data(data)).data, expected);
    }
}

#[test]
fn c8_invalid_names_are_refused_with_a_reason() {
    for (name, reason) in [
        ("", "the name of a close event is empty"),
        ("a\nb", "the name of a close event contains a line break"),
        ("a\rb", "the name of a close event contains a line break"),
        ("bye\n", "the name of a close event contains a line break"),
        ("a\0b", "the name of a close event contains a NUL"),
    ] {
        let error = CloseEvent::named(name).expect_err("an invalid name");
        assert_eq!(error.to_string(), reason);
        assert_eq!(CloseEvent::try_from(name), Err(error));
        let panic = std::panic::catch_unwind(|| CloseEvent::from_static(name));
        let panic = panic.expect_err("an invalid name");
        let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
        assert_eq!(message.as_deref(), Some(reason));
    }
}

#[test]
fn c8_retry_is_in_whole_milliseconds_within_the_timers_of_clients() -> Result<(), InvalidCloseEvent>
{
    let longest = milliseconds((1 << 31) - 1);
    // A fraction of a millisecond is dropped.
    for (retry, expected) in [
        (milliseconds(1), milliseconds(1)),
        (Duration::from_micros(2999), milliseconds(2)),
        (longest, longest),
        (longest + Duration::from_nanos(999_999), longest),
    ] {
        for event in [
            CloseEvent::new().retry(retry)?,
            CloseEvent::new().retry_between(retry..=retry)?,
        ] {
            assert_eq!(decode(&encoded(event)).retry, Some(expected));
        }
    }

    let too_short = "the reconnection time of a close event is below 1 ms";
    let too_long = "the reconnection time of a close event is above 2147483647 ms";
    for (retry, reason) in [
        (Duration::ZERO, too_short),
        (Duration::from_micros(999), too_short),
        (milliseconds(1 << 31), too_long),
        (milliseconds(1 << 32), too_long),
        (milliseconds(u64::MAX), too_long),
        (Duration::MAX, too_long),
    ] {
        // Each bound of a range is checked.
        let (start, end) = (retry.min(milliseconds(1)), retry.max(milliseconds(9)));
        for refused in [
            CloseEvent::new().retry(retry),
            CloseEvent::new().retry_between(start..=end),
            CloseEvent::new().retry_between(retry..=end),
        ] {
            let error = refused.expect_err("a hot loop");
            assert_eq!(error.to_string(), reason, "{retry:?}");
        }
    }

    let error = CloseEvent::new().retry_between(milliseconds(2)..=milliseconds(1));
    assert_eq!(
        error.expect_err("no range").to_string(),
        "the range of reconnection times of a close event ends before it starts"
    );
    Ok(())
}

#[test]
fn c8_retry_between_draws_a_value_for_each_stream() -> Result<(), InvalidCloseEvent> {
    let event = CloseEvent::new().retry_between(milliseconds(1000)..=milliseconds(60_000))?;
    let drawn: Vec<_> = (0..32)
        .filter_map(|_| decode(&encoded(event.clone())).retry)
        .collect();
    assert_eq!(drawn.len(), 32);
    assert!(
        drawn
            .iter()
            .all(|time| (milliseconds(1000)..=milliseconds(60_000)).contains(time))
    );
    let text = encoded(event).escape_ascii().to_string();
    assert_eq!(text.matches("retry: ").count(), 1, "{text}");
    assert!(
        drawn.iter().any(|time| *time != drawn[0]),
        "32 equal draws out of 59,001"
    );
    Ok(())
}

#[test]
fn events_built_in_another_order_are_equal() -> Result<(), InvalidCloseEvent> {
    assert_eq!(CloseEvent::from_static("bye"), CloseEvent::named("bye")?);
    assert_eq!(CloseEvent::from_static("close"), CloseEvent::new());
    assert_eq!(CloseEvent::named("close")?, CloseEvent::new());
    assert_eq!(CloseEvent::new().data(""), CloseEvent::default());
    assert_ne!(CloseEvent::new().data("x"), CloseEvent::new());
    assert_ne!(CloseEvent::new().retry(milliseconds(1))?, CloseEvent::new());
    Ok(())
}

#[test]
fn debug_output_has_the_name_the_data_and_the_retry() -> Result<(), InvalidCloseEvent> {
    let event = CloseEvent::named("bye")?.data("x").retry(milliseconds(5))?;
    assert_eq!(
        format!("{event:?}"),
        r#"CloseEvent { name: "bye", data: "x", retry: Some(5..=5) }"#
    );
    Ok(())
}
