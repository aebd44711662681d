#![no_main]

use checks::{heads::Input, limited, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write(seeds::heads), |input: Input| limited(|| input.check()));
