//! LiveKit's faces over a real server on loopback: one file per behaviour.

mod bad_input;
mod house;
mod joining;
mod local_participants;
mod resuming;
mod room_service;
mod slow_readers;
