//! Two instances, and what they share with their clients.

use std::{net::SocketAddr, time::Duration};

use e2e::proxy::free_address;
use testkit::decoder::Event;
use tokio::time;

use crate::{
    Result,
    instance::{Instance, Running},
};

/// The shortest and the longest reconnection time of a stream.
pub type Retry = [Duration; 2];

/// Two instances, of which one can be stopped.
#[derive(Debug)]
pub struct Site {
    pub instances: [Instance; 2],
    running: [Option<Running>; 2],
}

const LONG: Duration = Duration::from_secs(120);

impl Site {
    /// Starts both instances.
    pub async fn start(window: Duration, retry: Retry, period: Duration) -> Result<Self> {
        let instance = || {
            Ok::<_, std::io::Error>(Instance {
                address: free_address()?,
                window,
                retry,
                period,
            })
        };
        let instances = [instance()?, instance()?];
        let running = [
            Some(instances[0].start().await?),
            Some(instances[1].start().await?),
        ];
        Ok(Self { instances, running })
    }

    pub fn addresses(&self) -> [SocketAddr; 2] {
        self.instances.map(|instance| instance.address)
    }

    /// Stops an instance, and returns the number of streams that its drain ended.
    pub async fn stop(&mut self, number: usize) -> Result<usize> {
        let running = self.running[number].take();
        running.ok_or("the instance has stopped")?.stop().await
    }

    /// Starts an instance again.
    pub async fn start_again(&mut self, number: usize) -> Result<()> {
        self.running[number] = Some(self.instances[number].start().await?);
        Ok(())
    }
}

/// Returns `true` for the event with which the layer ends a stream.
pub fn is_close_event(event: &Event) -> bool {
    event.event_type == "close"
}

/// Returns once the condition holds.
pub async fn until(event: &str, condition: impl Fn() -> bool) -> Result<()> {
    let wait = async {
        while !condition() {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(LONG, wait)
        .await
        .map_err(|_| format!("timed out waiting until {event}").into())
}
