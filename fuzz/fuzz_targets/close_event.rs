#![no_main]

use checks::{close_event::Input, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write(seeds::close_event), |input: Input| input.check());
