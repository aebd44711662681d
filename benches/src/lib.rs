//! The code that the benchmarks share.

pub mod instructions;
pub mod process;
pub mod statistics;
pub mod subjects;
pub mod subscriber;
pub mod upstream;
pub mod variants;
