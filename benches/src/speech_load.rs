//! Keeps a server's recogniser busy: N gRPC streams, each with the same sound file over and over in real time. Prints how many words came
//! back, and how late segments closed behind the audio that was sent.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use auralink_ai::audio::file::FileDecoder;
use auralink_proto::v1::speech_client::SpeechClient;
use auralink_proto::v1::transcribe_config::Encoding;
use auralink_proto::v1::{TranscribeConfig, TranscribeRequest, transcribe_request::Request as Part, transcribe_response::Event};
use auralink_signaling::access::{Claims, KeySet};
use clap::Parser;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Samples a second of what is sent.
const RATE: u32 = 16_000;

/// One message: 100 ms.
const MESSAGE: usize = 1_600;

#[derive(Debug, Parser)]
#[command(name = "speech-load", about = "Streams a sound file to a server's recogniser, many times at once")]
struct Args {
    /// The sound file.
    file: PathBuf,
    /// The server's gRPC address.
    #[arg(long, default_value = "http://127.0.0.1:7890")]
    server: String,
    /// Streams at once.
    #[arg(long, default_value_t = 20)]
    streams: usize,
    /// How long.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// API key.
    #[arg(long, env = "LIVEKIT_API_KEY", default_value = "devkey")]
    api_key: String,
    /// API secret.
    #[arg(long, env = "LIVEKIT_API_SECRET", default_value = "secret", hide_env_values = true)]
    api_secret: String,
}

/// What one stream saw.
#[derive(Debug, Default)]
struct Seen {
    words: usize,
    notices: usize,
    /// Milliseconds from the end of a segment's last word to its arrival.
    closed_after_ms: Vec<f64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let source = std::fs::File::open(&args.file).with_context(|| format!("{} cannot be opened", args.file.display()))?;
    let mut decoder = FileDecoder::open(source, &args.file.to_string_lossy(), RATE)?;
    let mut samples = Vec::new();
    while decoder.read(&mut samples)? {}
    let keys = KeySet::new([(args.api_key.clone(), args.api_secret.clone())]);
    let token = keys.mint(&args.api_key, &Claims::join("speech-load", "speech-load"), Duration::from_secs(3_600))?;
    let channel = Endpoint::from_shared(args.server.clone())?.connect().await.with_context(|| format!("no server at {}", args.server))?;

    let mut streams = JoinSet::new();
    for index in 0..args.streams {
        // Streams do not speak in step.
        let mut own = samples.clone();
        own.rotate_left(samples.len() / args.streams * index);
        streams.spawn(stream(channel.clone(), token.clone(), own, Duration::from_secs(args.seconds)));
    }
    let mut all = Seen::default();
    while let Some(seen) = streams.join_next().await {
        let seen = seen??;
        all.words += seen.words;
        all.notices += seen.notices;
        all.closed_after_ms.extend(seen.closed_after_ms);
    }
    all.closed_after_ms.sort_by(f64::total_cmp);
    let at =
        |q: f64| all.closed_after_ms.get(((all.closed_after_ms.len() as f64 - 1.0) * q).max(0.0) as usize).copied().unwrap_or(f64::NAN);
    println!(
        "{{\"streams\":{},\"seconds\":{},\"words\":{},\"notices\":{},\"segments\":{},\"closed_after_word_ms\":{{\"p50\":{:.0},\"p95\":{:.0},\"p99\":{:.0}}}}}",
        args.streams,
        args.seconds,
        all.words,
        all.notices,
        all.closed_after_ms.len(),
        at(0.5),
        at(0.95),
        at(0.99)
    );
    Ok(())
}

async fn stream(channel: Channel, token: String, samples: Vec<f32>, length: Duration) -> anyhow::Result<Seen> {
    let (messages, stream) = mpsc::channel(4);
    let config =
        TranscribeConfig { encoding: Encoding::S16le.into(), sample_rate_hz: RATE, channels: 1, interim: true, ..Default::default() };
    messages.send(TranscribeRequest { request: Some(Part::Config(config)) }).await?;
    let mut request = tonic::Request::new(ReceiverStream::new(stream));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let begin = Instant::now();
    let sender = tokio::spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_millis(100));
        for part in samples.chunks(MESSAGE).cycle() {
            clock.tick().await;
            let bytes = part.iter().flat_map(|s| ((s * 32_767.0) as i16).to_le_bytes()).collect();
            if begin.elapsed() > length || messages.send(TranscribeRequest { request: Some(Part::Audio(bytes)) }).await.is_err() {
                return;
            }
        }
    });
    let mut responses = SpeechClient::new(channel).transcribe(request).await?.into_inner();
    let mut seen = Seen::default();
    while let Some(response) = responses.message().await? {
        match response.event {
            Some(Event::Segment(segment)) if segment.r#final => {
                seen.words += segment.words.len();
                if let Some(last) = segment.words.last() {
                    seen.closed_after_ms.push(begin.elapsed().as_secs_f64() * 1e3 - last.end_ms as f64);
                }
            }
            Some(Event::Notice(_)) => seen.notices += 1,
            _ => {}
        }
    }
    sender.await?;
    Ok(seen)
}
