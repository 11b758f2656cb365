//! The browser's way back: one request on this machine's loopback that brings the code (RFC 8252, section 7.3).

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::secret::Secret;

/// How long a person may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Bytes of a request that are read: the code stands in its first line.
const MAX_REQUEST: usize = 16 * 1024;

pub(super) struct Listener {
    listener: TcpListener,
    port: u16,
}

/// What a request brought.
enum Arrived {
    Code(Secret),
    Refused(String),
    /// Not ours: a favicon, another state.
    Other,
}

impl Listener {
    pub(super) async fn bind(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    pub(super) fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Waits for the code that answers `state`; or why there is none.
    pub(super) async fn code(&self, state: &str) -> Result<Secret, String> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let (stream, _) = self.listener.accept().await.map_err(|error| format!("loopback cannot be listened on: {error}"))?;
                match tokio::time::timeout(REQUEST, arrived(stream, state)).await {
                    Ok(Ok(Arrived::Code(code))) => return Ok(code),
                    Ok(Ok(Arrived::Refused(reason))) => return Err(reason),
                    // A connection that says nothing of use does not end the waiting.
                    Ok(Ok(Arrived::Other) | Err(_)) | Err(_) => {}
                }
            }
        })
        .await
        .unwrap_or_else(|_| Err("nobody agreed in the browser within ten minutes".into()))
    }
}

async fn arrived(mut stream: TcpStream, state: &str) -> std::io::Result<Arrived> {
    let mut request = Vec::new();
    while !request.windows(4).any(|four| four == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&request);
    let arrived = line.lines().next().map_or(Arrived::Other, |line| read(line, state));
    let (status, words) = match &arrived {
        Arrived::Code(_) => ("200 OK", "AuraLink has access now. This page can be closed."),
        Arrived::Refused(_) => ("200 OK", "AuraLink was not given access. This page can be closed."),
        Arrived::Other => ("404 Not Found", "Nothing is here."),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{words}",
        words.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(arrived)
}

/// The first line of a request: `GET /?state=...&code=... HTTP/1.1`.
fn read(line: &str, expected: &str) -> Arrived {
    let Some(target) = line.strip_prefix("GET /?").and_then(|rest| rest.split(' ').next()) else { return Arrived::Other };
    let (mut code, mut state, mut error) = (None, None, None);
    for (key, value) in url::form_urlencoded::parse(target.as_bytes()) {
        match key.as_ref() {
            "code" => code = Some(value.into_owned()),
            "state" => state = Some(value.into_owned()),
            "error" => error = Some(value.into_owned()),
            _ => {}
        }
    }
    // Another page in the browser could call here; it does not know the state.
    if state.as_deref() != Some(expected) {
        return Arrived::Other;
    }
    match (code, error) {
        (_, Some(error)) => Arrived::Refused(format!("the service says `{}`", error.chars().take(100).collect::<String>())),
        (Some(code), None) => Arrived::Code(Secret::new(code)),
        (None, None) => Arrived::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_our_question_is_taken() {
        assert!(matches!(read("GET /?state=s&code=a%2Fb HTTP/1.1", "s"), Arrived::Code(code) if code.reveal() == "a/b"));
        assert!(matches!(read("GET /?error=access_denied&state=s HTTP/1.1", "s"), Arrived::Refused(_)));
        for other in
            ["GET /?state=x&code=a HTTP/1.1", "GET /?code=a HTTP/1.1", "GET /favicon.ico HTTP/1.1", "POST /?state=s&code=a HTTP/1.1", ""]
        {
            assert!(matches!(read(other, "s"), Arrived::Other), "{other}");
        }
    }
}
