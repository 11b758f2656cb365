//! One conformance test that every sandbox engine passes, and what each engine has beside it.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod conformance;
mod container_network;
mod daemons;
mod docker;
mod faults;
mod gvisor;
mod microvm_network;
mod microvm_tools;
mod network;
mod network_world;
mod podman;
mod process;
mod process_alone;
mod process_spare;
mod qemu;
mod tools;
