#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::dpkg_status::check(data));
