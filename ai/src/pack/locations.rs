//! Where parts that are not in the binary are looked for: the ONNX Runtime library, Silero's voice detector, a sentence model.
//!
//! Rule: a path that was named is used or is an error; a place that is merely usual may be empty, and then a sentence says
//! what is used instead.

use std::env;
use std::path::{Path, PathBuf};

use super::PackError;
use super::files::{self, MAX_FILE_BYTES};
use crate::runtime::ModelFile;

/// The file names of ONNX Runtime, the one that `make setup` installs first.
const LIBRARY_NAMES: [&str; 2] = ["libonnxruntime.so.1.31.1", "libonnxruntime.so"];
const SILERO_FILE: &str = "silero_vad.onnx";

/// The project's cache folders: `AURALINK_CACHE`, else `.cache/auralink` in the home folder.
fn cache_folders() -> Vec<PathBuf> {
    let named = env::var_os("AURALINK_CACHE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = env::var_os("HOME").filter(|value| !value.is_empty()).map(|home| Path::new(&home).join(".cache/auralink"));
    named.into_iter().chain(home).collect()
}

/// Files that may be the ONNX Runtime library, in the order to try: the configured one alone where there is one; else the
/// environment (`AURALINK_ONNXRUNTIME`, `ORT_DYLIB_PATH`), the cache folder, and the system's library folders.
pub fn onnxruntime_candidates(configured: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = configured {
        return vec![inside(path, LIBRARY_NAMES[0])];
    }
    let mut candidates: Vec<PathBuf> = ["AURALINK_ONNXRUNTIME", "ORT_DYLIB_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .collect();
    let folders = cache_folders().into_iter().map(|cache| cache.join("onnxruntime"));
    let system = ["/usr/local/lib", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"].map(PathBuf::from);
    for folder in folders.chain(system) {
        candidates.extend(LIBRARY_NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()));
    }
    if candidates.is_empty() {
        // For the error: the place that `make setup` fills.
        candidates.extend(cache_folders().into_iter().take(1).map(|cache| cache.join("onnxruntime").join(LIBRARY_NAMES[0])));
    }
    candidates
}

/// The folder of the sentence model that `make setup` installs, if it is in the cache folder.
pub fn embedding_pack() -> Option<PathBuf> {
    let folders = cache_folders().into_iter().map(|cache| cache.join("packs/all-minilm-l6-v2"));
    folders.into_iter().find(|folder| folder.join("model.onnx").is_file())
}

/// A folder stands for the file in it.
fn inside(path: &Path, name: &str) -> PathBuf {
    if path.is_dir() { path.join(name) } else { path.to_owned() }
}

/// Reads Silero's network from the folder or file named, or from the cache folder. Without a name and without a file:
/// `None`, and a sentence about what is used instead.
///
/// # Errors
/// [`PackError`] when a place was named and holds no readable network.
pub fn open_silero(configured: Option<&Path>) -> Result<(Option<ModelFile>, Option<String>), PackError> {
    if let Some(path) = configured {
        return files::read(&inside(path, SILERO_FILE), MAX_FILE_BYTES).map(|onnx| (Some(ModelFile::new(onnx)), None));
    }
    let places: Vec<PathBuf> = cache_folders().into_iter().map(|cache| cache.join("packs/silero-vad").join(SILERO_FILE)).collect();
    if let Some(path) = places.iter().find(|path| path.is_file()) {
        return files::read(path, MAX_FILE_BYTES).map(|onnx| (Some(ModelFile::new(onnx)), None));
    }
    let looked = places.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    Ok((
        None,
        Some(format!(
            "Silero VAD was not found (looked for {looked}): using the built-in voice detector. Run `make setup`, or name its folder in ai.vad"
        )),
    ))
}
