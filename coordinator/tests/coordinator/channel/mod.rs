//! The channel, with runners that say what a test has them say, and those who watch what comes of it.

mod fencing;
mod limits;
mod live;
mod logs;
mod resume;
mod work;

use std::time::Duration;

use caisson_coordinator::settings::Settings;
use caisson_settings::Period;

/// Signs of life so often that a test need not wait long for a removal, and not so often that a busy machine misses
/// them.
pub(crate) fn impatient(settings: &mut Settings) {
    settings.keep_alive.interval = Period(Duration::from_millis(500));
    settings.keep_alive.timeout = Period(Duration::from_millis(1500));
}
