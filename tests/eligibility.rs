//! The responses that the layer wraps, and the headers that it removes.

use std::collections::HashSet;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, SizeHint};
use http_body_util::{BodyExt, Full};
use testkit::{
    driver::Driver,
    exchange::{CLOSE, send_response},
    script::{EndStream, Script, ScriptError, Step, data, trailers},
};
use tower_sse_completion::{SkipCompletion, SseCompletionLayer};

const EVENT_STREAM: &str = "text/event-stream";

fn request(method: Method) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    request
}

/// A response without an event, so that a wrapped response has a close event.
fn response(status: u16, headers: &[(&str, &str)]) -> Response<Script> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response
        .body(Script::frames([": nothing\n\n"]))
        .expect("a valid response")
}

#[track_caller]
fn is_wrapped(request: Request<()>, response: Response<Script>) -> bool {
    let response = send_response(&SseCompletionLayer::new(), request, response);
    let bytes = Driver::new(response.into_body()).collect().bytes();
    match bytes.strip_prefix(b": nothing\n\n") {
        Some(b"") => false,
        Some(CLOSE) => true,
        _ => panic!("unexpected body: {:?}", Bytes::from(bytes)),
    }
}

fn get(headers: &[(&str, &str)]) -> bool {
    is_wrapped(request(Method::GET), response(200, headers))
}

#[test]
fn c1_content_type_decides_in_any_case_with_any_parameters() {
    for content_type in [
        "text/event-stream",
        "TEXT/Event-Stream",
        "text/event-stream; charset=utf-8",
        "text/event-stream;charset=utf-8; q=\"a;b\"",
        "text/event-stream ;",
        "\ttext/event-stream",
    ] {
        assert!(get(&[("content-type", content_type)]), "{content_type:?}");
    }
    for content_type in [
        "",
        "text/plain",
        "text/event-streams",
        "text/event",
        "application/json; text/event-stream",
        "application/grpc",
        "application/grpc+proto",
    ] {
        assert!(!get(&[("content-type", content_type)]), "{content_type:?}");
    }
    assert!(!get(&[]), "no content type");
}

#[test]
fn c1_responses_to_head_and_connect_pass_through() {
    for (method, completed) in [
        (Method::GET, true),
        (Method::POST, true),
        (Method::from_bytes(b"REPORT").expect("a method"), true),
        (Method::HEAD, false),
        (Method::CONNECT, false),
    ] {
        let response = response(200, &[("content-type", EVENT_STREAM)]);
        assert_eq!(
            is_wrapped(request(method.clone()), response),
            completed,
            "{method}"
        );
    }
}

#[test]
fn c1_status_is_a_success_with_a_complete_body() {
    for status in 200..600 {
        let response = response(status, &[("content-type", EVENT_STREAM)]);
        let expected = (200..300).contains(&status) && ![204, 205, 206].contains(&status);
        assert_eq!(
            is_wrapped(request(Method::GET), response),
            expected,
            "{status}"
        );
    }
}

#[test]
fn c1_encoded_bodies_pass_through() {
    for (codings, completed) in [
        (&["identity"][..], true),
        (&["Identity"], true),
        (&["identity,"], true),
        (&[", identity ,"], true),
        (&[""], true),
        (&[", gzip"], false),
        (&["gzip"], false),
        (&["identity, br"], false),
        (&["identity", "gzip"], false),
        (&["zstd"], false),
        // `none` is not a registered coding, but servers send it.
        (&["none"], true),
        (&["None"], true),
        (&["identity, none"], true),
        (&["none", "identity"], true),
        (&["none, gzip"], false),
        (&["none", "br"], false),
        (&["nonee"], false),
    ] {
        let mut headers = vec![("content-type", EVENT_STREAM)];
        headers.extend(codings.iter().map(|coding| ("content-encoding", *coding)));
        assert_eq!(get(&headers), completed, "{codings:?}");
    }
}

#[test]
fn c1_handler_opts_out_with_an_extension() {
    let mut response = response(200, &[("content-type", EVENT_STREAM)]);
    response.extensions_mut().insert(SkipCompletion);
    assert!(!is_wrapped(request(Method::GET), response));
}

#[test]
fn c2_other_responses_pass_through_unchanged() {
    let upstream = Script::new([data("{\"a\":"), data(""), data("1}"), Step::Trailers])
        .size_hint(SizeHint::with_exact(7))
        .end_stream(EndStream::Known);
    let mut response = Response::new(upstream);
    *response.status_mut() = StatusCode::CREATED;
    for (name, value) in [
        ("content-type", "application/json"),
        ("content-length", "7"),
        ("digest", "sha-256=abc"),
    ] {
        response
            .headers_mut()
            .insert(name, value.parse().expect("a header"));
    }
    response.extensions_mut().insert("kept");
    let expected = response.headers().clone();

    let response = send_response(&SseCompletionLayer::new(), request(Method::GET), response);
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers(), &expected);
    assert_eq!(response.extensions().get(), Some(&"kept"));
    assert_eq!(response.extensions().len(), 1);
    let mut body = Driver::new(response.into_body());
    assert_eq!(body.size_hint().exact(), Some(7));
    assert!(!body.is_end_stream());
    let output = body.collect();
    assert_eq!(output.frames, ["{\"a\":", "", "1}"], "the same frames");
    assert_eq!(output.trailers, Some(trailers()));
}

#[test]
fn c2_end_and_error_of_other_responses_pass_through() {
    let mut ended = Response::new(Script::new([]).end_stream(EndStream::Known));
    ended
        .headers_mut()
        .insert("content-type", "text/plain".parse().expect("a header"));
    let body = send_response(&SseCompletionLayer::new(), request(Method::GET), ended).into_body();
    assert!(body.is_end_stream());

    let failing = Response::new(Script::new([data("data: x\n\n"), Step::Error]));
    let body = send_response(&SseCompletionLayer::new(), request(Method::GET), failing).into_body();
    let output = Driver::new(body).collect();
    assert_eq!(output.frames, ["data: x\n\n"]);
    assert_eq!(output.error, Some(ScriptError));
}

#[test]
fn c2_data_of_other_responses_is_not_copied() {
    let json = Bytes::from_static(b"{}");
    let response = Response::new(Full::new(json.clone()));
    let mut body =
        send_response(&SseCompletionLayer::new(), request(Method::GET), response).into_body();
    let polled = futures_util::FutureExt::now_or_never(body.frame());
    let data = polled
        .flatten()
        .and_then(Result::ok)
        .and_then(|frame| frame.into_data().ok())
        .expect("data");
    assert_eq!(data.as_ptr(), json.as_ptr());
}

#[test]
fn c3_wrapped_response_loses_length_and_digests_only() {
    let headers = [
        ("content-type", EVENT_STREAM),
        ("cache-control", "no-cache"),
        ("content-length", "12"),
        ("content-md5", "a"),
        ("digest", "b"),
        ("digest", "c"),
        ("content-digest", "d"),
        ("repr-digest", "e"),
        ("etag", "\"f\""),
    ];
    for (method, left) in [
        (Method::GET, vec!["content-type", "cache-control", "etag"]),
        (
            Method::HEAD,
            headers.iter().map(|(name, _)| *name).collect(),
        ),
    ] {
        let is_wrapped = method == Method::GET;
        let mut response = response(200, &headers);
        response.extensions_mut().insert(7_u8);
        let response = send_response(&SseCompletionLayer::new(), request(method), response);
        let names: HashSet<_> = response.headers().keys().map(|it| it.as_str()).collect();
        assert_eq!(names, HashSet::from_iter(left));
        // A slot for the stream is the only extension that is added.
        assert_eq!(response.extensions().get(), Some(&7_u8));
        assert_eq!(response.extensions().len(), 1 + usize::from(is_wrapped));
    }
}

#[test]
fn c1_last_valid_content_type_wins() {
    for (content_types, completed) in [
        (
            &["text/plain; charset=utf-8", "text/event-stream"][..],
            true,
        ),
        (&["text/event-stream, text/event-stream"], true),
        (&["text/plain, text/event-stream;charset=utf-8"], true),
        (&["text/event-stream", "text/event-stream"], true),
        (&["text/event-stream, text/plain"], false),
        (&["text/event-stream", "text/plain"], false),
        // Values that are no MIME types, and `*/*`, are ignored.
        (&["text/event-stream, nonsense"], true),
        (&["text/event-stream", ""], true),
        (&["text/event-stream, */*"], true),
        (&["text/event-stream, text/"], true),
        (&["text/event-stream, te xt/plain"], true),
        (&[", text/event-stream ,"], true),
        (&["nonsense, nonsense"], false),
        // A comma inside a quoted string separates nothing.
        (&["text/plain; a=\", text/event-stream\""], false),
        (&["text/plain; a=\"\\\", text/event-stream\""], false),
        (&["text/plain; a=\", text/event-stream; b=\""], false),
        (&["text/plain; a=\"\\\", text/event-stream; b=\""], false),
        // A backslash escapes a quotation mark inside a quoted string only.
        (&["text/plain; a=\\\", text/event-stream; b=\""], false),
        (&["text/event-stream; a=\", text/plain\""], true),
    ] {
        let headers: Vec<_> = content_types
            .iter()
            .map(|value| ("content-type", *value))
            .collect();
        assert_eq!(get(&headers), completed, "{content_types:?}");
    }
}
