#![no_main]

libfuzzer_sys::fuzz_target!(|input: checks::heads::Input| input.check());
