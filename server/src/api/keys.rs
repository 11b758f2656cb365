//! `/api/v1/keys`: API keys of the caller's tenant. Scope `keys:admin`.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::extract::{Json, Path};
use crate::api::{ApiError, ErrorBody};
use crate::api_keys::{ApiKey, ApiKeys};
use crate::caller::{Caller, Scope, ScopeError, Scopes};

/// The routes.
pub fn routes() -> OpenApiRouter<ApiKeys> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

/// A key to be made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// For people, 1 to 100 bytes.
    #[schema(example = "nightly import")]
    pub name: String,
    /// What its bearer may do.
    #[schema(example = json!(["vectors:read", "vectors:write"]))]
    pub scopes: Vec<String>,
    /// Seconds from now until it is refused; without it, it has no end.
    pub expires_in_s: Option<u64>,
}

/// A key, without its secret. Times are seconds since 1970.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// Names it.
    pub id: String,
    /// For people.
    pub name: String,
    /// Whose things its bearer sees.
    pub tenant: String,
    /// What its bearer may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: u64,
    /// From when on it is refused.
    pub expires_at: Option<u64>,
    /// When it was used last, to about ten minutes.
    pub last_used_at: Option<u64>,
}

impl From<ApiKey> for Key {
    fn from(key: ApiKey) -> Self {
        let ApiKey { id, name, tenant, scopes, created_at, expires_at, last_used_at } = key;
        Self { id, name, tenant: tenant.into(), scopes: scopes.names(), created_at, expires_at, last_used_at }
    }
}

/// A key that was made.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    /// The key.
    pub key: Key,
    /// What its bearer sends. It is not kept, and is shown here alone.
    pub token: String,
}

/// Keys of a tenant.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyList {
    /// By id.
    pub keys: Vec<Key>,
}

impl From<ScopeError> for ApiError {
    fn from(error: ScopeError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// The keys of the caller's tenant.
#[utoipa::path(
    get, path = "/api/v1/keys", operation_id = "list_keys", tag = "keys",
    responses((status = OK, body = KeyList), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn list(State(keys): State<ApiKeys>, caller: Caller) -> Result<Json<KeyList>, ApiError> {
    caller.require(Scope::KeysAdmin)?;
    let found = keys.list(&caller.tenant).await?;
    Ok(Json(KeyList { keys: found.into_iter().map(Key::from).collect() }))
}

/// Makes a key for the caller's tenant. Its token is shown in this answer alone.
#[utoipa::path(
    post, path = "/api/v1/keys", operation_id = "create_key", tag = "keys",
    responses((status = CREATED, body = CreatedKey), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn create(
    State(keys): State<ApiKeys>,
    caller: Caller,
    Json(wanted): Json<CreateKey>,
) -> Result<(StatusCode, Json<CreatedKey>), ApiError> {
    caller.require(Scope::KeysAdmin)?;
    let scopes = wanted.scopes.iter().map(|name| name.parse()).collect::<Result<Scopes, _>>()?;
    let (key, token) = keys.create(&caller.tenant, &wanted.name, scopes, wanted.expires_in_s.map(Duration::from_secs)).await?;
    Ok((StatusCode::CREATED, Json(CreatedKey { key: key.into(), token: token.reveal() })))
}

/// Refuses a key from now on.
#[utoipa::path(
    delete, path = "/api/v1/keys/{id}", operation_id = "revoke_key", tag = "keys",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = NO_CONTENT, description = "Revoked"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn revoke(State(keys): State<ApiKeys>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    caller.require(Scope::KeysAdmin)?;
    keys.revoke(&caller.tenant, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
