#![no_main]

libfuzzer_sys::fuzz_target!(|input: checks::body::Input| input.check());
