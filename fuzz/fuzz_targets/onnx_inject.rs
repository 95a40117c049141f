#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weighbridge_fuzzing::onnx_inject(data));
