//! The command line's own REST client: finds a running server and its credential, and turns its refusals into sentences.

use std::time::Duration;

use anyhow::{Context, bail};
use auralink_signaling::access::{Claims, KeySet};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::caller::{Grant, Scope};
use crate::cli::HttpArgs;
use crate::token::{data_dir, key_pair};

/// How long a connection may take; answers have the server's own limits.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a token that a command makes for itself is good.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// A running server, and as whom it is asked.
pub struct Client {
    http: reqwest::Client,
    server: String,
    token: String,
}

impl Client {
    /// With the credential that was given, or a token with `scopes` made with the server's own key.
    pub fn new(args: &HttpArgs, scopes: &[Scope]) -> anyhow::Result<Self> {
        let server = if args.server.contains("://") { args.server.clone() } else { format!("http://{}", args.server) };
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).no_proxy();
        if server.starts_with("https:") {
            let path = match &args.certificate {
                Some(path) => Some(path.clone()),
                None => Some(crate::tls::self_signed_path(&data_dir(&args.client)?).cert).filter(|path| path.exists()),
            };
            if let Some(path) = path {
                let pem = std::fs::read(&path)
                    .with_context(|| format!("the certificate {} cannot be read; name it with --certificate", path.display()))?;
                builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem)?);
            }
        }
        let token = match &args.token {
            Some(token) => token.trim().to_owned(),
            None => own_token(args, scopes)?,
        };
        Ok(Self { http: builder.build()?, server: server.trim_end_matches('/').to_owned(), token })
    }

    /// A request with the credential, to be completed and given to [`Client::send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.server)).bearer_auth(&self.token)
    }

    /// Sends; what the server refuses is an error with its sentence.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|error| {
            let server = &self.server;
            match error.is_connect() {
                true => anyhow::anyhow!("no AuraLink server answers at {server}; start one with `auralink`, or name it with --server")
                    .context(error.without_url().to_string()),
                false => anyhow::anyhow!("{server}: {}", error.without_url()),
            }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body: serde_json::Value = response.json().await.unwrap_or_default();
        match body["error"]["message"].as_str() {
            Some(message) => bail!("the server refused: {message}"),
            None if status == StatusCode::NOT_FOUND => bail!("{} is no AuraLink server, or an older one", self.server),
            None => bail!("the server answered {status}"),
        }
    }

    /// Reads.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let response = self.send(self.request(Method::GET, path)).await?;
        response.json().await.context("the server's answer is not understood: is it another version?")
    }

    /// Sends a body and reads the answer.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &(impl Serialize + Sync)) -> anyhow::Result<T> {
        let response = self.send(self.request(Method::POST, path).json(body)).await?;
        response.json().await.context("the server's answer is not understood: is it another version?")
    }

    /// Deletes.
    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.send(self.request(Method::DELETE, path)).await.map(drop)
    }
}

/// A token of the server's own key for what the command does, and nothing more.
fn own_token(args: &HttpArgs, scopes: &[Scope]) -> anyhow::Result<String> {
    let (key, secret) = key_pair(&args.client)?;
    let mut claims = Claims { identity: "auralink-cli".into(), ..Claims::default() };
    Grant { scopes: scopes.iter().copied().collect(), tenant: args.tenant.clone() }.put(&mut claims);
    Ok(KeySet::new([(key.clone(), secret)]).mint(&key, &claims, TOKEN_LIFE)?)
}
