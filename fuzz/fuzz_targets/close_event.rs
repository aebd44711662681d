#![no_main]

libfuzzer_sys::fuzz_target!(|input: checks::close_event::Input| input.check());
