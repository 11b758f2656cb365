//! Subscribing: who gets which track, and how.

use super::*;
use crate::rooms::participant::allowed_by;
use auralink_media::control::TrackSettings;

/// Unknown tracks of one request that are answered each; the rest are as unknown.
const UNKNOWN_ANSWERS_MAX: usize = 100;

impl RoomState {
    /// May and does `subscriber` want `track` of `owner`?
    fn wants(&self, subscriber: &Participant, owner: &Participant, track: TrackKey) -> bool {
        let Some(publication) = owner.tracks.get(&track) else { return false };
        publication.started
            && subscriber.key != owner.key
            && !matches!(subscriber.link, Link::Local)
            && subscriber.grant.can_subscribe()
            && !subscriber.unwanted.contains(&track)
            && (subscriber.auto_subscribe || subscriber.wanted.contains(&track))
            && owner.allows(subscriber, &publication.info.sid)
    }

    /// A new or newly permitted participant gets what there is.
    pub(super) fn subscribe_to_all(&mut self, subscriber: ParticipantKey) {
        let tracks: Vec<TrackKey> = self.owners.keys().copied().collect();
        for track in tracks {
            self.subscribe_if_wanted(subscriber, track);
        }
    }

    /// A new track goes to everyone who wants it.
    pub(super) fn subscribe_everyone(&mut self, track: TrackKey) {
        let subscribers: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        for subscriber in subscribers {
            self.subscribe_if_wanted(subscriber, track);
        }
    }

    fn subscribe_if_wanted(&mut self, subscriber: ParticipantKey, track: TrackKey) {
        let wanted = self
            .owners
            .get(&track)
            .and_then(|owner| Some(self.wants(self.participants.get(&subscriber)?, self.participants.get(owner)?, track)))
            .unwrap_or(false);
        if !wanted {
            return;
        }
        let Some(participant) = self.participants.get_mut(&subscriber) else { return };
        if participant.subscriptions.insert(track) {
            self.media(Command::Subscribe { room: self.room.key, subscriber, track });
        }
    }

    fn unsubscribe(&mut self, subscriber: ParticipantKey, track: TrackKey) {
        let Some(participant) = self.participants.get_mut(&subscriber) else { return };
        if participant.subscriptions.remove(&track) {
            self.media(Command::Unsubscribe { room: self.room.key, subscriber, track });
        }
    }

    pub(super) fn unsubscribe_from_all(&mut self, subscriber: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&subscriber) else { return };
        for track in std::mem::take(&mut participant.subscriptions) {
            self.media(Command::Unsubscribe { room: self.room.key, subscriber, track });
        }
    }

    /// A participant says which tracks it wants, or an administrator says it. With `answered`, unknown tracks are answered.
    pub(super) fn update_subscription(&mut self, subscriber: ParticipantKey, sids: &[String], subscribe: bool, answered: bool) {
        let mut answers = UNKNOWN_ANSWERS_MAX;
        for sid in sids {
            let Some(track) = self.track_keys.get(sid).copied() else {
                if answered && subscribe && answers > 0 {
                    answers -= 1;
                    let err = livekit::SubscriptionError::SeTrackNotfound as i32;
                    let track_sid = sid.chars().take(64).collect();
                    self.tell(subscriber, Message::SubscriptionResponse(livekit::SubscriptionResponse { track_sid, err }));
                }
                continue;
            };
            let Some(participant) = self.participants.get_mut(&subscriber) else { return };
            if subscribe {
                participant.unwanted.remove(&track);
                participant.wanted.insert(track);
                self.subscribe_if_wanted(subscriber, track);
                if answered {
                    self.tell_if_not_allowed(subscriber, track, sid);
                }
            } else {
                participant.wanted.remove(&track);
                participant.unwanted.insert(track);
                self.unsubscribe(subscriber, track);
            }
        }
    }

    fn tell_if_not_allowed(&mut self, subscriber: ParticipantKey, track: TrackKey, sid: &str) {
        let Some(owner) = self.owners.get(&track).and_then(|owner| self.participants.get(owner)) else { return };
        let Some(participant) = self.participants.get(&subscriber) else { return };
        if participant.grant.can_subscribe() && owner.allows(participant, sid) {
            return;
        }
        let update =
            livekit::SubscriptionPermissionUpdate { participant_sid: owner.sid.to_string(), track_sid: sid.to_owned(), allowed: false };
        self.tell(subscriber, Message::SubscriptionPermissionUpdate(update));
    }

    /// How a subscriber shows tracks: adaptive stream, pause, priority.
    pub(super) fn track_settings(&mut self, subscriber: ParticipantKey, settings: &livekit::UpdateTrackSettings) {
        let off = settings.quality() == livekit::VideoQuality::Off;
        let settings_of_all = TrackSettings {
            disabled: settings.disabled || off,
            // Sizes say more than the quality; a client that knows no sizes sends the quality.
            max_spatial: (settings.width == 0 && !off).then_some(settings.quality.clamp(0, 2) as u8),
            width: settings.width,
            height: settings.height,
            fps: settings.fps,
            // LiveKit counts 1 as the highest and 0 as unset; media counts upwards.
            priority: if settings.priority == 0 { 0 } else { u32::MAX - settings.priority },
        };
        for sid in &settings.track_sids {
            let Some(track) = self.track_keys.get(sid).copied() else { continue };
            let subscribed = self.participants.get(&subscriber).is_some_and(|participant| participant.subscriptions.contains(&track));
            if subscribed {
                let settings = settings_of_all;
                self.media(Command::SetTrackSettings { room: self.room.key, subscriber, track, settings });
            }
        }
    }

    /// A publisher says who may have its tracks.
    pub(super) fn set_audience(&mut self, owner: ParticipantKey, audience: livekit::SubscriptionPermission) {
        let limits = &self.config.limits;
        let too_long = audience.track_permissions.len() > limits.participants_per_room
            || audience.track_permissions.iter().any(|one| one.track_sids.len() > limits.tracks_per_participant);
        if too_long {
            let text = "a subscription permission names more participants or tracks than a room has";
            self.refuse(owner, 0, livekit::request_response::Reason::LimitExceeded, text, None);
            return;
        }
        let Some(participant) = self.participants.get_mut(&owner) else { return };
        let before = participant.audience.replace(audience);
        let tracks: Vec<(TrackKey, String)> = participant.tracks.values().map(|track| (track.key, track.info.sid.clone())).collect();
        let owner_sid = participant.sid.to_string();
        let subscribers: Vec<ParticipantKey> = self.participants.keys().copied().filter(|subscriber| *subscriber != owner).collect();
        for subscriber in subscribers {
            for (track, sid) in &tracks {
                let (Some(publisher), Some(participant)) = (self.participants.get(&owner), self.participants.get(&subscriber)) else {
                    continue;
                };
                let allowed = publisher.allows(participant, sid);
                let allowed_before = match &before {
                    None => true,
                    Some(before) => allowed_by(before, participant, sid),
                };
                if allowed == allowed_before {
                    continue;
                }
                if !allowed {
                    self.unsubscribe(subscriber, *track);
                }
                let update = livekit::SubscriptionPermissionUpdate { participant_sid: owner_sid.clone(), track_sid: sid.clone(), allowed };
                self.tell(subscriber, Message::SubscriptionPermissionUpdate(update));
                self.subscribe_if_wanted(subscriber, *track);
            }
        }
    }

    /// A subscription flows: the publisher is told of the first.
    pub(super) fn subscribed(&mut self, track: TrackKey) {
        let Some(owner) = self.owners.get(&track).copied() else { return };
        let Some(publication) = self.participants.get_mut(&owner).and_then(|p| p.tracks.get_mut(&track)) else { return };
        if !std::mem::replace(&mut publication.subscribed, true) {
            let track_sid = publication.info.sid.clone();
            self.tell(owner, Message::TrackSubscribed(livekit::TrackSubscribed { track_sid }));
        }
    }
}
