//! HTTPS: certificate files that are reread when they change, or a self-signed certificate made at the first start and kept, so
//! that a browser asks only once, until this machine has other addresses or the certificate ends.

use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::config::TlsConfig;
use crate::reload;

/// How long a self-signed certificate is valid: the most that Apple's clients take.
const VALID: Duration = Duration::from_secs(825 * 86_400);

/// How long before its end a start makes a new one.
const RENEW: Duration = Duration::from_secs(60 * 86_400);

/// Why HTTPS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate or key file.
    #[error("the certificate {cert} with key {key} cannot be used: {source}; both must be PEM and belong together")]
    Load {
        /// Chain.
        cert: PathBuf,
        /// Key.
        key: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Making the self-signed one.
    #[error("a self-signed certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    /// Writing it.
    #[error("{path}: {source}; the data folder must be writable (choose another with --data-dir)")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The certificate files in use.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// PEM chain.
    pub cert: PathBuf,
    /// PEM key.
    pub key: PathBuf,
}

/// Where a self-signed certificate is kept.
pub fn self_signed_path(data_dir: &Path) -> CertificateFiles {
    CertificateFiles { cert: data_dir.join("tls/certificate.pem"), key: data_dir.join("tls/key.pem") }
}

/// The files to serve with, made now if the configuration asks for a self-signed one; `None` without TLS.
pub fn certificate(config: &TlsConfig, data_dir: &Path, addresses: &[IpAddr]) -> Result<Option<CertificateFiles>, TlsError> {
    if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
        return Ok(Some(CertificateFiles { cert: cert.clone(), key: key.clone() }));
    }
    if !config.self_signed {
        return Ok(None);
    }
    let files = self_signed_path(data_dir);
    let mut names = vec!["localhost".to_owned()];
    names.extend(addresses.iter().map(ToString::to_string));
    if !files.key.is_file() || !serves(&files.cert, &names) {
        make_self_signed(&files, names)?;
    }
    Ok(Some(files))
}

/// Is the certificate there, for all these names, and not about to end?
fn serves(cert: &Path, names: &[String]) -> bool {
    let made = std::fs::metadata(cert).and_then(|metadata| metadata.modified());
    // A clock that went back makes no certificate old.
    let old = made.is_ok_and(|made| made.elapsed().unwrap_or_default() > VALID - RENEW);
    let Ok(der) = CertificateDer::from_pem_file(cert) else { return false };
    let Ok(parsed) = webpki::EndEntityCert::try_from(&der) else { return false };
    let covers =
        |name: &String| ServerName::try_from(name.as_str()).is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok());
    !old && names.iter().all(covers)
}

fn make_self_signed(files: &CertificateFiles, names: Vec<String>) -> Result<(), TlsError> {
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "AuraLink, self-signed");
    let now = time::OffsetDateTime::now_utc();
    // A day earlier, for clients whose clock is behind.
    (params.not_before, params.not_after) = (now - time::Duration::DAY, now + VALID);
    let key = rcgen::KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    write(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
    write(&files.cert, cert.pem().as_bytes(), 0o644)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), TlsError> {
    use std::io::Write;
    let io = |source| TlsError::Write { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).map_err(io)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io)
}

/// Loads the files, and keeps looking whether they changed.
pub async fn load(files: &CertificateFiles) -> Result<RustlsConfig, TlsError> {
    let config = RustlsConfig::from_pem_file(&files.cert, &files.key).await.map_err(|source| TlsError::Load {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    })?;
    tokio::spawn(reload_when_changed(config.clone(), files.clone()));
    Ok(config)
}

async fn reload_when_changed(config: RustlsConfig, files: CertificateFiles) {
    let mut changes = reload::Changes::of(vec![files.cert.clone(), files.key.clone()]);
    loop {
        changes.next().await;
        match config.reload_from_pem_file(&files.cert, &files.key).await {
            Ok(()) => tracing::info!(certificate = %files.cert.display(), "the certificate was reread"),
            Err(source) => {
                let error = TlsError::Load { cert: files.cert.clone(), key: files.key.clone(), source };
                metrics::counter!("auralink_reload_failures_total", "file" => "certificate").increment(1);
                tracing::error!(%error, "the changed certificate cannot be used and the old one stays: mend it, it is read again when it changes");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn self_signed_is_made_once_and_loads() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let config = TlsConfig { self_signed: true, ..TlsConfig::default() };
        let files = certificate(&config, dir.path(), &["127.0.0.1".parse().unwrap()]).unwrap().unwrap();
        let first = std::fs::read(&files.cert).unwrap();
        certificate(&config, dir.path(), &[]).unwrap();
        assert_eq!(first, std::fs::read(&files.cert).unwrap(), "a start with fewer names keeps it: browsers have been told to trust it");
        load(&files).await.unwrap();
        let network: IpAddr = "192.0.2.7".parse().unwrap();
        certificate(&config, dir.path(), &[network]).unwrap();
        assert_ne!(first, std::fs::read(&files.cert).unwrap(), "one without the address that people open is made anew");
        load(&files).await.unwrap();
        let old = std::time::SystemTime::now() - VALID;
        std::fs::File::options().write(true).open(&files.cert).unwrap().set_modified(old).unwrap();
        assert!(!serves(&files.cert, &[network.to_string()]), "one that ends is made anew");
    }

    #[tokio::test]
    async fn files_that_are_no_certificate_are_named() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles { cert: dir.path().join("c.pem"), key: dir.path().join("k.pem") };
        std::fs::write(&files.cert, "nonsense").unwrap();
        std::fs::write(&files.key, "nonsense").unwrap();
        assert!(load(&files).await.unwrap_err().to_string().contains("c.pem"));
    }
}
