//! Responds to requests: `requests SUBJECT CONTENT_TYPE POLLS count|allocations|memory REQUESTS`.
//!
//! The body of each response is polled this many times and dropped: the second poll returns its end. `count` is for
//! callgrind. The others print the allocations of a request, or the bytes that a body holds while its upstream is silent.

use std::{
    convert::Infallible,
    future::{self, Future, Ready},
    hint::black_box,
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use axum::body::Body;
use benchmarks::{
    subjects::{all_options, do_nothing},
    upstream::{Cut, Upstream},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use tower::{Layer, Service, service_fn};
use tower_http::map_response_body::MapResponseBodyLayer;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

/// The use of the responses.
struct Task<'a> {
    what: &'a str,
    polls: usize,
    requests: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [subject, content_type, polls, what, requests] = &arguments[..] else {
        panic!("usage: requests SUBJECT CONTENT_TYPE POLLS count|allocations|memory REQUESTS");
    };
    let content_type: &'static str = content_type.clone().leak();
    let upstream = Upstream::new(Cut::Aligned(100), 1, what == "memory");
    let service = service_fn(move |_request: Request<()>| respond(content_type, upstream.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new();
    let task = Task {
        what,
        polls: polls.parse().expect("a number of polls"),
        requests: requests.parse().expect("a number of requests"),
    };
    match &subject[..] {
        "bare" => task.run(service),
        "do_nothing" => task.run(MapResponseBodyLayer::new(do_nothing::<Body>).layer(service)),
        "none" => task.run(layer.layer(service)),
        "shutdown" => task.run(layer.shutdown(&shutdown).layer(service)),
        "all_options" => task.run(all_options(&shutdown).layer(service)),
        other => panic!("unknown subject {other:?}"),
    }
}

fn respond(
    content_type: &'static str,
    upstream: Upstream,
) -> Ready<Result<Response<Body>, Infallible>> {
    let mut response = Response::new(Body::new(upstream));
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    future::ready(Ok(response))
}

impl Task<'_> {
    fn run<S, B>(&self, mut service: S)
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let requests = self.requests;
        let per_request = |all: f64| println!("{}", all / requests as f64);
        // The first request allocates the state that all later requests share.
        self.send(&mut service);
        let mut send_all = || (0..requests).for_each(|_| drop(self.send(&mut service)));
        match self.what {
            "count" => send_all(),
            "allocations" => {
                per_request(allocation_counter::measure(send_all).count_total as f64);
            }
            "memory" => {
                let counted = allocation_counter::measure(|| {
                    let mut held = Vec::with_capacity(requests);
                    held.extend((0..requests).map(|_| self.send(&mut service)));
                    mem::forget(held);
                });
                per_request(counted.bytes_current as f64);
            }
            other => panic!("unknown measurement {other:?}"),
        }
    }

    /// Sends a request through this service, and polls the body of the response.
    fn send<S, B>(&self, service: &mut S) -> B
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let mut cx = Context::from_waker(Waker::noop());
        let response = pin!(service.call(black_box(Request::new(()))));
        let Poll::Ready(Ok(response)) = response.poll(&mut cx) else {
            panic!("the response is pending");
        };
        let mut body = response.into_body();
        let polled: Pin<&mut dyn http_body::Body<Data = Bytes, Error = B::Error>> = pin!(&mut body);
        let mut polled = black_box(polled);
        for _ in 0..self.polls {
            let frame = polled.as_mut().poll_frame(&mut cx);
            black_box(matches!(frame, Poll::Ready(Some(Ok(_)))));
        }
        body
    }
}
