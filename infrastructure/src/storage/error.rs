//! What can go wrong with a store, in words that name the store's file and say what to do. Never holds a credential.

use super::path::PathError;

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No store has this name.
    #[error("there is no store `{name}`: {known}")]
    NoStore {
        /// As asked.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The text is no path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// There is nothing at the path.
    #[error("there is no {path:?} in the store")]
    NotFound {
        /// Which.
        path: String,
    },
    /// It is a folder, a link or the like.
    #[error("{path:?} is not a file: {reason}")]
    NotAFile {
        /// Which.
        path: String,
        /// What it is.
        reason: &'static str,
    },
    /// It is a file.
    #[error("{path:?} is not a folder")]
    NotAFolder {
        /// Which.
        path: String,
    },
    /// Nothing is written there.
    #[error("the store `{store}` is shared for reading (`shared: true`): nothing can be written or deleted in it")]
    ReadOnly {
        /// Which store.
        store: String,
    },
    /// More bytes than are taken.
    #[error("{path:?} is larger than {limit} bytes, which is the limit of its store (`max_file_bytes`)")]
    TooLarge {
        /// Which.
        path: String,
        /// Bytes.
        limit: u64,
    },
    /// The content is not what its checksum says.
    #[error(
        "{path:?} does not hash to what was promised ({kind} {expected}) but to {actual}: it was damaged on its way. Send or fetch it again"
    )]
    Checksum {
        /// Which.
        path: String,
        /// By which function.
        kind: &'static str,
        /// Promised.
        expected: String,
        /// Found.
        actual: String,
    },
    /// Another version is there than was asked for.
    #[error("{path:?} was changed while it was read: begin again")]
    Changed {
        /// Which.
        path: String,
    },
    /// The stretch lies outside the file.
    #[error("{path:?} has {size} bytes: it cannot be read from {from}")]
    Range {
        /// Which.
        path: String,
        /// First byte asked for.
        from: u64,
        /// Bytes that there are.
        size: u64,
    },
    /// The page's mark is not one that this store gave.
    #[error("the page mark is none that the store gave, or it is too old: begin with the first page")]
    PageMark,
    /// A word of the caller is not usable.
    #[error("{0}")]
    Argument(String),
    /// The engine refuses these credentials or this access.
    #[error("the store `{store}` refuses access: {reason}")]
    Denied {
        /// Which store.
        store: String,
        /// In the engine's words, and what to do.
        reason: String,
    },
    /// A person must give access again.
    #[error("the store `{store}` is not connected: {reason}. Run `auralink files connect {store}`")]
    Connect {
        /// Which store.
        store: String,
        /// Why.
        reason: String,
    },
    /// No room.
    #[error("the store `{store}` is full: {reason}")]
    Full {
        /// Which store.
        store: String,
        /// In the engine's words.
        reason: String,
    },
    /// The engine asks to wait, again and again.
    #[error("the store `{store}` takes no more requests now: try again in {seconds} s")]
    Busy {
        /// Which store.
        store: String,
        /// How long it asks for.
        seconds: u64,
    },
    /// The engine is away, slow or broken.
    #[error("the store `{store}` cannot be reached: {reason}")]
    Unavailable {
        /// Which store.
        store: String,
        /// Why.
        reason: String,
    },
    /// Content stopped in the middle.
    #[error("{path:?} stopped in the middle: {reason}")]
    Interrupted {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// The file system of this machine.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The configuration of a store.
    #[error("the store `{store}` cannot be used as it is configured: {reason}")]
    Config {
        /// Which store.
        store: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl StorageError {
    /// Whether the same again may go better.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::Unavailable { .. } | Self::Busy { .. })
    }

    /// The word for machines, the same on every face.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoStore { .. } | Self::NotFound { .. } => "not_found",
            Self::Path(_) | Self::Range { .. } | Self::PageMark | Self::Argument(_) => "invalid_argument",
            Self::NotAFile { .. } | Self::NotAFolder { .. } | Self::Connect { .. } | Self::Config { .. } => "failed_precondition",
            Self::ReadOnly { .. } | Self::Denied { .. } => "permission_denied",
            Self::TooLarge { .. } | Self::Full { .. } | Self::Busy { .. } => "resource_exhausted",
            Self::Checksum { .. } => "data_loss",
            Self::Changed { .. } => "aborted",
            Self::Unavailable { .. } | Self::Interrupted { .. } => "unavailable",
            Self::Io { .. } => "internal",
        }
    }

    /// What the local file system said, told as the store's own.
    pub(super) fn io(store: &str, what: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let what = what.into();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Self::Full {
                store: store.to_owned(),
                reason: format!("{what}: {source}. Nothing was kept of the file; make room and send it again"),
            },
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::Denied { store: store.to_owned(), reason: format!("{what}: {source}. The server's user needs the right to it") }
            }
            _ => Self::Io { what, source },
        }
    }
}
