//! A transcript as a file: plain text, SubRip, WebVTT, JSON.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Segment, Transcript};

/// How a transcript is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One segment a line.
    Txt,
    /// SubRip subtitles.
    Srt,
    /// WebVTT captions.
    Vtt,
    /// Everything, with the words' times.
    Json,
}

impl Format {
    /// The ending of such a file.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::Json => "json",
        }
    }

    /// The transcript, written so.
    pub fn write(self, transcript: &Transcript) -> String {
        let mut out = String::new();
        let segments = transcript.segments.iter();
        match self {
            Self::Txt => segments.for_each(|segment| line(&mut out, format_args!("{}", segment.text))),
            Self::Srt => segments.enumerate().for_each(|(index, segment)| {
                line(&mut out, format_args!("{}\n{}\n{}\n", index + 1, times(segment, ','), plain(&segment.text)));
            }),
            Self::Vtt => {
                line(&mut out, format_args!("WEBVTT\n"));
                segments.for_each(|segment| line(&mut out, format_args!("{}\n{}\n", times(segment, '.'), escaped(&segment.text))));
            }
            Self::Json => out = serde_json::to_string_pretty(transcript).unwrap_or_default(),
        }
        out
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a String never fails");
}

/// `-->` ends a cue's times, so that it cannot stand in its text.
fn plain(text: &str) -> String {
    text.replace("-->", "->")
}

/// WebVTT reads `&` and `<` as markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn times(segment: &Segment, point: char) -> String {
    // A cue ends after it begins.
    let end = segment.end_ms.max(segment.start_ms + 1);
    format!("{} --> {}", time(segment.start_ms, point), time(end, point))
}

fn time(ms: u64, point: char) -> String {
    format!("{:02}:{:02}:{:02}{point}{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_as_their_documents_say() {
        let segment = |start_ms, end_ms, text: &str| Segment { start_ms, end_ms, text: text.into(), words: Vec::new() };
        let transcript = Transcript {
            language: "en".into(),
            segments: vec![segment(0, 1_250, "hello <there>"), segment(3_723_004, 3_723_004, "a --> b")],
            skipped_ms: 0,
        };
        assert_eq!(Format::Txt.write(&transcript), "hello <there>\na --> b\n");
        assert_eq!(
            Format::Srt.write(&transcript),
            "1\n00:00:00,000 --> 00:00:01,250\nhello <there>\n\n2\n01:02:03,004 --> 01:02:03,005\na -> b\n\n"
        );
        assert_eq!(
            Format::Vtt.write(&transcript),
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nhello &lt;there&gt;\n\n01:02:03.004 --> 01:02:03.005\na --&gt; b\n\n"
        );
        assert_eq!(serde_json::from_str::<Transcript>(&Format::Json.write(&transcript)).unwrap(), transcript);
    }
}
