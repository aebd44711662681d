//! Examples and tests of frameworks whose bodies are streams of bytes, and the encoder that the examples share.

use bytes::Bytes;

/// Encodes an event, for frameworks that have no encoder whose output can be wrapped.
///
/// Each line of the data becomes a `data` field, whether it ends in LF, CR or CRLF, so that data never forges a field. A client
/// joins the fields with LF.
///
/// ```
/// assert_eq!(frameworks::event(7, "one\r\ntwo"), "id: 7\ndata: one\ndata: two\n\n");
/// ```
pub fn event(id: u64, data: &str) -> Bytes {
    let mut event = format!("id: {id}\n");
    // CRLF is one line end, so it is replaced before a lone CR.
    for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    event.into()
}
