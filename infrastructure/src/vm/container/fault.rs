//! The client's errors in this crate's words: what happened, with which sandbox, and what to do.

use bollard::errors::Error;

use super::{ContainerEngine, SandboxId, VmError};

/// The daemon's HTTP status, when it answered at all.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

impl ContainerEngine {
    /// An error of a call about one sandbox.
    pub(super) fn fault_of(&self, id: &SandboxId, error: Error, what: &str) -> VmError {
        match status(&error) {
            Some(404) => VmError::NotFound(format!("{} has no sandbox {id}", self.engine_name())),
            _ => self.fault(error, what),
        }
    }

    /// An error of any call.
    pub(super) fn fault(&self, error: Error, what: &str) -> VmError {
        match error {
            Error::DockerResponseServerError { status_code, message } => self.answered(status_code, message.trim(), what),
            Error::SocketNotFoundError(_) => self.unreachable("there is no such socket"),
            Error::RequestTimeoutError => VmError::Late { what: format!("{}: {what}", self.engine_name()), after: super::CALL },
            Error::IOError { err } => self.broken(&err, what),
            error => match io_of(&error) {
                Some(io) => self.broken(io, what),
                None => self.failed(format!("{what}: {}", chain(&error))),
            },
        }
    }

    fn answered(&self, status: u16, message: &str, what: &str) -> VmError {
        let lower = message.to_lowercase();
        let message: String = message.chars().take(1_000).collect();
        if lower.contains("is paused") || lower.contains("container is paused") {
            return VmError::Condition { is: "paused", what: format!("{what} needs it to run: resume it first") };
        }
        if lower.contains("is not running") || lower.contains("container state improper") || lower.contains("running containers") {
            return VmError::Condition { is: "stopped", what: format!("{what} needs it to run: start it first") };
        }
        if lower.contains("no space left") || lower.contains("disk quota exceeded") {
            return VmError::Exhausted(format!("{what}: no space is left: {message}"));
        }
        // So Podman says that the image that it just looked up is gone.
        if lower.contains("parsing named reference") && lower.contains("64-byte hexadecimal") {
            return VmError::NotFound(message);
        }
        match status {
            400 => VmError::Invalid(format!("{what}: {message}")),
            403 => VmError::Invalid(format!("{what} is forbidden: {message}")),
            404 => VmError::NotFound(message),
            409 if lower.contains("already in use") || lower.contains("already exists") => VmError::Exists(message),
            _ => self.failed(format!("{what}: {message}")),
        }
    }

    /// A connection that could not be made, or was lost.
    pub(super) fn broken(&self, error: &std::io::Error, what: &str) -> VmError {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::NotFound | Kind::ConnectionRefused => self.unreachable(&error.to_string()),
            Kind::PermissionDenied => self.unreachable("this user may not open it: run as root, or join the group that may"),
            _ => self.lost(&format!("{what}: {error}")),
        }
    }

    /// The daemon went away in the middle of something.
    pub(super) fn lost(&self, what: &str) -> VmError {
        self.failed(format!(
            "the connection to it was lost ({what}); if it was restarted, try again: the sandbox is found again by its name"
        ))
    }

    pub(super) fn unreachable(&self, why: &str) -> VmError {
        let settings = &self.0.settings;
        VmError::Unavailable {
            engine: self.engine_name(),
            reason: format!("nothing answers on {}: {why}; {}", settings.socket.display(), settings.flavour.how_to_start()),
        }
    }
}

fn io_of<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e std::io::Error> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        at = error.source();
    }
    None
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        text.push_str(": ");
        text.push_str(&source.to_string());
        at = source.source();
    }
    text
}
