//! Which role each route of people needs. What is not listed here is not served, whatever handler there is for it.

use axum::http::Method;

use crate::access::Role::{self, Admin, Operator, Submitter, Viewer};

/// The role, the method, and the path as it is routed.
pub type Rule = (Role, &'static str, &'static str);

const RULES: &[Rule] = &[
    (Viewer, "GET", "/api/v1/about"),
    (Viewer, "GET", "/api/v1/builds"),
    (Submitter, "POST", "/api/v1/builds"),
    (Viewer, "GET", "/api/v1/builds/{id}"),
    (Submitter, "POST", "/api/v1/builds/{id}/cancel"),
    (Submitter, "POST", "/api/v1/builds/{id}/rerun"),
    (Viewer, "GET", "/api/v1/builds/{id}/log"),
    (Viewer, "GET", "/api/v1/builds/{id}/log/lines"),
    (Viewer, "GET", "/api/v1/builds/{id}/log/search"),
    (Viewer, "GET", "/api/v1/builds/{id}/log/stream"),
    (Viewer, "GET", "/api/v1/builds/{id}/log/tail"),
    (Viewer, "GET", "/api/v1/events"),
    (Viewer, "GET", "/api/v1/openapi.json"),
    (Viewer, "GET", "/api/v1/queue"),
    (Viewer, "GET", "/api/v1/runners"),
    (Operator, "POST", "/api/v1/runners/{id}/drain"),
    (Viewer, "GET", "/api/v1/trends"),
    (Viewer, "GET", "/metrics"),
    // Oneself.
    (Viewer, "GET", "/api/v1/session"),
    (Viewer, "DELETE", "/api/v1/session"),
    (Viewer, "PUT", "/api/v1/session/password"),
    // Everybody sees and makes tokens of their own, up to their own role. Admins see all.
    (Viewer, "GET", "/api/v1/tokens"),
    (Viewer, "POST", "/api/v1/tokens"),
    (Viewer, "DELETE", "/api/v1/tokens/{id}"),
    (Admin, "GET", "/api/v1/users"),
    (Admin, "POST", "/api/v1/users"),
    (Admin, "PATCH", "/api/v1/users/{name}"),
    (Admin, "DELETE", "/api/v1/users/{name}"),
    (Admin, "GET", "/api/v1/runner-registrations"),
    (Admin, "POST", "/api/v1/runner-registrations"),
    (Admin, "DELETE", "/api/v1/runner-registrations/{id}"),
    (Admin, "GET", "/api/v1/runner-credentials"),
    (Admin, "DELETE", "/api/v1/runner-credentials/{name}"),
    (Admin, "GET", "/api/v1/audit"),
];

/// All rules there are.
#[must_use]
pub fn policy() -> &'static [Rule] {
    RULES
}

/// The role that a request to this route needs. `None` where the route does not know the method.
pub(super) fn needed(method: &Method, path: &str) -> Option<Role> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let rule = RULES.iter().find(|(_, listed, route)| method == listed && *route == path);
    rule.map(|(role, ..)| *role)
}

/// The methods that a route knows, as the `Allow` of an answer.
pub(super) fn allowed(path: &str) -> String {
    let methods = RULES.iter().filter(|(.., route)| *route == path);
    let methods =
        methods.flat_map(|(_, method, _)| if *method == "GET" { vec!["GET", "HEAD"] } else { vec![*method] });
    methods.collect::<Vec<_>>().join(",")
}
