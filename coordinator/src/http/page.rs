//! A page of a long list, as its callers ask for it: newest first, beginning where the page before ended.

use super::problem::Problem;

/// How many to give: `default` when nobody says, `max` at most.
pub(super) fn limit(asked: Option<usize>, default: usize, max: usize) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(default);
    let fits = (1..=max).contains(&limit);
    fits.then_some(limit).ok_or_else(|| Problem::invalid("limit", format!("expected 1 to {max}")))
}

/// The number that all on the page are below.
pub(super) fn before(cursor: Option<&str>) -> Result<Option<u64>, Problem> {
    let before = cursor.map(str::parse).transpose();
    before.map_err(|_| Problem::invalid("cursor", "expected what a page before gave"))
}

/// The text to look for. An empty one is in everything.
pub(super) fn text(asked: Option<String>, bytes_max: usize) -> Result<Option<String>, Problem> {
    if asked.as_ref().is_some_and(|text| text.len() > bytes_max || text.contains('\0')) {
        return Err(Problem::invalid("q", format!("expected at most {bytes_max} bytes, and no NUL")));
    }
    Ok(asked.filter(|text| !text.is_empty()))
}

/// Cuts what was found to a page, and gives the cursor of the next one. That one more than `limit` was found is how it
/// is known that there is one.
pub(super) fn cut<T>(found: &mut Vec<T>, limit: usize, number: impl Fn(&T) -> u64) -> Option<String> {
    let more = found.len() > limit;
    found.truncate(limit);
    found.last().filter(|_| more).map(|last| number(last).to_string())
}
