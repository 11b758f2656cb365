//! JSON as LiveKit's Twirp writes it (protojson with EmitUnpopulated and UseProtoNames): every field is there, under its own name
//! (`num_participants`), 64-bit numbers are texts, messages that are not set are null. Only what is optional or one of several stays away.
//!
//! The generated serde code leaves defaults out, so a message is read again by LiveKit's descriptors. Requests are read in both spellings.

use std::sync::LazyLock;

use auralink_proto::LIVEKIT_DESCRIPTOR_SET;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::Value;

static MESSAGES: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(LIVEKIT_DESCRIPTOR_SET).expect("compiled by the build script"));

/// A message of LiveKit's, by its name without `livekit.`, as JSON.
///
/// # Errors
/// When the descriptors do not know the name, or the message is not of that type.
pub fn write(name: &str, message: &impl prost::Message) -> Result<Value, String> {
    let descriptor = MESSAGES.get_message_by_name(&format!("livekit.{name}")).ok_or_else(|| format!("livekit.{name} has no descriptor"))?;
    let message = DynamicMessage::decode(descriptor.clone(), message.encode_to_vec().as_slice())
        .map_err(|error| format!("livekit.{name}: {error}"))?;
    let options = SerializeOptions::new().skip_default_fields(false).use_proto_field_name(true).stringify_64_bit_integers(true);
    let mut value =
        message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| format!("livekit.{name}: {error}"))?;
    add_nulls(&descriptor, &mut value);
    Ok(value)
}

/// Go's protojson writes messages that are not set as null; the library leaves them out.
fn add_nulls(descriptor: &MessageDescriptor, value: &mut Value) {
    // Well-known types are texts or numbers.
    let Value::Object(object) = value else { return };
    for field in descriptor.fields() {
        let Kind::Message(inner) = field.kind() else { continue };
        match object.get_mut(field.name()) {
            Some(Value::Array(items)) => items.iter_mut().for_each(|item| add_nulls(&inner, item)),
            Some(_) if field.is_map() => {}
            Some(value) => add_nulls(&inner, value),
            None if field.containing_oneof().is_none() => {
                object.insert(field.name().to_owned(), Value::Null);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_proto::livekit;
    use serde_json::json;

    #[test]
    fn defaults_are_written_and_numbers_of_64_bits_are_texts() {
        let room = livekit::Room { sid: "RM_x".into(), creation_time: 5, ..Default::default() };
        let expected = json!({
            "sid": "RM_x", "name": "", "empty_timeout": 0, "departure_timeout": 0, "max_participants": 0, "creation_time": "5",
            "creation_time_ms": "0", "turn_password": "", "enabled_codecs": [], "metadata": "", "num_participants": 0,
            "num_publishers": 0, "active_recording": false, "version": null
        });
        assert_eq!(write("Room", &room).unwrap(), expected);
    }

    #[test]
    fn keys_of_the_application_stay_and_inner_messages_are_whole() {
        let mut participant = livekit::ParticipantInfo::default();
        participant.attributes.insert("myKey".into(), "aB".into());
        participant.tracks.push(livekit::TrackInfo { sid: "TR_x".into(), r#type: 1, ..Default::default() });
        let list = livekit::ListParticipantsResponse { participants: vec![participant] };
        let value = write("ListParticipantsResponse", &list).unwrap();
        let participant = &value["participants"][0];
        assert_eq!(participant["attributes"], json!({"myKey": "aB"}));
        assert_eq!((&participant["state"], &participant["permission"]), (&json!("JOINING"), &Value::Null));
        let track = &participant["tracks"][0];
        assert_eq!((&track["type"], &track["muted"], &track["version"]), (&json!("VIDEO"), &json!(false), &Value::Null));
        assert!(write("NoSuch", &list).is_err());
    }
}
