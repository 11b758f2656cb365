//! From the shards' tap rings to the streams of the engine: one thread at low priority that takes packets out of every ring and
//! gives each to the stream of its track. It sleeps between looks; without streams it parks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use auralink_ai::scheduler::StreamHandle;
use auralink_media::ids::TrackKey;
use auralink_media::tap::TapPacket;

/// Time between looks at the rings. Longer would add to every word's latency, shorter would cost idle wake-ups.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Time between looks while nobody is heard.
const IDLE_LOOK_EVERY: Duration = Duration::from_millis(200);

/// Priority of the thread, 0 (normal) to 19 (lowest): that of the speech threads, so that media stays ahead.
const NICE: i32 = 10;

/// Which stream hears which track.
type Streams = Arc<Mutex<HashMap<TrackKey, Arc<StreamHandle>>>>;

/// The thread and its table.
pub struct Router {
    streams: Streams,
    thread: Option<thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Router {
    /// Starts the thread over the rings, one per shard.
    pub fn start(taps: Vec<rtrb::Consumer<TapPacket>>) -> std::io::Result<Self> {
        let streams = Streams::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (streams, stop) = (Arc::clone(&streams), Arc::clone(&stop));
            thread::Builder::new().name("tap-router".into()).spawn(move || route(taps, &streams, &stop))?
        };
        Ok(Self { streams, thread: Some(thread), stop })
    }

    /// From now on the track's packets go to the stream.
    pub fn attach(&self, track: TrackKey, stream: Arc<StreamHandle>) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(track, stream);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// The track is not heard any more.
    pub fn detach(&self, track: TrackKey) -> Option<Arc<StreamHandle>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&track)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the router was already reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn route(mut taps: Vec<rtrb::Consumer<TapPacket>>, streams: &Streams, stop: &AtomicBool) {
    // On Linux the priority belongs to the thread. Without the right to change it, captions still work.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::warn!(%error, nice = NICE, "the priority of the captions' router could not be lowered");
    }
    while !stop.load(Ordering::Relaxed) {
        let idle = {
            let streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
            for tap in &mut taps {
                while let Ok(packet) = tap.pop() {
                    match streams.get(&packet.track) {
                        Some(stream) => {
                            stream.push_packet(heard(packet));
                        }
                        // The tap was just opened or closed.
                        None => metrics::counter!("auralink_tap_unclaimed_total").increment(1),
                    }
                }
            }
            streams.is_empty()
        };
        thread::park_timeout(if idle { IDLE_LOOK_EVERY } else { LOOK_EVERY });
    }
}

/// The packet in the words of `ai`, which knows no tracks.
fn heard(packet: TapPacket) -> auralink_ai::audio::TapPacket {
    auralink_ai::audio::TapPacket {
        seq: packet.seq,
        timestamp: packet.timestamp,
        arrival: packet.arrival,
        level: packet.level,
        voice: packet.voice,
        marker: packet.marker,
        epoch: packet.epoch,
        payload: packet.payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_thread_runs_at_low_priority() {
        let router = Router::start(Vec::new()).unwrap();
        let nice_of = |task: &std::path::Path| -> Option<(String, i32)> {
            let stat = std::fs::read_to_string(task.join("stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            // proc(5): the nineteenth field of all, the seventeenth after the name.
            Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
        };
        // The thread may not have begun yet: it is looked for until it has, and ends with the test.
        loop {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            if tasks.filter_map(|task| nice_of(&task.ok()?.path())).any(|task| task == ("tap-router".to_owned(), NICE)) {
                break;
            }
            thread::yield_now();
        }
        drop(router);
    }
}
