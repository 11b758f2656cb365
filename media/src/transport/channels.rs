//! Data channels: str0m's handles under our own numbers, with limits.

use str0m::change::SdpApi;
use str0m::channel::{ChannelConfig, ChannelData, ChannelId as LibraryId, Reliability};

use super::{ChannelId, Transport, TransportEvent};

/// Channels that one connection may have open. LiveKit clients use three.
const MAX_CHANNELS: usize = 16;

/// The open channels of a connection, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Channels {
    open: Vec<(ChannelId, LibraryId)>,
    next: u32,
    offered: bool,
}

impl Channels {
    /// Adds LiveKit's two channels to our first offer.
    pub(super) fn offer(&mut self, api: &mut SdpApi<'_>) {
        if std::mem::replace(&mut self.offered, true) {
            return;
        }
        api.add_channel_with_config(ChannelConfig { label: "_reliable".to_owned(), ..Default::default() });
        api.add_channel_with_config(ChannelConfig {
            label: "_lossy".to_owned(),
            ordered: false,
            reliability: Reliability::MaxRetransmits { retransmits: 0 },
            ..Default::default()
        });
    }

    fn library_id(&self, channel: ChannelId) -> Option<LibraryId> {
        self.open.iter().find(|(id, _)| *id == channel).map(|(_, library)| *library)
    }

    fn id(&self, library: LibraryId) -> Option<ChannelId> {
        self.open.iter().find(|(_, id)| *id == library).map(|(id, _)| *id)
    }
}

impl Transport {
    pub(super) fn channel_opened(&mut self, library: LibraryId, label: String) {
        if self.channels.open.len() >= MAX_CHANNELS {
            self.stats.limit_hits += 1;
            self.rtc.direct_api().close_data_channel(library);
            return;
        }
        let channel = ChannelId(self.channels.next);
        self.channels.next += 1;
        self.channels.open.push((channel, library));
        self.events.push_back(TransportEvent::ChannelOpen { channel, label });
    }

    pub(super) fn channel_message(&mut self, message: ChannelData) {
        if let Some(channel) = self.channels.id(message.id) {
            let ChannelData { binary, data, .. } = message;
            self.events.push_back(TransportEvent::ChannelData { channel, binary, data });
        }
    }

    pub(super) fn channel_closed(&mut self, library: LibraryId) {
        if let Some(channel) = self.channels.id(library) {
            self.channels.open.retain(|(id, _)| *id != channel);
            self.events.push_back(TransportEvent::ChannelClosed { channel });
        }
    }

    pub(super) fn write_channel(&mut self, channel: ChannelId, binary: bool, data: &[u8]) -> bool {
        let Some(library) = self.channels.library_id(channel) else {
            return false;
        };
        let Some(mut handle) = self.rtc.channel(library) else {
            return false;
        };
        let taken = handle.write(binary, data).unwrap_or(false);
        self.rtc_dirty = true;
        taken
    }

    pub(super) fn channel_backlog(&mut self, channel: ChannelId) -> usize {
        self.channels
            .library_id(channel)
            .and_then(|library| self.rtc.channel(library).map(|mut handle| handle.buffered_amount()))
            .unwrap_or_default()
    }
}
