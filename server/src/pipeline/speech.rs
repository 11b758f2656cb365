//! The steps that hear: a recording decoded in constant memory, and fed to the engine that also makes captions, as fast as it takes it.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use auralink_ai::audio::SAMPLE_RATE;
use auralink_ai::audio::file::FileDecoder;
use auralink_ai::scheduler::{Engine, EngineError, Source};
use auralink_ai::session::{DegradeRule, SessionConfig, SpeechEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Segments of one recording: a day of speech has about 20,000.
const MAX_SEGMENTS: usize = 200_000;
/// Samples handed over at once: 100 ms.
const PART: usize = SAMPLE_RATE as usize / 10;
/// How long the engine may say nothing after the last sample.
const LAST_WORDS: Duration = Duration::from_secs(120);

/// What a recording says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// BCP 47.
    pub language: String,
    /// In the order of time.
    pub segments: Vec<Segment>,
    /// Sound that the engine could not follow, milliseconds; 0 for a whole transcript.
    pub skipped_ms: u64,
}

/// A stretch of speech.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Where it begins, milliseconds.
    pub start_ms: u64,
    /// Where it ends, milliseconds.
    pub end_ms: u64,
    /// What is said.
    pub text: String,
    /// Its words.
    pub words: Vec<Word>,
}

/// A word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// As it is written.
    pub text: String,
    /// Where it begins, milliseconds.
    pub start_ms: u64,
    /// Where it ends, milliseconds.
    pub end_ms: u64,
    /// How sure the recogniser is, 0 to 1.
    pub confidence: f32,
}

/// What decoding a recording found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Decoded {
    duration_ms: u64,
    damaged_packets: u64,
}

/// Decodes all of it; how long it is. Blocks.
pub(super) fn decode(audio: &Path, name: &str, stop: &CancellationToken) -> Result<Decoded, String> {
    let (mut decoder, mut samples, mut length) = (open(audio, name)?, Vec::new(), 0u64);
    while !stop.is_cancelled() && decoder.read(&mut samples).map_err(|error| error.to_string())? {
        length += samples.len() as u64;
        samples.clear();
    }
    length += samples.len() as u64;
    Ok(Decoded { duration_ms: length * 1_000 / u64::from(SAMPLE_RATE), damaged_packets: decoder.damaged() })
}

fn open(audio: &Path, name: &str) -> Result<FileDecoder, String> {
    let file = File::open(audio).map_err(|error| format!("{name} cannot be opened: {error}"))?;
    FileDecoder::open(file, name, SAMPLE_RATE).map_err(|error| error.to_string())
}

/// Hears all of it. `told` gets thousandths. Blocks.
pub(super) fn transcribe(
    engine: &Engine,
    audio: &Path,
    name: &str,
    duration_ms: u64,
    stop: &CancellationToken,
    told: &watch::Sender<u64>,
) -> Result<Transcript, String> {
    let heard =
        Arc::new(Mutex::new(Transcript { language: engine.languages().first().cloned().unwrap_or_default(), ..Transcript::default() }));
    // The sink is dropped with the stream's last word, and this sender with it.
    let (alive, ended) = mpsc::sync_channel::<()>(1);
    let sink = heard.clone();
    let config = SessionConfig { interim: false, ..SessionConfig::default() };
    let stream = loop {
        let (sink, alive) = (sink.clone(), alive.clone());
        let take = Box::new(move |event| {
            let _ = &alive;
            take(&mut sink.lock().unwrap_or_else(PoisonError::into_inner), event);
        });
        match engine.open(config.clone(), Source::Pcm { rate: SAMPLE_RATE }, take) {
            // Rooms come first: a recording can wait.
            Err(EngineError::TooManyStreams { .. }) if !stop.is_cancelled() => std::thread::sleep(Duration::from_millis(500)),
            opened => break opened.map_err(|error| error.to_string())?,
        }
    };
    drop(alive);
    let (mut decoder, mut samples, mut pushed) = (open(audio, name)?, Vec::new(), 0u64);
    let mut more = true;
    while more {
        more = decoder.read(&mut samples).map_err(|error| error.to_string())?;
        let whole = if more { samples.len() / PART * PART } else { samples.len() };
        for part in samples[..whole].chunks(PART) {
            while !stream.push_pcm(part) {
                if stop.is_cancelled() {
                    return Err("stopped".into());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            pushed += part.len() as u64;
            let done = (pushed * 1_000 / u64::from(SAMPLE_RATE) * 1_000).checked_div(duration_ms).unwrap_or(0);
            told.send_replace(done.min(1_000));
        }
        samples.drain(..whole);
    }
    stream.finish();
    match ended.recv_timeout(LAST_WORDS) {
        Err(mpsc::RecvTimeoutError::Disconnected) => {}
        _ => return Err("the speech engine did not come to an end".into()),
    }
    let transcript = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    if transcript.segments.len() > MAX_SEGMENTS {
        return Err(format!("it has more than {MAX_SEGMENTS} segments"));
    }
    Ok(transcript)
}

fn take(transcript: &mut Transcript, event: SpeechEvent) {
    match event {
        SpeechEvent::Final { text, words, start, end, language, .. } if !text.is_empty() && transcript.segments.len() <= MAX_SEGMENTS => {
            if !language.is_empty() {
                transcript.language = language;
            }
            let words = words.into_iter().map(|word| Word {
                text: word.text,
                start_ms: word.start.as_ms(),
                end_ms: word.end.as_ms(),
                confidence: word.confidence,
            });
            transcript.segments.push(Segment { start_ms: start.as_ms(), end_ms: end.as_ms(), text, words: words.collect() });
        }
        SpeechEvent::Degraded { rule: DegradeRule::AudioDropped { length } } => transcript.skipped_ms += length.as_ms(),
        _ => {}
    }
}
