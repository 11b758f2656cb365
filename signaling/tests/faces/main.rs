//! LiveKit's faces over a real server on loopback: one file per behaviour.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test, also in what the tests share")]

mod bad_input;
mod house;
mod joining;
mod local_participants;
mod resuming;
mod room_service;
mod slow_readers;

/// A description as Chromium wrote it.
const OFFER: &str = include_str!("../../../media/tests/transport/offers/chromium.sdp");
