//! What the benchmarks share.

pub mod callgrind;
pub mod instructions;
pub mod subjects;
pub mod upstream;
