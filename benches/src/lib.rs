//! What the benchmarks share.

pub mod callgrind;
pub mod instructions;
pub mod options;
pub mod process;
pub mod statistics;
pub mod subjects;
pub mod subscriber;
pub mod upstream;
