//! Offer and answer: str0m's descriptions with our sources on them; [`placement`] says which send track lies on which section.
//!
//! Rule: str0m's own send streams are removed after every use of its SDP interface, so that it sends nothing.

mod placement;

use std::collections::HashSet;

use aws_lc_rs::hmac;
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::media::{Direction as LibraryDirection, MediaKind as LibraryKind};
use str0m::{Candidate, IceCreds};

use self::placement::{Placement, Use};
use super::description::{self, Description, Direction, Section, Source};
use super::remote::{self, Read};
use super::{CodecWish, LocalDescription, NegotiationError, Transport, TransportConfig, TransportEvent};
use crate::egress::{Payload, Template};
use crate::fault;
use crate::packet::{Codec, MediaKind};

/// Media sections of one connection.
pub(super) const MAX_SECTIONS: usize = 512;
/// Candidates that the peer may name between two ICE restarts. Browsers trickle some for each section until they know that
/// all are bundled: six interfaces and ten sections.
pub(super) const MAX_CANDIDATES: usize = 64;

/// A section that the peer sends on.
#[derive(Debug, PartialEq, Eq)]
struct ReceiveSection {
    mid: String,
    kind: MediaKind,
    track_id: String,
    rids: Vec<String>,
}

/// An offer of ours that waits for its answer.
struct Pending {
    library: SdpPendingOffer,
    local: Description,
    restart: Option<IceCreds>,
}

/// State of negotiation.
pub(super) struct Negotiation {
    pub(super) placement: Placement,
    receive_sections: Vec<ReceiveSection>,
    /// In which codec a track of the peer's is taken, by its track id.
    wishes: Vec<(String, CodecWish)>,
    pending: Option<Pending>,
    requested_restart: Option<IceCreds>,
    credentials: IceCreds,
    /// The ufrag of the configuration, and how often the client restarted ICE.
    first: IceCreds,
    restarts: u32,
    seed: u64,
    remote_ufrag: String,
    /// Candidates of the peer in this ICE generation, as `address port`: offers repeat them.
    candidates: HashSet<String>,
    /// A first offer is due even without tracks: it opens the data channels.
    first_offer_due: bool,
}

impl Negotiation {
    pub(super) fn new(config: &TransportConfig) -> Negotiation {
        let credentials = IceCreds { ufrag: config.ice_ufrag.clone(), pass: config.ice_pwd.clone() };
        Negotiation {
            placement: Placement::default(),
            receive_sections: vec![],
            wishes: vec![],
            pending: None,
            requested_restart: None,
            first: credentials.clone(),
            credentials,
            restarts: 0,
            seed: config.seed,
            remote_ufrag: String::new(),
            candidates: HashSet::new(),
            first_offer_due: config.offerer,
        }
    }

    pub(super) fn local_ufrag(&self) -> &str {
        &self.credentials.ufrag
    }

    pub(super) fn request_restart(&mut self, ufrag: String, pwd: String) {
        self.requested_restart = Some(IceCreds { ufrag, pass: pwd });
    }

    /// How the section is taken whose msid names this track.
    pub(super) fn wish_received(&mut self, track_id: String, wish: Option<CodecWish>) {
        self.wishes.retain(|(known, _)| *known != track_id);
        let Some(wish) = wish else { return };
        if self.wishes.len() >= MAX_SECTIONS {
            self.wishes.remove(0);
        }
        self.wishes.push((track_id, wish));
    }

    /// The order of codecs in an answer, which is what the client then sends: for video its own, or what it said of the track; for
    /// audio RED before Opus, as str0m writes it, because a client cannot wish for RED.
    fn prefer(&self, section: &mut Section, offered: &Section) {
        if section.kind() == Some(MediaKind::Video) {
            section.order_like(offered);
        }
        match self.wishes.iter().find(|(known, _)| known == offered.track_id()) {
            Some((_, CodecWish::Only(codec))) => section.keep_codecs(&[*codec]),
            Some((_, CodecWish::First(codec))) => section.put_first(*codec),
            None => {}
        }
    }

    /// Whether a candidate is known or there is room for it.
    fn admits(&mut self, address: String) -> bool {
        if self.candidates.len() >= MAX_CANDIDATES {
            return self.candidates.contains(&address);
        }
        self.candidates.insert(address);
        true
    }

    /// Our credentials after the client's n-th ICE restart. The password follows from the first one and from the seed, which
    /// the peer does not know: no generator has to be passed in, and a simulation repeats itself.
    fn restarted(&mut self) -> IceCreds {
        self.restarts += 1;
        let mut secret = self.first.pass.clone().into_bytes();
        secret.extend(self.seed.to_be_bytes());
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), &self.restarts.to_be_bytes());
        IceCreds {
            ufrag: format!("{}/{}", self.first.ufrag, self.restarts),
            pass: tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// Why str0m did not take a description.
pub(super) struct Refusal {
    pub(super) reason: String,
    /// It stopped half-way: the connection cannot go on.
    broken: bool,
}

/// Runs str0m's SDP code so that an unforeseen description can end one connection at most, never the process.
pub(super) fn guarded<T, E: std::fmt::Display>(run: impl FnOnce() -> Result<T, E>) -> Result<T, Refusal> {
    match fault::caught(run) {
        Ok(result) => result.map_err(|error| Refusal { reason: error.to_string(), broken: false }),
        Err(_) => Err(Refusal { reason: "it contradicts itself or an earlier one".to_owned(), broken: true }),
    }
}

impl Transport {
    pub(super) fn trickle(&mut self, candidate: Candidate) -> Result<(), NegotiationError> {
        if !self.negotiation.admits(remote::address(&candidate)) {
            self.stats.limit_hits += 1;
            return Err(NegotiationError::Limit { what: "ICE candidates", count: MAX_CANDIDATES + 1, limit: MAX_CANDIDATES });
        }
        self.rtc.add_remote_candidate(candidate);
        self.rtc_dirty = true;
        Ok(())
    }

    /// Adds the candidates of a description that was taken, as many as there is room for.
    fn take_candidates(&mut self, remote: &Description, candidates: Vec<Candidate>, refused: usize) {
        let ufrag = remote.ice_ufrag().unwrap_or_default();
        if ufrag != self.negotiation.remote_ufrag {
            ufrag.clone_into(&mut self.negotiation.remote_ufrag);
            self.negotiation.candidates.clear();
        }
        self.stats.limit_hits += refused as u64;
        for candidate in candidates {
            // One for which there is no room is counted, and no reason to refuse the others.
            let _ = self.trickle(candidate);
        }
    }

    pub(super) fn answer(&mut self, offer: Read<SdpOffer>) -> Result<LocalDescription, NegotiationError> {
        if self.config.offerer {
            return Err(NegotiationError::State("this connection is offered by the server, not by the client".to_owned()));
        }
        let Read { description: remote, library, candidates, refused } = offer;
        let answered = guarded(|| self.rtc.sdp_api().accept_offer(library));
        let answer = self.taken(answered)?;
        self.take_candidates(&remote, candidates, refused);
        let mut local = Description::parse(&answer.to_sdp_string(), MAX_SECTIONS)?;
        self.negotiation.placement.fill(&remote, &self.sending);
        for section in &mut local.sections {
            let offered = remote.section(section.mid());
            self.speak_for(section, offered.map(Section::direction));
            if let Some(offered) = offered.filter(|offered| offered.direction().sends()) {
                self.negotiation.prefer(section, offered);
            }
        }
        if self.rtc.direct_api().local_ice_credentials() != self.negotiation.credentials {
            let credentials = self.negotiation.restarted();
            self.rtc.direct_api().set_local_ice_credentials(credentials.clone());
            self.negotiation.credentials = credentials;
        }
        local.set_ice(&self.negotiation.credentials.ufrag, &self.negotiation.credentials.pass);
        self.settle(&local, &remote);
        Ok(self.describe(&local))
    }

    /// After every use of str0m's SDP interface, successful or not.
    fn taken<T>(&mut self, result: Result<T, Refusal>) -> Result<T, NegotiationError> {
        self.rtc_dirty = true;
        self.silence_library();
        result.map_err(|refusal| {
            if refusal.broken {
                self.fail(&refusal.reason);
            }
            NegotiationError::State(refusal.reason)
        })
    }

    /// Writes direction, source and codecs of one section of ours.
    fn speak_for(&self, section: &mut Section, remote: Option<Direction>) {
        if section.kind().is_none() {
            return;
        }
        let carried = self.negotiation.placement.carried_by(section.mid());
        let carried = carried.and_then(|send| self.sending.tracks.get(&send));
        match carried {
            Some(track) => {
                section.set_direction(Direction::SendOnly);
                section.keep_codecs(&codecs_with_fallback(&track.track.codecs));
                section.set_source(Some(Source {
                    stream_id: &track.track.stream_id,
                    track_id: &track.track.track_id,
                    cname: self.sending.cname(),
                    ssrc: track.stream.ssrc(),
                    rtx_ssrc: section.has_rtx().then(|| track.stream.rtx_ssrc()),
                }));
            }
            None => {
                let receives = remote.is_some_and(Direction::sends);
                section.set_direction(if receives { Direction::RecvOnly } else { Direction::Inactive });
                section.set_source(None);
            }
        }
    }

    pub(super) fn offer(&mut self) -> Option<LocalDescription> {
        let negotiation = &mut self.negotiation;
        let due = negotiation.first_offer_due || negotiation.requested_restart.is_some() || negotiation.placement.is_due(&self.sending);
        if !self.config.offerer || negotiation.pending.is_some() || !due {
            return None;
        }
        let mut api = self.rtc.sdp_api();
        self.channels.offer(&mut api);
        for mid in negotiation.placement.releasing() {
            api.set_direction(mid.into(), LibraryDirection::Inactive);
        }
        for (send, track) in negotiation.placement.waiting(&self.sending) {
            if let Some(mid) = negotiation.placement.reuse(send, &track) {
                api.set_direction(mid.into(), LibraryDirection::SendOnly);
                continue;
            }
            if negotiation.placement.sections.len() >= MAX_SECTIONS - 1 {
                self.stats.limit_hits += 1;
                continue;
            }
            let kind = match track.kind {
                MediaKind::Audio => LibraryKind::Audio,
                MediaKind::Video => LibraryKind::Video,
            };
            let mid = api.add_media(kind, LibraryDirection::SendOnly, None, None, None);
            negotiation.placement.add(mid.to_string(), send, track.kind);
        }
        let restart = negotiation.requested_restart.take();
        if restart.is_some() {
            api.ice_restart(true);
        }
        let (offer, library) = api.apply()?;
        negotiation.first_offer_due = false;
        self.rtc_dirty = true;

        let mut local = Description::parse(&offer.to_sdp_string(), MAX_SECTIONS)
            .expect("str0m writes descriptions with short mids, and sections are bounded above");
        for section in &mut local.sections {
            self.speak_for(section, None);
        }
        let credentials = restart.as_ref().unwrap_or(&self.negotiation.credentials);
        local.set_ice(&credentials.ufrag, &credentials.pass);
        let described = self.describe(&local);
        self.negotiation.pending = Some(Pending { library, local, restart });
        Some(described)
    }

    pub(super) fn apply_answer(&mut self, answer: Read<SdpAnswer>) -> Result<(), NegotiationError> {
        let pending = self.negotiation.pending.take().ok_or_else(|| NegotiationError::State("there is no offer to answer".to_owned()))?;
        // Half an exchange cannot be taken back: the two sides would number their sections differently from now on.
        self.finish_offer(pending, answer).inspect_err(|error| self.fail(&error.to_string()))
    }

    fn finish_offer(&mut self, pending: Pending, answer: Read<SdpAnswer>) -> Result<(), NegotiationError> {
        let Read { description: remote, library, candidates, refused } = answer;
        if pending.restart.is_none() {
            self.follow_credentials(&remote);
        }
        let accepted = guarded(|| self.rtc.sdp_api().accept_answer(pending.library, library));
        self.taken(accepted)?;
        self.take_candidates(&remote, candidates, refused);
        if let Some(credentials) = pending.restart {
            self.rtc.direct_api().set_local_ice_credentials(credentials.clone());
            self.negotiation.credentials = credentials;
        }
        self.negotiation.placement.free_released(&pending.local);
        self.settle(&pending.local, &remote);
        Ok(())
    }

    /// New credentials in an answer, without a restart of ours: pion (the Go SDK) sends them when our second offer comes
    /// before its first connection has started. As pion itself does we take them and keep ours; str0m would refuse the answer.
    fn follow_credentials(&mut self, remote: &Description) {
        if let Some((ufrag, pass)) = remote.ice_credentials() {
            self.rtc.direct_api().set_remote_ice_credentials(IceCreds { ufrag: ufrag.to_owned(), pass: pass.to_owned() });
        }
    }

    /// Takes over what both sides agreed on.
    fn settle(&mut self, local: &Description, remote: &Description) {
        self.follow_received(remote);
        self.silence_library();
        self.receiving.set_codecs(self.rtc.codec_config());
        for (send, track) in &mut self.sending.tracks {
            if !self.negotiation.placement.carries(*send) {
                track.stream.set_template(None);
            }
        }
        let mut sends = vec![];
        let mut transport_feedback = false;
        for section in &mut self.negotiation.placement.sections {
            let both = local.section(&section.mid).zip(remote.section(&section.mid));
            let template = both.and_then(|(local, remote)| {
                let flows = local.direction().sends() && remote.direction().receives() && !remote.is_rejected();
                let payloads = description::negotiated_payloads(local, remote);
                (flows && !payloads.is_empty()).then(|| Template {
                    mid: section.mid.clone(),
                    payloads,
                    extensions: description::negotiated_extensions(local, remote),
                })
            });
            if section.codecs.is_empty()
                && let Some(template) = &template
            {
                section.codecs = codecs_of(&template.payloads);
            }
            let Use::Carries(send) = section.usage else {
                continue;
            };
            let Some(track) = self.sending.tracks.get_mut(&send) else {
                continue;
            };
            if let Some(template) = &template {
                transport_feedback |= template.extensions.transport_sequence.is_some();
                sends.push((section.mid.clone(), send, codecs_of(&template.payloads)));
            }
            track.stream.set_template(template);
        }
        self.estimator.set_transport_feedback(transport_feedback);
        self.events.push_back(TransportEvent::Negotiated { sends });
    }

    /// Says which sections the peer began and ended to send on.
    fn follow_received(&mut self, remote: &Description) {
        let offered: Vec<ReceiveSection> = remote
            .sections
            .iter()
            .filter(|section| section.direction().sends() && !section.is_rejected())
            .filter_map(|section| {
                Some(ReceiveSection {
                    mid: section.mid().to_owned(),
                    kind: section.kind()?,
                    track_id: section.track_id().to_owned(),
                    rids: section.send_rids(),
                })
            })
            .collect();
        let before = std::mem::take(&mut self.negotiation.receive_sections);
        for section in before.iter().filter(|section| !offered.contains(section)) {
            self.receiving.forget_section(&section.mid);
            self.events.push_back(TransportEvent::ReceiveSectionEnded { mid: section.mid.clone() });
        }
        for section in offered.iter().filter(|section| !before.contains(section)) {
            self.events.push_back(TransportEvent::ReceiveSection {
                mid: section.mid.clone(),
                kind: section.kind,
                track_id: section.track_id.clone(),
                rids: section.rids.clone(),
            });
        }
        self.negotiation.receive_sections = offered;
    }

    /// Removes the send streams that str0m made: it would report on them under SSRCs and counters of its own.
    fn silence_library(&mut self) {
        let sending = self.negotiation.placement.sections.iter().map(|section| &section.mid);
        let receiving = self.negotiation.receive_sections.iter().map(|section| &section.mid);
        let mut api = self.rtc.direct_api();
        for mid in sending.chain(receiving) {
            while let Some(ssrc) = api.stream_tx_by_mid(mid.as_str().into(), None).map(|stream| stream.ssrc()) {
                api.remove_stream_tx(ssrc);
            }
        }
    }

    fn describe(&self, local: &Description) -> LocalDescription {
        let carried = self.negotiation.placement.carried();
        let sends = carried.map(|(mid, send)| (mid.to_owned(), send)).collect();
        LocalDescription { sdp: local.to_string(), sends }
    }
}

/// RED is unpacked for whoever does not take it, which gives Opus: both are offered where RED is.
fn codecs_with_fallback(codecs: &[Codec]) -> Vec<Codec> {
    let mut all = codecs.to_vec();
    if codecs.contains(&Codec::Red) && !codecs.contains(&Codec::Opus) {
        all.push(Codec::Opus);
    }
    all
}

fn codecs_of(payloads: &[Payload]) -> Vec<Codec> {
    payloads.iter().map(|payload| payload.codec).collect()
}
