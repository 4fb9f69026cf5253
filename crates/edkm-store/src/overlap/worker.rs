//! The packing thread.

use std::sync::Arc;

use super::slot::{guarded, Slot};
use super::{Job, Shared, Working};
use crate::lock::{lock, wait};

enum Task {
    Pack(Job),
    Fetch(Job),
}

impl Shared {
    /// Works until the store and its tickets are gone.
    pub(super) fn run(self: Arc<Self>) {
        while let Some(task) = self.next_task() {
            match task {
                Task::Pack(Job { slot, flight }) => {
                    if let Some(slot) = slot.upgrade() {
                        if let Err(error) = guarded(|| slot.pack(&*self.top)) {
                            lock(&self.queues).note_failure(slot.sequence, &error);
                            slot.fail(error);
                        }
                        let_go(slot);
                    }
                    drop(flight);
                }
                Task::Fetch(Job { slot, flight }) => {
                    if let Some(slot) = slot.upgrade() {
                        let fetched = guarded(|| {
                            slot.fetch_ahead(flight);
                            Ok(())
                        });
                        if let Err(error) = fetched {
                            slot.fail(error);
                        }
                        let_go(slot);
                    }
                }
            }
        }
    }

    /// The next thing to do: packing first, since a save may be waiting for room.
    fn next_task(&self) -> Option<Task> {
        let mut queues = lock(&self.queues);
        queues.working = Working::Idle;
        self.changed.notify_all();
        loop {
            let packing = queues.to_pack.pop_front().map(Task::Pack);
            if let Some(task) = packing.or_else(|| queues.to_fetch.pop_front().map(Task::Fetch)) {
                queues.working = Working::Busy;
                return Some(task);
            }
            if queues.ending {
                return None;
            }
            queues = wait(&self.changed, queues);
        }
    }
}

/// Drops what may be the last owner of a user's value.
fn let_go(slot: Arc<Slot>) {
    let dropped = guarded(|| {
        drop(slot);
        Ok(())
    });
    if let Err(error) = dropped {
        tracing::warn!("a record that was let go of: {error}");
    }
}
