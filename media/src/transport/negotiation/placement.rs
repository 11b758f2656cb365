//! Which send track lies on which media section, for both who offers: us (a free section or a new one) and the client (the
//! sections that it offers to receive on).
//!
//! Rule: a section that lost its track is negotiated inactive before it carries another, because browsers announce a track
//! only when a section starts to send.

use crate::packet::{Codec, MediaKind};
use crate::transport::description::{Description, Direction, Format, Section};
use crate::transport::sending::Sending;
use crate::transport::{SendId, SendTrack};

/// What a section that we may send on does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Negotiated inactive: may carry a track.
    Free,
    /// Carries a track.
    Carries(SendId),
    /// Lost its track; not yet negotiated inactive.
    Releasing,
}

/// A section that we may send on.
#[derive(Debug)]
pub(super) struct SendSection {
    pub(super) mid: String,
    pub(super) kind: MediaKind,
    pub(super) usage: Use,
    /// What the first negotiation left to choose from; empty before it ended.
    pub(super) codecs: Vec<Codec>,
}

/// The sections that we may send on.
#[derive(Debug, Default)]
pub(in crate::transport) struct Placement {
    pub(super) sections: Vec<SendSection>,
}

impl Placement {
    /// A track was removed.
    pub(in crate::transport) fn release(&mut self, send: SendId) {
        for section in &mut self.sections {
            if section.usage == Use::Carries(send) {
                section.usage = Use::Releasing;
            }
        }
    }

    /// Whether a track has a section.
    pub(super) fn carries(&self, send: SendId) -> bool {
        self.sections.iter().any(|section| section.usage == Use::Carries(send))
    }

    /// The track on a section.
    pub(super) fn carried_by(&self, mid: &str) -> Option<SendId> {
        self.carried().find(|(section, _)| *section == mid).map(|(_, send)| send)
    }

    /// All placed tracks with their mids.
    pub(super) fn carried(&self) -> impl Iterator<Item = (&str, SendId)> {
        self.sections.iter().filter_map(|section| match section.usage {
            Use::Carries(send) => Some((section.mid.as_str(), send)),
            Use::Free | Use::Releasing => None,
        })
    }

    /// Mids of sections that are to go inactive.
    pub(super) fn releasing(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().filter(|section| section.usage == Use::Releasing).map(|section| section.mid.as_str())
    }

    /// Tracks without a section.
    pub(super) fn waiting(&self, sending: &Sending) -> Vec<(SendId, SendTrack)> {
        sending.tracks.iter().filter(|(send, _)| !self.carries(**send)).map(|(send, track)| (*send, track.track.clone())).collect()
    }

    /// Waiting tracks (audio, video) beyond the sections that are free or about to be.
    pub(in crate::transport) fn sections_missing(&self, sending: &Sending) -> (u32, u32) {
        let waiting = self.waiting(sending);
        let missing = |kind: MediaKind| {
            let waiting = waiting.iter().filter(|(_, track)| track.kind == kind).count();
            let usable = |section: &&SendSection| section.kind == kind && !matches!(section.usage, Use::Carries(_));
            waiting.saturating_sub(self.sections.iter().filter(usable).count()) as u32
        };
        (missing(MediaKind::Audio), missing(MediaKind::Video))
    }

    /// Whether what was asked for differs from what is negotiated.
    pub(in crate::transport) fn is_due(&self, sending: &Sending) -> bool {
        self.releasing().next().is_some() || sending.tracks.keys().any(|send| !self.carries(*send))
    }

    /// We offer: puts a track on a free section that negotiated all its codecs, and answers its mid.
    pub(super) fn reuse(&mut self, send: SendId, track: &SendTrack) -> Option<&str> {
        let fits = |section: &&mut SendSection| {
            section.usage == Use::Free && section.kind == track.kind && track.codecs.iter().all(|codec| section.codecs.contains(codec))
        };
        let section = self.sections.iter_mut().find(fits)?;
        section.usage = Use::Carries(send);
        Some(&section.mid)
    }

    /// We offer: a track gets a section of its own.
    pub(super) fn add(&mut self, mid: String, send: SendId, kind: MediaKind) {
        self.sections.push(SendSection { mid, kind, usage: Use::Carries(send), codecs: vec![] });
    }

    /// Our offer was answered: what it said inactive is free. A track that left after the offer waits for the next one.
    pub(super) fn free_released(&mut self, offered: &Description) {
        for section in self.sections.iter_mut().filter(|section| section.usage == Use::Releasing) {
            let said = offered.section(&section.mid).map(Section::direction);
            if said == Some(Direction::Inactive) {
                section.usage = Use::Free;
            }
        }
    }

    /// The client offers: puts waiting tracks on the sections that it wants to receive on.
    pub(super) fn fill(&mut self, offered: &Description, sending: &Sending) {
        self.sections.retain(|section| offered.section(&section.mid).is_some_and(is_fillable));
        // Released sections are answered inactive now, and free from the next offer on.
        let released: Vec<String> = self.releasing().map(str::to_owned).collect();
        for section in self.sections.iter_mut().filter(|section| section.usage == Use::Releasing) {
            section.usage = Use::Free;
        }
        for section in offered.sections.iter().filter(|section| is_fillable(section)) {
            let known = self.sections.iter().any(|known| known.mid == section.mid());
            if let Some(kind) = section.kind().filter(|_| !known) {
                let codecs = section.formats().iter().filter_map(Format::codec).collect();
                let mid = section.mid().to_owned();
                self.sections.push(SendSection { mid, kind, usage: Use::Free, codecs });
            }
        }
        for (send, track) in self.waiting(sending) {
            let fits = |section: &&mut SendSection| {
                section.usage == Use::Free
                    && section.kind == track.kind
                    && !released.contains(&section.mid)
                    && track.codecs.iter().any(|codec| section.codecs.contains(codec))
            };
            if let Some(section) = self.sections.iter_mut().find(fits) {
                section.usage = Use::Carries(send);
            }
        }
    }
}

/// A section of the client's that waits for a track of ours.
fn is_fillable(section: &Section) -> bool {
    section.kind().is_some() && section.direction() == Direction::RecvOnly && !section.is_rejected()
}
