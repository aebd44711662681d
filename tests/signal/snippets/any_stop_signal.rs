/// Returns a future that completes at the first SIGINT, SIGTERM, SIGQUIT or SIGHUP.
#[cfg(unix)]
fn any_stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let stop = tower_sse_completion::stop_signal()?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            () = stop => {}
            _ = quit.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
