//! Compiles `auralink/v1/*.proto`, and the descriptors of `livekit/*.proto`, in pure Rust (protox): no system `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let services = ["files", "jobs", "rooms", "sandboxes", "speech", "vectors"];
    let files = services.map(|service| format!("auralink/v1/{service}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("auralink.bin"), prost_bytes(&descriptors))?;
    println!("cargo:rerun-if-changed=livekit");
    let livekit = protox::compile(["livekit_room.proto"], ["livekit"])?;
    std::fs::write(out.join("livekit.bin"), prost_bytes(&livekit))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

fn prost_bytes(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
