#![no_main]

use checks::{close_event::Input, limited, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write(seeds::close_event), |input: Input| limited(|| input.check()));
