//! The dashboard: files that are part of this program, see `build.rs`. They hold no data, so everyone may have them;
//! what they show comes through the API, which is closed.

use std::sync::Arc;

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{App, problem::Problem};

/// A file, and what it is when compressed.
struct Asset {
    path: &'static str,
    kind: &'static str,
    /// Changes with its content.
    etag: &'static str,
    plain: &'static [u8],
    brotli: Option<&'static [u8]>,
    gzip: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The page that all addresses of the dashboard begin with.
const PAGE: &str = "index.html";

/// What the page may do: load its own files and speak to its own coordinator. Nothing inline, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(page))
        .route("/new", get(page))
        .route("/builds/{build}", get(page))
        .route("/queue", get(page))
        .route("/runners", get(page))
        .route("/trends", get(page))
        .route("/assets/{file}", get(asset))
}

/// The dashboard's page.
pub(super) async fn page(headers: HeaderMap) -> Response {
    page_with(StatusCode::OK, &headers)
}

/// Marks a refusal that is told by the page, in its own words.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToldByPage;

/// The same, for what was refused.
pub(super) fn page_with(status: StatusCode, headers: &HeaderMap) -> Response {
    let mut response = match find(PAGE) {
        Some(page) => serve(page, headers, "no-cache"),
        None => StatusCode::NOT_FOUND.into_response(),
    };
    if status != StatusCode::OK && response.status() == StatusCode::OK {
        *response.status_mut() = status;
        response.extensions_mut().insert(ToldByPage);
    }
    response
}

/// Whether it is a person with a browser who asks, and not a program.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|kinds| kinds.contains("text/html"))
}

async fn asset(Path(file): Path<String>, headers: HeaderMap) -> Response {
    match find(&format!("assets/{file}")) {
        // Its name changes with its content.
        Some(asset) => serve(asset, &headers, "public, max-age=31536000, immutable"),
        None => Problem::missing("this release has no such file: load the page again").into_response(),
    }
}

fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

fn serve(asset: &'static Asset, headers: &HeaderMap, caching: &'static str) -> Response {
    let (body, encoding) = choose(asset, headers);
    let etag = format!("\"{}{}\"", asset.etag, encoding.map(|name| format!("-{name}")).unwrap_or_default());
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let known = known.is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == etag));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { body.into_response() };
    let fixed: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, caching),
        (header::VARY, "accept-encoding"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    let all = response.headers_mut();
    for (name, value) in fixed {
        all.insert(name, HeaderValue::from_static(value));
    }
    all.extend(HeaderValue::from_str(&etag).ok().map(|etag| (header::ETAG, etag)));
    if !known && let Some(encoding) = encoding {
        all.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    response
}

/// The smallest form that the client can read.
fn choose(asset: &'static Asset, headers: &HeaderMap) -> (&'static [u8], Option<&'static str>) {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|accepted| accepted.to_str().ok());
    let takes = |name: &str| {
        let mut offers = accepted.unwrap_or_default().split(',').map(|offer| offer.trim().split_once(';'));
        let plain = accepted.unwrap_or_default().split(',').any(|offer| offer.trim() == name);
        plain || offers.any(|offer| offer.is_some_and(|(coding, q)| coding == name && q.trim() != "q=0"))
    };
    match (asset.brotli, asset.gzip) {
        (Some(brotli), _) if takes("br") => (brotli, Some("br")),
        (_, Some(gzip)) if takes("gzip") => (gzip, Some("gzip")),
        _ => (asset.plain, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Asset = Asset {
        path: "assets/a.js",
        kind: "text/javascript",
        etag: "abc",
        plain: b"plain",
        brotli: Some(b"br"),
        gzip: Some(b"gz"),
    };

    fn asked(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_smallest_form_that_the_client_reads_is_given() {
        for (accepted, encoding) in [
            ("gzip, deflate, br, zstd", Some("br")),
            ("gzip", Some("gzip")),
            ("br;q=0, gzip;q=0.5", Some("gzip")),
            ("identity", None),
            ("", None),
        ] {
            let response = serve(&FILE, &asked(header::ACCEPT_ENCODING, accepted), "no-cache");
            let told = response.headers().get(header::CONTENT_ENCODING).map(|told| told.to_str().unwrap());
            assert_eq!(told, encoding, "{accepted:?}");
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let same = serve(&FILE, &asked(header::IF_NONE_MATCH, "\"x\", \"abc\""), "no-cache");
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
        let other = serve(&FILE, &asked(header::IF_NONE_MATCH, "\"abcd\""), "no-cache");
        assert_eq!(other.status(), StatusCode::OK);
    }

    #[test]
    fn there_is_always_a_page() {
        let response = page_with(StatusCode::OK, &HeaderMap::new());
        assert_eq!(response.status(), StatusCode::OK);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
