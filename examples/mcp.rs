//! A server of the Model Context Protocol (MCP), made with rmcp, that shuts down on time.
//!
//! ```text
//! cargo run --features signal --example mcp [-- --without-layer]
//! mcp() { curl -N http://127.0.0.1:3000/mcp -H 'accept: application/json, text/event-stream' "$@"; }
//! post() { mcp -H 'content-type: application/json' -H "$session" -d "$@"; }
//! post '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
//!     "capabilities": {}, "clientInfo": {"name": "curl", "version": "1"}}}' -i
//! session='mcp-session-id: ...'    # from that answer
//! post '{"jsonrpc": "2.0", "method": "notifications/initialized"}'
//! mcp -H "$session" &              # what the server sends by itself
//! post '{"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "count", "arguments": {"to": 10},
//!     "_meta": {"progressToken": 2}}}'
//! ```
//!
//! Press Ctrl-C while the tool counts: the GET ends at once with a close event, the call has ten seconds to give its
//! result, and the process is gone. `--without-layer` waits for the GET, which never ends. `--token-only` cancels rmcp's
//! own token instead: every stream ends at once, and the result is lost.

use std::{env, error::Error, ops::RangeInclusive, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, Method, request::Parts},
};
use rmcp::{
    Peer, RoleServer,
    handler::server::wrapper::Parameters,
    model::{ProgressNotificationParam, RequestMetaObject},
    schemars, tool, tool_router,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use tokio::{net::TcpListener, time};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer, stop_signal};

const GRACE: Duration = Duration::from_secs(10);
const RETRY: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(2);

/// What ends the streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedBy {
    Layer,
    Token,
    Nothing,
}

struct Tools;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Add {
    a: i32,
    b: i32,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Count {
    to: u32,
}

#[tool_router(server_handler)]
impl Tools {
    #[tool(description = "Adds two numbers")]
    async fn add(&self, Parameters(Add { a, b }): Parameters<Add>) -> String {
        (i64::from(a) + i64::from(b)).to_string()
    }

    #[tool(description = "Counts, two numbers each second, and reports the progress")]
    async fn count(
        &self,
        Parameters(Count { to }): Parameters<Count>,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
    ) -> String {
        for number in 1..=to {
            time::sleep(Duration::from_millis(500)).await;
            if let Some(token) = meta.get_progress_token() {
                let progress = ProgressNotificationParam::new(token, number.into());
                // rmcp keeps it for a client that is away.
                let _ = client.notify_progress(progress.with_total(to.into())).await;
            }
        }
        format!("counted to {to}")
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ended_by = match env::args().nth(1).as_deref() {
        None => EndedBy::Layer,
        Some("--token-only") => EndedBy::Token,
        Some("--without-layer") => EndedBy::Nothing,
        _ => return Err("usage: mcp [--token-only | --without-layer]".into()),
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    println!("http://{}", listener.local_addr()?);
    serve(listener, ended_by, stop_signal()?).await
}

pub(crate) async fn serve(
    listener: TcpListener,
    ended_by: EndedBy,
    stop: impl Future<Output: Send> + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    let config = StreamableHttpServerConfig::default();
    let token = config.cancellation_token.clone();
    let sessions = LocalSessionManager::default();
    let service = StreamableHttpService::new(|| Ok(Tools), sessions.into(), config);
    let mut app = Router::new().route_service("/mcp", service);

    let shutdown = Shutdown::new();
    if ended_by == EndedBy::Layer {
        let mut completion = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .close_event(CloseEvent::new().retry_between(RETRY)?)
            .end_on_drain(subscribes);
        // Clients resume a stream that ends at this age. rmcp forgets a result that comes while its client is away:
        // where that matters, limit the age of subscriptions only.
        if let Ok(age) = env::var("MAX_AGE_MS") {
            completion = completion.max_age(Duration::from_millis(age.parse()?));
        }
        app = app.layer(completion);
    }
    let begin_shutdown = async move {
        stop.await;
        match ended_by {
            EndedBy::Layer => drop(tokio::spawn(async move { shutdown.drain(GRACE).await })),
            EndedBy::Token => token.cancel(),
            EndedBy::Nothing => {}
        }
    };
    Ok(axum::serve(listener, app)
        .with_graceful_shutdown(begin_shutdown)
        .await?)
}

/// A GET, unless it resumes the answer to a POST. rmcp gives the events of answers IDs such as `3/1`.
fn subscribes(request: &Parts) -> bool {
    let resumes = |id: &HeaderValue| id.as_bytes().contains(&b'/');
    request.method == Method::GET && !request.headers.get("last-event-id").is_some_and(resumes)
}
