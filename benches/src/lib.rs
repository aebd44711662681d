//! The code that the benchmarks share.

pub mod callgrind;
pub mod process;
pub mod statistics;
pub mod subjects;
pub mod subscriber;
pub mod tables;
pub mod upstream;
pub mod variants;
