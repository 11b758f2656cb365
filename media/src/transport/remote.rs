//! What a peer says of itself, read before it reaches a shard: descriptions and trickled candidates, bounded, checked and parsed.
//!
//! Signaling reads them on its own threads, so that a large description costs no forwarded packet any time; the shard only
//! compares them with what it has. Rule: any text is taken without panic and answered with what was wrong.

use std::collections::HashSet;
use std::fmt;

use str0m::Candidate;
use str0m::change::{SdpAnswer, SdpOffer};

use super::description::Description;
use super::negotiation::{MAX_CANDIDATES, MAX_SECTIONS, guarded};
use super::{NegotiationError, candidate};

/// Bytes of a description: 512 sections of 2 KiB.
const MAX_DESCRIPTION: usize = 1 << 20;

/// A description, section by section and as the library reads it, and the candidates that it names.
pub(super) struct Read<T> {
    pub(super) description: Description,
    pub(super) library: T,
    pub(super) candidates: Vec<Candidate>,
    /// Candidates beyond [`MAX_CANDIDATES`].
    pub(super) refused: usize,
}

/// A client's offer, for [`super::Transport::accept_offer`].
pub struct RemoteOffer(pub(super) Read<SdpOffer>);

/// A client's answer to an offer of ours, for [`super::Transport::accept_answer`].
pub struct RemoteAnswer(pub(super) Read<SdpAnswer>);

/// A candidate that a client trickled, for [`super::Transport::add_remote_candidate`].
#[derive(Debug, Clone)]
pub struct RemoteCandidate(pub(super) Candidate);

impl RemoteOffer {
    /// Reads an offer.
    ///
    /// # Errors
    ///
    /// [`NegotiationError::Sdp`] when it is not SDP as WebRTC writes it, [`NegotiationError::Limit`] above 1 MiB or 512 sections.
    pub fn parse(sdp: &str) -> Result<RemoteOffer, NegotiationError> {
        read(sdp, SdpOffer::from_sdp_string).map(RemoteOffer)
    }
}

impl RemoteAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// As [`RemoteOffer::parse`].
    pub fn parse(sdp: &str) -> Result<RemoteAnswer, NegotiationError> {
        read(sdp, SdpAnswer::from_sdp_string).map(RemoteAnswer)
    }
}

impl RemoteCandidate {
    /// Reads a trickled line, `candidate:...`. `None`: nothing to add (the end of candidates, a host name (mDNS), TCP).
    ///
    /// # Errors
    ///
    /// [`NegotiationError::Candidate`] for what is no candidate.
    pub fn parse(line: &str) -> Result<Option<RemoteCandidate>, NegotiationError> {
        Ok(candidate::parse(line)?.map(RemoteCandidate))
    }
}

impl fmt::Debug for RemoteOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteOffer").field("sections", &self.0.description.sections.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for RemoteAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteAnswer").field("sections", &self.0.description.sections.len()).finish_non_exhaustive()
    }
}

/// An address as it is counted: candidates are repeated in later offers.
pub(super) fn address(candidate: &Candidate) -> String {
    format!("{} {}", candidate.addr().ip(), candidate.addr().port())
}

fn read<T, E: fmt::Display>(sdp: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<Read<T>, NegotiationError> {
    if sdp.len() > MAX_DESCRIPTION {
        return Err(NegotiationError::Limit { what: "bytes of SDP", count: sdp.len(), limit: MAX_DESCRIPTION });
    }
    let mut description = Description::parse(sdp, MAX_SECTIONS)?;
    // The library gets them one by one later: which of them there is room for depends on what was trickled before.
    let mut candidates: Vec<Candidate> =
        description.take_candidates().iter().filter_map(|line| candidate::parse(line).ok().flatten()).collect();
    let mut known = HashSet::new();
    candidates.retain(|candidate| known.insert(address(candidate)));
    let refused = candidates.len().saturating_sub(MAX_CANDIDATES);
    candidates.truncate(MAX_CANDIDATES);
    let text = description.to_string();
    let library = guarded(|| parse(&text)).map_err(|refusal| NegotiationError::Sdp(refusal.reason))?;
    Ok(Read { description, library, candidates, refused })
}
