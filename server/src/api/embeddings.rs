//! `/api/v1/embeddings`: texts into vectors. Scope `vectors:read`.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::extract::Json;
use crate::api::{ApiError, ErrorBody};
use crate::caller::{Caller, Scope};
use crate::embeddings::Embeddings;

/// The routes.
pub fn routes() -> OpenApiRouter<Embeddings> {
    OpenApiRouter::new().routes(routes!(embed))
}

/// Texts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Texts {
    /// At most 1,024, each of at most 65,536 bytes; the model looks at the first `max_tokens` of each.
    #[schema(example = json!(["a talk about bees"]))]
    texts: Vec<String>,
}

/// Vectors.
#[derive(Debug, Serialize, ToSchema)]
struct Vectors {
    /// The sentence model.
    model: String,
    /// Elements of a vector.
    dimensions: usize,
    /// Tokens of a text that count.
    max_tokens: usize,
    /// A unit vector for each text, in order.
    vectors: Vec<Vec<f32>>,
}

/// Turns texts into unit vectors, whose dot product says how much two texts mean the same.
#[utoipa::path(
    post, path = "/api/v1/embeddings", operation_id = "embed", tag = "embeddings",
    responses((status = OK, body = Vectors), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn embed(
    State(embeddings): State<Embeddings>,
    caller: Caller,
    Json(Texts { texts }): Json<Texts>,
) -> Result<Json<Vectors>, ApiError> {
    caller.require(Scope::VectorsRead)?;
    let embedder = embeddings.embedder().await?;
    let (model, dimensions, max_tokens) = (embedder.name().to_owned(), embedder.dimensions(), embedder.max_tokens());
    let vectors = embeddings.embed(texts).await?;
    Ok(Json(Vectors { model, dimensions, max_tokens, vectors }))
}
