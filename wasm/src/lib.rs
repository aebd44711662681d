//! Package of the tests on `wasm32-unknown-unknown`, which `.ci/wasm` runs.
