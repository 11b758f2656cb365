//! What the media plane reports.

use super::*;
use auralink_media::control::{Event, Target};
use std::collections::HashMap;

impl RoomState {
    /// An event of this room's shard.
    pub fn media_event(&mut self, now: Now, event: Event) {
        match event {
            Event::Answer { participant, id, sdp, mid_to_track, .. } => {
                self.tell(participant, Message::Answer(description("answer", id, sdp, mid_to_track)));
            }
            Event::Offer { participant, id, sdp, mid_to_track, .. } => {
                self.tell(participant, Message::Offer(description("offer", id, sdp, mid_to_track)));
            }
            Event::SectionsRequired { participant, audios, videos, .. } => {
                let sections = livekit::MediaSectionsRequirement { num_audios: audios, num_videos: videos };
                self.tell(participant, Message::MediaSectionsRequirement(sections));
            }
            Event::NegotiationFailed { participant, refusal, .. } => {
                self.negotiation_failed(now, participant, &refusal.reason);
            }
            Event::Connected { participant, target, .. } => self.connected(participant, target),
            Event::Disconnected { participant, target, .. } => {
                if let Some(participant) = self.participants.get_mut(&participant)
                    && target == participant.primary()
                {
                    participant.media_lost = Some(now.at);
                }
            }
            Event::TrackStarted { track, codec, .. } => self.track_started(now, track, codec),
            Event::TrackRefused { track, refusal, .. } => self.track_refused(now, track, refusal.reason),
            Event::TrackEnded { track, .. } => self.unpublish(now, track, false),
            Event::Subscribed { track, .. } => self.subscribed(track),
            Event::StreamPaused { subscriber, track, paused, .. } => self.stream_paused(subscriber, track, paused),
            Event::Speakers { speakers, .. } => self.speakers(&speakers),
            Event::Quality { qualities, .. } => self.quality(&qualities),
            Event::Data { participant, packet, .. } => {
                if let Some(participant) = self.participants.get_mut(&participant) {
                    participant.last_sequence = participant.last_sequence.max(packet.sequence);
                    let participant = participant.reference();
                    self.event(What::Data { participant, packet: Arc::from(packet) });
                }
            }
            Event::RoomLost { .. } => self.lose_media(now),
            Event::TapRefused { track, refusal, .. } => {
                self.event(What::TapRefused { track, reason: refusal.reason });
            }
        }
    }

    fn connected(&mut self, key: ParticipantKey, target: Target) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if target != participant.primary() {
            return;
        }
        participant.media_lost = None;
        if participant.state() == State::Active {
            return;
        }
        participant.set_state(State::Active);
        let (reference, info) = (participant.reference(), participant.info());
        self.announce(key);
        self.event(What::ParticipantActive { participant: reference, info });
        let updates: Vec<_> =
            self.participants.values().filter(|other| !other.hidden()).filter_map(|other| other.quality.clone()).collect();
        if !updates.is_empty() {
            self.tell(key, Message::ConnectionQuality(livekit::ConnectionQualityUpdate { updates }));
        }
    }

    fn stream_paused(&mut self, subscriber: ParticipantKey, track: TrackKey, paused: bool) {
        let Some(owner) = self.owners.get(&track).and_then(|owner| self.participants.get(owner)) else { return };
        let Some(publication) = owner.tracks.get(&track) else { return };
        let state = if paused { livekit::StreamState::Paused } else { livekit::StreamState::Active };
        let info = livekit::StreamStateInfo {
            participant_sid: owner.sid.to_string(),
            track_sid: publication.info.sid.clone(),
            state: state as i32,
        };
        self.tell(subscriber, Message::StreamStateUpdate(livekit::StreamStateUpdate { stream_states: vec![info] }));
    }

    fn speakers(&mut self, speakers: &[auralink_media::control::Speaker]) {
        let speakers: Vec<livekit::SpeakerInfo> = speakers
            .iter()
            .filter_map(|speaker| {
                let participant = self.participants.get(&speaker.participant)?;
                (!participant.hidden()).then(|| livekit::SpeakerInfo {
                    sid: participant.sid.to_string(),
                    level: speaker.level,
                    active: speaker.active,
                })
            })
            .collect();
        if !speakers.is_empty() {
            self.broadcast(Message::SpeakersChanged(livekit::SpeakersChanged { speakers }));
        }
    }

    /// Everyone is told whose quality changed; encoded once.
    fn quality(&mut self, qualities: &[auralink_media::control::Quality]) {
        let mut updates = Vec::new();
        for quality in qualities {
            let Some(participant) = self.participants.get_mut(&quality.participant) else { continue };
            let info = livekit::ConnectionQualityInfo {
                participant_sid: participant.sid.to_string(),
                quality: quality.quality as i32,
                score: quality.score,
            };
            let changed = participant.quality.as_ref().is_none_or(|told| told.quality != info.quality);
            if !changed {
                continue;
            }
            participant.quality = Some(info.clone());
            if participant.hidden() {
                let update = livekit::ConnectionQualityUpdate { updates: vec![info] };
                self.tell(quality.participant, Message::ConnectionQuality(update));
            } else {
                updates.push(info);
            }
        }
        if !updates.is_empty() {
            self.broadcast(Message::ConnectionQuality(livekit::ConnectionQualityUpdate { updates }));
        }
    }
}

impl Participant {
    /// The connection without which a participant is not there.
    fn primary(&self) -> Target {
        if self.single_connection { Target::Publisher } else { Target::Subscriber }
    }
}

fn description(kind: &str, id: u32, sdp: String, mid_to_track: Vec<(String, String)>) -> livekit::SessionDescription {
    let mid_to_track_id: HashMap<String, String> = mid_to_track.into_iter().collect();
    livekit::SessionDescription { r#type: kind.to_owned(), sdp, id, mid_to_track_id }
}
