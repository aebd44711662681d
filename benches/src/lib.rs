//! What the benchmarks share.

pub mod callgrind;
pub mod subjects;
pub mod upstream;
