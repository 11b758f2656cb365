//! An ONNX file on its way into an engine: its bytes, and the folder where the rest of it may lie.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::framing;

/// The bytes of an ONNX file. `ai::pack` reads them; large exports keep their weights in files beside it. Clones share the bytes.
#[derive(Clone)]
pub struct ModelFile {
    bytes: Arc<Cow<'static, [u8]>>,
    folder: Option<PathBuf>,
}

impl ModelFile {
    /// Of bytes that are the whole model.
    pub fn new(bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { bytes: Arc::new(bytes.into()), folder: None }
    }

    /// Of bytes whose external data, if any, lies in `folder`.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where its external data lies.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Its `metadata_props` (sherpa-onnx keeps a model's dimensions there); empty when the bytes are no ONNX file.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        framing::metadata(&self.bytes).unwrap_or_default()
    }
}

impl fmt::Debug for ModelFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelFile").field("bytes", &self.bytes.len()).field("folder", &self.folder).finish()
    }
}
