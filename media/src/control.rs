//! What the control plane tells a shard and what a shard tells the control plane. Values only, no handles: both cross
//! a queue. LiveKit's rules (grants, names, sids) are decided outside; here are only media facts.

use std::net::SocketAddr;
use std::sync::Arc;

use auralink_proto::livekit;

use crate::ids::{ParticipantKey, RoomKey, TrackKey};
use crate::packet::{Codec, MediaKind};
pub use crate::room::outbox::ReceiveState;
pub use crate::transport::{NegotiationError, RemoteAnswer, RemoteCandidate, RemoteOffer};

/// Which peer connection of a participant: LiveKit's two-connection mode has both, single-connection mode only
/// `Publisher`, which then carries both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The client offers.
    Publisher,
    /// The server offers.
    Subscriber,
}

/// What a participant may do with media; enforced in the shard as well as in signaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaPermissions {
    /// May publish tracks.
    pub publish: bool,
    /// May receive tracks.
    pub subscribe: bool,
    /// May send data packets.
    pub data: bool,
}

/// A participant as the shard sees it.
#[derive(Debug, Clone)]
pub struct ParticipantSpec {
    /// `PA_...`: the stream id of its tracks is `PA_...|TR_...`.
    pub sid: String,
    /// Identity, put into forwarded data packets.
    pub identity: String,
    /// One connection for both directions (`/rtc/v1`).
    pub single_connection: bool,
    /// What it may do.
    pub permissions: MediaPermissions,
    /// An agent by its token: it may send in the name of those whose speech it turns into text (see [`crate::data`]).
    pub agent: bool,
    /// Hidden participants are not announced and never heard as speakers.
    pub hidden: bool,
    /// False for server-made participants without a connection (publisher seam).
    pub connected: bool,
}

/// One simulcast layer as announced by the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSpec {
    /// `q`, `h`, `f`; empty for the only layer.
    pub rid: String,
    /// 0 lowest.
    pub spatial: u8,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Bits per second announced by the client; 0 unknown.
    pub bitrate_bps: u64,
}

/// A track that a participant announced and whose media may now arrive.
#[derive(Debug, Clone)]
pub struct TrackSpec {
    /// `TR_...`.
    pub sid: String,
    /// The client's own id: the track id in its SDP `a=msid`, or empty for server-made tracks.
    pub cid: String,
    /// Audio or video.
    pub kind: MediaKind,
    /// Starts muted.
    pub muted: bool,
    /// Layers, lowest first; empty for audio.
    pub layers: Vec<LayerSpec>,
    /// End-to-end encrypted: forwarded opaque, refused by the tap, and taken as plain Opus.
    pub encrypted: bool,
    /// The client wants no redundancy (RED): its audio is taken as plain Opus.
    pub disable_red: bool,
    /// The video codec that the client means to send: clients offer all that they have in an order that says nothing of it, and send
    /// what comes first in the answer. `None`: what comes first in the offer.
    pub codec: Option<Codec>,
    /// Counts for active speakers (microphones).
    pub speaks: bool,
}

/// What a subscriber wants of a track (LiveKit's UpdateTrackSettings).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackSettings {
    /// Not wanted now (not visible).
    pub disabled: bool,
    /// Highest spatial layer wanted, by quality; None = best.
    pub max_spatial: Option<u8>,
    /// Pixels of the element it is shown in; 0 unknown.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames per second; 0 unknown.
    pub fps: u32,
    /// Higher first when bandwidth is short.
    pub priority: u32,
}

/// From the control plane to the shard that owns the room.
#[derive(Debug)]
pub enum Command {
    /// Makes the room known to its shard.
    OpenRoom {
        /// The room.
        room: RoomKey,
    },
    /// Ends the room: every transport closes.
    CloseRoom {
        /// The room.
        room: RoomKey,
    },
    /// A participant enters; for connected ones its transports are made (on the first offer or at once).
    AddParticipant {
        /// The room.
        room: RoomKey,
        /// The new participant.
        participant: ParticipantKey,
        /// Who it is.
        spec: ParticipantSpec,
    },
    /// A participant leaves; its publications and subscriptions end.
    RemoveParticipant {
        /// The room.
        room: RoomKey,
        /// Who leaves.
        participant: ParticipantKey,
    },
    /// Changes what a participant may do.
    SetPermissions {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// New permissions.
        permissions: MediaPermissions,
    },
    /// An SDP offer of the client (publisher or single connection). Answered by [`Event::Answer`] with the same id.
    Offer {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// Client's id of this offer.
        id: u32,
        /// What was read of it, off the shard.
        offer: Box<RemoteOffer>,
    },
    /// An SDP answer of the client (subscriber connection).
    Answer {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// Id of the offer answered.
        id: u32,
        /// What was read of it, off the shard.
        answer: Box<RemoteAnswer>,
    },
    /// An ICE candidate of the client.
    Candidate {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// Which connection.
        target: Target,
        /// What was read of it, off the shard.
        candidate: RemoteCandidate,
    },
    /// The client resumes: restart ICE on the subscriber connection and send a fresh offer.
    RestartIce {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
    },
    /// A track was announced; media with its cid may arrive.
    AddTrack {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// The publication.
        track: TrackKey,
        /// What it is.
        spec: TrackSpec,
    },
    /// The publication ends.
    RemoveTrack {
        /// The room.
        room: RoomKey,
        /// The publication.
        track: TrackKey,
    },
    /// Publisher's mute state.
    SetMuted {
        /// The room.
        room: RoomKey,
        /// The publication.
        track: TrackKey,
        /// Muted now.
        muted: bool,
    },
    /// Subscribes a participant to a publication. A publication without media yet is subscribed when it starts.
    Subscribe {
        /// The room.
        room: RoomKey,
        /// Who receives.
        subscriber: ParticipantKey,
        /// What.
        track: TrackKey,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The room.
        room: RoomKey,
        /// Who receives.
        subscriber: ParticipantKey,
        /// What.
        track: TrackKey,
    },
    /// What a subscriber wants of a track.
    SetTrackSettings {
        /// The room.
        room: RoomKey,
        /// Who receives.
        subscriber: ParticipantKey,
        /// What.
        track: TrackKey,
        /// How.
        settings: TrackSettings,
    },
    /// Sends a data packet of the server to participants.
    SendData {
        /// The room.
        room: RoomKey,
        /// Over `_reliable` or `_lossy`.
        reliable: bool,
        /// Encoded once: a `livekit.DataPacket`.
        packet: Arc<[u8]>,
        /// Receivers; empty = everyone in the room.
        to: Vec<ParticipantKey>,
        /// Not to this one.
        except: Option<ParticipantKey>,
    },
    /// A client that resumes says which reliable data it has of each publisher; what it lacks and is still there is sent again.
    ReplayData {
        /// The room.
        room: RoomKey,
        /// Who resumes.
        participant: ParticipantKey,
        /// What it has; bounded by signaling.
        states: Vec<ReceiveState>,
    },
    /// Starts or stops the tap of an audio publication. Refused (with [`Event::TapRefused`]) when encrypted.
    SetTap {
        /// The room.
        room: RoomKey,
        /// The publication.
        track: TrackKey,
        /// Heard or not.
        enabled: bool,
    },
    /// Publisher seam: packets of a server-made track come over this ring from now on.
    AttachSource {
        /// The room.
        room: RoomKey,
        /// The publication (added before by AddTrack of a participant with `connected: false`).
        track: TrackKey,
        /// Its codec.
        codec: Codec,
        /// The packets; the shard polls it when woken and at each loop turn while it is attached.
        packets: rtrb::Consumer<crate::tap::SourcePacket>,
    },
    /// The network stops taking new work; transports are closed politely and the shard ends.
    Shutdown,
}

/// Why a peer connection or a request failed; the text is for the peer's leave reason or the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A sentence that says what was wrong and what to do.
    pub reason: String,
}

/// How well a participant's media flow, LiveKit's ConnectionQuality.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Whose.
    pub participant: ParticipantKey,
    /// poor, good, excellent or lost.
    pub quality: livekit::ConnectionQuality,
    /// 0 to 5.
    pub score: f32,
}

/// A participant that speaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speaker {
    /// Who.
    pub participant: ParticipantKey,
    /// 0 to 1, linear.
    pub level: f32,
    /// Speaks now.
    pub active: bool,
}

/// From a shard to the control plane.
#[derive(Debug)]
pub enum Event {
    /// Answer to [`Command::Offer`].
    Answer {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// The offer's id.
        id: u32,
        /// SDP text.
        sdp: String,
        /// mid of each section -> track sid, for clients that ask for it (SessionDescription.mid_to_track_id).
        mid_to_track: Vec<(String, String)>,
    },
    /// The shard offers on the subscriber connection.
    Offer {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// Id that the answer carries.
        id: u32,
        /// SDP text.
        sdp: String,
        /// mid -> track sid.
        mid_to_track: Vec<(String, String)>,
    },
    /// Single-connection mode: the client must add this many more receiving sections and offer again.
    SectionsRequired {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// Audio sections.
        audios: u32,
        /// Video sections.
        videos: u32,
    },
    /// Offer, answer or candidate could not be used.
    NegotiationFailed {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// Which connection.
        target: Target,
        /// Why.
        refusal: Refusal,
    },
    /// ICE and DTLS are up.
    Connected {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// Which connection.
        target: Target,
    },
    /// ICE lost the peer (it may come back by a restart) or the transport failed.
    Disconnected {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// Which connection.
        target: Target,
    },
    /// The first media of a publication arrived: it can be announced to the room.
    TrackStarted {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// The publication.
        track: TrackKey,
        /// Codec of the first packet.
        codec: Codec,
    },
    /// [`Command::AddTrack`] was not taken: the participant has as many tracks as it may.
    TrackRefused {
        /// The room.
        room: RoomKey,
        /// Whose.
        participant: ParticipantKey,
        /// The publication that there is none of.
        track: TrackKey,
        /// Why.
        refusal: Refusal,
    },
    /// The client's SDP ended the section of a publication.
    TrackEnded {
        /// The room.
        room: RoomKey,
        /// The publication.
        track: TrackKey,
    },
    /// The subscription is negotiated and flows (LiveKit's TrackSubscribed / SubscriptionResponse).
    Subscribed {
        /// The room.
        room: RoomKey,
        /// Who receives.
        subscriber: ParticipantKey,
        /// What.
        track: TrackKey,
    },
    /// A subscription was paused for lack of bandwidth, or resumed (LiveKit's StreamStateUpdate).
    StreamPaused {
        /// The room.
        room: RoomKey,
        /// Who receives.
        subscriber: ParticipantKey,
        /// What.
        track: TrackKey,
        /// Paused now.
        paused: bool,
    },
    /// Who speaks changed: all whose state changed, and all that are active.
    Speakers {
        /// The room.
        room: RoomKey,
        /// Loudest first.
        speakers: Vec<Speaker>,
    },
    /// Every few seconds: how well each participant's media flow.
    Quality {
        /// The room.
        room: RoomKey,
        /// One entry per participant.
        qualities: Vec<Quality>,
    },
    /// A data packet that a participant sent and that was forwarded (for transcripts, RPC, webhooks).
    Data {
        /// The room.
        room: RoomKey,
        /// Sender.
        participant: ParticipantKey,
        /// The packet.
        packet: Box<livekit::DataPacket>,
    },
    /// The shard of the room has ended by a fault: nothing of the room is left there, and no command about it is taken.
    RoomLost {
        /// The room.
        room: RoomKey,
    },
    /// A tap was asked for a track that cannot be heard.
    TapRefused {
        /// The room.
        room: RoomKey,
        /// The publication.
        track: TrackKey,
        /// Why.
        refusal: Refusal,
    },
}

/// Counters of one shard, cumulative; sent as values so that a lost report costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Datagrams read.
    pub datagrams_in: u64,
    /// Datagrams written.
    pub datagrams_out: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// RTP packets received.
    pub rtp_in: u64,
    /// RTP packets forwarded.
    pub rtp_out: u64,
    /// Packets since the last key frame that new subscribers were sent at once.
    pub caught_up: u64,
    /// Retransmissions sent.
    pub retransmitted: u64,
    /// Sequence numbers asked for by subscribers.
    pub nacked: u64,
    /// Key-frame requests received from subscribers.
    pub pli_in: u64,
    /// Key-frame requests sent to publishers.
    pub pli_out: u64,
    /// 1 when a fault has ended the shard: its rooms are lost, and no room is opened there any more.
    pub ended: u64,
    /// Connections that a fault (a panic) in the code that runs them ended.
    pub connection_faults: u64,
    /// Packets dropped because the tap's ring was full.
    pub tap_dropped: u64,
    /// Datagrams from addresses that no peer validated.
    pub dropped_unknown_address: u64,
    /// STUN with a wrong ufrag or MAC.
    pub dropped_bad_stun: u64,
    /// SRTP or SRTCP with a bad tag.
    pub dropped_bad_tag: u64,
    /// Packets of SSRCs that no section announced.
    pub dropped_unknown_ssrc: u64,
    /// Datagrams that were read for another shard of the same port, and handed over to it. They count as read here.
    pub handed_out: u64,
    /// Datagrams that other shards of the same port read for this one.
    pub handed_in: u64,
    /// What could not be handed over: the other shard's ring was full, or the datagram longer than 1,500 bytes.
    pub handover_dropped: u64,
    /// A limit of a table was hit.
    pub limit_hits: u64,
    /// Data packets dropped because they speak of someone whom their sender may not speak for.
    pub data_in_anothers_name: u64,
    /// Data packets dropped for a slow receiver.
    pub data_dropped: u64,
    /// Reliable data packets that a resuming client sent again although they had come.
    pub data_repeated: u64,
    /// Writes that the kernel refused (buffer full).
    pub send_failed: u64,
    /// Rooms now.
    pub rooms: u64,
    /// Participants now.
    pub participants: u64,
    /// Publications now.
    pub publications: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
}

/// Most shards that a media plane runs: every two on one port share a ring in each direction.
pub const MAX_SHARDS: usize = 256;

/// Where the media plane listens and what it tells clients.
#[derive(Debug, Clone)]
pub struct MediaConfig {
    /// Where shards listen: one address that all of them share, or one for each, of which it advertises only its own.
    pub udp_bind: Vec<SocketAddr>,
    /// Shards, 1 to [`MAX_SHARDS`]. With more than one address: as many as addresses.
    pub shards: usize,
    /// Addresses put into candidates when a socket is bound to all addresses; not used for one that is bound to its own.
    pub advertised: Vec<std::net::IpAddr>,
    /// ICE lite.
    pub ice_lite: bool,
    /// Largest number of participants per shard.
    pub max_participants: usize,
    /// Largest number of publications per participant.
    pub max_tracks_per_participant: usize,
}
