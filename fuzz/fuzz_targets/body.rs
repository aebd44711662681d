#![no_main]

use checks::{body::Input, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write(seeds::body), |input: Input| input.check());
