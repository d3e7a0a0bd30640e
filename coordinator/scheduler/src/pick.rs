//! Which runner gets a build. Picking only: leasing is the scheduler's.

use std::cmp::Reverse;

use caisson_protocol::RunnerId;

use crate::{build::Build, fleet::Fleet};

/// The best of the runners that can take `build` right now.
///
/// First the filter: connected, healthy, not draining, a free place, all the labels, and not one on which the build failed
/// before, unless no other registered runner serves it. Then the order:
///
/// 1. most free capacity;
/// 2. free longest.
pub(crate) fn pick(build: &Build, fleet: &Fleet) -> Option<RunnerId> {
    let elsewhere = can_go_elsewhere(build, fleet);
    fleet
        .iter()
        .filter(|(_, runner)| runner.free() > 0 && runner.offers(&build.spec.labels))
        .filter(|(id, _)| !elsewhere || !build.failed_on.contains(id))
        .enumerate()
        .min_by_key(|(place, (_, runner))| (Reverse(runner.free()), *place))
        .map(|(_, (id, _))| id)
}

/// Whether some runner serves the build on which it has not failed yet, now or when it has a free place.
pub(crate) fn can_go_elsewhere(build: &Build, fleet: &Fleet) -> bool {
    !build.failed_on.is_empty()
        && fleet.iter().any(|(id, runner)| {
            !build.failed_on.contains(&id) && runner.is_staying() && runner.offers(&build.spec.labels)
        })
}
