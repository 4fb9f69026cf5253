//! Where the time of a step goes, from the spans that the trainer and the ops enter anyway.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::span::Id;
use tracing::Subscriber;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// A part of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The model and its loss, but for clustering and store.
    Forward,
    /// Their gradients, but for clustering and store.
    Backward,
    /// Centroids, clustered weights and their gradients, in forward and backward.
    Clustering,
    /// The update of the parameters.
    Optimizer,
    /// Saving and loading of tensors, as far as the step waits for it.
    Store,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 5] = [
        Phase::Forward,
        Phase::Backward,
        Phase::Clustering,
        Phase::Optimizer,
        Phase::Store,
    ];

    /// The phase that spans of this name are.
    pub fn of_span(name: &str) -> Option<Self> {
        match name {
            "forward" => Some(Self::Forward),
            "backward" => Some(Self::Backward),
            "cluster" | "clustered weight" | "cluster backward" => Some(Self::Clustering),
            "optimizer" => Some(Self::Optimizer),
            "save" | "load" => Some(Self::Store),
            _ => None,
        }
    }
}

/// A layer of `tracing` that adds up the time of each [`Phase`]; what passes in a phase inside another counts for the inner one alone.
/// Clones are the same account.
#[derive(Debug, Clone, Default)]
pub struct PhaseTimes {
    nanos: Arc<[AtomicI64; Phase::ALL.len()]>,
}

impl PhaseTimes {
    /// The time that the phase has taken so far.
    pub fn get(&self, phase: Phase) -> Duration {
        Duration::from_nanos(self.nanos[phase as usize].load(Relaxed).max(0) as u64)
    }
}

/// When a span was entered.
struct Entered(Instant);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for PhaseTimes {
    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id).filter(|span| Phase::of_span(span.name()).is_some()) {
            span.extensions_mut().replace(Entered(Instant::now()));
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let Some(phase) = Phase::of_span(span.name()) else {
            return;
        };
        let Some(Entered(start)) = span.extensions_mut().remove() else {
            return;
        };
        let nanos = start.elapsed().as_nanos() as i64;
        self.nanos[phase as usize].fetch_add(nanos, Relaxed);
        let around = span.scope().skip(1).find_map(|outer| Phase::of_span(outer.name()));
        if let Some(outer) = around {
            self.nanos[outer as usize].fetch_sub(nanos, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn time_in_an_inner_phase_counts_there_alone() {
        let times = PhaseTimes::default();
        let pause = Duration::from_millis(20);
        let all = tracing::subscriber::with_default(tracing_subscriber::registry().with(times.clone()), || {
            let start = Instant::now();
            let _forward = tracing::trace_span!("forward").entered();
            let _op = tracing::trace_span!("linear").entered();
            std::thread::sleep(pause);
            let _cluster = tracing::trace_span!("cluster").entered();
            std::thread::sleep(2 * pause);
            start
        })
        .elapsed();
        let (forward, clustering) = (times.get(Phase::Forward), times.get(Phase::Clustering));
        assert!(forward >= pause && clustering >= 2 * pause);
        assert!(forward + clustering <= all, "{forward:?} + {clustering:?} in {all:?}");
        assert_eq!(times.get(Phase::Optimizer), Duration::ZERO);
    }
}
