#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weighbridge_fuzzing::structure_json(data));
