//! What a room does once in a while instead of at every packet: speakers every 500 ms, layers every second, quality every 5 s.

use std::time::Duration;

use crate::control::{Event, Quality, Speaker};
use crate::ids::ParticipantKey;
use crate::packet::MediaKind;
use crate::quality::{Observation, rate};
use crate::room::{Link, Room, Turn};

/// Between two rounds: LiveKit's interval of active speakers.
pub const ROUND: Duration = Duration::from_millis(500);
/// Rounds between two allocations of layers.
const ALLOCATE_EVERY: u64 = 2;
/// Rounds between two reports of connection quality.
const QUALITY_EVERY: u64 = 10;

impl Room {
    /// One round.
    pub fn round(&mut self, turn: &mut Turn<'_>) {
        self.rounds += 1;
        self.find_speakers(turn);
        if self.rounds.is_multiple_of(ALLOCATE_EVERY) {
            let all: Vec<ParticipantKey> = self.participants.iter().filter(|(_, p)| !p.subscriptions.is_empty()).map(|(k, _)| *k).collect();
            for key in all {
                self.reallocate(turn, key);
            }
        }
        // A channel that was full may take more now, and what was taken long ago is forgotten.
        let receiving: Vec<ParticipantKey> = self.participants.iter().filter(|(_, p)| !p.outbox.is_empty()).map(|(k, _)| *k).collect();
        for key in receiving {
            self.send_waiting(turn, key);
        }
        let tracks: Vec<_> = self.publications.iter().filter(|(_, p)| p.kind() == MediaKind::Video).map(|(k, _)| *k).collect();
        for track in tracks {
            // A request or the key frame itself may have been lost.
            self.request_awaited_key_frames(turn, track);
        }
        if self.rounds.is_multiple_of(QUALITY_EVERY) {
            self.report_quality(turn);
        }
    }

    fn find_speakers(&mut self, turn: &mut Turn<'_>) {
        let mut speaking: std::collections::BTreeMap<ParticipantKey, f32> = Default::default();
        for publication in self.publications.values_mut() {
            if publication.kind() != MediaKind::Audio || !publication.spec.speaks || publication.muted {
                continue;
            }
            let (level, active) = publication.level.read();
            if active && self.participants.get(&publication.publisher).is_some_and(|p| !p.spec.hidden) {
                let loudest = speaking.entry(publication.publisher).or_default();
                *loudest = loudest.max(level);
            }
        }
        if speaking == self.speaking {
            return;
        }
        let ended = self.speaking.keys().filter(|k| !speaking.contains_key(k));
        let mut speakers: Vec<Speaker> = ended.map(|&participant| Speaker { participant, level: 0.0, active: false }).collect();
        speakers.extend(speaking.iter().map(|(&participant, &level)| Speaker { participant, level, active: true }));
        speakers.sort_by(|a, b| b.level.total_cmp(&a.level));
        turn.events.push_back(Event::Speakers { room: self.key, speakers });
        self.speaking = speaking;
    }

    fn report_quality(&mut self, turn: &mut Turn<'_>) {
        let mut qualities = Vec::with_capacity(self.participants.len());
        for (&key, participant) in &mut self.participants {
            if !participant.spec.connected {
                continue;
            }
            let (mut expected, mut received) = (0, 0);
            for layer in participant.publications.iter().filter_map(|t| self.publications.get(t)).flat_map(|p| &p.layers) {
                let (e, r) = layer.counts();
                expected += e;
                received += r;
            }
            // A stream that began anew counts from zero again.
            let (new_expected, new_received) =
                (expected.saturating_sub(participant.counted.0), received.saturating_sub(participant.counted.1));
            participant.counted = (expected, received);
            let up = if new_expected == 0 { 0.0 } else { 1.0 - (new_received as f32 / new_expected as f32).min(1.0) };
            let (mut down, mut rtt) = (0f32, None);
            for subscription in
                participant.subscriptions.iter().filter_map(|t| self.publications.get(t)).filter_map(|p| p.subscriptions.get(&key))
            {
                down = down.max(subscription.loss);
                rtt = rtt.max(subscription.rtt);
            }
            let (publisher, subscriber) = participant.links;
            if publisher == Link::New && subscriber == Link::New {
                continue;
            }
            let lost = publisher == Link::Down || subscriber == Link::Down;
            let (quality, score) = rate(&Observation { lost, loss: up.max(down), rtt });
            qualities.push(Quality { participant: key, quality, score });
        }
        if !qualities.is_empty() {
            turn.events.push_back(Event::Quality { room: self.key, qualities });
        }
    }
}
