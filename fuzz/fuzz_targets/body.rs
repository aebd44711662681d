#![no_main]

use checks::{body::Input, limited, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write(seeds::body), |input: Input| limited(|| input.check()));
