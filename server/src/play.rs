//! `auralink play`: decodes a sound file and streams it to a server, which puts it into a room.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use auralink_ai::audio::file::FileDecoder;
use auralink_proto::v1::rooms_client::RoomsClient;
use auralink_proto::v1::{PublishConfig, PublishRequest, publish_request::Request as Part};
use auralink_signaling::access::Claims;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::cli::PlayArgs;
use crate::token::{data_dir, key_pair};

/// What the server takes, hertz.
const SAMPLE_RATE: u32 = 48_000;

/// Samples of one message: 100 ms at 48 kHz.
const MESSAGE_SAMPLES: usize = 4_800;

/// Plays the file to its end.
pub async fn run(args: PlayArgs) -> anyhow::Result<()> {
    let stem = args.file.file_stem().map_or_else(|| "player".into(), |s| s.to_string_lossy().into_owned());
    let identity = args.identity.clone().unwrap_or_else(|| stem.clone());
    let (key, secret) = key_pair(&args.client)?;
    let mut claims = Claims::join(identity.clone(), args.room.clone());
    claims.name = args.name.clone().unwrap_or(stem);
    let keys = auralink_signaling::access::KeySet::new([(key.clone(), secret)]);
    let token = keys.mint(&key, &claims, std::time::Duration::from_secs(24 * 3_600))?;

    let source = std::fs::File::open(&args.file).with_context(|| format!("{} cannot be opened", args.file.display()))?;
    let file = FileDecoder::open(source, &args.file.to_string_lossy(), SAMPLE_RATE)?;
    let endpoint = endpoint(&args).await?;
    let channel = endpoint
        .connect()
        .await
        .with_context(|| format!("no AuraLink server answers at {}; start one with `auralink`, or name it with --server", args.server))?;

    let (messages, stream) = mpsc::channel(8);
    let config = PublishConfig { room: args.room.clone(), identity, name: claims.name.clone(), track_name: "sound file".into() };
    let decoder = tokio::task::spawn_blocking(move || decode(file, config, &messages));
    let mut request = tonic::Request::new(ReceiverStream::new(stream));
    let bearer = MetadataValue::try_from(format!("Bearer {token}")).context("the token does not fit into a header")?;
    request.metadata_mut().insert("authorization", bearer);
    let mut progress = RoomsClient::new(channel).publish(request).await.map_err(sentence)?.into_inner();
    while let Some(played) = progress.message().await.map_err(sentence)? {
        show(played.played_ms);
    }
    eprintln!();
    decoder.await.context("the decoder ended early")?
}

fn sentence(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the server refused: {}", status.message())
}

async fn endpoint(args: &PlayArgs) -> anyhow::Result<Endpoint> {
    let server = if args.server.contains("://") { args.server.clone() } else { format!("http://{}", args.server) };
    let endpoint = Endpoint::from_shared(server.clone())
        .with_context(|| format!("`{}` is not an address such as http://127.0.0.1:7890", args.server))?;
    if !server.starts_with("https:") {
        return Ok(endpoint);
    }
    let path = match &args.certificate {
        Some(path) => path.clone(),
        None => crate::tls::self_signed_path(&data_dir(&args.client)?).cert,
    };
    let pem = tokio::fs::read(&path)
        .await
        .with_context(|| format!("the certificate {} cannot be read; name it with --certificate", path.display()))?;
    Ok(endpoint.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))?)
}

/// Decodes to 48 kHz mono and sends; blocks while the server is ahead.
fn decode(mut file: FileDecoder, config: PublishConfig, messages: &mpsc::Sender<PublishRequest>) -> anyhow::Result<()> {
    let send = |part| messages.blocking_send(PublishRequest { request: Some(part) }).is_ok();
    if !send(Part::Config(config)) {
        return Ok(());
    }
    let mut samples = Vec::new();
    while file.read(&mut samples)? {
        let whole = samples.len() / MESSAGE_SAMPLES * MESSAGE_SAMPLES;
        for message in samples[..whole].chunks_exact(MESSAGE_SAMPLES) {
            if !send(Part::Audio(bytes(message))) {
                return Ok(()); // the server ended the stream and said why
            }
        }
        samples.drain(..whole);
    }
    send(Part::Audio(bytes(&samples)));
    Ok(())
}

fn bytes(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|s| ((s.clamp(-1.0, 1.0) * 32_767.0) as i16).to_le_bytes()).collect()
}

fn show(played_ms: i64) {
    let mut out = std::io::stderr();
    let end = if out.is_terminal() { '\r' } else { '\n' };
    // A closed terminal does not stop the sound.
    let _ = write!(out, "played {}:{:02}{end}", played_ms / 60_000, played_ms / 1_000 % 60);
}
