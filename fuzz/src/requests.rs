//! What people and their programs send: bodies, and the head around them.

use std::{net::IpAddr, sync::LazyLock};

use axum::http::{HeaderValue, Request, header};
use caisson_coordinator::{
    http::{self, Front, Names, Peer},
    settings::{BuildDefaults, Settings},
};
use caisson_protocol::BuildSpec;

static DEFAULTS: LazyLock<BuildDefaults> = LazyLock::new(|| {
    let url = Some("https://example.org/team/app.git".into());
    Settings { repository_url: url, ..Settings::default() }.check().expect("defaults can be used").defaults
});

/// A submission that is taken comes to a runner, and back out of the store, as what it is.
pub(crate) fn submission(bytes: &[u8]) {
    let Ok(spec) = http::read_submission(bytes, &DEFAULTS) else { return };
    survives(&spec);
}

pub(crate) fn edits(bytes: &[u8]) {
    let given = br#"{"commit": "main", "command": "make", "env": {"A": "1", "B": "2"}, "labels": ["gpu"],
        "limits": {"cpus": 0.3, "memory_bytes": 67108864}, "network": "none"}"#;
    let spec = http::read_submission(given, &DEFAULTS).expect("this is a submission");
    if let Ok(edited) = http::read_edits(&spec, bytes, &DEFAULTS) {
        survives(&edited);
        let unchanged = http::read_edits(&edited, b"{}", &DEFAULTS);
        assert_eq!(unchanged.as_ref().ok(), Some(&edited), "what is not edited stays");
    }
}

fn survives(spec: &BuildSpec) {
    let written = serde_json::to_vec(spec).expect("a build can be written");
    let read: BuildSpec = serde_json::from_slice(&written).expect("what was taken can be read again");
    assert_eq!(read, *spec);
    assert!(!spec.repository_url.is_file(), "nobody allowed files");
    assert!(written.len() < 1024 * 1024, "it fits the channel: {} bytes", written.len());
}

/// Two lines: `X-Forwarded-For`, and `Host`.
pub(crate) fn head(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let mut header = || HeaderValue::from_bytes(lines.next().unwrap_or_default()).ok();
    let (Some(forwarded), Some(host)) = (header(), header()) else { return };
    let near = IpAddr::from([10, 0, 0, 1]);
    let request = Request::builder()
        .header("x-forwarded-for", &forwarded)
        .header(header::HOST, &host)
        .extension(Peer(near))
        .body(())
        .expect("these are headers");
    assert_eq!(Front::open().caller(&request), near, "without a proxy nobody is believed");
    let behind_proxy = Front { behind_proxy: true, ..Front::open() };
    let caller = behind_proxy.caller(&request);
    assert!(caller == near || String::from_utf8_lossy(forwarded.as_bytes()).contains([':', '.']));

    let ours = Names::Local { public: None }.take(request.headers(), request.uri());
    if ours {
        let name = String::from_utf8_lossy(host.as_bytes()).to_ascii_lowercase();
        let local = ["localhost", "127.", "["].iter().any(|beginning| name.starts_with(beginning));
        assert!(local, "{name}");
        assert!(Names::Reachable { public: None }.take(request.headers(), request.uri()), "{name}");
    }
}
