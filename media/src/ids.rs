//! Keys that the control plane and the shards share. Plain numbers, never reused within a process, cheap to copy.

use std::fmt;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

key!(
    /// A room on this node.
    RoomKey
);
key!(
    /// A participant's media presence in a room: one or two transports, its publications and subscriptions.
    ParticipantKey
);
key!(
    /// A publication: one track of one participant with all its layers.
    TrackKey
);
