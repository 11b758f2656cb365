//! Finds the built page (`AURALINK_WEB_DIST`, else the cache folder). Without one, a page that says how to build it is embedded,
//! so that `cargo check` needs no Node.js.

use std::path::PathBuf;

const MISSING: &str = "<!doctype html><meta charset=utf-8><title>AuraLink</title><h1>The page was not built</h1>\
<p>This binary was compiled without it. Run <code>make build</code>, which builds the page first. The LiveKit API works.</p>";

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-env-changed=AURALINK_WEB_DIST");
    println!("cargo:rerun-if-env-changed=AURALINK_CACHE");
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = var("AURALINK_CACHE").or_else(|| var("HOME").map(|home| home.join(".cache/auralink")));
    let dist = var("AURALINK_WEB_DIST").or_else(|| cache.map(|c| c.join("web-dist")));
    let dist = match dist.filter(|d| d.join("index.html").is_file()) {
        Some(dist) => dist,
        None => {
            let dist = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("web-dist");
            std::fs::create_dir_all(&dist)?;
            std::fs::write(dist.join("index.html"), MISSING)?;
            dist
        }
    };
    println!("cargo:rerun-if-changed={}", dist.display());
    println!("cargo:rustc-env=AURALINK_WEB_DIST={}", dist.display());
    // Line tables are for the rare panic: packed, they cost 60 MB of the binary and not 300.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release")
        && std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux")
    {
        println!("cargo:rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib");
    }
    Ok(())
}
