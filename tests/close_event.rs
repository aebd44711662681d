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
fn c8_default_is_twenty_bytes_with_a_data_line() {
    assert_eq!(encoded(CloseEvent::new()), b"event: close\ndata:\n\n");
    assert_eq!(CLOSE.len(), 20);
}

#[test]
fn c8_default_is_dispatched_by_a_conforming_client() {
    let event = decoded(CloseEvent::new());
    assert_eq!((&*event.event_type, &*event.data), ("close", ""));
    assert!(
        decode(b"event: close\n\n").events.is_empty(),
        "without a data field, the event is not dispatched"
    );
}

#[test]
fn c8_static_event_equals_a_named_event() -> Result<(), InvalidCloseEvent> {
    const BYE: CloseEvent = CloseEvent::from_static("bye");
    assert_eq!(BYE, CloseEvent::named("bye")?);
    assert_eq!(BYE, CloseEvent::try_from("bye")?);
    assert_eq!(encoded(BYE), b"event: bye\ndata:\n\n");
    let with_data = BYE.data("1");
    assert_eq!(encoded(with_data), b"event: bye\ndata: 1\n\n");
    assert_eq!(CloseEvent::from_static("close"), CloseEvent::new());
    assert_eq!(encoded(CloseEvent::from_static("close")), CLOSE);
    Ok(())
}

#[test]
fn c8_static_event_with_an_invalid_name_panics_with_the_reason() {
    for name in ["", "bye\n", "b\rye", "\0"] {
        let panic = std::panic::catch_unwind(|| CloseEvent::from_static(name));
        let panic = panic.expect_err("an invalid name");
        let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
        let reason = CloseEvent::named(name).expect_err("an invalid name");
        assert_eq!(message, Some(reason.to_string()));
        assert_eq!(CloseEvent::try_from(name), Err(reason));
    }
}

#[test]
fn c8_name_and_data_reach_the_client() -> Result<(), InvalidCloseEvent> {
    let event = CloseEvent::named("bye")?.data(r#"{"reason":"restart"}"#);
    assert_eq!(
        encoded(event),
        b"event: bye\ndata: {\"reason\":\"restart\"}\n\n"
    );
    Ok(())
}

#[test]
fn c8_data_with_line_breaks_becomes_several_data_lines() {
    let event = CloseEvent::new().data("a\nb\rc\r\nd\n\ne");
    assert_eq!(decoded(event).data, "a\nb\nc\nd\n\ne");
}

#[test]
fn c8_data_keeps_its_leading_space_and_last_line_break() {
    for data in [" indented", "\n", "ends\n", "\r\n\r", ":", "id: 7"] {
        let expected = data.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(decoded(CloseEvent::new().data(data)).data, expected);
    }
}

#[test]
fn c8_event_injection_through_data_is_impossible() {
    let event = CloseEvent::new().data("x\n\nevent: forged\ndata: y\rid: 9");
    assert_eq!(
        decoded(event).data,
        "x\n\nevent: forged\ndata: y\nid: 9",
        "the forged fields are data"
    );
}

#[test]
fn c8_invalid_names_are_refused_with_a_reason() {
    for (name, reason) in [
        ("", "the name of a close event is empty"),
        ("a\nb", "the name of a close event contains a line break"),
        ("a\rb", "the name of a close event contains a line break"),
        ("a\0b", "the name of a close event contains a NUL"),
    ] {
        let error = CloseEvent::named(name).expect_err("an invalid name");
        assert_eq!(error.to_string(), reason);
    }
}

#[test]
fn c8_retry_follows_the_data() -> Result<(), InvalidCloseEvent> {
    let expected = b"event: close\ndata: x\nretry: 1234\n\n";
    let event = CloseEvent::new().data("x").retry(milliseconds(1234))?;
    assert_eq!(encoded(event), expected);
    let event = CloseEvent::new().retry(milliseconds(1234))?.data("x");
    assert_eq!(encoded(event), expected, "in any order");
    Ok(())
}

#[test]
fn c8_retry_is_in_whole_milliseconds() -> Result<(), InvalidCloseEvent> {
    let event = CloseEvent::new().retry(Duration::from_micros(2999))?;
    assert_eq!(decode(&encoded(event)).retry, Some(milliseconds(2)));
    Ok(())
}

#[test]
fn c8_retry_under_one_millisecond_is_refused() {
    let expected = "the reconnection time of a close event is below 1 ms";
    for retry in [Duration::ZERO, Duration::from_micros(999)] {
        let error = CloseEvent::new().retry(retry).expect_err("a hot loop");
        assert_eq!(error.to_string(), expected);
        let error = CloseEvent::new()
            .retry_between(retry..=milliseconds(9))
            .expect_err("a hot loop");
        assert_eq!(error.to_string(), expected);
    }
    assert!(CloseEvent::new().retry(milliseconds(1)).is_ok());
}

#[test]
fn c8_retry_range_that_ends_before_it_starts_is_refused() {
    let error = CloseEvent::new()
        .retry_between(milliseconds(2)..=milliseconds(1))
        .expect_err("no range");
    assert_eq!(
        error.to_string(),
        "the range of reconnection times of a close event ends before it starts"
    );
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
fn c8_retry_range_of_one_value_works() -> Result<(), InvalidCloseEvent> {
    let one = CloseEvent::new().retry_between(milliseconds(7)..=milliseconds(7))?;
    assert_eq!(decode(&encoded(one)).retry, Some(milliseconds(7)));
    Ok(())
}

#[test]
fn events_built_in_another_order_are_equal() -> Result<(), InvalidCloseEvent> {
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

#[test]
fn c8_retry_that_overflows_the_timers_of_clients_is_refused() -> Result<(), InvalidCloseEvent> {
    let longest = milliseconds((1 << 31) - 1);
    let expected = "the reconnection time of a close event is above 2147483647 ms";
    for too_long in [
        milliseconds(1 << 31),
        milliseconds(1 << 32),
        milliseconds(u64::MAX),
        Duration::MAX,
    ] {
        for refused in [
            CloseEvent::new().retry(too_long),
            CloseEvent::new().retry_between(milliseconds(1)..=too_long),
            CloseEvent::new().retry_between(too_long..=too_long),
        ] {
            let error = refused.expect_err("a hot loop");
            assert_eq!(error.to_string(), expected, "{too_long:?}");
        }
    }
    for accepted in [
        CloseEvent::new().retry(longest)?,
        CloseEvent::new().retry_between(longest..=longest)?,
        // A fraction of a millisecond is dropped.
        CloseEvent::new().retry(longest + Duration::from_nanos(999_999))?,
    ] {
        assert_eq!(decode(&encoded(accepted)).retry, Some(longest));
    }
    Ok(())
}
