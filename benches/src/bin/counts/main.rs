//! The work that is counted in one process: `counts`, or `counts others` for the frames of other wrappers alone. Run under
//! callgrind.

mod connections;

use std::{fmt, pin::Pin, time::Duration};

use benchmarks::{
    callgrind::measure,
    each_layer,
    subjects::{EVENT_STREAM, Inner, UNITS, exchange, frames, runtime, selected_body, sse},
    tables::name,
    upstream::{Shape, Upstream},
};
use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::Body;
use tower::{Layer, Service};
use tower_http::{
    on_early_drop::{OnBodyDropFn, OnEarlyDropLayer},
    timeout::ResponseBodyTimeoutLayer,
    trace::TraceLayer,
};

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// The upstream of a request. Boxed, because the bodies of a server are.
type Boxed = Pin<Box<Upstream>>;

fn main() {
    let runtime = runtime();
    let _entered = runtime.enter();
    match std::env::args().nth(1).as_deref() {
        Some("others") => count_others(),
        _ => {
            count_frames();
            count_starts();
            count_other_responses();
            connections::count();
        }
    }
}

fn count_frames() {
    for shape in Shape::all() {
        for silence in [false, true] {
            let row = shape.row(silence);
            let upstream = || Upstream::new(shape, silence);
            each_layer!(|column, layer| measure(
                name("frame", &row, column),
                frames(shape, exchange(layer, EVENT_STREAM, upstream, 0)()),
            ));
        }
    }
}

/// Counts a stream up to its response, its first event and its end, and drops it.
fn count_starts() {
    for (row, polls) in [("response", 0), ("first event", 1), ("end", 2)] {
        each_layer!(|column, layer| measure(
            name("start", row, column),
            requests(layer, EVENT_STREAM, polls),
        ));
    }
}

fn count_other_responses() {
    let table = "not an event stream";
    for (row, content_type) in [("JSON", JSON), ("HTML", HTML)] {
        each_layer!(|column, layer| if column != "hand written" {
            measure(name(table, row, column), requests(layer, content_type, 2));
        });
    }
    let shape = Shape::data_first();
    each_layer!(|column, layer| if column != "hand written" {
        let body = exchange(layer, JSON, || Upstream::new(shape, false), 0)();
        measure(name(table, "further frame", column), frames(shape, body));
    });
}

/// Returns work that sends requests with a body of one frame, and polls each response this many times.
fn requests<L, B>(layer: L, content_type: &'static str, polls: usize) -> impl FnMut()
where
    L: Layer<Inner<Boxed>>,
    L::Service: Service<Request<Boxed>, Response = Response<B>, Error: fmt::Debug>,
    B: Body<Data = Bytes>,
{
    let upstream = Upstream::new(Shape::data_first(), false).take(1);
    let mut exchange = exchange(
        layer,
        content_type,
        move || Box::pin(upstream.clone()),
        polls,
    );
    move || (0..UNITS).for_each(|_| drop(exchange()))
}

/// Counts the frames of bodies that do not read them.
fn count_others() {
    for (row, silence) in [("ready", false), ("after a silence", true)] {
        let upstream = || Upstream::new(Shape::short(), silence);
        let on_drop = OnBodyDropFn::new(|_: &Request<Upstream>| |_: &Parts| || ());
        let on_early_drop = OnEarlyDropLayer::builder().on_body_drop(on_drop);
        let on_early_drop = exchange(on_early_drop, EVENT_STREAM, upstream, 0)();
        let trace = exchange(TraceLayer::new_for_http(), EVENT_STREAM, upstream, 0)();
        let timeout = ResponseBodyTimeoutLayer::new(Duration::from_secs(30));
        let timeout = exchange(timeout, EVENT_STREAM, upstream, 0)();
        count_other(row, "bare", Box::pin(upstream()));
        count_other(row, "select", Box::pin(selected_body(upstream())));
        count_other(row, "sse", Box::pin(sse(upstream(), false)));
        count_other(row, "sse, keep alive", Box::pin(sse(upstream(), true)));
        count_other(row, "on early drop", on_early_drop);
        count_other(row, "trace", trace);
        count_other(row, "timeout", timeout);
    }
}

fn count_other<B>(row: &str, column: &str, body: Pin<Box<B>>)
where
    B: Body<Data = Bytes> + 'static,
{
    measure(name("others", row, column), frames(Shape::short(), body));
}
