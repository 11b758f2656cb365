//! Archives that mean harm, by hand and by chance.

use std::collections::HashSet;

use auralink_infrastructure::vm::VmError;
use auralink_infrastructure::vm::image::unpack::Bounds;
use proptest::prelude::*;

use crate::tars::{Entry, Place, entry, file, folder, gzip, hard, link, place, tar, unused};

/// Imports, and holds that a refusal left nothing and that nothing outside was touched.
fn import(place: &Place, archive: &[u8]) -> Result<(), VmError> {
    let canary = place.dir.path().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    let before: HashSet<_> = place.all().into_iter().collect();
    let done = place.images.import(None, "hostile", archive, &unused);
    assert_eq!(std::fs::read(&canary).unwrap(), b"untouched");
    if done.is_err() {
        let after: HashSet<_> = place.all().into_iter().collect();
        assert_eq!(before, after, "a refused archive left something behind");
    } else {
        let inside = place.folder();
        for path in place.all() {
            assert!(path.starts_with(&inside) || path == inside || path == canary, "{} is outside", path.display());
        }
    }
    done.map(|_| ())
}

#[test]
fn entries_that_lead_out_are_refused_by_name() {
    let wrong: Vec<(&str, Vec<Entry>)> = vec![
        ("`..`", vec![file("../canary", b"x")]),
        ("`..`", vec![file("a/../../canary", b"x")]),
        ("absolute", vec![file("/etc/passwd", b"x")]),
        ("symbolic link", vec![link("out", "../../.."), file("out/canary", b"x")]),
        ("symbolic link", vec![link("out", "/"), file("out/tmp/x", b"x")]),
        ("symbolic link", vec![link("out", "/"), folder("out/made")]),
        ("symbolic link", vec![folder("in"), link("in/out", "../.."), link("in/out/x", "y")]),
        ("symbolic link", vec![file("f", b"x"), link("out", "/tmp"), hard("out/x", "f")]),
        ("no file that stands before", vec![hard("x", "../canary")].into_iter().map(|e| Entry { link: b"canary".into(), ..e }).collect()),
        ("`..`", vec![hard("x", "../canary")]),
        ("absolute", vec![hard("x", "/etc/passwd")]),
        ("no file that stands before", vec![link("l", "/etc/passwd"), hard("x", "l")]),
        ("no folder", vec![file("f", b"x"), file("f/g", b"x")]),
        ("comes twice", vec![folder("d"), file("d", b"x")]),
        ("comes twice", vec![file("d", b"x"), folder("d")]),
        ("comes twice", vec![folder("d"), link("d", "/")]),
        ("has content", vec![Entry { kind: b'5', ..file("d", b"0123") }]),
        ("UTF-8", vec![Entry { path: vec![0xff, 0xfe], ..file("x", b"") }]),
        ("sparse", vec![entry(b'S', "x", "", b"")]),
        ("kind", vec![entry(b'Z', "x", "", b"")]),
        ("link to nothing", vec![link("x", "")]),
        ("ends early", vec![Entry { size: 1_000_000, ..file("x", b"short") }]),
        ("more than", vec![Entry { size: u64::MAX / 2, ..file("x", b"short") }]),
    ];
    for (word, entries) in wrong {
        let place = place(Bounds::default());
        let error = import(&place, &tar(&entries)).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
        assert!(import(&place, &gzip(&tar(&entries))).is_err());
    }
}

#[test]
fn a_later_entry_replaces_an_earlier_one_and_never_what_a_link_points_at() {
    let place = place(Bounds::default());
    let entries = [file("kept", b"kept"), link("x", "kept"), file("x", b"new"), file("y", b"1"), hard("z", "y"), file("y", b"2")];
    import(&place, &tar(&entries)).unwrap();
    let rootfs = place.images.find(&"t".parse().unwrap(), "hostile").unwrap().1;
    let read = |name: &str| std::fs::read(rootfs.join(name)).unwrap();
    assert_eq!((read("kept"), read("x"), read("y"), read("z")), (b"kept".into(), b"new".into(), b"2".into(), b"1".into()));
}

#[test]
fn what_is_no_archive_is_said_so() {
    let place = place(Bounds::default());
    let noise: Vec<u8> = (0..10_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut cut = gzip(&tar(&[file("x", &noise)]));
    cut.truncate(cut.len() / 2);
    for (archive, word) in [
        (b"".as_slice(), "empty"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh9", "bzip2"),
        (&noise, "cannot be read"),
        (&cut, "cannot be read"),
        (&[0; 1_024], "no files"),
    ] {
        let error = import(&place, archive).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn bombs_of_every_kind_are_stopped() {
    let bounds = Bounds { bytes: 1 << 20, entries: 100, path_bytes: 300, depth: 10, ..Bounds::default() };
    let exhausted = |entries: &[Entry]| {
        let place = place(bounds);
        let error = import(&place, &tar(entries)).unwrap_err();
        assert!(matches!(error, VmError::Exhausted(_)), "{error}");
    };
    exhausted(&[file("large", &vec![0; (1 << 20) + 1])]);
    exhausted(&(0..20).map(|n| file(&format!("f{n}"), &vec![0; 60_000])).collect::<Vec<_>>());
    exhausted(&(0..101).map(|n| file(&format!("f{n}"), b"")).collect::<Vec<_>>());
    exhausted(&(0..101).map(|n| entry(b'3', &format!("f{n}"), "", b"")).collect::<Vec<_>>());
    exhausted(&[file("a/a/a/a/a/a/a/a/a/a/a", b"")]);
    // Names in entries of their own: GNU, of any length, and PAX.
    exhausted(&[Entry { kind: b'L', ..file("././@LongLink", "d/".repeat(200).as_bytes()) }, file("x", b"")]);
    exhausted(&[Entry { kind: b'L', ..file("././@LongLink", &vec![b'x'; 1 << 20]) }, file("x", b"")]);
    exhausted(&[Entry { kind: b'x', ..file("pax", &vec![b'1'; 1 << 20]) }, file("x", b"")]);
    exhausted(&[Entry { kind: b'x', ..file("pax", b"20 size=99999999999\n") }, file("x", b"")]);
}

#[test]
fn folders_that_no_entry_names_and_the_bytes_of_names_count() {
    let bounds = Bounds { entries: 100, name_bytes: 4_000, ..Bounds::default() };
    let exhausted = |entries: &[Entry], word: &str| {
        let place = place(bounds);
        let error = import(&place, &tar(entries)).unwrap_err();
        assert!(matches!(&error, VmError::Exhausted(why) if why.contains(word)), "{error}");
    };
    exhausted(&(0..10).map(|n| file(&format!("{n}/a/b/c/d/e/f/g/h/i/j"), b"")).collect::<Vec<_>>(), "entries");
    exhausted(
        &(0..20).map(|n| link(&format!("{n}"), &"x".repeat(99))).chain([link("k", &"x".repeat(99))]).cycle().take(60).collect::<Vec<_>>(),
        "bytes",
    );
    exhausted(&(0..60).map(|n| folder(&format!("{n}{}", "x".repeat(90)))).collect::<Vec<_>>(), "bytes");
    let place = place(bounds);
    let image = place.images.import(None, "box", tar(&[file("a/b/c", b""), folder("a"), file("a/b/c", b"x")]).as_slice(), &unused).unwrap();
    assert_eq!(image.entries, 3, "each once");
}

#[test]
fn headers_and_names_are_part_of_the_ratio() {
    let place = place(Bounds { ratio: 20, ..Bounds::default() });
    let name = [Entry { kind: b'L', ..file("././@LongLink", &vec![0; 60_000]) }, file("x", b"")];
    let zeros = gzip(&tar(&name.iter().cloned().cycle().take(2_400).collect::<Vec<_>>()));
    let error = import(&place, &zeros).unwrap_err().to_string();
    assert!(error.contains("bomb"), "{error}");
}

#[test]
fn headers_that_stand_before_no_entry_come_to_an_end() {
    let place = place(Bounds::default());
    let error = import(&place, &tar(&vec![entry(b'g', "pax", "", b"12 key=text\n"); 17])).unwrap_err();
    assert!(matches!(&error, VmError::Exhausted(why) if why.contains("before one entry")), "{error}");
}

#[test]
fn an_archive_that_unpacks_to_a_thousand_times_its_size_is_a_bomb() {
    let place = place(Bounds::default());
    let zeros = gzip(&tar(&[file("zeros", &vec![0; 80 << 20])]));
    assert!(zeros.len() < 1 << 20);
    let error = import(&place, &zeros).unwrap_err().to_string();
    assert!(error.contains("bomb"), "{error}");
    let place = crate::tars::place(Bounds { ratio: 10_000, ..Bounds::default() });
    import(&place, &zeros).unwrap();
}

#[test]
fn pax_names_are_held_to_the_same_rules() {
    for (record, word) in [("18 path=../canary\n", "`..`"), ("16 path=/canary\n", "absolute")] {
        let place = place(Bounds::default());
        let error = import(&place, &tar(&[entry(b'x', "pax", "", record.as_bytes()), file("x", b"x")])).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![Just("a"), Just("b"), Just("c"), Just(".."), Just("."), Just(""), Just("canary"), Just("images")];
    (any::<bool>(), prop::collection::vec(part, 1..5))
        .prop_map(|(root, parts)| format!("{}{}", if root { "" } else { "./" }, parts.join("/")))
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let kind = prop::sample::select(b"0001225555346Lx".to_vec());
    let target = prop_oneof![name(), Just("/".to_owned()), Just("../../..".to_owned()), Just("../../canary".to_owned())];
    let content = prop::collection::vec(any::<u8>(), 0..600);
    (kind, name(), target, content, 0_u32..0o10_000).prop_map(|(kind, path, target, content, mode)| {
        let content = if b"0Lx".contains(&kind) { content } else { Vec::new() };
        Entry { mode, ..entry(kind, &path, &target, &content) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the entries and their order: nothing outside is touched, nothing stays of a refusal.
    #[test]
    fn no_order_of_any_entries_leads_out(entries in prop::collection::vec(any_entry(), 1..12)) {
        let place = place(Bounds { bytes: 4_096, entries: 8, depth: 4, ..Bounds::default() });
        let _ = import(&place, &tar(&entries));
    }

    /// A good archive with some bytes changed never panics and never leads out.
    #[test]
    fn no_damage_leads_out(at in 0_usize..6_000, bytes in prop::collection::vec(any::<u8>(), 1..64), packed in any::<bool>()) {
        let mut archive = tar(&[folder("d"), file("d/f", &[7; 900]), link("l", "d"), hard("h", "d/f"), file("e", b"e")]);
        if packed {
            archive = gzip(&archive);
        }
        let at = at % archive.len();
        let end = (at + bytes.len()).min(archive.len());
        archive[at..end].copy_from_slice(&bytes[..end - at]);
        let place = place(Bounds { bytes: 1 << 20, ..Bounds::default() });
        let _ = import(&place, &archive);
    }
}
