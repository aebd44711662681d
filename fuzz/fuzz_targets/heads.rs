#![no_main]

use checks::{heads::Input, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write(seeds::heads), |input: Input| input.check());
