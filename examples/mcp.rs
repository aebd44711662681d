//! A server of the Model Context Protocol (MCP), made with rmcp, that shuts down on time, for clients of the revision
//! 2026-07-28 and for older ones.
//!
//! ```text
//! cargo run --features signal --example mcp [-- --port 3000]
//! mcp() { curl -N http://127.0.0.1:3000/mcp -H 'accept: application/json, text/event-stream' "$@"; }
//! post() { mcp -H 'content-type: application/json' "$@"; }
//!
//! call() { post -H 'mcp-protocol-version: 2026-07-28' -H "mcp-method: $1" -H "mcp-name: $2" -d '{"jsonrpc": "2.0", "id": 1,
//!     "method": "'$1'", "params": {'"$3"', "_meta": {"progressToken": 1, "io.modelcontextprotocol/clientCapabilities": {},
//!     "io.modelcontextprotocol/protocolVersion": "2026-07-28"}}}'; }
//! call subscriptions/listen '' '"notifications": {"toolsListChanged": true}' &
//! call tools/call count '"name": "count", "arguments": {"to": 10}'
//! ```
//!
//! Press Ctrl-C, or send SIGTERM, while the tool counts. The subscription by POST ends at once with its result, the GET with
//! a close event, and the call has ten seconds to return its result. Then the process ends. With the environment variable
//! `ENDED_BY=nothing`, the server waits for the subscriptions, which never end. `ENDED_BY=token` cancels rmcp's own token:
//! every stream ends at once, and the results are lost.

use std::{env, error::Error, future::IntoFuture, ops::RangeInclusive, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, Method},
    routing::{MethodRouter, any, any_service},
};
use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler,
    handler::server::wrapper::Parameters,
    model::{
        ProgressNotificationParam, RequestMetaObject, ServerCapabilities, ServerConfig,
        SubscriptionFilter,
    },
    schemars,
    service::SubscriptionContext,
    tool, tool_handler, tool_router,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use tokio::{net::TcpListener, time};
use tower::{Layer, ServiceExt};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer, stop_signal};

#[path = "support/cut_listener.rs"]
mod cut_listener;
#[path = "support/listen.rs"]
mod listen;

/// Time for calls to return their results.
const GRACE: Duration = Duration::from_secs(10);
/// Range of the time after which a client subscribes again.
const RETRY: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(2);

pub(crate) type Mcp = StreamableHttpService<Tools, LocalSessionManager>;

/// The part of the server that ends the streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedBy {
    Layer,
    Token,
    Nothing,
}

#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) shutdown: Shutdown,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Count {
    to: u32,
}

#[tool_router]
impl Tools {
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
                // rmcp keeps the notification for a client that is not connected.
                let _ = client.notify_progress(progress.with_total(to.into())).await;
            }
        }
        format!("counted to {to}")
    }
}

#[tool_handler]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed();
        ServerConfig::new(capabilities.build())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        // rmcp removes the notifications that `get_info` does not announce.
        Some(requested.clone())
    }

    /// Runs a subscription of the revision 2026-07-28.
    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        // A server whose tools change sends `context.sink().notify_tool_list_changed()` in another branch.
        tokio::select! {
            () = context.cancelled() => {}
            () = self.shutdown.draining() => {}
        }
        // rmcp sends the result of the request now. A client recognizes a deliberate end by the result.
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ended_by = match env::var("ENDED_BY").as_deref() {
        Err(_) => EndedBy::Layer,
        Ok("token") => EndedBy::Token,
        Ok("nothing") => EndedBy::Nothing,
        Ok(other) => return Err(format!("ENDED_BY is token or nothing, not {other}").into()),
    };
    let initialize = r#"curl -N /mcp -H 'accept: application/json, text/event-stream' -H 'content-type: application/json' \
    -d '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {},
    "clientInfo": {"name": "curl", "version": "1"}}}'"#;
    let listener = listen::listen(&[initialize]).await?;
    serve(listener, ended_by, stop_signal()?, GRACE).await
}

pub(crate) async fn serve(
    listener: TcpListener,
    ended_by: EndedBy,
    stop: impl Future<Output: Send> + Send + 'static,
    grace: Duration,
) -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::new();
    let tools = Tools {
        shutdown: shutdown.clone(),
    };
    let config = StreamableHttpServerConfig::default();
    let token = config.cancellation_token.clone();
    let sessions = LocalSessionManager::default();
    let service = StreamableHttpService::new(move || Ok(tools.clone()), sessions.into(), config);
    let routes = match ended_by {
        EndedBy::Layer => with_layer(service, &shutdown)?,
        EndedBy::Token | EndedBy::Nothing => any_service(service),
    };
    // rmcp begins the response to a call of the revision 2026-07-28 with its first message. Until then a drain waits for the
    // connection of the call, and cuts the connection after the grace.
    let listener = cut_listener::CutListener {
        listener,
        shutdown: shutdown.clone(),
    };
    let server = axum::serve(listener, Router::new().route("/mcp", routes));
    if ended_by == EndedBy::Layer {
        let server = server.with_graceful_shutdown(shutdown.draining());
        let (served, _) = tokio::join!(server.into_future(), shutdown.drain(grace).after(stop));
        return Ok(served?);
    }
    let stopped = async move {
        stop.await;
        if ended_by == EndedBy::Token {
            token.cancel();
        }
    };
    Ok(server.with_graceful_shutdown(stopped).await?)
}

/// Returns the routes with the layer, which does not end a subscription by POST: the stream could end before the result of
/// `listen` is sent, and the client would treat that end as a lost connection.
fn with_layer(service: Mcp, shutdown: &Shutdown) -> Result<MethodRouter, Box<dyn Error>> {
    let responses = SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_event(CloseEvent::new().retry_between(RETRY)?)
        // rmcp returns an empty stream if there is nothing to resume.
        .close_on_empty(false);
    let mut subscriptions = responses.clone().end_on_drain(|_| true);
    // A client resumes a subscription by GET that ends at this age. The response to a POST must not have a maximum age,
    // because a client of the revision 2026-07-28 cannot resume it.
    if let Ok(age) = env::var("MAX_AGE_MS") {
        subscriptions = subscriptions.max_age(Duration::from_millis(age.parse()?));
    }
    let responses = responses.layer(service.clone());
    let subscriptions = subscriptions.layer(service);
    Ok(any(move |request: Request| {
        let wrapped = if subscribes(&request) {
            &subscriptions
        } else {
            &responses
        };
        wrapped.clone().oneshot(request)
    }))
}

/// Returns `true` for a GET, which clients up to 2025-11-25 subscribe with, unless the GET resumes the response to a POST.
/// The events of such responses have IDs such as `3/1`.
fn subscribes(request: &Request) -> bool {
    let resumes = |id: &HeaderValue| id.as_bytes().contains(&b'/');
    request.method() == Method::GET && !request.headers().get("last-event-id").is_some_and(resumes)
}
