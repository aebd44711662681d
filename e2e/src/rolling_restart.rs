//! A rolling restart under load: what its clients get, and when they come back.

mod audience;
mod audit;
mod flow;
mod instance;
mod options;
mod outcome;
mod plot;
mod progress;
mod publisher;
mod report;
mod run;

pub use self::{
    instance::serve,
    options::{Command, ENDS, Options},
    outcome::Outcome,
    report::print,
    run::restart_all,
};
