//! The form of a record and the name of its file.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, AttachmentKey};
use crate::directory::EXTENSION;
use crate::excerpt;
use crate::name::{ContainerId, InterfaceName};

/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;

/// Records have some hundred bytes; what is larger is something else and is not read into memory.
pub(super) const MAX_BYTES: u64 = 1 << 20;

#[derive(Serialize)]
struct Written<'a> {
    version: u64,
    attachment: &'a Attachment,
}

/// Read first, because the rest may have any form in another version.
#[derive(Deserialize)]
struct Header {
    version: u64,
}

#[derive(Deserialize)]
struct Read {
    attachment: Attachment,
}

/// The name of `key`'s file; another key has another name.
pub(super) fn file_name(key: &AttachmentKey) -> String {
    let mut name = format!("{}@", key.container);
    for byte in key.interface.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            name.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name + EXTENSION
}

/// The key whose file has this name.
pub(super) fn key_of(name: &str) -> Option<AttachmentKey> {
    let (container, escaped) = name.strip_suffix(EXTENSION)?.split_once('@')?;
    let mut parts = escaped.split('%');
    let mut interface = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        interface.push(u8::from_str_radix(digits, 16).ok()?);
        interface.extend_from_slice(rest.as_bytes());
    }
    let interface = InterfaceName::new(String::from_utf8(interface).ok()?).ok()?;
    let key = AttachmentKey::new(ContainerId::new(container).ok()?, interface);
    // Only the one name that the key really has.
    (file_name(&key) == name).then_some(key)
}

pub(super) fn encode(attachment: &Attachment) -> serde_json::Result<Vec<u8>> {
    // Spread over lines for the people who look at it, and so that an error's line number leads to a field.
    let mut bytes = serde_json::to_vec_pretty(&Written { version: VERSION, attachment })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads what [`encode`] wrote into the file `name`; the error says what is wrong, in words.
pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Attachment, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| format!("it is not UTF-8: {error}"))?;
    let header: Header = serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            format!("expected a JSON object with a format version: {}", excerpt::line(&error))
        } else {
            format!("it is not JSON: {}", excerpt::line(&error))
        }
    })?;
    match header.version {
        VERSION => {}
        newer if newer > VERSION => {
            return Err(format!(
                "its format version {newer} is newer than {VERSION}, the newest that this version of Flock reads; \
                 it was written by a newer one"
            ));
        }
        unknown => return Err(format!("its format version is {unknown}, expected {VERSION}")),
    }
    let Read { attachment } =
        serde_json::from_str(text).map_err(|error| excerpt::line(&error).to_string())?;
    let expected = file_name(&attachment.key);
    if expected == name {
        Ok(attachment)
    } else {
        Err(format!("it is the record of {}, whose file is named {expected}", attachment.key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::directory::TEMPORARY_EXTENSION;

    fn key(container: &str, interface: &str) -> AttachmentKey {
        AttachmentKey::new(ContainerId::new(container).unwrap(), InterfaceName::new(interface).unwrap())
    }

    #[test]
    fn plain_names_stay_readable_and_odd_ones_are_escaped() {
        assert_eq!(file_name(&key("0123abc", "eth0")), "0123abc@eth0.json");
        assert_eq!(file_name(&key("a.b_c-d", "eth0.100")), "a.b_c-d@eth0.100.json");
        assert_eq!(file_name(&key("a", "b@c")), "a@b%40c.json");
        assert_eq!(file_name(&key("a", "~'b")), "a@%7E%27b.json");
    }

    #[test]
    fn the_longest_name_leaves_room_for_every_suffix() {
        let name = file_name(&key(&"a".repeat(190), &"@".repeat(15)));
        assert_eq!(name.len(), 190 + 1 + 15 * 3 + EXTENSION.len());
        assert!(name.len() + ".corrupt-99999".len() <= 255);
        assert!(name.len() + (TEMPORARY_EXTENSION.len() - EXTENSION.len()) <= 255);
    }

    fn any_key() -> impl Strategy<Value = AttachmentKey> {
        let interface =
            "[a-b@~.'0-9]{1,7}".prop_filter("a valid name", |name| InterfaceName::new(name).is_ok());
        ("[ab0][ab0._-]{0,3}", interface).prop_map(|(container, interface)| key(&container, &interface))
    }

    proptest! {
        #[test]
        fn different_keys_have_different_names(keys in proptest::collection::btree_set(any_key(), 2..40)) {
            let names: BTreeSet<String> = keys.iter().map(file_name).collect();
            prop_assert_eq!(names.len(), keys.len());
            for name in names {
                prop_assert!(!name.contains('/') && !name.starts_with('.') && name.ends_with(EXTENSION));
                prop_assert!(!name.ends_with(TEMPORARY_EXTENSION));
            }
        }

        #[test]
        fn a_key_is_read_back_from_its_name(key in any_key()) {
            prop_assert_eq!(key_of(&file_name(&key)), Some(key));
        }

        #[test]
        fn a_name_that_no_key_has_is_none(name in "[ab@%.é0-9]{0,12}(\\.json)?") {
            prop_assert!(key_of(&name).is_none_or(|key| file_name(&key) == name));
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes: Vec<u8>) {
            prop_assert!(decode("a@eth0.json", &bytes).is_err());
        }
    }
}
