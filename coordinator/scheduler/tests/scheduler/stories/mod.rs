//! One story for each promise of the design, in the words of those who are promised something.

mod attempts;
mod cancel;
mod dispatch;
mod drain;
mod fencing;
mod health;
mod keep_alive;
mod keys;
mod queue;
mod reconnect;
mod restart;
