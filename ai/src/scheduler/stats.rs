//! The engine's counters, and the snapshot that is handed out.
//!
//! Rule: values, cumulative where they can be, so that a lost report costs nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::audio::receiver::ReceiverStats;
use crate::session::models::ModelStats;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Shared between the threads and the handles.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: AtomicU64),* }

        /// A snapshot of an engine.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct EngineStats {
            /// The engine under the models.
            pub runtime: String,
            /// The voice detector.
            pub detector: String,
            /// The model pack.
            pub pack: String,
            $($(#[$doc])* pub $name: u64),*
        }

        impl Counters {
            pub(super) fn snapshot(&self, runtime: &str, detector: &str, pack: &str) -> EngineStats {
                EngineStats {
                    runtime: runtime.to_owned(),
                    detector: detector.to_owned(),
                    pack: pack.to_owned(),
                    $($name: self.$name.load(Ordering::Relaxed)),*
                }
            }
        }
    };
}

counters! {
    /// Streams open now.
    streams,
    /// Streams with an open segment now.
    speaking,
    /// Audio that waits now, milliseconds over all streams.
    backlog_ms,
    /// Time that the busiest thread spends on live streams, thousandths.
    load_permille,
    /// Streams refused because the machine has no time for one more.
    refused_for_load,
    /// Streams refused for the limit.
    refused_streams,
    /// Inputs refused because a stream's queue was full.
    refused_inputs,
    /// Looks at the streams.
    ticks,
    /// Runs of the voice detector.
    detector_runs,
    /// Windows that these runs judged: divided by the runs, the mean batch.
    windows,
    /// Runs of the recogniser.
    recogniser_runs,
    /// Chunks that these runs recognised: divided by the runs, the mean batch.
    chunks,
    /// Runs that failed.
    failures,
    /// Times that a stream's interim text was suspended (rule 1).
    interim_suspended,
    /// Times that a stream was given to the smaller model (rule 2).
    smaller_model,
    /// Audio skipped because its stream was too late (rule 3), milliseconds.
    audio_dropped_ms,
    /// Times that rule 3 was applied.
    audio_drops,
    /// Packets taken in.
    packets,
    /// Packets decoded.
    decoded,
    /// Quiet packets that were not decoded.
    gated,
    /// Frames concealed or recovered.
    concealed,
    /// Packets given up as lost.
    lost,
    /// Packets that came too late.
    late,
    /// Packets that came twice.
    duplicate,
    /// Packets that are not Opus.
    malformed,
    /// Segments closed.
    finals,
}

impl Counters {
    /// Adds what changed between two cumulative readings of a thread's models.
    pub(super) fn add_models(&self, before: ModelStats, after: ModelStats) {
        add(&self.detector_runs, before.detector_runs, after.detector_runs);
        add(&self.windows, before.windows, after.windows);
        add(&self.recogniser_runs, before.recogniser_runs, after.recogniser_runs);
        add(&self.chunks, before.chunks, after.chunks);
        add(&self.failures, before.failures, after.failures);
    }

    /// Adds what changed between two cumulative readings of a stream's receiver.
    pub(super) fn add_receiver(&self, before: ReceiverStats, after: ReceiverStats) {
        add(&self.packets, before.jitter.received, after.jitter.received);
        add(&self.decoded, before.decoded, after.decoded);
        add(&self.gated, before.gated, after.gated);
        add(&self.concealed, before.concealed, after.concealed);
        add(&self.lost, before.jitter.lost, after.jitter.lost);
        add(&self.late, before.jitter.late, after.jitter.late);
        add(&self.duplicate, before.jitter.duplicate, after.jitter.duplicate);
        let malformed = |stats: ReceiverStats| stats.jitter.malformed + stats.refused;
        add(&self.malformed, malformed(before), malformed(after));
    }
}

fn add(counter: &AtomicU64, before: u64, after: u64) {
    if after != before {
        counter.fetch_add(after - before, Ordering::Relaxed);
    }
}
