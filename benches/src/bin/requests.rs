//! Answers requests, and reads each answer to its end: `requests SUBJECT CONTENT_TYPE count|time|allocations REQUESTS`.
//!
//! `count` is for callgrind, the other two print what one request takes.

use std::{
    convert::Infallible,
    future::{self, Ready},
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Instant,
};

use benchmarks::upstream::{Cut, Upstream};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service, service_fn};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [subject, content_type, what, requests] = &arguments[..] else {
        panic!("usage: requests SUBJECT CONTENT_TYPE count|time|allocations REQUESTS");
    };
    let content_type: &'static str = content_type.clone().leak();
    let upstream = Upstream::new(Cut::Aligned(100), 1, false);
    let service = service_fn(move |_request: Request<()>| respond(content_type, upstream.clone()));
    let shutdown = Shutdown::new();
    let mut answer: Box<dyn FnMut()> = match &subject[..] {
        "bare" => answering(service),
        "none" => answering(SseCompletionLayer::new().layer(service)),
        "shutdown" => answering(SseCompletionLayer::new().shutdown(&shutdown).layer(service)),
        other => panic!("there is no subject {other:?}"),
    };

    let requests: u32 = requests.parse().expect("a number of requests");
    // What is only done once is done.
    answer();
    match &what[..] {
        "count" => (0..requests).for_each(|_| answer()),
        "time" => {
            let start = Instant::now();
            (0..requests).for_each(|_| answer());
            println!(
                "{}",
                start.elapsed().as_nanos() as f64 / f64::from(requests)
            );
        }
        "allocations" => {
            let counted = allocation_counter::measure(|| (0..requests).for_each(|_| answer()));
            println!("{}", counted.count_total as f64 / f64::from(requests));
        }
        other => panic!("nothing is known of {other:?}"),
    }
}

fn respond(
    content_type: &'static str,
    upstream: Upstream,
) -> Ready<Result<Response<Upstream>, Infallible>> {
    let mut response = Response::new(upstream);
    let content_type = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert("content-type", content_type);
    future::ready(Ok(response))
}

/// Sends a request through this service, and reads the answer to its end.
fn answering<S, B>(mut service: S) -> Box<dyn FnMut()>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + 'static,
    B: Body<Data = Bytes>,
{
    Box::new(move || {
        let mut cx = Context::from_waker(Waker::noop());
        let response = pin!(service.call(black_box(Request::new(()))));
        let Poll::Ready(Ok(response)) = response.poll(&mut cx) else {
            panic!("a response without waiting");
        };
        let mut body = pin!(response.into_body());
        let body: Pin<&mut dyn Body<Data = Bytes, Error = B::Error>> = body.as_mut();
        let mut body = black_box(body);
        while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
            black_box(frame.is_ok());
        }
    })
}
