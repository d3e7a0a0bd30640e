//! Makes the dashboard a part of the program: a table of all files that `scripts/web` put into `web/dist`, with their
//! compressed forms beside them. Where nothing was built, a page that says so takes its place.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

const NONE_BUILT: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Caisson</title>\n\
    <h1>Caisson</h1>\n<p>This program was built without its dashboard: run <code>scripts/web</code> (it needs \
    Node.js) and build it again. The API works as ever: see <a href=\"/api/v1/openapi.json\">what it offers</a>.\n";

fn main() -> io::Result<()> {
    // Asked while it runs: checkouts that share a target folder share this program too.
    let home =
        env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| io::Error::other("CARGO_MANIFEST_DIR is not set"))?;
    let dist = Path::new(&home).join("../web/dist");
    // The folder is always there, with or without a dashboard in it, so that cargo sees when one comes.
    println!("cargo::rerun-if-changed={}", dist.display());
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?);
    let mut files = Vec::new();
    find(&dist.join("site"), &mut files)?;
    if files.is_empty() {
        let page = out.join("index.html");
        fs::write(&page, NONE_BUILT)?;
        return fs::write(out.join("assets.rs"), table(&out, &[page])?);
    }
    files.sort();
    fs::write(out.join("assets.rs"), table(&dist.join("site"), &files)?)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if ending(&path) != "br" && ending(&path) != "gz" {
            files.push(path);
        }
    }
    Ok(())
}

/// The table as Rust.
fn table(root: &Path, files: &[PathBuf]) -> io::Result<String> {
    let mut rust = String::from("static ASSETS: &[Asset] = &[\n");
    for file in files {
        let path = file.strip_prefix(root).map_err(io::Error::other)?;
        let mut hasher = DefaultHasher::new();
        fs::read(file)?.hash(&mut hasher);
        let plain = format!("include_bytes!({file:?})");
        let compressed = |ending: &str| {
            let mut name = file.clone().into_os_string();
            name.push(ending);
            if Path::new(&name).exists() { format!("Some(include_bytes!({name:?}))") } else { "None".into() }
        };
        let (brotli, gzip) = (compressed(".br"), compressed(".gz"));
        writeln!(
            rust,
            "    Asset {{ path: {:?}, kind: {:?}, etag: \"{:016x}\", plain: {plain}, brotli: {brotli}, gzip: {gzip} }},",
            path.display().to_string(),
            kind(file),
            hasher.finish(),
        )
        .map_err(io::Error::other)?;
    }
    rust.push_str("];\n");
    Ok(rust)
}

fn kind(file: &Path) -> &'static str {
    match ending(file) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "woff2" => "font/woff2",
        "json" => "application/json",
        _ => "application/octet-stream",
    }
}

fn ending(path: &Path) -> &str {
    path.extension().and_then(OsStr::to_str).unwrap_or_default()
}
