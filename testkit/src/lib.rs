//! Tools for testing services that return event streams.
//!
//! - [`script`]: an upstream that follows a script, and panics when it is polled after its end.
//! - [`feed`]: an upstream that the test feeds while the stream runs.
//! - [`driver`]: polls a body without a runtime, and counts the wake-ups.
//! - [`decoder`]: decodes an event stream by the rules of the HTML standard.
//! - [`vectors`]: test vectors for decoders of event streams.
//! - [`reports`]: collects the reports of a layer.
//! - [`connection`]: a connection whose calls return scripted results.
//! - [`exchange`]: sends one response through a layer.
//! - [`model`]: the layer's contract, to predict or to judge a stream.
//! - [`wait`]: waits with a limit, so that a test fails instead of hanging.
//!
//! With the feature `net`, servers and clients on loopback sockets:
//!
//! - [`server`]: serves a service over HTTP/1.1 and HTTP/2, and sends requests to it.
//! - [`observed`]: a server that counts its connections, streams, reports and log events.
//! - [`client`]: a client that stops reading, half-closes or resets its connection on demand.

#[cfg(feature = "net")]
pub mod client;
pub mod connection;
pub mod decoder;
pub mod driver;
pub mod exchange;
pub mod feed;
#[cfg(feature = "net")]
pub mod listener;
pub mod model;
#[cfg(feature = "net")]
pub mod observed;
pub mod reports;
pub mod script;
#[cfg(feature = "net")]
pub mod server;
pub mod vectors;
pub mod wait;

/// Stride for `step_by` in tests that enumerate many inputs. Miri is a thousand times slower, and checks a sample.
pub const MIRI_STRIDE: usize = if cfg!(miri) { 29 } else { 1 };

/// Prints a case of a test that enumerates many, if the test panics while this guard exists.
#[derive(Debug)]
pub struct PrintOnPanic<T: std::fmt::Debug>(pub T);

impl<T: std::fmt::Debug> Drop for PrintOnPanic<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in this case: {:?}", self.0);
        }
    }
}
