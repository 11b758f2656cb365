//! `/metrics`: what the recorder holds, the process's own figures, and the counters that media and speech keep as values.
//!
//! Rule: a family is written once, whole, with its HELP and TYPE (Prometheus text format 0.0.4). Names of LiveKit where the meaning is the
//! same. Shards report about once a second.

use std::fmt::Write as _;

use auralink_ai::scheduler::EngineStats;
use auralink_ai::translation::TranslationStats;
use auralink_media::control::ShardStats;

/// Whether a family only grows.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// Writes a family: its head, then a line for each sample (labels without braces, may be empty).
fn family(text: &mut String, name: &str, kind: Kind, help: &str, samples: impl IntoIterator<Item = (String, u64)>) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = match labels.as_str() {
            "" => writeln!(text, "{name} {value}"),
            labels => writeln!(text, "{name}{{{labels}}} {value}"),
        };
    }
}

/// What a sample of a shard is: its label beside the shard's number, and where it is read.
type ShardSample = (&'static str, fn(&ShardStats) -> u64);

/// The shards' counters, which cross threads as values.
pub fn media(text: &mut String, shards: &[ShardStats]) {
    let mut write = |name: &str, kind: Kind, help: &str, samples: &[ShardSample]| {
        let samples = samples.iter().flat_map(|(label, read)| {
            shards.iter().enumerate().map(move |(shard, stats)| {
                let comma = if label.is_empty() { "" } else { "," };
                (format!("shard=\"{shard}\"{comma}{label}"), read(stats))
            })
        });
        family(text, name, kind, help, samples);
    };
    let incoming = "direction=\"incoming\"";
    let outgoing = "direction=\"outgoing\"";
    use Kind::{Counter, Gauge};
    write("livekit_packet_total", Counter, "RTP packets.", &[(incoming, |s| s.rtp_in), (outgoing, |s| s.rtp_out)]);
    write("livekit_packet_bytes", Counter, "Bytes of datagrams.", &[(incoming, |s| s.bytes_in), (outgoing, |s| s.bytes_out)]);
    write(
        "auralink_datagrams_total",
        Counter,
        "UDP datagrams read and written.",
        &[(incoming, |s| s.datagrams_in), (outgoing, |s| s.datagrams_out)],
    );
    write("livekit_nack_total", Counter, "Sequence numbers that subscribers asked for again.", &[(incoming, |s| s.nacked)]);
    write("livekit_pli_total", Counter, "Requests for key frames.", &[(incoming, |s| s.pli_in), (outgoing, |s| s.pli_out)]);
    write("auralink_retransmitted_total", Counter, "RTP packets sent again.", &[("", |s| s.retransmitted)]);
    write(
        "auralink_dropped_total",
        Counter,
        "What was dropped, by reason.",
        &[
            ("why=\"tap_full\"", |s| s.tap_dropped),
            ("why=\"unknown_address\"", |s| s.dropped_unknown_address),
            ("why=\"bad_stun\"", |s| s.dropped_bad_stun),
            ("why=\"bad_tag\"", |s| s.dropped_bad_tag),
            ("why=\"unknown_ssrc\"", |s| s.dropped_unknown_ssrc),
            ("why=\"slow_data_receiver\"", |s| s.data_dropped),
            ("why=\"repeated_data\"", |s| s.data_repeated),
            ("why=\"data_in_anothers_name\"", |s| s.data_in_anothers_name),
            ("why=\"send_failed\"", |s| s.send_failed),
            ("why=\"handover_full\"", |s| s.handover_dropped),
        ],
    );
    write(
        "auralink_handover_total",
        Counter,
        "Datagrams that one shard of a port read for another, by reader and by owner.",
        &[(incoming, |s| s.handed_in), (outgoing, |s| s.handed_out)],
    );
    write("auralink_shard_limit_hits_total", Counter, "Limits of media tables that were hit.", &[("", |s| s.limit_hits)]);
    write("auralink_shard_ended", Gauge, "1 when a fault has ended the shard; `/health` says which.", &[("", |s| s.ended)]);
    write("auralink_connection_faults_total", Counter, "Connections that a fault of the server ended.", &[("", |s| s.connection_faults)]);
    write("auralink_shard_rooms", Gauge, "Rooms of a shard now.", &[("", |s| s.rooms)]);
    write("auralink_shard_participants", Gauge, "Participants of a shard now.", &[("", |s| s.participants)]);
    write("auralink_shard_publications", Gauge, "Publications of a shard now.", &[("", |s| s.publications)]);
    write("auralink_shard_subscriptions", Gauge, "Subscriptions of a shard now.", &[("", |s| s.subscriptions)]);
}

/// What the speech scheduler counts.
pub fn speech(text: &mut String, stats: &EngineStats) {
    use Kind::{Counter, Gauge};
    let info = [("runtime", &stats.runtime), ("detector", &stats.detector), ("pack", &stats.pack)];
    let labels: Vec<String> = info.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    family(text, "auralink_speech_info", Gauge, "What recognises speech: always 1.", [(labels.join(","), 1)]);
    let families: [(&str, Kind, &str, u64); 24] = [
        ("auralink_speech_streams", Gauge, "Streams heard now.", stats.streams),
        ("auralink_speech_speaking", Gauge, "Streams with an open segment now.", stats.speaking),
        ("auralink_speech_backlog_ms", Gauge, "Audio that waits now, milliseconds over all streams.", stats.backlog_ms),
        ("auralink_speech_refused_streams_total", Counter, "Streams refused for the limit.", stats.refused_streams),
        (
            "auralink_speech_load_permille",
            Gauge,
            "Time that the busiest speech thread spends on live streams, thousandths.",
            stats.load_permille,
        ),
        (
            "auralink_speech_refused_for_load_total",
            Counter,
            "Streams refused because the machine has no time for one more.",
            stats.refused_for_load,
        ),
        ("auralink_speech_smaller_model_total", Counter, "Times that a late stream was given to the smaller model.", stats.smaller_model),
        ("auralink_speech_refused_inputs_total", Counter, "Inputs refused because a stream's queue was full.", stats.refused_inputs),
        ("auralink_speech_ticks_total", Counter, "Looks of the scheduler at its streams.", stats.ticks),
        ("auralink_speech_detector_runs_total", Counter, "Batches of the voice detector.", stats.detector_runs),
        ("auralink_speech_detector_windows_total", Counter, "Windows in the voice detector's batches.", stats.windows),
        ("auralink_speech_recogniser_runs_total", Counter, "Batches of the recogniser.", stats.recogniser_runs),
        ("auralink_speech_recogniser_chunks_total", Counter, "Chunks in the recogniser's batches.", stats.chunks),
        ("auralink_speech_failures_total", Counter, "Runs of a model that failed.", stats.failures),
        (
            "auralink_speech_interim_suspended_total",
            Counter,
            "Times that a late stream's interim text was suspended.",
            stats.interim_suspended,
        ),
        ("auralink_speech_audio_drops_total", Counter, "Times that audio of a stream that was too late was skipped.", stats.audio_drops),
        (
            "auralink_speech_audio_dropped_ms_total",
            Counter,
            "Audio skipped because its stream was too late, milliseconds.",
            stats.audio_dropped_ms,
        ),
        ("auralink_speech_packets_total", Counter, "Audio packets taken in.", stats.packets),
        ("auralink_speech_packets_decoded_total", Counter, "Audio packets decoded.", stats.decoded),
        ("auralink_speech_packets_gated_total", Counter, "Quiet packets that were not decoded.", stats.gated),
        ("auralink_speech_frames_concealed_total", Counter, "Frames concealed or recovered.", stats.concealed),
        ("auralink_speech_packets_lost_total", Counter, "Audio packets given up as lost.", stats.lost),
        ("auralink_speech_packets_late_total", Counter, "Audio packets that came too late.", stats.late),
        ("auralink_speech_segments_total", Counter, "Segments closed.", stats.finals),
    ];
    for (name, kind, help, value) in families {
        family(text, name, kind, help, [(String::new(), value)]);
    }
    let refused = [("why=\"duplicate\"", stats.duplicate), ("why=\"malformed\"", stats.malformed)];
    let refused = refused.map(|(label, value)| (label.to_owned(), value));
    family(text, "auralink_speech_packets_refused_total", Counter, "Audio packets that came twice or are not Opus.", refused);
}

/// What the translation pool counts.
pub fn translation(text: &mut String, stats: &TranslationStats) {
    use Kind::Counter;
    let families = [
        ("auralink_translation_texts_total", "Texts translated.", stats.texts),
        ("auralink_translation_runs_total", "Runs of a model for them.", stats.runs),
        ("auralink_translation_refused_total", "Texts refused because too many waited.", stats.refused),
        ("auralink_translation_failures_total", "Texts that a model failed on.", stats.failures),
    ];
    for (name, help, value) in families {
        family(text, name, Counter, help, [(String::new(), value)]);
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_family_is_written_once_and_whole() {
        let mut text = String::new();
        media(&mut text, &[ShardStats { rtp_in: 7, ..Default::default() }, ShardStats::default()]);
        speech(&mut text, &EngineStats { pack: "a \"b\"".into(), streams: 3, ..Default::default() });
        translation(&mut text, &TranslationStats::default());
        let mut seen = BTreeSet::new();
        let mut present = String::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# TYPE ") {
                present = head.split(' ').next().unwrap().to_owned();
                assert!(seen.insert(present.clone()), "{present} is written twice");
            } else if let Some(head) = line.strip_prefix("# HELP ") {
                assert!(head.split_once(' ').unwrap().1.len() > 4, "{line}");
            } else {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, present, "{line} stands under its own head");
            }
        }
        for line in [
            "livekit_packet_total{shard=\"0\",direction=\"incoming\"} 7",
            "auralink_shard_rooms{shard=\"1\"} 0",
            "auralink_speech_streams 3",
            "auralink_speech_info{runtime=\"\",detector=\"\",pack=\"a \\\"b\\\"\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
