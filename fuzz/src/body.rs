//! The body of an event stream, frame by frame, against a model of the contract (C4 to C7, C9 to C16), and as a whole
//! against the decoder of the tests.

mod closing;
mod end;
mod input;
mod model;
mod nested;
mod run;
mod timed;
mod upstream;

pub use self::input::Input;

impl Input {
    pub fn check(&self) {
        match &self.times {
            Some(times) => timed::check(self, times),
            None if self.is_nested => nested::check(self),
            None => run::check(self),
        }
    }
}
