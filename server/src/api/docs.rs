//! The description of `/api/v1` and the page to try it.

use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::{Json, Router, routing::get};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_swagger_ui::{Config, SwaggerUi};

/// Where the description is.
const DESCRIPTION: &str = "/api/v1/openapi.json";

/// Where the page is.
const PAGE: &str = "/api/v1/docs";

/// The scheme's name.
const BEARER: &str = "bearer";

/// What the page may do: Swagger UI writes styles into its elements, and asks this server alone.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What stands above the routes.
pub fn about() -> OpenApi {
    let text = "Answers are JSON. What is refused answers `{\"error\":{\"code\",\"message\"}}`; `429` and `503` say in `Retry-After` when to \
        come back. Send `Authorization: Bearer <credential>`: an API key (`alk_...`, made by `auralink keys create`) or an access token \
        (`auralink token --scopes ...`). Long work answers with a job, whose progress can be followed.";
    let info = InfoBuilder::new().title("AuraLink").version(env!("CARGO_PKG_VERSION")).description(Some(text)).build();
    OpenApiBuilder::new().info(info).build()
}

/// Adds what concerns every route: the credential, unless a route says that it needs none.
pub fn complete(description: &mut OpenApi) {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key or an access token with the scope that the route names."))
        .build();
    let components = description.components.get_or_insert_with(|| ComponentsBuilder::new().build());
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    // The router's `{*path}`, the rest of a path, is a parameter as any other here.
    for (path, item) in std::mem::take(&mut description.paths.paths) {
        description.paths.paths.insert(path.replace("{*", "{"), item);
    }
    description.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
    let tag = |name: &str, text: &str| TagBuilder::new().name(name).description(Some(text)).build();
    description.tags = Some(vec![
        tag("rooms", "Rooms and captions, beside LiveKit's own protocol"),
        tag("embeddings", "Texts into vectors; scope vectors:read"),
        tag("jobs", "Long work and its progress; scopes jobs:read and jobs:write"),
        tag("sandboxes", "Places where somebody's program runs; scopes sandboxes:read and sandboxes:write"),
        tag("keys", "API keys of the caller's tenant; scope keys:admin"),
    ]);
}

/// The description and the page.
pub fn router(description: OpenApi) -> Router {
    let config = Config::from(DESCRIPTION).try_it_out_enabled(true).persist_authorization(false);
    let page: Router = SwaggerUi::new(PAGE).config(config).into();
    let page = page.layer(axum::middleware::from_fn(guarded));
    Router::new().route(DESCRIPTION, get(|| async { Json(description) })).merge(page)
}

async fn guarded(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
