//! WebSockets into a sandbox: a program with its terminal or pipes, and a connection to a port.
//!
//! A program: the first text message is JSON (`{"argv": [...], "tty": {"rows": 24, "columns": 80}}`, and the fields of exec); then binary messages are its
//! standard input, and text messages are `{"resize": {...}}`, `{"signal": 15}` or `{"close": true}`. What comes back: binary messages whose first byte is 1
//! (standard output) or 2 (standard error), and at the end a text message `{"exit": {...}}` or `{"error": {...}}`.

use auralink_infrastructure::vm::service::{Sandboxes as Service, Started};
use auralink_infrastructure::vm::{ExecInput, ExecOutput, ExecSpec, TtySize};
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{allowed, words};
use crate::api::extract::Path;
use crate::api::{ApiError, ErrorBody};
use crate::caller::{Caller, Scope};
use crate::sandboxes::Sandboxes;

/// Largest message.
const MESSAGE: usize = 1 << 20;
/// How long a socket may be open before it says which program.
const FIRST: std::time::Duration = std::time::Duration::from_secs(10);

/// The routes.
pub fn routes() -> OpenApiRouter<Sandboxes> {
    OpenApiRouter::new().routes(routes!(attach)).routes(routes!(forward))
}

/// Runs a program over a WebSocket: standard input and output as binary messages, with a terminal if `tty` is given.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{sandbox}/attach", operation_id = "attach_to_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = SWITCHING_PROTOCOLS, description = "A WebSocket"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn attach(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    let service = allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.clone();
    service.get(&caller.tenant, &id)?;
    Ok(upgrade.max_message_size(MESSAGE).on_upgrade(move |socket| attached(service, caller, id, socket)))
}

/// The first message.
#[derive(Deserialize)]
struct Attach {
    #[serde(flatten)]
    exec: words::Exec,
    tty: Option<Size>,
}

#[derive(Deserialize)]
struct Size {
    rows: u16,
    columns: u16,
}

/// Later text messages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Control {
    Resize(Size),
    Signal(i32),
    Close(bool),
}

impl Size {
    fn size(&self) -> TtySize {
        TtySize { rows: self.rows, columns: self.columns }
    }
}

async fn attached(service: Service, caller: Caller, id: String, socket: WebSocket) {
    let (mut out, mut come) = socket.split();
    let last = match begin(&service, &caller, &id, &mut come).await {
        Ok(Started { exec, number }) => {
            let input = tokio::spawn(take_input(come, exec.input));
            let mut output = exec.output;
            let mut last = serde_json::json!({ "error": { "code": "failed_precondition", "message": "the sandbox ended" } });
            while let Some(next) = output.recv().await {
                let (stream, bytes) = match next {
                    Ok(ExecOutput::Stdout(bytes)) => (1, bytes),
                    Ok(ExecOutput::Stderr(bytes)) => (2, bytes),
                    Ok(ExecOutput::Exited(exit)) => {
                        last = serde_json::json!({ "exit": words::Exit::from(exit), "exec": number });
                        break;
                    }
                    Err(error) => {
                        last = said(&error.into());
                        break;
                    }
                };
                let mut message = BytesMut::with_capacity(bytes.len() + 1);
                message.put_u8(stream);
                message.extend_from_slice(&bytes);
                // Who went away ends the program: its output is dropped.
                if out.send(Message::Binary(message.freeze())).await.is_err() {
                    break;
                }
            }
            input.abort();
            last
        }
        Err(error) => said(&error),
    };
    let _ = out.send(Message::Text(last.to_string().into())).await;
    let _ = out.close().await;
}

fn said(error: &ApiError) -> serde_json::Value {
    serde_json::json!({ "error": { "code": error.code, "message": error.message } })
}

async fn begin(service: &Service, caller: &Caller, id: &str, come: &mut SplitStream<WebSocket>) -> Result<Started, ApiError> {
    let first = tokio::time::timeout(FIRST, come.next()).await;
    let Ok(Some(Ok(Message::Text(text)))) = first else {
        return Err(ApiError::invalid_argument("the first message must be text: which program, as JSON"));
    };
    let Attach { exec, tty } =
        serde_json::from_str(&text).map_err(|error| ApiError::invalid_argument(format!("the first message: {error}")))?;
    let spec = ExecSpec { tty: tty.as_ref().map(Size::size), ..exec.into_spec().0 };
    Ok(service.exec(&caller.tenant, id, spec).await?)
}

async fn take_input(mut come: SplitStream<WebSocket>, input: mpsc::Sender<ExecInput>) {
    while let Some(Ok(message)) = come.next().await {
        let input_message = match message {
            Message::Binary(bytes) => ExecInput::Stdin(bytes),
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(Control::Resize(size)) if size.rows > 0 && size.columns > 0 => ExecInput::Resize(size.size()),
                Ok(Control::Signal(number)) => ExecInput::Signal(number),
                Ok(Control::Close(true)) => ExecInput::CloseStdin,
                _ => continue, // a word that is not known changes nothing
            },
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        if input.send(input_message).await.is_err() {
            break;
        }
    }
}

/// A connection to a TCP port in the sandbox; binary messages both ways.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{sandbox}/ports/{port}", operation_id = "forward_to_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name"), ("port" = u16, Path, description = "TCP port")),
    responses((status = SWITCHING_PROTOCOLS, description = "A WebSocket"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn forward(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path((id, port)): Path<(String, u16)>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    let stream = allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.dial(&caller.tenant, &id, port).await?;
    Ok(upgrade.max_message_size(MESSAGE).on_upgrade(move |socket| async move {
        let (mut read, mut write) = tokio::io::split(stream);
        let (mut out, mut come) = socket.split();
        let inward = async move {
            while let Some(Ok(message)) = come.next().await {
                match message {
                    Message::Binary(bytes) if write.write_all(&bytes).await.is_err() => break,
                    Message::Close(_) => break,
                    _ => {}
                }
            }
        };
        let outward = async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                if out.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                    return;
                }
            }
            let _ = out.close().await;
        };
        // Either end closes both: a WebSocket has no half-closed state.
        tokio::select! {
            () = inward => {}
            () = outward => {}
        }
    }))
}
