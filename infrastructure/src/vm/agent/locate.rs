//! Where the agent's program is.

use std::path::PathBuf;

use crate::vm::VmError;

const NAME: &str = "auralink-guest";

/// The static agent: what `AURALINK_GUEST` names, or beside this program, or in the cache folder where `scripts/setup.sh` puts it.
///
/// # Errors
/// [`VmError::Unavailable`] with all the places that were looked at.
pub fn guest_binary(engine: &'static str) -> Result<PathBuf, VmError> {
    let places = places();
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        let reason = format!("the guest agent is in none of {}: run `make setup`, or name it by AURALINK_GUEST", places.join(", "));
        VmError::Unavailable { engine, reason }
    })
}

fn places() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("AURALINK_GUEST").filter(|path| !path.is_empty()) {
        return vec![path.into()];
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(NAME)));
    let cache = std::env::var_os("AURALINK_CACHE").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cache/auralink"))
    });
    beside.into_iter().chain(cache.map(|cache| cache.join("guest").join(NAME))).collect()
}
