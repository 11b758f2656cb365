//! Every engine of `infrastructure::storage` against the same promises: a real folder, a real MinIO, and strict stubs of Google Drive's and Dropbox's
//! documented interfaces. MinIO comes by `make setup`.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "steps of tests, and stubs that answer by early return")]

mod conformance;
mod dropbox_stub;
mod faults;
mod gdrive_stub;
mod importing;
mod local;
mod minio;
mod oauth;
mod service;
mod stores;
