//! `auralink.v1.Speech`: audio of a service in, text out. A thin face on the engine that also makes the captions.

use std::pin::Pin;

use auralink_ai::scheduler::{Source, StreamHandle};
use auralink_ai::session::{SessionConfig, SpeechEvent};
use auralink_proto::v1::speech_server::Speech;
use auralink_proto::v1::{
    Segment, SpeechStarted, TranscribeConfig, TranscribeRequest, TranscribeResponse, TurnEnded, transcribe_request::Request as Part,
    transcribe_response::Event,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::refuse::{drain, first};
use crate::audio_in::PcmReader;
use crate::caller::Callers;
use crate::captions::Captions;
use crate::captions::wording::{degraded_text, proto_words, wire_ms as ms};

/// Responses that wait for a slow caller; beyond it the caller is held to have gone.
const RESPONSE_QUEUE: usize = 1_024;

/// The service.
pub struct SpeechService {
    /// Where the engine is.
    pub captions: Captions,
    /// Who may call.
    pub callers: Callers,
}

#[tonic::async_trait]
impl Speech for SpeechService {
    type TranscribeStream = Pin<Box<dyn Stream<Item = Result<TranscribeResponse, Status>> + Send>>;

    async fn transcribe(&self, request: Request<Streaming<TranscribeRequest>>) -> Result<Response<Self::TranscribeStream>, Status> {
        let caller = self.callers.claims_of_metadata(request.metadata());
        let mut audio = request.into_inner();
        let opened = match caller {
            Ok(_) => self.open(&mut audio).await,
            Err(status) => Err(status),
        };
        match opened {
            Ok(Opened { reader, handle, responses, stream }) => {
                tokio::spawn(feed(audio, reader, handle, responses).in_current_span());
                Ok(Response::new(Box::pin(stream)))
            }
            Err(status) => {
                drain(audio);
                Err(status)
            }
        }
    }
}

/// A call that was accepted.
struct Opened {
    reader: PcmReader,
    handle: StreamHandle,
    responses: mpsc::Sender<Result<TranscribeResponse, Status>>,
    stream: ReceiverStream<Result<TranscribeResponse, Status>>,
}

impl SpeechService {
    async fn open(&self, audio: &mut Streaming<TranscribeRequest>) -> Result<Opened, Status> {
        let engine = self.captions.engine().map_err(|reason| Status::failed_precondition(format!("speech is not available: {reason}")))?;
        let config = match first(audio).await? {
            Some(TranscribeRequest { request: Some(Part::Config(config)) }) => config,
            _ => return Err(Status::invalid_argument("the first message must hold `config`")),
        };
        let reader = PcmReader::new(config.encoding(), config.channels, config.sample_rate_hz)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (responses, stream) = mpsc::channel(RESPONSE_QUEUE);
        let sink = responses.clone();
        let interim = config.interim;
        let handle = engine
            .open(
                session_config(&config)?,
                Source::Pcm { rate: config.sample_rate_hz },
                Box::new(move |event| {
                    let Some(response) = response(event, interim) else { return };
                    if sink.try_send(Ok(response)).is_err() {
                        metrics::counter!("auralink_speech_events_dropped_total").increment(1);
                    }
                }),
            )
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(Opened { reader, handle, responses, stream: ReceiverStream::new(stream) })
    }
}

fn session_config(config: &TranscribeConfig) -> Result<SessionConfig, Status> {
    let mut session = SessionConfig { interim: config.interim, ..SessionConfig::default() };
    match config.endpoint_silence_ms {
        0 => {}
        ms @ 200..=5_000 => session.endpoint_silence_ms = ms,
        ms => return Err(Status::invalid_argument(format!("config.endpoint_silence_ms is {ms}: 200 to 5000, or 0 for the default"))),
    }
    if !config.language.is_empty() {
        session.language.clone_from(&config.language);
    }
    Ok(session)
}

/// Takes the caller's audio until it ends, then flushes and waits for the last words.
async fn feed(
    mut audio: Streaming<TranscribeRequest>,
    mut reader: PcmReader,
    stream: StreamHandle,
    responses: mpsc::Sender<Result<TranscribeResponse, Status>>,
) {
    let outcome = loop {
        match audio.message().await {
            Ok(Some(TranscribeRequest { request: Some(Part::Audio(bytes)) })) => match reader.read(&bytes) {
                Ok(samples) => push(&stream, &samples).await,
                Err(error) => break Err(Status::invalid_argument(error.to_string())),
            },
            Ok(Some(TranscribeRequest { request: Some(Part::Flush(_)) })) => stream.flush(),
            Ok(Some(_)) => break Err(Status::invalid_argument("after the first message only `audio` and `flush` are taken")),
            Ok(None) => break Ok(()),
            Err(_) => return, // the caller went away
        }
    };
    // A caller that went away does not need the rest.
    if let Err(status) = outcome {
        let _ = responses.send(Err(status)).await;
        drain(audio);
        return;
    }
    // The response stream ends when the engine has said the last word and drops the sink.
    stream.finish();
}

/// Holds the caller back (by not reading on) while the stream's queue is full: gRPC flow control does the rest.
async fn push(stream: &StreamHandle, samples: &[f32]) {
    for part in samples.chunks(1_600) {
        while !stream.push_pcm(part) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

fn response(event: SpeechEvent, interim: bool) -> Option<TranscribeResponse> {
    let event = match event {
        SpeechEvent::SpeechStarted { at } => Event::Started(SpeechStarted { at_ms: ms(at) }),
        SpeechEvent::Interim { segment, text, committed_chars, words, .. } => {
            if !interim {
                return None;
            }
            let committed: usize = text.chars().take(committed_chars).map(char::len_utf8).sum();
            Event::Segment(Segment {
                segment_id: segment.0.to_string(),
                committed: u32::try_from(committed).unwrap_or(u32::MAX),
                text,
                r#final: false,
                start_ms: words.first().map_or(0, |w| ms(w.start)),
                end_ms: words.last().map_or(0, |w| ms(w.end)),
                words: proto_words(&words),
            })
        }
        SpeechEvent::Final { segment, text, words, start, end, .. } => Event::Segment(Segment {
            segment_id: segment.0.to_string(),
            committed: u32::try_from(text.len()).unwrap_or(u32::MAX),
            text,
            r#final: true,
            words: proto_words(&words),
            start_ms: ms(start),
            end_ms: ms(end),
        }),
        SpeechEvent::TurnEnded { at } => Event::TurnEnded(TurnEnded { at_ms: ms(at) }),
        SpeechEvent::TurnMayEnd { .. } | SpeechEvent::TurnResumed { .. } => return None,
        SpeechEvent::Degraded { rule } => Event::Notice(degraded_text(rule)),
        SpeechEvent::Recovered => Event::Notice("the machine keeps up again".into()),
    };
    Some(TranscribeResponse { event: Some(event) })
}
