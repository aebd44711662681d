//! Tests of the layer on `wasm32-unknown-unknown`, which `.ci/wasm` runs.
