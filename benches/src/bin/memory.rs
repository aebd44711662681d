//! The memory of a stream: the allocations up to its end, and the bytes that the body holds while its upstream is silent. In a
//! program of its own, because the allocator that counts would be counted.

use std::{fmt, mem, pin::Pin};

use benchmarks::{
    each_layer,
    subjects::{EVENT_STREAM, Inner, exchange, runtime},
    tables::name,
    upstream::{Shape, Upstream},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service};

const STREAMS: usize = 4096;

type Boxed = Pin<Box<Upstream>>;

fn main() {
    let runtime = runtime();
    let _entered = runtime.enter();
    each_layer!(|column, layer| measure("allocations", column, layer));
    each_layer!(|column, layer| measure("bytes held", column, layer));
}

fn measure<L, B>(row: &str, column: &str, layer: L)
where
    L: Layer<Inner<Boxed>>,
    L::Service: Service<Request<Boxed>, Response = Response<B>, Error: fmt::Debug>,
    B: Body<Data = Bytes>,
{
    // The third poll is within a silence after the first event.
    let (silence, polls) = (row == "bytes held", 3);
    let upstream = Upstream::new(Shape::data_first(), silence).take(1);
    let mut exchange = exchange(layer, EVENT_STREAM, || Box::pin(upstream.clone()), polls);
    // The first stream allocates the state that all later streams share.
    exchange();
    let counted = allocation_counter::measure(|| match silence {
        false => (0..STREAMS).for_each(|_| drop(exchange())),
        true => mem::forget((0..STREAMS).map(|_| exchange()).collect::<Vec<_>>()),
    });
    let count = match silence {
        false => counted.count_total as i64,
        true => counted.bytes_current,
    };
    println!(
        "{}: {}",
        name("memory", row, column),
        count as f64 / STREAMS as f64
    );
}
