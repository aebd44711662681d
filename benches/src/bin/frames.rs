//! Polls the body of one subject: `frames SUBJECT CONTENT_TYPE CUT ready|silence FRAMES`. Run under callgrind.

use benchmarks::{
    subjects::poll_to_end,
    upstream::{Cut, Upstream},
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [subject, content_type, cut, silence, frames] = &arguments[..] else {
        panic!("usage: frames SUBJECT CONTENT_TYPE CUT ready|silence FRAMES");
    };
    let frames = frames.parse().expect("a number of frames");
    let upstream = Upstream::new(
        Cut::parse(cut).expect("a division into frames"),
        frames,
        silence == "silence",
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let bytes = poll_to_end(subject, content_type.clone().leak(), upstream);
    assert!(bytes >= frames, "{bytes} bytes from {frames} frames");
}
