//! What clients ask over their signal connection.

use super::*;
use livekit::request_response::{Reason, Request};
use livekit::signal_request::Message as Asked;
use livekit::simulate_scenario::Scenario;

use auralink_media::control::{NegotiationError, RemoteAnswer, RemoteCandidate, RemoteOffer, Target};

/// Longest `candidate:` line that is taken; real ones have 60 to 200 bytes.
const CANDIDATE_BYTES_MAX: usize = 1024;
/// Longest simulated speech, in seconds.
const SIMULATED_SPEECH_S_MAX: u64 = 60;

impl RoomState {
    /// A client's request. Those of a connection that was replaced are ignored.
    pub fn request(&mut self, now: Now, key: ParticipantKey, connection: ConnectionId, asked: Asked) {
        if self.connection(key) != Some(connection) {
            return;
        }
        match asked {
            Asked::Offer(offer) => self.offer(now, key, offer),
            Asked::Answer(answer) => self.answer(now, key, answer),
            Asked::Trickle(trickle) => self.trickle(key, trickle),
            Asked::AddTrack(request) => self.add_track(now, key, request),
            Asked::Mute(mute) => self.mute(key, mute),
            Asked::Subscription(subscription) => {
                self.update_subscription(key, &join::sids(&subscription), subscription.subscribe, true);
            }
            Asked::TrackSetting(settings) => self.track_settings(key, &settings),
            Asked::Leave(left) => self.client_leaves(now, key, left),
            #[allow(deprecated, reason = "old clients send it; layers are what arrives")]
            Asked::UpdateLayers(_) => {}
            Asked::SubscriptionPermission(audience) => self.set_audience(key, audience),
            Asked::SyncState(state) => self.sync_state(now, key, state),
            Asked::Simulate(simulate) => self.simulate(now, key, simulate),
            Asked::Ping(_) | Asked::PingReq(_) => {} // answered by the connection itself
            Asked::UpdateMetadata(update) => self.update_own_metadata(now, key, update),
            Asked::UpdateAudioTrack(update) => {
                let features = update.features.iter().copied().take(16).collect::<Vec<_>>();
                let changed = self.update_track(key, &update.track_sid, |info| info.audio_features = features);
                if !changed {
                    self.refuse_unknown_track(key, &update.track_sid, Request::UpdateAudioTrack(update.clone()));
                }
            }
            Asked::UpdateVideoTrack(update) => {
                let (width, height) = (update.width, update.height);
                let changed = self.update_track(key, &update.track_sid, |info| {
                    info.width = width;
                    info.height = height;
                });
                if !changed {
                    self.refuse_unknown_track(key, &update.track_sid, Request::UpdateVideoTrack(update.clone()));
                }
            }
            Asked::PublishDataTrackRequest(request) => {
                let text = "data tracks are not supported yet; use data packets or streams";
                self.refuse(key, 0, Reason::UnsupportedType, text, Some(Request::PublishDataTrack(request)));
            }
            Asked::UnpublishDataTrackRequest(request) => {
                let text = "there is no such data track";
                self.refuse(key, 0, Reason::NotFound, text, Some(Request::UnpublishDataTrack(request)));
            }
            Asked::UpdateDataSubscription(_) => {} // there are no data tracks to subscribe to
            Asked::StoreDataBlobRequest(request) => {
                self.refuse(key, request.request_id, Reason::UnsupportedType, "data blobs are not supported yet", None);
            }
            Asked::GetDataBlobRequest(request) => {
                self.refuse(key, request.request_id, Reason::UnsupportedType, "data blobs are not supported yet", None);
            }
        }
    }

    pub(super) fn refuse(
        &mut self,
        key: ParticipantKey,
        request_id: u32,
        reason: Reason,
        message: impl Into<String>,
        request: Option<Request>,
    ) {
        let response = livekit::RequestResponse { request_id, reason: reason as i32, message: message.into(), request };
        self.tell(key, Message::RequestResponse(response));
    }

    fn refuse_unknown_track(&mut self, key: ParticipantKey, sid: &str, request: Request) {
        let sid: String = sid.chars().take(64).collect();
        self.refuse(key, 0, Reason::NotFound, format!("no track {sid:?} of yours"), Some(request));
    }

    pub(super) fn offer(&mut self, now: Now, key: ParticipantKey, offer: livekit::SessionDescription) {
        match self.read_sdp("offer", &offer, RemoteOffer::parse) {
            Ok(read) => self.media(Command::Offer { room: self.room.key, participant: key, id: offer.id, offer: Box::new(read) }),
            Err(wrong) => self.negotiation_failed(now, key, &wrong),
        }
    }

    fn answer(&mut self, now: Now, key: ParticipantKey, answer: livekit::SessionDescription) {
        match self.read_sdp("answer", &answer, RemoteAnswer::parse) {
            Ok(read) => self.media(Command::Answer { room: self.room.key, participant: key, id: answer.id, answer: Box::new(read) }),
            Err(wrong) => self.negotiation_failed(now, key, &wrong),
        }
    }

    /// Reads a description whose type and size are right: here, so that a shard's packets do not wait for it. Else what is wrong.
    fn read_sdp<T>(
        &self,
        kind: &str,
        description: &livekit::SessionDescription,
        parse: impl FnOnce(&str) -> Result<T, NegotiationError>,
    ) -> Result<T, String> {
        let max = self.config.limits.sdp_bytes;
        if description.r#type != kind {
            let found: String = description.r#type.chars().take(16).collect();
            return Err(format!("a session description of type {kind:?} was expected, not {found:?}"));
        }
        if description.sdp.is_empty() {
            return Err(format!("the {kind} has no SDP"));
        }
        if description.sdp.len() > max {
            return Err(format!("the {kind}'s SDP has {} bytes, at most {max} are taken", description.sdp.len()));
        }
        parse(&description.sdp).map_err(|error| error.to_string())
    }

    /// Offer or answer cannot be used: the reason, then a leave that lets the client start over.
    pub(super) fn negotiation_failed(&mut self, now: Now, key: ParticipantKey, reason: &str) {
        let Some(participant) = self.participants.get(&key) else { return };
        tracing::info!(room = &*self.room.name, participant = &*participant.identity, reason, "negotiation failed");
        self.refuse(key, 0, Reason::InvalidRequest, reason, None);
        let why = DisconnectReason::MediaFailure;
        self.remove(now, key, why, Some(leave(why, livekit::leave_request::Action::Reconnect)));
    }

    fn trickle(&mut self, key: ParticipantKey, trickle: livekit::TrickleRequest) {
        #[derive(serde::Deserialize)]
        struct CandidateInit {
            #[serde(default)]
            candidate: String,
        }
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let candidate = match serde_json::from_str::<CandidateInit>(&trickle.candidate_init) {
            Ok(init) if init.candidate.len() <= CANDIDATE_BYTES_MAX => init.candidate,
            _ => {
                let text = "an ICE candidate is JSON with a 'candidate' of at most 1024 bytes";
                let mut request = trickle;
                request.candidate_init.clear();
                self.refuse(key, 0, Reason::InvalidRequest, text, Some(Request::Trickle(request)));
                return;
            }
        };
        // The end of candidates is empty; names of mDNS are resolved by nobody here: such peers are found by their checks.
        let candidate = match RemoteCandidate::parse(&candidate) {
            Ok(Some(candidate)) => candidate,
            Ok(None) => return,
            Err(error) => {
                // One candidate that is no use is no reason to end a session: others lead to the client too.
                tracing::debug!(room = &*self.room.name, participant = &*participant.identity, %error, "candidate not taken");
                return;
            }
        };
        if participant.candidates >= self.config.limits.candidates_per_participant {
            metrics::counter!("auralink_candidates_dropped_total").increment(1);
            return;
        }
        participant.candidates += 1;
        let target = match trickle.target() {
            livekit::SignalTarget::Publisher => Target::Publisher,
            livekit::SignalTarget::Subscriber => Target::Subscriber,
        };
        self.media(Command::Candidate { room: self.room.key, participant: key, target, candidate });
    }

    fn mute(&mut self, key: ParticipantKey, mute: livekit::MuteTrackRequest) {
        if self.set_muted(key, &mute.sid, mute.muted, false).is_err() {
            let sid = mute.sid.clone();
            self.refuse_unknown_track(key, &sid, Request::Mute(mute));
        }
    }

    fn client_leaves(&mut self, now: Now, key: ParticipantKey, left: livekit::LeaveRequest) {
        let reason = match left.reason() {
            DisconnectReason::UnknownReason => DisconnectReason::ClientInitiated,
            reason => reason,
        };
        self.remove(now, key, reason, Some(leave(reason, livekit::leave_request::Action::Disconnect)));
    }

    fn update_own_metadata(&mut self, now: Now, key: ParticipantKey, update: livekit::UpdateParticipantMetadata) {
        let Some(participant) = self.participants.get(&key) else { return };
        let request_id = update.request_id;
        if !participant.grant.can_update_own_metadata() {
            let text = "does not have permission to update own metadata";
            self.refuse(key, request_id, Reason::NotAllowed, text, Some(Request::UpdateMetadata(update)));
            return;
        }
        let change = Change {
            name: Some(update.name.clone()).filter(|name| !name.is_empty()),
            metadata: Some(update.metadata.clone()).filter(|metadata| !metadata.is_empty()),
            attributes: update.attributes.clone(),
            permission: None,
        };
        let (reason, message) = match self.change_participant(now, key, change) {
            Ok(_) => (Reason::Ok, String::new()),
            Err(RoomsError::LimitExceeded(message)) => (Reason::LimitExceeded, message),
            Err(error) => (Reason::InvalidRequest, error.to_string()),
        };
        // The request comes back so that clients can tell what was answered, its contents do not.
        let update = livekit::UpdateParticipantMetadata { request_id, ..Default::default() };
        self.refuse(key, request_id, reason, message, Some(Request::UpdateMetadata(update)));
    }

    fn update_track(&mut self, key: ParticipantKey, sid: &str, change: impl FnOnce(&mut livekit::TrackInfo)) -> bool {
        let Some(participant) = self.participants.get_mut(&key) else { return false };
        let Some(track) = participant.track_key(sid) else { return false };
        let Some(publication) = participant.tracks.get_mut(&track) else { return false };
        change(&mut publication.info);
        if publication.started {
            participant.changed();
            self.announce(key);
        }
        true
    }

    /// LiveKit's self-test scenarios, as far as they concern signaling.
    fn simulate(&mut self, now: Now, key: ParticipantKey, simulate: livekit::SimulateScenario) {
        use livekit::leave_request::Action;
        match simulate.scenario {
            Some(Scenario::SpeakerUpdate(seconds)) => {
                let seconds = u64::from(seconds.max(0).unsigned_abs()).min(SIMULATED_SPEECH_S_MAX);
                self.simulated_speakers.retain(|(_, speaker)| *speaker != key);
                self.simulated_speakers.push((now.at + Duration::from_secs(seconds), key));
                self.simulated_speech(key, 0.9, true);
            }
            // As if this node were gone: no farewell, and a resume finds nothing.
            Some(Scenario::NodeFailure(_)) => self.remove(now, key, DisconnectReason::ServerShutdown, None),
            Some(Scenario::Migration(_)) => {
                let reason = DisconnectReason::Migration;
                self.remove(now, key, reason, Some(leave(reason, Action::Reconnect)));
            }
            Some(Scenario::ServerLeave(_)) => {
                let reason = DisconnectReason::ServerShutdown;
                self.remove(now, key, reason, Some(leave(reason, Action::Disconnect)));
            }
            Some(Scenario::LeaveRequestFullReconnect(_)) => {
                let reason = DisconnectReason::StateMismatch;
                self.remove(now, key, reason, Some(leave(reason, Action::Reconnect)));
            }
            Some(Scenario::DisconnectSignalOnResume(_) | Scenario::DisconnectSignalOnResumeNoMessages(_)) => {
                self.effects.push(Effect::Close { participant: key, why: Close::Dropped });
            }
            Some(Scenario::SwitchCandidateProtocol(_) | Scenario::SubscriberBandwidth(_)) | None => {
                self.refuse(key, 0, Reason::UnsupportedType, "this scenario is not simulated here", None);
            }
        }
    }

    fn simulated_speech(&mut self, key: ParticipantKey, level: f32, active: bool) {
        let Some(participant) = self.participants.get(&key) else { return };
        let speaker = livekit::SpeakerInfo { sid: participant.sid.to_string(), level, active };
        self.broadcast(Message::SpeakersChanged(livekit::SpeakersChanged { speakers: vec![speaker] }));
    }

    pub(super) fn end_simulated_speakers(&mut self, now: Now) {
        let (over, lasting) = self.simulated_speakers.drain(..).partition(|(until, _)| *until <= now.at);
        self.simulated_speakers = lasting;
        let over: Vec<(Instant, ParticipantKey)> = over;
        for (_, key) in over {
            self.simulated_speech(key, 0.0, false);
        }
    }
}
