//! Packs of transducers in sherpa-onnx's layout: `encoder*.onnx`, `decoder*.onnx`, `joiner*.onnx` and `tokens.txt`. Of several precisions
//! the full one is taken, else `int8`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::PackError;
use super::files::{MAX_FILE_BYTES, read};
use crate::features::kaldi::KaldiBank;
use crate::runtime::ModelFile;
use crate::transducer::{EncoderSpec, Symbols};

/// The largest list of tokens, bytes.
const MAX_TOKENS_BYTES: u64 = 16 << 20;
/// Files of a folder that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// An opened transducer.
pub struct TransducerPack {
    pub(crate) name: String,
    pub(crate) languages: Vec<String>,
    pub(crate) encoder: ModelFile,
    pub(crate) decoder: ModelFile,
    pub(crate) joiner: ModelFile,
    pub(crate) symbols: Arc<Symbols>,
    pub(crate) bank: Arc<KaldiBank>,
    /// Of a streaming encoder; without it the encoder reads whole utterances.
    pub(crate) streaming: Option<EncoderSpec>,
}

/// Whether a folder looks like a transducer's.
pub(super) fn is_one(folder: &Path) -> bool {
    folder.join("tokens.txt").is_file() && network(folder, "joiner").is_some()
}

impl TransducerPack {
    /// Opens a folder.
    ///
    /// # Errors
    /// [`PackError`], with the file at fault.
    pub fn open(folder: &Path) -> Result<Self, PackError> {
        let missing: Vec<&str> = ["encoder", "decoder", "joiner"].into_iter().filter(|part| network(folder, part).is_none()).collect();
        if !missing.is_empty() {
            let names = missing.iter().map(|part| format!("{part}*.onnx")).collect::<Vec<_>>().join(", ");
            return Err(PackError::Missing {
                path: folder.join(names).display().to_string(),
                reason: "a transducer has all three".to_owned(),
            });
        }
        let tokens = folder.join("tokens.txt");
        let text =
            String::from_utf8(read(&tokens, MAX_TOKENS_BYTES)?).map_err(|error| invalid(&tokens, format!("it is not UTF-8: {error}")))?;
        let symbols = Symbols::read(&text).map_err(|reason| invalid(&tokens, reason))?;
        let load = |part: &str| match network(folder, part) {
            Some(path) => Ok((ModelFile::new(read(&path, MAX_FILE_BYTES)?).with_folder(folder), path)),
            None => Err(invalid(folder, format!("its {part} is gone"))),
        };
        let (encoder, path) = load("encoder")?;
        let streaming = EncoderSpec::read(&encoder).map_err(|reason| invalid(&path, reason))?;
        let bank = KaldiBank::new(streaming.map_or(80, |spec| spec.n_mels)).map_err(|reason| invalid(&path, reason))?;
        let name = folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
        Ok(Self {
            languages: languages(&name),
            name,
            encoder,
            decoder: load("decoder")?.0,
            joiner: load("joiner")?.0,
            symbols: Arc::new(symbols),
            bank: Arc::new(bank),
            streaming,
        })
    }
}

/// The language that stands in the name of a folder, as sherpa-onnx's packs are named (`...-zipformer-en-2023-06-26`).
fn languages(name: &str) -> Vec<String> {
    const KNOWN: [&str; 16] = ["en", "de", "fr", "es", "it", "ru", "zh", "ja", "ko", "vi", "th", "pt", "nl", "pl", "uk", "ar"];
    name.split(['-', '_']).filter(|part| KNOWN.contains(part)).map(str::to_owned).collect()
}

fn invalid(path: &Path, reason: impl Into<String>) -> PackError {
    PackError::Invalid { what: path.display().to_string(), reason: reason.into() }
}

/// The file of a part, the full precision first.
fn network(folder: &Path, part: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.take(MAX_ENTRIES).filter_map(Result::ok);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with(part) && name.ends_with(".onnx"));
    names.sort_by_key(|name| (name.contains("int8"), name.contains("fp16"), name.clone()));
    names.first().map(|name| folder.join(name))
}
