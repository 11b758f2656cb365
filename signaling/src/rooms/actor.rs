//! The task of a room: takes calls, media events and time to its state and carries the effects out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_media::control::{Command, Event};
use auralink_media::ids::ParticipantKey;
use auralink_proto::livekit;
use livekit::signal_response::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::Instrument as _;

use super::event::{RoomEvent, What};
use super::registry::{Shared, now};
use super::signal::{SignalMessage, SignalSender};
use super::state::{Effect, Now, RoomState};

/// What a call does in a room; what it gives back is run after the effects, so that who asked sees them done.
type Act = Box<dyn FnOnce(&mut RoomState, Now) -> Box<dyn FnOnce() + Send> + Send>;

/// Something to do in a room, for whoever asked: what is logged on the way stands under the asker's span (its correlation id).
pub(crate) struct Call {
    act: Act,
    asker: tracing::Span,
}

impl Call {
    /// A call of the present span.
    pub fn new(act: impl FnOnce(&mut RoomState, Now) -> Box<dyn FnOnce() + Send> + Send + 'static) -> Self {
        Self { act: Box::new(act), asker: tracing::Span::current() }
    }
}

/// Time-outs of rooms are seconds; finer would cost wake-ups, coarser would blur them.
const TICK: Duration = Duration::from_secs(1);

pub(crate) struct Actor {
    state: RoomState,
    shared: Arc<Shared>,
    calls: mpsc::Receiver<Call>,
    events: mpsc::Receiver<Event>,
    info: watch::Sender<livekit::Room>,
    links: HashMap<ParticipantKey, SignalSender>,
    started: Instant,
    finished: bool,
}

impl Actor {
    pub fn new(
        state: RoomState,
        shared: Arc<Shared>,
        calls: mpsc::Receiver<Call>,
        events: mpsc::Receiver<Event>,
        info: watch::Sender<livekit::Room>,
    ) -> Self {
        Self { state, shared, calls, events, info, links: HashMap::new(), started: Instant::now(), finished: false }
    }

    pub async fn run(self) {
        let span = tracing::info_span!("room", name = &*self.state.room.name, sid = %self.state.room.sid);
        self.work().instrument(span).await;
    }

    async fn work(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.carry_out();
        while !self.finished {
            let mut reply: Option<Box<dyn FnOnce() + Send>> = None;
            tokio::select! {
                call = self.calls.recv() => match call {
                    Some(call) => {
                        reply = Some(self.answer(call));
                    }
                    None => break,
                },
                event = self.events.recv() => match event {
                    Some(event) => self.state.media_event(now(), event),
                    None => break,
                },
                _ = tick.tick() => self.state.tick(now()),
            }
            self.carry_out();
            if self.finished {
                // Before anyone hears that the room is over, its name is free again.
                self.shared.forget(&self.state.room);
            }
            if let Some(reply) = reply {
                reply();
            }
        }
        self.shared.forget(&self.state.room);
    }

    fn answer(&mut self, call: Call) -> Box<dyn FnOnce() + Send> {
        let span = tracing::info_span!(parent: &call.asker, "room", name = &*self.state.room.name, sid = %self.state.room.sid);
        let _entered = span.enter();
        let reply = (call.act)(&mut self.state, now());
        self.carry_out();
        reply
    }

    /// Carries effects out until there are none: a queue that is full or a refusal of media makes further ones.
    fn carry_out(&mut self) {
        loop {
            let effects = self.state.drain();
            if effects.is_empty() {
                break;
            }
            let mut lost: Vec<ParticipantKey> = Vec::new();
            let mut refused: Vec<ParticipantKey> = Vec::new();
            let mut unopened = false;
            for effect in effects {
                match effect {
                    Effect::Media(command) => {
                        let opening = matches!(command, Command::OpenRoom { .. });
                        match self.to_media(command) {
                            Ok(()) => {}
                            Err(_) if opening => unopened = true,
                            Err(about) => refused.extend(about),
                        }
                    }
                    Effect::Attach { participant, link } => {
                        if let Some(old) = self.links.insert(participant, link) {
                            old.close(super::signal::Close::Replaced);
                        }
                    }
                    Effect::Signal { to, message } => lost.extend(self.signal_client(to, message)),
                    Effect::Refresh { to, api_key, claims } => {
                        if let Some(token) = self.mint(&api_key, &claims) {
                            lost.extend(self.signal_client(to, SignalMessage::new(Message::RefreshToken(token))));
                        }
                    }
                    Effect::Close { participant, why } => {
                        if let Some(link) = self.links.remove(&participant) {
                            link.close(why);
                        }
                    }
                    Effect::Event(what) => self.publish(what),
                    Effect::Finished => self.finished = true,
                }
            }
            let now = now();
            for key in lost {
                if let Some(connection) = self.state.connection(key) {
                    self.state.signal_lost(now, key, connection);
                }
            }
            for key in refused {
                self.state.media_refused(now, key);
            }
            // A room without media is no room: its name is free for the next try.
            if unopened {
                self.state.finish(now, livekit::DisconnectReason::MediaFailure);
            }
        }
        self.info.send_if_modified(|info| {
            let changed = info != self.state.info();
            if changed {
                info.clone_from(self.state.info());
            }
            changed
        });
    }

    /// A refusal names the participant whose session cannot go on without the command, if there is one.
    fn to_media(&self, command: Command) -> Result<(), Option<ParticipantKey>> {
        let about = match &command {
            Command::AddParticipant { participant, .. }
            | Command::Offer { participant, .. }
            | Command::Answer { participant, .. }
            | Command::AddTrack { participant, .. } => Some(*participant),
            Command::Subscribe { subscriber, .. } => Some(*subscriber),
            _ => None,
        };
        self.shared.media.send(command).map_err(|refusal| {
            metrics::counter!("auralink_media_commands_refused_total").increment(1);
            tracing::error!(%refusal, "the media plane refused a command");
            about
        })
    }

    /// Gives the participant when its queue is full or gone.
    fn signal_client(&mut self, to: ParticipantKey, message: Arc<SignalMessage>) -> Option<ParticipantKey> {
        let error = self.links.get(&to)?.send(message).err()?;
        tracing::info!(participant = to.0, ?error, "a signal connection is given up: its queue is full or gone");
        metrics::counter!("auralink_signal_queues_overrun_total").increment(1);
        self.links.remove(&to);
        Some(to)
    }

    fn mint(&self, api_key: &str, claims: &crate::access::Claims) -> Option<String> {
        let keys = &self.shared.keys;
        let lifetime = self.shared.config.token_lifetime;
        // The key may have been rotated away meanwhile; then the server's first key signs.
        let minted = keys
            .mint(api_key, claims, lifetime)
            .or_else(|error| keys.first_key().map_or(Err(error), |key| keys.mint(&key, claims, lifetime)));
        minted.inspect_err(|error| tracing::warn!(%error, "no token could be refreshed")).ok()
    }

    fn publish(&self, what: What) {
        self.count(&what);
        let event = RoomEvent { room: self.state.room.clone(), what };
        // Nobody may follow: that is no error.
        let _ = self.shared.events.send(Arc::new(event));
    }

    /// LiveKit's metrics where the meaning is the same, and the log of what happens in rooms.
    fn count(&self, what: &What) {
        match what {
            What::RoomStarted(_) => {
                metrics::gauge!("livekit_room_total").increment(1.0);
                tracing::info!("room started");
            }
            What::RoomFinished(_) => {
                metrics::gauge!("livekit_room_total").decrement(1.0);
                metrics::histogram!("livekit_room_duration_seconds").record(self.started.elapsed().as_secs_f64());
                tracing::info!("room finished");
            }
            What::ParticipantJoined { participant, .. } => {
                metrics::gauge!("livekit_participant_total").increment(1.0);
                metrics::counter!("livekit_participant_join_total", "state" => "signal_connected").increment(1);
                tracing::info!(identity = &*participant.identity, sid = %participant.sid, "participant joined");
            }
            What::ParticipantActive { participant, info } => {
                let took_ms = super::unix_ms() - info.joined_at_ms;
                metrics::histogram!("livekit_session_start_time_ms").record(took_ms as f64);
                metrics::counter!("livekit_participant_join_total", "state" => "active").increment(1);
                tracing::info!(identity = &*participant.identity, "participant active");
            }
            What::ParticipantLeft { participant, reason, .. } => {
                metrics::gauge!("livekit_participant_total").decrement(1.0);
                let reason = reason.as_str_name();
                tracing::info!(identity = &*participant.identity, sid = %participant.sid, reason, "participant left");
            }
            What::TrackPublished { participant, info, .. } => {
                metrics::gauge!("livekit_track_published_total", "kind" => kind(info)).increment(1.0);
                let (track, mime) = (&info.sid, &info.mime_type);
                tracing::info!(identity = &*participant.identity, track, mime, "track published");
            }
            What::TrackUnpublished { participant, info, .. } => {
                metrics::gauge!("livekit_track_published_total", "kind" => kind(info)).decrement(1.0);
                tracing::info!(identity = &*participant.identity, track = %info.sid, "track unpublished");
            }
            _ => {}
        }
    }
}

fn kind(info: &livekit::TrackInfo) -> &'static str {
    match info.r#type() {
        livekit::TrackType::Audio => "AUDIO",
        livekit::TrackType::Video => "VIDEO",
        livekit::TrackType::Data => "DATA",
    }
}
