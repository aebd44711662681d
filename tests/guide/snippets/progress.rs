use std::time::Duration;
use tokio::time::timeout;
use tower_sse_completion::{Drain, Drained, Shutdown};

async fn drain_with_progress(shutdown: &Shutdown, mut drain: Drain) -> Drained {
    tokio::select! {
        drained = &mut drain => return drained,
        () = shutdown.draining() => {}
    }
    let all = shutdown.open_streams();
    loop {
        println!("draining, {} of {all} streams left", shutdown.open_streams());
        if let Ok(drained) = timeout(Duration::from_secs(1), &mut drain).await {
            return drained;
        }
    }
}
