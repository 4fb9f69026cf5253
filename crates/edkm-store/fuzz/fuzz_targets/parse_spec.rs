//! Whatever the words, they are refused or they read back as they are written.
#![no_main]

use edkm_store::StoreSpec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|words: &str| {
    if let Ok(spec) = words.parse::<StoreSpec>() {
        assert_eq!(spec.to_string().parse::<StoreSpec>().expect("what was written"), spec);
    }
});
