//! A subscription: one participant's wish for one publication, and what it gets of it now.
//!
//! Selection (which layer, or none) is decided elsewhere ([`crate::allocate`]) and only noted here as the target; forwarding
//! follows it at the next key frame. Rule: what is sent is a continuous stream, whatever is switched or paused.

use std::time::Duration;

use crate::control::TrackSettings;
use crate::forward::{PacketFacts, Placement, Rewriter, TimeReference};
use crate::packet::{Codec, MediaKind, RtpPacket};
use crate::shard::peers::PeerKey;
use crate::transport::SendId;

/// One participant's share of one publication.
#[derive(Debug)]
pub struct Subscription {
    /// Over which transport, and as which of its tracks; `None` until the publication has media.
    pub sending: Option<(PeerKey, SendId)>,
    /// Codecs that the subscriber negotiated, best first; empty until then.
    codecs: Vec<Codec>,
    /// What it wants.
    pub settings: TrackSettings,
    /// The layer to send: `None` pauses. Audio has layer 0.
    pub target: Option<u8>,
    /// The layer that is sent.
    pub current: Option<u8>,
    /// Paused for lack of bandwidth, and said so.
    pub starved: bool,
    /// It is negotiated, on a connected transport, and [`crate::control::Event::Subscribed`] said so: packets reach it.
    pub announced: bool,
    /// Its own numbering.
    pub rewriter: Rewriter,
    /// Round trip to the subscriber.
    pub rtt: Option<Duration>,
    /// Loss that the subscriber reported last, 0 to 1.
    pub loss: f32,
}

impl Subscription {
    /// A subscription whose numbers start at `first_seq`.
    pub fn new(settings: TrackSettings, first_seq: u16) -> Subscription {
        Subscription {
            sending: None,
            codecs: Vec::new(),
            settings,
            target: None,
            current: None,
            starved: false,
            announced: false,
            rewriter: Rewriter::new(first_seq),
            rtt: None,
            loss: 0.0,
        }
    }

    /// Notes which codecs the subscriber's section carries.
    pub fn negotiated(&mut self, codecs: &[Codec]) {
        self.codecs.clear();
        self.codecs.extend_from_slice(codecs);
    }

    /// The section is there.
    pub fn is_negotiated(&self) -> bool {
        !self.codecs.is_empty()
    }

    /// The subscriber can be sent this codec.
    pub fn takes(&self, codec: Codec) -> bool {
        self.codecs.contains(&codec)
    }

    /// Nothing was ever sent to it.
    pub fn is_fresh(&self) -> bool {
        self.rewriter.is_fresh()
    }

    /// Waits for a key frame of its target layer.
    pub fn awaits_key_frame(&self) -> bool {
        self.is_negotiated() && self.target.is_some() && self.current != self.target
    }

    /// Where a packet of layer `layer` goes in this subscriber's stream, `None` if nowhere. `late`: it is older than the newest
    /// of its stream. `references` are the layers' time lines, lowest first.
    pub fn place<'a>(
        &mut self,
        kind: MediaKind,
        layer: u8,
        packet: &RtpPacket,
        facts: &PacketFacts,
        late: bool,
        reference: impl Fn(u8) -> Option<&'a TimeReference>,
    ) -> Option<Placement> {
        if self.current == Some(layer) && self.rewriter.current() == Some(facts.stream) {
            return self.rewriter.place(packet, facts);
        }
        if late {
            return self.rewriter.find(facts.stream, packet.seq);
        }
        let target = self.target?;
        let begins = match kind {
            MediaKind::Audio => true,
            // Anything up to the target will do to begin with; from there only the target itself.
            MediaKind::Video => {
                facts.key_frame && (layer == target || self.current == Some(layer) || (self.current.is_none() && layer < target))
            }
        };
        if !begins {
            return None;
        }
        let before = self.current.and_then(&reference);
        self.rewriter.stop(before);
        self.current = Some(layer);
        Some(self.rewriter.start(packet, facts, reference(layer)?))
    }

    /// Stops sending until a target is set again.
    pub fn pause(&mut self, reference: Option<&TimeReference>) {
        self.target = None;
        self.current = None;
        self.rewriter.stop(reference);
    }
}
