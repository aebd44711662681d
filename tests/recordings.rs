//! The promise of C6 for the streams of public APIs and libraries: *the events seen with the layer are a prefix of the events
//! seen without it, followed by at most the close event*, for every decoder, every cut and a cancellation at every byte.
//!
//! The streams in `recordings/` have the formats that the documentation of these APIs shows, line ends included.

#[path = "vectors/published.rs"]
mod published;

use std::{collections::HashSet, iter, task::Poll};

use published::{PUBLISHED, Published};
use testkit::{
    MIRI_STRIDE,
    decoder::{Decoded, decode, deliveries},
    exchange::{CLOSE, cancellation_layer, drive},
    script::{AfterScript, Script},
};
use tokio_util::sync::CancellationToken;

/// Distance between the first of two cuts, for streams in three frames. A debug build tests a sample.
const STRIDE: usize = if cfg!(debug_assertions) { 41 } else { 1 } * MIRI_STRIDE;

struct Recording {
    name: &'static str,
    bytes: &'static [u8],
    /// The number of events.
    events: usize,
    /// The published decoders whose results deviate.
    deviating: &'static [&'static str],
}

macro_rules! recordings {
    ($($name:ident: $events:literal $(except $($deviating:literal)+)?,)+) => {
        [$(Recording {
            name: stringify!($name),
            bytes: include_bytes!(concat!("recordings/", stringify!($name), ".sse")),
            events: $events,
            deviating: &[$($($deviating),+)?],
        }),+]
    };
}

const RECORDINGS: [Recording; 22] = recordings! {
    ag_ui: 5,
    ai_sdk_ui: 5,
    anthropic: 5,
    aspnet_core: 2 except "eventsource-stream",
    cjk_and_emoji: 3,
    copilot: 3,
    datastar: 2,
    escaped_newlines: 3,
    firebase: 4,
    gemini: 2,
    home_assistant: 4,
    kubernetes_watch: 3,
    mastodon: 3,
    mcp_http_and_sse: 2,
    mcp_streamable_http: 3,
    mercure: 2,
    openai_chat: 4,
    openai_responses: 4,
    openrouter: 3,
    pocketbase: 2,
    sse_starlette: 2,
    wikimedia: 2,
};

#[test]
#[cfg_attr(miri, ignore = "checks no code of this repository")]
fn recordings_are_complete_and_published_decoders_agree() {
    let mut wrong = Vec::new();
    for recording in &RECORDINGS {
        let mut decoded = decode(recording.bytes);
        assert_eq!(decoded.events.len(), recording.events, "{}", recording.name);
        assert!(!decoded.pending, "{}", recording.name);
        for published in &PUBLISHED {
            let published_decoded = published.decode(recording.bytes);
            let deviates = recording.deviating.contains(&published.name);
            if (published_decoded.as_ref() != Some(&decoded)) != deviates {
                wrong.push(format!("{} of {}", published.name, recording.name));
            }
        }
        decoded.events.retain(|event| event.event_type == "close");
        assert_eq!(
            decoded.events,
            [],
            "{}: a close event is added to each",
            recording.name
        );
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn c4_recording_is_forwarded_unchanged_in_every_framing() {
    for recording in RECORDINGS.iter().step_by(MIRI_STRIDE) {
        let len = recording.bytes.len();
        for cut in (0..=len).step_by(MIRI_STRIDE) {
            let (first, second) = recording.bytes.split_at(cut);
            let token = CancellationToken::new();
            let mut body = drive(&cancellation_layer(&token), Script::frames([first, second]));
            assert_eq!(
                body.rest().bytes(),
                recording.bytes,
                "{}, split at {cut}",
                recording.name
            );
        }
    }
}

#[test]
fn c6_cancellation_at_every_byte_of_a_recording_leaves_whole_events_in_every_framing() {
    let mut runs = 0;
    for recording in RECORDINGS.iter().step_by(MIRI_STRIDE) {
        let mut judge = Judge::new(recording);
        for length in (0..=recording.bytes.len()).step_by(MIRI_STRIDE) {
            let sent = &recording.bytes[..length];
            let cuts = iter::once(length).chain((1..length).step_by(STRIDE));
            let framings = cuts.map(|cut| vec![&sent[..cut], &sent[cut..]]);
            let bytes = (length % STRIDE == 0).then(|| sent.chunks(1).collect());
            for frames in framings.chain(bytes) {
                let token = CancellationToken::new();
                let upstream = Script::frames(frames).then(AfterScript::Pending);
                let mut body = drive(&cancellation_layer(&token), upstream);
                let mut output = body.ready_data().concat();
                token.cancel();
                output.extend(body.rest().bytes());
                judge.judge(output, length, true);
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
}

#[test]
fn c6_cancellation_at_every_poll_of_a_recording_leaves_whole_events_at_every_cut() {
    for recording in RECORDINGS.iter().step_by(MIRI_STRIDE) {
        let mut judge = Judge::new(recording);
        for cut in (0..=recording.bytes.len()).step_by(MIRI_STRIDE) {
            let (first, second) = recording.bytes.split_at(cut);
            for polls in 0..=3 {
                let token = CancellationToken::new();
                let upstream = Script::frames([first, second]).then(AfterScript::Pending);
                let mut body = drive(&cancellation_layer(&token), upstream);
                let mut output = Vec::new();
                for _ in 0..polls {
                    if let Poll::Ready(Some(frame)) = body.poll() {
                        output.extend(frame.expect("no error").into_data().expect("data"));
                    }
                }
                token.cancel();
                output.extend(body.rest().bytes());
                // Ready frames of the upstream are still forwarded.
                judge.judge(output, recording.bytes.len(), true);
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "a mebibyte takes too long")]
fn c6_and_c7_cancellation_within_a_large_event_leaves_whole_events() {
    const LARGE: usize = 1024 * 1024;
    const FRAME: usize = 16 * 1024;
    const FIRST: &[u8] = b"data: 1\n\n";
    const LAST: &[u8] = b"data: 3\n\n";
    let base64: Vec<u8> = (0..LARGE)
        .map(|index| b"QUJDREVGR0g="[index * 7 % 11])
        .collect();
    let large = [b"id: 2\ndata: {\"image\":\"", &base64[..], b"\"}\n\n"].concat();
    let stream = [FIRST, &large, LAST].concat();
    let recording = Recording {
        name: "large",
        bytes: stream.leak(),
        events: 3,
        // By default, it accepts no field above 512 KiB.
        deviating: &["sse-core"],
    };
    let end = recording.bytes.len();
    let near = |position: usize| position - 2..=position + 2;
    let sampled = (1..8).map(|part| part * LARGE / 8 + part);
    let lengths = near(FIRST.len()).chain(near(FRAME)).chain(sampled);
    let lengths = lengths.chain(near(end - LAST.len())).chain([end]);
    let lengths: Vec<_> = lengths.collect();
    for limit in [64 * 1024, 2 * LARGE] {
        let mut judge = Judge::new(&recording);
        for &length in &lengths {
            let frames = recording.bytes[..length].chunks(FRAME);
            let token = CancellationToken::new();
            let layer = cancellation_layer(&token).buffer_limit(limit);
            let mut body = drive(&layer, Script::frames(frames).then(AfterScript::Pending));
            let mut output = body.ready_data().concat();
            token.cancel();
            output.extend(body.rest().bytes());
            // The event is forwarded as it arrives once it exceeds the limit, and no close event can follow its parts.
            let is_inside = (FIRST.len() + limit + 1..end - LAST.len()).contains(&length);
            judge.judge(output, length, !is_inside);
        }
    }
}

/// Judges the events that clients receive of one recording.
struct Judge<'a> {
    recording: &'a Recording,
    /// The positions after which an event is delivered.
    deliveries: Vec<usize>,
    decoders: Vec<Decoder>,
    /// Outputs that have been judged, with the number of events.
    judged: HashSet<(Vec<u8>, usize)>,
}

/// A published decoder or that of the test kit, and its result without the layer.
struct Decoder {
    published: Option<&'static Published>,
    without: Decoded,
}

impl<'a> Judge<'a> {
    fn new(recording: &'a Recording) -> Self {
        let conforms =
            |decoder: &&Published| !cfg!(miri) && !recording.deviating.contains(&decoder.name);
        let published = PUBLISHED.iter().filter(conforms).map(Some);
        let decoders = iter::once(None).chain(published).map(|published| {
            let without = run(published, recording.bytes);
            Decoder { published, without }
        });
        Self {
            recording,
            deliveries: deliveries(recording.bytes),
            decoders: decoders.collect(),
            judged: HashSet::new(),
        }
    }

    /// Asserts that every decoder sees all events of the first `length` bytes in this output, and then the close event
    /// if the stream is closed.
    fn judge(&mut self, output: Vec<u8>, length: usize, is_closed: bool) {
        let events = self.deliveries.partition_point(|&end| end <= length);
        let name = self.recording.name;
        let forwarded = match is_closed {
            true => output.strip_suffix(CLOSE).expect("a close event"),
            false => &output,
        };
        assert!(
            self.recording.bytes.starts_with(forwarded),
            "C4: {name}, {length} bytes"
        );
        if self.judged.contains(&(output.clone(), events)) {
            return;
        }
        for Decoder { published, without } in &self.decoders {
            let decoder = published.map_or("testkit", |published| published.name);
            let name = || format!("{decoder}: {name}, {length} bytes");
            let mut with = run(*published, &output);
            if is_closed {
                let close = with.events.pop().expect("the close event");
                assert_eq!(
                    (&*close.event_type, &*close.data),
                    ("close", ""),
                    "{}",
                    name()
                );
            }
            assert_eq!(with.events, without.events[..events], "{}", name());
            let last_event_id = run(*published, forwarded).last_event_id;
            assert_eq!(with.last_event_id, last_event_id, "{}", name());
        }
        self.judged.insert((output, events));
    }
}

/// Decodes a stream with this published decoder, or with that of the test kit.
fn run(published: Option<&Published>, stream: &[u8]) -> Decoded {
    match published {
        Some(published) => published.decode(stream).expect("no failure"),
        None => decode(stream),
    }
}
