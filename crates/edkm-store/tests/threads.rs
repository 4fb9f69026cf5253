//! One store, many threads.

mod common;

use std::sync::{Arc, Barrier};
use std::thread;

use common::{assert_empty, bytes_of};
use edkm_store::{Backend, DType, Record, Store, StoreSpec};

#[test]
fn threads_that_save_the_same_store_it_once() {
    const THREADS: usize = 8;
    const CONTENTS: u64 = 5;
    for layers in ["marshal", "marshal,compress", "marshal,uniquify,overlap=1MiB"] {
        let store = layers
            .parse::<StoreSpec>()
            .and_then(|spec| spec.build())
            .expect("legal");
        let together = Barrier::new(THREADS);
        thread::scope(|scope| {
            for thread in 0..THREADS as u64 {
                let (store, together): (&Store, &Barrier) = (&store, &together);
                scope.spawn(move || {
                    for round in 0..20 {
                        together.wait();
                        let save = |i: u64| {
                            let seed = (i + thread) % CONTENTS;
                            let record = Record::new(Arc::new(bytes_of(seed, 8000)), DType::F32, [2000], "x");
                            (seed, store.save(record).expect("saved"))
                        };
                        let tickets: Vec<_> = (0..CONTENTS).map(save).collect();
                        if together.wait().is_leader() {
                            assert_eq!(store.report().held_bytes, CONTENTS * 8000, "{layers}, round {round}");
                        }
                        together.wait();
                        for (seed, ticket) in tickets.into_iter().rev() {
                            assert_eq!(ticket.load().expect("loaded").as_bytes(), bytes_of(seed, 8000));
                        }
                    }
                });
            }
        });
        assert_empty(&store.report(), layers);
    }
}
