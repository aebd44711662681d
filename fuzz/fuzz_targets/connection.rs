#![no_main]

use checks::{connection::Input, limited, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write(seeds::connection), |input: Input| limited(|| input.check()));
