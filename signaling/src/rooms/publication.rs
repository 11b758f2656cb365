//! A track that a participant announced: what was asked for, as LiveKit describes it to clients and as media needs it.

use auralink_media::control::{LayerSpec, TrackSpec};
use auralink_media::ids::TrackKey;
use auralink_media::packet::{Codec, MediaKind};
use auralink_proto::livekit;
use livekit::{TrackSource, TrackType, VideoLayer, VideoQuality};

use super::{Limits, RoomsError, sid};

/// Simulcast rids by quality, as every LiveKit client sends them.
const RIDS: [&str; 3] = ["q", "h", "f"];

/// Layers of a track that are taken; LiveKit knows three.
const LAYERS_MAX: usize = 3;

/// One track of one participant.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub key: TrackKey,
    pub cid: String,
    pub info: livekit::TrackInfo,
    /// Media has arrived: the track is known to the room.
    pub started: bool,
    /// Some subscriber has it: the publisher was told.
    pub subscribed: bool,
}

impl Publication {
    /// Checks a request and describes its track.
    #[allow(deprecated, reason = "old clients read 'simulcast', 'layers', 'stereo' and 'disable_dtx'")]
    pub fn new(key: TrackKey, request: &livekit::AddTrackRequest, limits: &Limits) -> Result<Self, RoomsError> {
        limits.check_name("track name", &request.name)?;
        limits.check_name("track cid", &request.cid)?;
        limits.check_name("track stream", &request.stream)?;
        if request.cid.is_empty() {
            return Err(RoomsError::Invalid("a track needs a cid".into()));
        }
        let kind =
            TrackType::try_from(request.r#type).map_err(|_| RoomsError::Invalid(format!("track type {} is unknown", request.r#type)))?;
        if kind == TrackType::Data {
            return Err(RoomsError::Invalid("a track is audio or video; data has channels of its own".into()));
        }
        let source = TrackSource::try_from(request.source).unwrap_or(TrackSource::Unknown);
        // The primary codec comes first; backup codecs are asked for by the server, which this one does not.
        let codec = request.simulcast_codecs.first();
        let mime = codec.map_or_else(String::new, |codec| mime_of(kind, &codec.codec));
        let layers = if kind == TrackType::Video {
            let asked = match codec {
                Some(codec) if !codec.layers.is_empty() => &codec.layers,
                _ => &request.layers,
            };
            layers_of(asked, request.width, request.height)
        } else {
            Vec::new()
        };
        let cid = match codec {
            Some(codec) if !codec.cid.is_empty() => &codec.cid,
            _ => &request.cid,
        };
        limits.check_name("track cid", cid)?;
        limits.check_name("track codec", &mime)?;
        let mut audio_features = request.audio_features.clone();
        audio_features.truncate(16);
        let mut packet_trailer_features = request.packet_trailer_features.clone();
        packet_trailer_features.truncate(16);
        let info = livekit::TrackInfo {
            sid: sid::new(sid_prefix(kind, source)),
            r#type: kind as i32,
            name: request.name.clone(),
            muted: request.muted,
            width: request.width,
            height: request.height,
            simulcast: layers.len() > 1,
            disable_dtx: request.disable_dtx,
            source: source as i32,
            layers: layers.clone(),
            mime_type: mime.clone(),
            codecs: vec![livekit::SimulcastCodecInfo {
                mime_type: mime,
                cid: cid.clone(),
                layers,
                video_layer_mode: codec.map_or(0, |codec| codec.video_layer_mode),
                ..Default::default()
            }],
            stereo: request.stereo,
            disable_red: request.disable_red,
            encryption: request.encryption,
            stream: if request.stream.is_empty() { default_stream(source).into() } else { request.stream.clone() },
            audio_features,
            backup_codec_policy: request.backup_codec_policy,
            packet_trailer_features,
            ..Default::default()
        };
        Ok(Self { key, cid: cid.clone(), info, started: false, subscribed: false })
    }

    /// What media needs to know of it.
    #[allow(deprecated, reason = "the layers of the primary codec")]
    pub fn spec(&self) -> TrackSpec {
        let single = self.info.layers.len() == 1;
        TrackSpec {
            sid: self.info.sid.clone(),
            cid: self.cid.clone(),
            kind: if self.info.r#type() == TrackType::Audio { MediaKind::Audio } else { MediaKind::Video },
            muted: self.info.muted,
            layers: self
                .info
                .layers
                .iter()
                .enumerate()
                .map(|(index, layer)| LayerSpec {
                    rid: match (layer.rid.is_empty(), single) {
                        (false, _) => layer.rid.clone(),
                        (true, true) => String::new(),
                        (true, false) => RIDS[index].to_owned(),
                    },
                    spatial: index as u8,
                    width: layer.width,
                    height: layer.height,
                    bitrate_bps: layer.bitrate.into(),
                })
                .collect(),
            encrypted: self.info.encryption() != livekit::encryption::Type::None,
            disable_red: self.info.disable_red,
            codec: Codec::from_mime(&self.info.mime_type),
            speaks: self.info.r#type() == TrackType::Audio && self.info.source() != TrackSource::ScreenShareAudio,
        }
    }

    /// Media has arrived in `codec`.
    pub fn start(&mut self, codec: Codec) {
        self.started = true;
        self.info.mime_type = codec.mime().to_owned();
        if let Some(first) = self.info.codecs.first_mut() {
            first.mime_type = codec.mime().to_owned();
        }
    }
}

/// `TR_` and two letters that tell a reader of logs what the track is.
fn sid_prefix(kind: TrackType, source: TrackSource) -> &'static str {
    match (kind, source) {
        (TrackType::Audio, TrackSource::Microphone) => "TR_AM",
        (TrackType::Audio, TrackSource::ScreenShareAudio) => "TR_AS",
        (TrackType::Audio, _) => "TR_A",
        (_, TrackSource::Camera) => "TR_VC",
        (_, TrackSource::ScreenShare) => "TR_VS",
        _ => "TR_V",
    }
}

/// Tracks of one stream are played in step: camera with microphone, screen with its sound.
fn default_stream(source: TrackSource) -> &'static str {
    match source {
        TrackSource::Camera | TrackSource::Microphone => "camera",
        TrackSource::ScreenShare | TrackSource::ScreenShareAudio => "screenshare",
        TrackSource::Unknown => "unknown",
    }
}

fn mime_of(kind: TrackType, codec: &str) -> String {
    if codec.is_empty() || codec.contains('/') {
        return codec.to_owned();
    }
    let prefix = if kind == TrackType::Audio { "audio" } else { "video" };
    format!("{prefix}/{}", codec.to_ascii_lowercase())
}

/// Layers lowest first, each with a quality and spatial layer of its own. Clients that leave them out (or leave out what
/// tells them apart) get them by size.
fn layers_of(asked: &[VideoLayer], width: u32, height: u32) -> Vec<VideoLayer> {
    let mut layers: Vec<VideoLayer> = asked.to_vec();
    layers.sort_by_key(|layer| (layer.quality, layer.width, layer.bitrate));
    layers.truncate(LAYERS_MAX);
    for layer in &mut layers {
        layer.rid.truncate(layer.rid.char_indices().nth(16).map_or(layer.rid.len(), |(at, _)| at));
    }
    if layers.is_empty() {
        layers.push(VideoLayer { quality: VideoQuality::High as i32, width, height, ..Default::default() });
    }
    let distinct = layers.windows(2).all(|pair| pair[0].quality < pair[1].quality);
    if layers.len() > 1 {
        for (index, layer) in layers.iter_mut().enumerate() {
            if !distinct {
                layer.quality = index as i32;
            }
            if layer.spatial_layer == 0 {
                layer.spatial_layer = index as i32;
            }
        }
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(layers: Vec<VideoLayer>) -> Publication {
        let request = livekit::AddTrackRequest {
            cid: "c".into(),
            r#type: TrackType::Video as i32,
            source: TrackSource::Camera as i32,
            width: 1280,
            height: 720,
            layers,
            ..Default::default()
        };
        Publication::new(TrackKey(1), &request, &Limits::default()).unwrap()
    }

    fn layer(quality: VideoQuality, width: u32) -> VideoLayer {
        VideoLayer { quality: quality as i32, width, height: width * 9 / 16, ..Default::default() }
    }

    #[test]
    fn three_layers_get_livekits_rids_lowest_first() {
        let spec = video(vec![layer(VideoQuality::High, 1280), layer(VideoQuality::Low, 320), layer(VideoQuality::Medium, 640)]).spec();
        let seen: Vec<_> = spec.layers.iter().map(|l| (l.rid.as_str(), l.spatial, l.width)).collect();
        assert_eq!(seen, [("q", 0, 320), ("h", 1, 640), ("f", 2, 1280)]);
        assert!(!spec.speaks && !spec.encrypted && !spec.disable_red);
    }

    #[test]
    fn layers_that_say_no_quality_are_told_apart_by_size() {
        let publication = video(vec![layer(VideoQuality::Low, 1280), layer(VideoQuality::Low, 320), layer(VideoQuality::Low, 640)]);
        #[allow(deprecated)]
        let seen: Vec<_> = publication.info.layers.iter().map(|l| (l.quality, l.width, l.spatial_layer)).collect();
        assert_eq!(seen, [(0, 320, 0), (1, 640, 1), (2, 1280, 2)]);
    }

    #[test]
    fn a_track_without_layers_has_one_without_rid() {
        let spec = video(vec![]).spec();
        assert_eq!(spec.layers.len(), 1);
        assert_eq!((spec.layers[0].rid.as_str(), spec.layers[0].width), ("", 1280));
    }

    #[test]
    fn more_layers_than_livekit_knows_are_cut() {
        assert_eq!(video((0..100).map(|n| layer(VideoQuality::Low, n)).collect()).spec().layers.len(), 3);
    }

    #[test]
    fn the_primary_codec_names_cid_and_layers() {
        let request = livekit::AddTrackRequest {
            cid: "outer".into(),
            r#type: TrackType::Video as i32,
            simulcast_codecs: vec![
                livekit::SimulcastCodec {
                    codec: "VP9".into(),
                    cid: "inner".into(),
                    layers: vec![layer(VideoQuality::High, 640)],
                    ..Default::default()
                },
                livekit::SimulcastCodec { codec: "vp8".into(), ..Default::default() },
            ],
            ..Default::default()
        };
        let publication = Publication::new(TrackKey(1), &request, &Limits::default()).unwrap();
        assert_eq!(publication.cid, "inner");
        assert_eq!(publication.info.codecs.len(), 1);
        assert_eq!(publication.info.mime_type, "video/vp9");
        assert_eq!(publication.spec().codec, Some(Codec::Vp9), "asked of the client in the answer");
    }

    #[test]
    fn unusable_requests_are_refused() {
        let refused =
            |request: livekit::AddTrackRequest| Publication::new(TrackKey(1), &request, &Limits::default()).unwrap_err().to_string();
        let cid = || "c".to_owned();
        assert!(refused(livekit::AddTrackRequest::default()).contains("cid"));
        assert!(refused(livekit::AddTrackRequest { cid: cid(), r#type: 2, ..Default::default() }).contains("data"));
        assert!(refused(livekit::AddTrackRequest { cid: cid(), r#type: 9, ..Default::default() }).contains('9'));
        let long = "x".repeat(300);
        assert!(refused(livekit::AddTrackRequest { cid: cid(), name: long, ..Default::default() }).contains("300"));
    }
}
