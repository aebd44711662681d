//! The before-and-after example: clients receive the chunks that the example prints.

#[path = "../../examples/before_after.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use std::time::Duration;

use testkit::wait::LIMIT;

#[tokio::test]
async fn streams_before_and_after_are_as_documented() {
    let short = Duration::from_secs(3);
    let [idle, empty, torn] = &example::CASES;
    let first = r"13\r\nid: 1\ndata: hello\n\n\r\n";
    let close = r"14\r\nevent: close\ndata:\n\n\r\n";
    let last = r"0\r\n\r\n";
    let open = "(a second later: still open)";
    let gone = "(end of the connection)";
    let cases: [(_, &[_], &[_]); 3] = [
        (idle, &[first, open], &[first, close, last, gone]),
        (empty, &[last, gone], &[close, last, gone]),
        (
            torn,
            &[first, r#"14\r\nid: 2\ndata: {"half":\r\n"#, open],
            &[first, close, last, gone],
        ),
    ];
    futures_util::future::join_all(cases.map(async |(case, without, with)| {
        let received = example::received(case, false, short).await;
        assert_eq!(received.expect("a response"), without, "without the layer");
        let received = example::received(case, true, LIMIT).await;
        assert_eq!(received.expect("a response"), with, "with the layer");
    }))
    .await;
}
