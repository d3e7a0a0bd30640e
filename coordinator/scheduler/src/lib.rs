//! Every decision of the coordinator: what is accepted, what runs where, what ends how.
//!
//! The [`Scheduler`] is a state machine: [`apply`](Scheduler::apply) takes a moment and an [`Event`] and gives a
//! [`Step`]: the [`Change`]s to store, and the [`Effect`]s to let out once they are stored. It does no I/O, knows no
//! clock and throws no dice, so it can't fail, and the same events make the same steps. It can be cloned, compared
//! and hashed, and is model-checked and simulated as it stands.
//!
//! It holds what is live: builds that wait or run, and runners. What has ended is the store's.

mod build;
mod event;
mod fleet;
mod invariants;
mod keys;
mod moment;
mod pick;
mod queue;
mod restore;
mod scheduler;
mod step;
mod view;

pub use build::{IdempotencyKey, Submission};
pub use event::{Event, RequestId, RunnerEvent, SessionId};
pub use invariants::Violation;
pub use moment::Moment;
pub use restore::{LiveBuild, RememberedKey, Restored};
pub use scheduler::{Rules, Scheduler};
pub use step::{Answer, AttemptEnd, Change, Effect, RunnerRef, Step};
pub use view::{RunnerView, WaitingBuild, WaitingFor};
