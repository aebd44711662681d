//! The command line.

use std::{net::SocketAddr, time::Duration};

use crate::proxy::Kind;

/// What the program is to do.
#[derive(Debug)]
pub enum Command {
    RollingRestart(Options),
    /// One of the servers. The program starts itself with this.
    Instance(Instance),
}

#[derive(Debug, Clone)]
pub struct Options {
    pub clients: usize,
    /// Events per second.
    pub rate: u32,
    pub proxy: Option<Kind>,
    pub with_layer: bool,
}

#[derive(Debug)]
pub struct Instance {
    pub address: SocketAddr,
    pub publisher: SocketAddr,
    /// Counts all instances of a run.
    pub number: usize,
    pub end: End,
}

/// How an instance ends its streams, and when its clients are to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The layer, with a reconnection time that is drawn for each stream.
    Spread,
    /// The layer, with the same reconnection time for all.
    Fixed,
    /// A close event that a handler appends to its stream.
    HandWritten,
    /// Nothing: the streams stay open, until the process is killed.
    Killed,
}

pub const FIXED: Duration = Duration::from_secs(3);
pub const SPREAD: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// How each end is called on the command line.
pub const ENDS: [(&str, End); 4] = [
    ("spread", End::Spread),
    ("fixed", End::Fixed),
    ("hand-written", End::HandWritten),
    ("killed", End::Killed),
];

/// What the configurations of the proxies allow.
const BEHIND_A_PROXY: usize = 4_000;

const USAGE: &str = "\
usage: rolling_restart [--clients NUMBER] [--rate EVENTS_PER_SECOND]
                       [--proxy haproxy|nginx|caddy|none] [--without-layer]";

impl Command {
    /// Reads the arguments behind the name of the program.
    ///
    /// # Errors
    ///
    /// A text for whoever has typed them.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = arguments.peekable();
        match arguments.next_if(|argument| argument == "instance") {
            Some(_) => Ok(Self::Instance(Instance::parse(arguments)?)),
            None => Ok(Self::RollingRestart(Options::parse(arguments)?)),
        }
    }
}

impl Options {
    /// The ends of the streams, for one run each.
    pub fn ends(&self) -> [End; 2] {
        match self.with_layer {
            true => [End::Fixed, End::Spread],
            false => [End::Killed, End::HandWritten],
        }
    }

    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            clients: 200,
            rate: 10,
            proxy: Some(Kind::Haproxy),
            with_layer: true,
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--clients" => options.clients = positive(arguments.next())?,
                "--rate" => options.rate = positive(arguments.next())?,
                "--proxy" => options.proxy = proxy(arguments.next())?,
                "--without-layer" => options.with_layer = false,
                _ => return Err(USAGE.to_owned()),
            }
        }
        if options.proxy.is_some() && options.clients > BEHIND_A_PROXY {
            return Err(format!("at most {BEHIND_A_PROXY} clients behind a proxy"));
        }
        Ok(options)
    }
}

impl Instance {
    /// The arguments that [`Command::parse`] reads.
    pub fn arguments(&self) -> Vec<String> {
        let end = ENDS.iter().find(|(_, end)| *end == self.end);
        vec![
            "instance".to_owned(),
            self.address.to_string(),
            self.publisher.to_string(),
            self.number.to_string(),
            end.map_or_else(String::new, |(name, _)| (*name).to_owned()),
        ]
    }

    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut next = || arguments.next().ok_or("an argument is missing");
        let address = next()?
            .parse()
            .map_err(|error| format!("address: {error}"))?;
        let publisher = next()?
            .parse()
            .map_err(|error| format!("publisher: {error}"))?;
        let number = next()?
            .parse()
            .map_err(|error| format!("number: {error}"))?;
        let name = next()?;
        let end = ENDS.iter().find(|(known, _)| *known == name);
        Ok(Self {
            address,
            publisher,
            number,
            end: end.ok_or("no such end")?.1,
        })
    }
}

impl End {
    pub fn has_layer(self) -> bool {
        matches!(self, Self::Spread | Self::Fixed)
    }

    pub fn title(self) -> String {
        let [from, to] = SPREAD.map(|time| time.as_secs());
        match self {
            Self::Spread => format!("retry_between {from} s and {to} s"),
            Self::Fixed => format!("retry of {} s for all", FIXED.as_secs()),
            Self::HandWritten => "close event by hand".to_owned(),
            Self::Killed => "no close event".to_owned(),
        }
    }
}

fn positive<T: std::str::FromStr + PartialOrd + Default>(
    text: Option<String>,
) -> Result<T, String> {
    let number = text.and_then(|text| text.parse().ok());
    number
        .filter(|number| *number > T::default())
        .ok_or_else(|| USAGE.to_owned())
}

fn proxy(name: Option<String>) -> Result<Option<Kind>, String> {
    let name = name.unwrap_or_default();
    match Kind::ALL.into_iter().find(|kind| kind.name() == name) {
        None if name != "none" => Err(USAGE.to_owned()),
        kind => Ok(kind),
    }
}
