//! Model packs: a folder with a manifest is opened, checked, and turned into what the other modules work with.
//!
//! Place: the one module that reads files (besides `audio::file`, which reads from what it is given). Rules: everything is
//! checked here, by hash and by shape, so that nothing can fail for its data later; every error names the file, says what is
//! wrong and what to do; reads are bounded.

mod embedding;
mod files;
mod locations;
mod manifest;
mod moonshine;
mod seq2seq;
mod sherpa;
mod translation;
mod whisper;

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::decoder::DecoderSpec;
use crate::features::FilterBank;
use crate::recogniser::{MoonshineSpeech, NetworkSpec, SpeechPack, WhisperSpeech};
use crate::runtime::ModelFile;
pub use embedding::EmbeddingPack;
use files::PackFiles;
pub use locations::{embedding_pack, onnxruntime_candidates, open_silero};
use manifest::Manifest;
pub use moonshine::MoonshinePack;
pub use seq2seq::Seq2SeqFiles;
pub(crate) use sherpa::Naming;
pub use sherpa::SherpaPack;
pub use translation::{TranslationDefaults, TranslationPack};
pub use whisper::WhisperPack;

/// The largest manifest, bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Which pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PackSource {
    /// The one inside the binary: the English demonstrator.
    #[default]
    BuiltIn,
    /// A folder with a manifest.
    Folder(PathBuf),
}

/// Why a pack cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file is not there.
    #[error(
        "the model pack is not complete: {path} cannot be read ({reason}). Copy the whole pack again, or name another folder (ai.pack for speech, embeddings.pack for sentences)"
    )]
    Missing {
        /// The file.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// A file is damaged or was changed.
    #[error("{path} is damaged or was changed: its SHA-256 is {found}, the manifest says {expected}. Copy the whole pack again")]
    Hash {
        /// The file.
        path: String,
        /// The hash that it should have.
        expected: String,
        /// The hash that it has.
        found: String,
    },
    /// A value or a file that cannot be used.
    #[error("{what} cannot be used: {reason}")]
    Invalid {
        /// The file.
        what: String,
        /// The reason.
        reason: String,
    },
}

/// An opened pack: everything that does not change while it is used.
pub struct Pack {
    name: String,
    languages: Vec<String>,
    model: ModelFile,
    filter_bank: Arc<FilterBank>,
    network: NetworkSpec,
    decoder: Arc<DecoderSpec>,
}

impl Pack {
    /// Opens and checks a pack.
    ///
    /// # Errors
    /// [`PackError`], with the file at fault.
    pub fn open(source: &PackSource) -> Result<Self, PackError> {
        let files = match source {
            PackSource::BuiltIn => PackFiles::BuiltIn,
            PackSource::Folder(folder) => PackFiles::Folder(folder.clone()),
        };
        let text = files.read("manifest.json", MAX_MANIFEST_BYTES)?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| PackError::Invalid { what: format!("{}/manifest.json", files.place()), reason: error.to_string() })?;
        manifest.open(&files)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The languages that it recognises, BCP 47 tags.
    pub fn languages(&self) -> &[String] {
        &self.languages
    }

    /// The network's ONNX file.
    pub fn model(&self) -> &ModelFile {
        &self.model
    }

    /// The features.
    pub fn filter_bank(&self) -> &Arc<FilterBank> {
        &self.filter_bank
    }

    /// The network's shapes.
    pub fn network(&self) -> &NetworkSpec {
        &self.network
    }

    /// The decoder's data.
    pub fn decoder(&self) -> &Arc<DecoderSpec> {
        &self.decoder
    }
}

/// Opens a pack of speech recognition, whatever its layout.
///
/// # Errors
/// [`PackError`], with the file at fault.
pub fn open_speech(source: &PackSource) -> Result<Arc<dyn SpeechPack>, PackError> {
    match source {
        PackSource::Folder(folder) if sherpa::is_one(folder) => Ok(Arc::new(SherpaPack::open(folder)?)),
        // Our own packs have a manifest; Optimum's exports have none.
        PackSource::Folder(folder) if folder.join("config.json").is_file() && !folder.join("manifest.json").is_file() => {
            match seq2seq::model_type(folder)?.as_str() {
                "moonshine" => Ok(Arc::new(MoonshineSpeech::new(MoonshinePack::open(folder)?))),
                "whisper" => Ok(Arc::new(WhisperSpeech::new(WhisperPack::open(folder)?))),
                other => Err(PackError::Invalid {
                    what: folder.join("config.json").display().to_string(),
                    reason: format!(
                        "its model_type is `{other}`: of Optimum's exports whisper and moonshine hear speech; marian and m2m_100 translate (ai.translation)"
                    ),
                }),
            }
        }
        PackSource::Folder(folder) if folder.is_dir() && !folder.join("manifest.json").is_file() => Err(PackError::Invalid {
            what: folder.display().to_string(),
            reason: "its layout is none that is known. Known are: our own (manifest.json), sherpa-onnx's Zipformers (tokens.txt beside encoder*.onnx, \
                     decoder*.onnx and joiner*.onnx, or model*.onnx), and Whisper and Moonshine as Optimum exports them (config.json, tokenizer.json, \
                     encoder_model.onnx, decoder_model_merged.onnx)"
                .to_owned(),
        }),
        source => Ok(Arc::new(Pack::open(source)?)),
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
