//! The end mark of an API. HTTP and the event boundaries alone may show a truncated response as a complete one.

use axum::{BoxError, body::Body};
use futures_util::{TryStreamExt, stream};

/// Returns `true` if the event with this field is the last event of a response.
pub(crate) type EndMark = fn(name: &str, value: &str) -> bool;

/// Ends the body after its end mark, and fails if the upstream ends without one.
pub(crate) fn require(end_mark: EndMark, upstream: Body) -> Body {
    let scanner = Scanner {
        end_mark,
        line: Vec::new(),
        is_last_event: false,
        is_complete: false,
    };
    Body::from_stream(stream::try_unfold(
        (upstream.into_data_stream(), scanner),
        async |(mut upstream, mut scanner)| {
            if scanner.is_complete {
                return Ok(None);
            }
            let data = upstream.try_next().await?;
            let data = data.ok_or("the upstream has ended without the end mark of its API")?;
            scanner.scan(&data);
            Ok::<_, BoxError>(Some((data, (upstream, scanner))))
        },
    ))
}

struct Scanner {
    end_mark: EndMark,
    /// The start of the current line, long enough for an end mark.
    line: Vec<u8>,
    is_last_event: bool,
    is_complete: bool,
}

impl Scanner {
    /// Scans whole lines, because the text of a model may contain an end mark: in JSON, which has no line breaks.
    fn scan(&mut self, data: &[u8]) {
        for &byte in data {
            match byte {
                b'\n' if self.line.is_empty() => self.is_complete |= self.is_last_event,
                b'\n' => {
                    let line = String::from_utf8_lossy(&self.line);
                    let field = line.split_once(':');
                    self.is_last_event |=
                        field.is_some_and(|(name, value)| (self.end_mark)(name, value.trim()));
                    self.line.clear();
                }
                b'\r' => {}
                _ if self.line.len() < 64 => self.line.push(byte),
                _ => {}
            }
        }
    }
}
