//! Packs in sherpa-onnx's layout: `tokens.txt`, and of a transducer `encoder*.onnx`, `decoder*.onnx` and `joiner*.onnx`, of a Zipformer with
//! CTC `model*.onnx` (or `ctc*.onnx`). Of several precisions the full one is taken, else `int8`.

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

/// What names tokens in such a pack.
pub(crate) enum Naming {
    /// A decoder of the last tokens, and a joiner.
    Transducer { decoder: ModelFile, joiner: ModelFile },
    /// The encoder itself.
    Ctc,
}

/// An opened pack of sherpa-onnx's.
pub struct SherpaPack {
    pub(crate) name: String,
    pub(crate) languages: Vec<String>,
    pub(crate) encoder: ModelFile,
    pub(crate) naming: Naming,
    pub(crate) symbols: Arc<Symbols>,
    pub(crate) bank: Arc<KaldiBank>,
    /// Of a streaming encoder; without it the encoder reads whole utterances.
    pub(crate) streaming: Option<EncoderSpec>,
}

/// Whether a folder looks like one.
pub(super) fn is_one(folder: &Path) -> bool {
    folder.join("tokens.txt").is_file() && !folder.join("manifest.json").is_file()
}

impl SherpaPack {
    /// Opens a folder.
    ///
    /// # Errors
    /// [`PackError`], with the file at fault.
    pub fn open(folder: &Path) -> Result<Self, PackError> {
        let load = |path: PathBuf| Ok::<_, PackError>((ModelFile::new(read(&path, MAX_FILE_BYTES)?).with_folder(folder), path));
        let parts = ["encoder", "decoder", "joiner"].map(|part| network(folder, part));
        let (naming, (encoder, path)) = match (parts, network(folder, "model").or_else(|| network(folder, "ctc"))) {
            ([Some(encoder), Some(decoder), Some(joiner)], _) => {
                (Naming::Transducer { decoder: load(decoder)?.0, joiner: load(joiner)?.0 }, load(encoder)?)
            }
            ([None, None, None], Some(model)) => (Naming::Ctc, load(model)?),
            ([None, None, None], None) => {
                let path = folder.join("*.onnx").display().to_string();
                let reason =
                    "beside tokens.txt a transducer has encoder*.onnx, decoder*.onnx and joiner*.onnx, a CTC model model*.onnx".to_owned();
                return Err(PackError::Missing { path, reason });
            }
            (parts, _) => {
                let names = ["encoder*.onnx", "decoder*.onnx", "joiner*.onnx"];
                let missing: Vec<&str> = names.into_iter().zip(parts).filter(|(_, path)| path.is_none()).map(|(name, _)| name).collect();
                let path = folder.join(missing.join(", ")).display().to_string();
                return Err(PackError::Missing { path, reason: "a transducer has encoder, decoder and joiner".to_owned() });
            }
        };
        let tokens = folder.join("tokens.txt");
        let text =
            String::from_utf8(read(&tokens, MAX_TOKENS_BYTES)?).map_err(|error| invalid(&tokens, format!("it is not UTF-8: {error}")))?;
        let symbols = Symbols::read(&text).map_err(|reason| invalid(&tokens, reason))?;
        let kind = encoder.metadata().get("model_type").cloned().unwrap_or_default();
        if matches!(naming, Naming::Ctc) && !kind.contains("zipformer") {
            let reason = format!("its `model_type` is `{kind}`: of CTC models Zipformer's are read (zipformer2, zipformer2_ctc)");
            return Err(invalid(&path, reason));
        }
        let streaming = EncoderSpec::read(&encoder).map_err(|reason| invalid(&path, reason))?;
        let bank = KaldiBank::new(streaming.map_or(80, |spec| spec.n_mels)).map_err(|reason| invalid(&path, reason))?;
        let name = folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
        Ok(Self { languages: languages(&name), name, encoder, naming, symbols: Arc::new(symbols), bank: Arc::new(bank), streaming })
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
