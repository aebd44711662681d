#![no_main]

use checks::{connection::Input, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write(seeds::connection), |input: Input| input.check());
