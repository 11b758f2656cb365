//! Sound files (WAV, FLAC, MP3, Ogg with Opus or Vorbis, M4A, WebM) as a stream of mono samples at any rate.
//!
//! Place: `auralink play`, and files sent for recognition. Rule: decoded packet by packet in constant memory; a damaged
//! packet is skipped and counted, a file without sound is an error that names it.

use std::io;

use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;

use super::AudioError;
use super::resample::Resampler;

/// Damaged packets in a row after which the file counts as ended.
const MAX_DAMAGED: u32 = 50;

/// Decodes a file to mono.
pub struct FileDecoder {
    name: String,
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    rate: u32,
    resampler: Option<Resampler>,
    source_rate: Option<u32>,
    interleaved: Vec<f32>,
    mono: Vec<f32>,
    damaged: u64,
    finished: bool,
}

impl FileDecoder {
    /// Opens a source; `name` (with its extension) helps to guess the format and stands in errors; `rate` is the rate of
    /// the samples wanted, hertz.
    ///
    /// # Errors
    /// [`AudioError::File`] when it is no sound file that is known, [`AudioError::SampleRate`] for a wrong `rate`.
    pub fn open(source: impl MediaSource + 'static, name: &str, rate: u32) -> Result<Self, AudioError> {
        let fail = |reason: String| AudioError::File { name: name.to_owned(), reason };
        Resampler::new(rate, rate)?;
        let stream = MediaSourceStream::new(Box::new(source), Default::default());
        let mut hint = Hint::new();
        if let Some((_, extension)) = name.rsplit_once('.') {
            hint.with_extension(extension);
        }
        let format = symphonia::default::get_probe().probe(&hint, stream, FormatOptions::default(), MetadataOptions::default()).map_err(
            |error| match error {
                symphonia::core::errors::Error::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                    fail(error.to_string())
                }
                // The library's own words speak of its parts.
                _ => fail("it holds no format that is known".to_owned()),
            },
        )?;
        let track = format.default_track(TrackType::Audio).ok_or_else(|| fail("it has no sound track".to_owned()))?;
        let parameters = track
            .codec_params
            .as_ref()
            .and_then(|parameters| parameters.audio())
            .ok_or_else(|| fail("its sound track has no known codec".to_owned()))?;
        let mut codecs = CodecRegistry::new();
        symphonia::default::register_enabled_codecs(&mut codecs);
        codecs.register_audio_decoder::<symphonia_adapter_libopus::OpusDecoder>();
        let decoder = codecs.make_audio_decoder(parameters, &AudioDecoderOptions::default()).map_err(|error| fail(error.to_string()))?;
        let track = track.id;
        Ok(Self {
            name: name.to_owned(),
            format,
            decoder,
            track,
            rate,
            resampler: None,
            source_rate: None,
            interleaved: Vec::new(),
            mono: Vec::new(),
            damaged: 0,
            finished: false,
        })
    }

    /// Damaged packets skipped so far.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Appends the next stretch of mono samples to `output`; `false` at the end of the file.
    ///
    /// # Errors
    /// [`AudioError::File`] when reading fails or too much of the file is damaged.
    pub fn read(&mut self, output: &mut Vec<f32>) -> Result<bool, AudioError> {
        let mut damaged_in_row = 0;
        while !self.finished {
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(SymphoniaError::IoError(error)) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(self.fail(error.to_string())),
            };
            if packet.track_id != self.track {
                continue;
            }
            let (rate, channels) = match self.decoder.decode(&packet) {
                Ok(buffer) => {
                    self.interleaved.resize(buffer.samples_interleaved(), 0.0);
                    buffer.copy_to_slice_interleaved(&mut self.interleaved);
                    (buffer.spec().rate(), buffer.spec().channels().count())
                }
                Err(SymphoniaError::DecodeError(_)) => {
                    self.damaged += 1;
                    damaged_in_row += 1;
                    if damaged_in_row >= MAX_DAMAGED {
                        return Err(self.fail(format!("{MAX_DAMAGED} damaged packets in a row")));
                    }
                    continue;
                }
                Err(error) => return Err(self.fail(error.to_string())),
            };
            if self.interleaved.is_empty() || channels == 0 {
                continue;
            }
            self.mono.clear();
            let scale = 1.0 / channels as f32;
            self.mono.extend(self.interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() * scale));
            if self.source_rate != Some(rate) {
                // A chained file may change its rate.
                if let Some(resampler) = &mut self.resampler {
                    resampler.finish(output)?;
                }
                self.resampler = Some(Resampler::new(rate, self.rate)?);
                self.source_rate = Some(rate);
            }
            if let Some(resampler) = &mut self.resampler {
                resampler.process(&self.mono, output)?;
            }
            return Ok(true);
        }
        if !self.finished {
            self.finished = true;
            if let Some(resampler) = &mut self.resampler {
                let before = output.len();
                resampler.finish(output)?;
                return Ok(output.len() > before);
            }
            return Err(self.fail("it holds no sound".to_owned()));
        }
        Ok(false)
    }

    fn fail(&self, reason: String) -> AudioError {
        AudioError::File { name: self.name.clone(), reason }
    }
}
