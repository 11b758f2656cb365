//! The agent: runs programs, moves files and connects to ports in a sandbox, for the server that made the sandbox.

mod agent;
mod kept;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    // Other things that this one static program does begin with a word of their own instead of an option.
    let result = match words.first().map(String::as_str) {
        Some("launch") => launch(words.get(1)),
        Some("container") => return kept::run(&words[1..]),
        _ => agent::options::Options::parse(words.into_iter()).and_then(agent::run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("auralink-guest: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// `launch JSON` or `launch FILE`: comes back only when it failed.
fn launch(what: Option<&String>) -> Result<(), String> {
    let what = what.ok_or("launch what? JSON, or a file with it")?;
    let text = if what.starts_with('{') { what.clone() } else { std::fs::read_to_string(what).map_err(|e| format!("{what}: {e}"))? };
    let launch: auralink_guest::launch::Launch = serde_json::from_str(&text).map_err(|e| format!("what to launch: {e}"))?;
    Err(launch.run())
}
