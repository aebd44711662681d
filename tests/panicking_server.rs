//! A server whose handlers, upstreams, cancellations and observers panic at random, under load. A separate program, because
//! the test silences these panics.
#![cfg(not(miri))]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    panic,
    sync::{Arc, Mutex},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use testkit::{
    exchange::event_stream_response,
    script::{AfterScript, Log, Script, Step, data},
    server::{HttpService, VERSIONS, Version, listen},
    wait::{LIMIT, until, within},
};
use tokio::{net::TcpListener, task::JoinSet};
use tower::{Layer, service_fn};
use tower_sse_completion::{Ending, Shutdown, SseCompletionLayer};

const CLIENTS: u64 = 400;
/// Streams on one connection of HTTP/2.
const STREAMS: u64 = 20;
const SEEDS: [u64; 2] = [1, 2];

const INTENDED: &str = "an intended panic";

/// The panic that a request causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Plan {
    PanicInHandler,
    PanicInPoll,
    PanicInDropAtEnd,
    PanicInDropAtClose,
    PanicInCancellation,
    PanicInObserver,
    Ends,
    IsClosed,
}

const PLANS: [Plan; 8] = [
    Plan::PanicInHandler,
    Plan::PanicInPoll,
    Plan::PanicInDropAtEnd,
    Plan::PanicInDropAtClose,
    Plan::PanicInCancellation,
    Plan::PanicInObserver,
    Plan::Ends,
    Plan::IsClosed,
];

impl Plan {
    /// Returns the plan of a request, and a number of frames.
    fn new(seed: u64, number: u64) -> (Self, usize) {
        let mut rng = fastrand::Rng::with_seed(seed << 32 | number);
        (PLANS[rng.usize(..PLANS.len())], rng.usize(1..80))
    }

    /// Reads the plan from the path of a request.
    fn read(uri: &Uri) -> (Self, usize) {
        let mut parts = uri.path()[1..]
            .split('/')
            .map(|part| part.parse().expect("a number"));
        Self::new(
            parts.next().expect("a seed"),
            parts.next().expect("a number"),
        )
    }

    fn upstream((plan, frames): (Self, usize), log: &Arc<Log>) -> Script {
        let frames = (0..frames).map(|_| data("data: 1\n\n"));
        let script = match plan {
            Self::PanicInHandler => panic!("{INTENDED}"),
            Self::PanicInPoll => Script::new(frames.chain([Step::Panic])),
            _ => Script::new(frames),
        };
        let script = script.logged_in(log);
        let script = match plan {
            Self::PanicInDropAtClose | Self::IsClosed => script.then(AfterScript::Pending),
            _ => script,
        };
        match plan {
            Self::PanicInDropAtEnd | Self::PanicInDropAtClose => script.panic_in_drop(),
            _ => script,
        }
    }

    /// Returns the ending of the stream, unless the handler panics.
    fn ending(self) -> Option<Ending> {
        match self {
            Self::PanicInHandler => None,
            Self::PanicInObserver | Self::Ends => Some(Ending::Completed),
            Self::IsClosed => Some(Ending::Cancelled),
            _ => Some(Ending::Failed),
        }
    }
}

type Tally = BTreeMap<&'static str, usize>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c21_panics_at_random_leave_no_stream_and_no_connection() {
    silence_intended_panics();
    for version in VERSIONS {
        for seed in SEEDS {
            within(connect_and_leave(version, seed)).await;
        }
    }
}

async fn connect_and_leave(version: Version, seed: u64) {
    let case = format!("{version:?}, seed {seed}");
    let shutdown = Shutdown::new();
    let (upstreams, reports) = (Arc::<Log>::default(), Arc::<Mutex<Tally>>::default());
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .cancel_when(|request| {
            let panics = Plan::read(&request.uri).0 == Plan::PanicInCancellation;
            async move {
                assert!(!panics, "{INTENDED}");
                std::future::pending::<()>().await;
            }
        })
        .on_end_with({
            let reports = Arc::clone(&reports);
            move |request| {
                let (plan, _) = Plan::read(&request.uri);
                let reports = Arc::clone(&reports);
                move |report| {
                    let mut tally = reports.lock().expect("no panic with the lock");
                    *tally.entry(report.ending().as_str()).or_default() += 1;
                    drop(tally);
                    assert!(plan != Plan::PanicInObserver, "{INTENDED}");
                }
            }
        });
    let service = layer.layer(service_fn({
        let upstreams = Arc::clone(&upstreams);
        move |request: Request<Incoming>| {
            let upstreams = Arc::clone(&upstreams);
            async move {
                let script = Plan::upstream(Plan::read(request.uri()), &upstreams);
                Ok::<_, Infallible>(event_stream_response(Body::new(script)))
            }
        }
    }));
    let (listener, address) = listen().await;
    let server = tokio::spawn(serve(listener, service, shutdown.clone()));

    let mut expected = Tally::new();
    let mut closed = 0;
    for number in 0..CLIENTS {
        let (plan, _) = Plan::new(seed, number);
        if let Some(ending) = plan.ending() {
            *expected.entry(ending.as_str()).or_default() += 1;
        }
        closed += usize::from(matches!(plan, Plan::IsClosed | Plan::PanicInDropAtClose));
    }
    let streams = expected.values().sum::<usize>();
    let mut clients = JoinSet::new();
    let streams_of_client = match version {
        Version::Http1 => 1,
        Version::Http2 => STREAMS,
    };
    for first in (0..CLIENTS).step_by(streams_of_client as usize) {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(version == Version::Http2)
            .build_http();
        for number in first..first + streams_of_client {
            clients.spawn(request(
                client.clone(),
                address,
                format!("/{seed}/{number}"),
            ));
        }
    }
    let reported = || reports.lock().expect("no panic with the lock").clone();
    until(|| reported().values().sum::<usize>() + closed == streams).await;
    until(|| shutdown.open_streams() == closed).await;

    let drain = tokio::spawn(shutdown.drain(LIMIT));
    until(|| shutdown.is_draining()).await;
    shutdown.close();
    let drained = drain.await.expect("no panic");
    assert_eq!(reported(), expected, "{case}");
    assert_eq!(upstreams.open(), 0, "{case}");
    assert_eq!(
        (drained.ended(), drained.still_open()),
        (closed, 0),
        "{case}"
    );
    assert_eq!(drained.connections_cut(), 0, "{case}");
    assert_eq!(shutdown.open_streams(), 0, "{case}");
    clients.join_all().await;
    server.await.expect("no panic");
}

/// Sends a request, and receives the response to its end, if there is one.
async fn request(client: Client<HttpConnector, Empty<Bytes>>, address: SocketAddr, path: String) {
    let uri = format!("http://{address}{path}").parse().expect("a URI");
    if let Ok(response) = client.get(uri).await {
        // The stream of an upstream that panics ends with an error.
        let _ = response.into_body().collect().await;
    }
}

/// Serves connections until a drain begins.
async fn serve(listener: TcpListener, service: impl HttpService, shutdown: Shutdown) {
    let builder = auto::Builder::new(TokioExecutor::new());
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.expect("a connection"),
            () = shutdown.draining() => return,
        };
        let builder = builder.clone();
        let io = TokioIo::new(shutdown.connection(stream));
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            // A panic of a stream ends the task of its connection.
            let _ = builder.serve_connection(io, service).await;
        });
    }
}

/// Hides the panics that are intended, of which there are more than a thousand.
fn silence_intended_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or(payload.downcast_ref::<String>().map(String::as_str));
        // The panics of the script have their own message.
        if !text.is_some_and(|text| text == INTENDED || text.starts_with("the script has")) {
            print(info);
        }
    }));
}
