//! Serves one event stream of Rocket on a free port, for `e2e/run compare`. The argument names the situation.

use std::{env, error::Error};

use futures_util::{Stream, StreamExt, stream};
use rocket::{
    Config, State,
    config::{LogLevel, Shutdown},
    fairing::AdHoc,
    get,
    response::stream::{Event, EventStream},
    routes,
};

#[rocket::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let situation = env::args()
        .nth(1)
        .ok_or("usage: compare_rocket SITUATION")?;
    let config = Config {
        port: 0,
        log_level: LogLevel::Off,
        shutdown: Shutdown {
            grace: 1,
            mercy: 1,
            ..Shutdown::default()
        },
        ..Config::default()
    };
    let address = AdHoc::on_liftoff("print the address", |rocket| {
        let port = rocket.config().port;
        Box::pin(async move { eprintln!("running on http://127.0.0.1:{port} ") })
    });
    rocket::custom(config)
        .manage(situation)
        .mount("/", routes![respond])
        .attach(address)
        .launch()
        .await?;
    Ok(())
}

#[get("/")]
fn respond(situation: &State<String>) -> EventStream<impl Stream<Item = Event> + use<>> {
    let hello = || Event::data("hello");
    EventStream::from(match situation.as_str() {
        "idle" => stream::iter([hello()]).chain(stream::pending()).boxed(),
        // Rocket's event streams have no errors, so a handler ends the stream instead.
        "failed" => stream::iter([hello(), hello()]).boxed(),
        // A handler that decodes its upstream has whole events only.
        "truncated" => stream::iter([hello()]).boxed(),
        "unread" => stream::repeat_with(|| Event::data("x".repeat(1 << 20))).boxed(),
        "empty" => stream::empty().boxed(),
        unknown => panic!("unknown situation {unknown}"),
    })
}
