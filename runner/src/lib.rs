//! The agent on a Docker host. It takes builds from the coordinator, clones each one's repository, runs its command in
//! a fresh container, and delivers log and outcome, whatever the connection does meanwhile.
//!
//! A build's way through this crate: [`connection`] receives it, [`builds`] runs it through [`workspace`],
//! [`checkout`], [`container`] and [`output`], on the [`engine`], while [`health`] allows and the [`disks`] have room;
//! [`spool`] keeps what must not be lost, [`images`] knows which images are the runner's own, and [`sweep`] removes what
//! was left behind. [`serve`] puts it all together.

pub mod builds;
pub mod checkout;
pub mod config;
pub mod connection;
pub mod container;
pub mod disks;
pub mod engine;
pub mod health;
pub mod images;
pub mod output;
pub mod serve;
pub mod spool;
pub mod sweep;
mod tls;
pub mod workspace;
