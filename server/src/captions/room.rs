//! What is known of a room: who is here, whose microphones there are, and what each person is to be told. A state machine: it
//! opens no stream and sends nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_ai::recogniser::primary;
use auralink_media::ids::TrackKey;
use auralink_proto::livekit;
use auralink_proto::v1::TranscriptEvent;
use auralink_signaling::rooms::ParticipantRef;
use tokio::sync::broadcast;

use super::limiter::Limiter;
use super::opt_outs::OptOuts;
use super::outbox::Outbox;
use super::packets::CaptionUpdate;
use super::translated::Translated;
use super::{LANGUAGE_ATTRIBUTE, REASON_ATTRIBUTE, REASON_BYTES, STATE_ATTRIBUTE, TRANSCRIPT_QUEUE};

/// The state of who is not heard by own wish.
const OPTED_OUT: &str = "opted-out";

/// A passing trouble stays told at least so long: a change of attributes is told to everyone, and must not flicker.
const TROUBLE_TOLD: Duration = Duration::from_secs(10);

/// A room with its people and microphones.
pub struct Room {
    pub name: Arc<str>,
    pub enabled: bool,
    pub speakers: HashMap<TrackKey, Speaker>,
    pub transcript: broadcast::Sender<Arc<TranscriptEvent>>,
    pub outbox: Outbox,
    people: BTreeMap<Arc<str>, Person>,
    opted_out: OptOuts,
}

struct Person {
    sid: Arc<str>,
    name: String,
    told: Told,
    /// The language that they read, as [`LANGUAGE_ATTRIBUTE`] says; empty: as it was said.
    reads: String,
}

/// What a participant's attributes say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    state: String,
    reason: String,
}

impl Told {
    fn of(info: &livekit::ParticipantInfo) -> Self {
        let attribute = |name| info.attributes.get(name).cloned().unwrap_or_default();
        Self { state: attribute(STATE_ATTRIBUTE), reason: attribute(REASON_ATTRIBUTE) }
    }

    fn new(state: &str, reason: &str) -> Self {
        Self { state: state.to_owned(), reason: reason[..reason.floor_char_boundary(REASON_BYTES)].to_owned() }
    }

    /// For [`auralink_signaling::rooms::Rooms::set_attributes`], which deletes what is empty.
    pub fn attributes(&self) -> HashMap<String, String> {
        HashMap::from([(STATE_ATTRIBUTE.to_owned(), self.state.clone()), (REASON_ATTRIBUTE.to_owned(), self.reason.clone())])
    }
}

/// A microphone.
pub struct Speaker {
    pub participant: ParticipantRef,
    pub track_sid: String,
    pub encrypted: bool,
    pub hearing: Hearing,
    pub waiting: Limiter<CaptionUpdate>,
    /// The last entry that was made for it in the service's list of what is due.
    pub woken_at: Option<Instant>,
    /// Of the open segment, how much was committed when it was last pushed.
    pub committed_chars: usize,
    /// What was said, in other languages.
    pub translated: Translated,
}

/// What the server does with a microphone.
pub enum Hearing {
    /// Nothing: captions are off or the speaker opted out.
    Idle,
    /// It listens, by a stream that the router holds.
    Open { trouble: Option<Trouble> },
    /// It would, and cannot; why.
    Refused(String),
}

/// Why it hears less well, since when, and whether only [`auralink_ai::session::SpeechEvent::Recovered`] ends it.
pub struct Trouble {
    pub reason: String,
    pub since: Instant,
    pub lasting: bool,
}

impl Speaker {
    pub fn new(participant: ParticipantRef, info: &livekit::TrackInfo) -> Self {
        Self {
            participant,
            track_sid: info.sid.clone(),
            encrypted: info.encryption != livekit::encryption::Type::None as i32,
            hearing: Hearing::Idle,
            waiting: Limiter::default(),
            woken_at: None,
            committed_chars: 0,
            translated: Translated::default(),
        }
    }

    /// The stream is heard less well from now on.
    pub fn troubled(&mut self, reason: &str, lasting: bool, now: Instant) {
        if let Hearing::Open { trouble } = &mut self.hearing {
            let lasting = lasting || trouble.as_ref().is_some_and(|known| known.lasting);
            *trouble = Some(Trouble { reason: reason.to_owned(), since: now, lasting });
        }
    }

    /// All is well again.
    pub fn recovered(&mut self) {
        if let Hearing::Open { trouble } = &mut self.hearing {
            *trouble = None;
        }
    }

    /// Text came: a trouble that passes by itself has passed, once it was told long enough. True when something changed.
    pub fn text_came(&mut self, now: Instant) -> bool {
        let Hearing::Open { trouble } = &mut self.hearing else { return false };
        trouble.take_if(|known| !known.lasting && now.duration_since(known.since) >= TROUBLE_TOLD).is_some()
    }
}

impl Room {
    pub fn new(name: Arc<str>, enabled: bool, outbox: Outbox) -> Self {
        Self {
            name,
            enabled,
            speakers: HashMap::new(),
            transcript: broadcast::channel(TRANSCRIPT_QUEUE).0,
            outbox,
            people: BTreeMap::new(),
            opted_out: OptOuts::default(),
        }
    }

    /// Somebody is here: joined, or changed. What their attributes say may be an old token's word or their own.
    pub fn is_here(&mut self, participant: &ParticipantRef, info: &livekit::ParticipantInfo) {
        let told = Told::of(info);
        let reads = info.attributes.get(LANGUAGE_ATTRIBUTE).map(|tag| primary(tag)).unwrap_or_default();
        let person = Person { sid: participant.sid.clone(), name: info.name.clone(), told, reads };
        let before = self.people.insert(participant.identity.clone(), person);
        let joined = before.is_none_or(|before| before.sid != participant.sid);
        if joined && info.attributes.get(STATE_ATTRIBUTE).is_some_and(|state| state == OPTED_OUT) {
            self.opt_out(&participant.identity);
        }
    }

    /// Somebody left, unless they are here again already.
    pub fn left(&mut self, participant: &ParticipantRef) {
        if self.people.get(&participant.identity).is_some_and(|person| person.sid == participant.sid) {
            self.people.remove(&participant.identity);
        }
    }

    /// Only those are here.
    pub fn retain_people(&mut self, here: impl Fn(&str) -> bool) {
        self.people.retain(|identity, _| here(identity));
    }

    pub fn opt_out(&mut self, identity: &str) {
        self.opted_out.insert(identity, |other| self.people.contains_key(other));
    }

    pub fn opt_in(&mut self, identity: &str) {
        self.opted_out.remove(identity);
    }

    pub fn opted_out(&self, identity: &str) -> bool {
        self.opted_out.contains(identity)
    }

    pub fn identities(&self) -> Vec<Arc<str>> {
        self.people.keys().cloned().collect()
    }

    pub fn tracks(&self) -> Vec<TrackKey> {
        self.speakers.keys().copied().collect()
    }

    pub fn tracks_of(&self, identity: &str) -> Vec<TrackKey> {
        self.speakers.iter().filter(|(_, speaker)| speaker.participant.identity.as_ref() == identity).map(|(track, _)| *track).collect()
    }

    /// Whether somebody of this identity is here.
    pub fn has(&self, identity: &str) -> bool {
        self.people.contains_key(identity)
    }

    /// The languages that people here read, but for `spoken`.
    pub fn languages_besides(&self, spoken: &str) -> Vec<String> {
        let spoken = primary(spoken);
        let read: BTreeSet<&str> = self.people.values().map(|person| person.reads.as_str()).collect();
        read.into_iter().filter(|language| !language.is_empty() && *language != spoken).map(ToOwned::to_owned).collect()
    }

    /// Who reads one of these languages.
    pub fn readers_of(&self, languages: &[String]) -> Vec<String> {
        self.people.iter().filter(|(_, person)| languages.contains(&person.reads)).map(|(identity, _)| identity.to_string()).collect()
    }

    /// The name that people see.
    pub fn name_of(&self, identity: &str) -> String {
        self.people.get(identity).map(|person| person.name.clone()).unwrap_or_default()
    }

    /// What `identity` must be told now, when it is another thing than it was told last.
    pub fn news_for(&mut self, identity: &str) -> Option<Told> {
        let now = self.truth(identity);
        let person = self.people.get_mut(identity)?;
        (person.told != now).then(|| {
            person.told = now.clone();
            now
        })
    }

    /// The state of a participant: of several microphones, one that is heard counts.
    fn truth(&self, identity: &str) -> Told {
        if !self.enabled {
            return Told::new("off", "");
        }
        if self.opted_out.contains(identity) {
            return Told::new(OPTED_OUT, "");
        }
        let mut refused = None;
        for speaker in self.speakers.values().filter(|speaker| speaker.participant.identity.as_ref() == identity) {
            match &speaker.hearing {
                Hearing::Open { trouble } => return Told::new("on", trouble.as_ref().map_or("", |trouble| &trouble.reason)),
                Hearing::Refused(reason) => refused = Some(reason),
                Hearing::Idle => {}
            }
        }
        refused.map_or_else(|| Told::new("on", ""), |reason| Told::new("refused", reason))
    }
}

/// Microphones are heard; music and screen sound are not.
pub fn is_microphone(info: &livekit::TrackInfo) -> bool {
    info.r#type == livekit::TrackType::Audio as i32
        && (info.source == livekit::TrackSource::Microphone as i32 || info.source == livekit::TrackSource::Unknown as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_media::ids::ParticipantKey;

    fn ana(sid: &str) -> ParticipantRef {
        ParticipantRef { key: ParticipantKey(1), sid: sid.into(), identity: "ana".into() }
    }

    fn info(state: &str, reason: &str) -> livekit::ParticipantInfo {
        livekit::ParticipantInfo { attributes: Told::new(state, reason).attributes(), ..Default::default() }
    }

    fn room() -> Room {
        let mut room = Room::new("r".into(), true, Outbox::closed());
        room.is_here(&ana("PA_1"), &livekit::ParticipantInfo::default());
        room
    }

    fn speaker() -> Speaker {
        Speaker::new(ana("PA_1"), &livekit::TrackInfo::default())
    }

    #[test]
    fn everyone_is_told_once_and_again_when_it_changes_or_somebody_else_wrote_it() {
        let mut room = room();
        assert_eq!(room.news_for("ana"), Some(Told::new("on", "")));
        assert_eq!(room.news_for("ana"), None);
        assert_eq!(room.news_for("nobody"), None);
        room.speakers.insert(TrackKey(1), Speaker { hearing: Hearing::Refused("encrypted".into()), ..speaker() });
        assert_eq!(room.news_for("ana"), Some(Told::new("refused", "encrypted")));
        room.is_here(&ana("PA_1"), &info("on", ""));
        assert_eq!(room.news_for("ana"), Some(Told::new("refused", "encrypted")), "she wrote something else herself");
        room.enabled = false;
        assert_eq!(room.news_for("ana"), Some(Told::new("off", "")));
        room.enabled = true;
        room.opt_out("ana");
        assert_eq!(room.news_for("ana"), Some(Told::new("opted-out", "")));
        let long = "ä".repeat(REASON_BYTES);
        assert_eq!(Told::new("refused", &long).reason, "ä".repeat(REASON_BYTES / 2));
    }

    #[test]
    fn who_reads_what_is_known_from_attributes() {
        let mut room = room();
        let reads = |language: &str| livekit::ParticipantInfo {
            attributes: HashMap::from([(LANGUAGE_ATTRIBUTE.to_owned(), language.to_owned())]),
            ..Default::default()
        };
        for (identity, language) in [("ben", "de-AT"), ("eva", "DE"), ("ida", "en-GB"), ("jan", "fr")] {
            let participant = ParticipantRef { identity: identity.into(), ..ana(identity) };
            room.is_here(&participant, &reads(language));
        }
        assert_eq!(room.languages_besides("en"), ["de", "fr"]);
        assert_eq!(room.readers_of(&["de".into()]), ["ben", "eva"]);
        assert!(room.readers_of(&[]).is_empty() && room.has("ana"));
        room.is_here(&ParticipantRef { identity: "ben".into(), ..ana("ben") }, &reads(""));
        assert_eq!(room.readers_of(&["de".into(), "fr".into()]), ["eva", "jan"]);
    }

    #[test]
    fn an_opt_out_outlives_leaving_and_comes_with_a_token_but_is_not_taken_from_an_update() {
        let mut room = room();
        room.opt_out("ana");
        room.left(&ana("PA_1"));
        room.is_here(&ana("PA_2"), &livekit::ParticipantInfo::default());
        assert!(room.opted_out("ana"));
        room.opt_in("ana");
        room.is_here(&ana("PA_2"), &info("opted-out", ""));
        assert!(!room.opted_out("ana"), "an attribute that comes later is not a wish");
        room.is_here(&ana("PA_3"), &info("opted-out", ""));
        assert!(room.opted_out("ana"), "one that comes with the join is");
        room.left(&ana("PA_2"));
        assert_eq!(room.identities().len(), 1, "the one who left was replaced already");
    }
}
