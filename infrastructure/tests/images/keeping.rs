//! Import, list, replace, delete, export.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vm::VmError;
use auralink_infrastructure::vm::image::Images;
use auralink_infrastructure::vm::image::unpack::Bounds;

use crate::tars::{Entry, entry, file, folder, gzip, hard, link, place, tar, unused};

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn small() -> Vec<Entry> {
    vec![
        folder("./"),
        folder("./bin/"),
        file("./bin/busybox", b"#!program"),
        hard("./bin/sh", "./bin/busybox"),
        link("./lib", "usr/lib"),
        link("./etc/mtab", "/proc/mounts"),
        Entry { mode: 0o1777, ..folder("./tmp/") },
        Entry { mode: 0o4755, ..file("./bin/su", b"su") },
        entry(b'3', "./dev/null", "", b""),
        entry(b'6', "./pipe", "", b""),
        file("deep/without/folders/file", b"x"),
    ]
}

#[test]
fn what_was_imported_is_there_and_what_is_dangerous_is_not() {
    let place = place(Bounds::default());
    let t = tenant("t");
    let image = place.images.import(Some(&t), "team/box:1.0", tar(&small()).as_slice(), &unused).unwrap();
    assert_eq!((image.dropped, image.stripped, image.owner.as_ref()), (2, 1, Some(&t)));
    let (found, rootfs) = place.images.find(&t, "team/box:1.0").unwrap();
    assert_eq!(found, image);
    let about = |path: &str| rootfs.join(path).symlink_metadata().unwrap();
    assert_eq!(std::fs::read(rootfs.join("bin/sh")).unwrap(), b"#!program");
    assert_eq!(about("bin/sh").ino(), about("bin/busybox").ino());
    assert_eq!(about("bin/su").permissions().mode() & 0o7777, 0o755);
    assert_eq!(about("tmp").permissions().mode() & 0o7777, 0o1777);
    assert_eq!(std::fs::read_link(rootfs.join("etc/mtab")).unwrap().to_str(), Some("/proc/mounts"));
    assert!(!rootfs.join("dev/null").exists() && !rootfs.join("pipe").exists());
    assert!(rootfs.join("deep/without/folders/file").exists());
    let kept = crate::tars::place(Bounds { allow_setuid: true, ..Bounds::default() });
    kept.images.import(None, "box", tar(&small()).as_slice(), &unused).unwrap();
    let (_, rootfs) = kept.images.find(&t, "box").unwrap();
    assert_eq!(rootfs.join("bin/su").metadata().unwrap().permissions().mode() & 0o7777, 0o4755);
}

#[test]
fn equal_content_is_kept_once_however_it_was_packed() {
    let place = place(Bounds::default());
    let (a, b) = (tenant("a"), tenant("b"));
    let one = place.images.import(Some(&a), "one", tar(&small()).as_slice(), &unused).unwrap();
    let two = place.images.import(Some(&b), "two", gzip(&tar(&small())).as_slice(), &unused).unwrap();
    assert_eq!(one.digest, two.digest);
    let mut exported = Vec::new();
    place.images.export(&a, "one", true, &mut exported).unwrap();
    let three = place.images.import(None, "three", exported.as_slice(), &unused).unwrap();
    assert_eq!(three.digest, one.digest, "what was exported is the same");
    let (_, rootfs) = place.images.find(&a, "one").unwrap();
    let four = place.images.import_folder(Some(&a), "four", &rootfs, &unused).unwrap();
    assert_eq!(four.digest, one.digest, "a folder too");
    let blobs = || std::fs::read_dir(place.folder().join("blobs")).unwrap().count();
    assert_eq!(blobs(), 1);
    for (owner, name) in [(Some(&a), "one"), (Some(&b), "two"), (None, "three")] {
        place.images.delete(owner, name, &unused).unwrap();
        assert_eq!(blobs(), 1);
    }
    place.images.delete(Some(&a), "four", &unused).unwrap();
    assert_eq!(blobs(), 0);
    assert_eq!(std::fs::read_dir(place.folder().join("tmp")).unwrap().count(), 0);
}

#[test]
fn tenants_see_their_own_and_the_shared_ones() {
    let place = place(Bounds::default());
    let (a, b) = (tenant("a"), tenant("b"));
    place.images.import(Some(&a), "own", tar(&[file("f", b"1")]).as_slice(), &unused).unwrap();
    place.images.import(None, "all", tar(&[file("f", b"2")]).as_slice(), &unused).unwrap();
    let names = |t| place.images.list(t).unwrap().into_iter().map(|image| image.name).collect::<Vec<_>>();
    assert_eq!((names(&a), names(&b)), (vec!["all".to_owned(), "own".to_owned()], vec!["all".to_owned()]));
    let other = place.images.find(&b, "own").unwrap_err().to_string();
    assert_eq!(other, place.images.find(&b, "owm").unwrap_err().to_string().replace("owm", "own"));
    assert!(matches!(place.images.delete(Some(&b), "all", &unused), Err(VmError::NotFound(_))), "the shared one is not b's");
    // An own name goes before a shared one.
    place.images.import(Some(&b), "all", tar(&[file("f", b"3")]).as_slice(), &unused).unwrap();
    assert_eq!(std::fs::read(place.images.find(&b, "all").unwrap().1.join("f")).unwrap(), b"3");
}

#[test]
fn what_is_used_is_not_deleted_and_what_was_replaced_goes_when_it_is_not_used() {
    let place = place(Bounds::default());
    let t = tenant("t");
    let old = place.images.import(Some(&t), "box", tar(&[file("f", b"old")]).as_slice(), &unused).unwrap().digest;
    let used = |digest: &str| digest == old;
    let error = place.images.delete(Some(&t), "box", &used).unwrap_err();
    assert!(matches!(error, VmError::Condition { .. }), "{error}");
    let new = place.images.import(Some(&t), "box", tar(&[file("f", b"new")]).as_slice(), &used).unwrap().digest;
    let blob = |digest: &str| place.folder().join("blobs").join(digest).exists();
    assert!(blob(&old) && blob(&new));
    place.images.sweep(&used);
    assert!(blob(&old));
    place.images.sweep(&unused);
    assert!(!blob(&old) && blob(&new));
}

#[test]
fn names_are_plain_and_there_are_so_many() {
    let place = place(Bounds::default());
    let t = tenant("t");
    for name in ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "A", "a b", "a%2f", &"x".repeat(129)] {
        assert!(matches!(place.images.import(Some(&t), name, tar(&small()).as_slice(), &unused), Err(VmError::Invalid(_))), "{name:?}");
    }
    for index in 0..16 {
        place.images.import(Some(&t), &format!("i{index}"), tar(&[file("f", b"1")]).as_slice(), &unused).unwrap();
    }
    let one_more = place.images.import(Some(&t), "more", tar(&[file("f", b"1")]).as_slice(), &unused);
    assert!(matches!(one_more, Err(VmError::Exhausted(_))));
    place.images.import(Some(&t), "i3", tar(&[file("f", b"2")]).as_slice(), &unused).unwrap();
}

#[test]
fn what_an_import_left_when_the_server_ended_goes_at_the_next_start() {
    let place = place(Bounds::default());
    std::fs::create_dir_all(place.folder().join("tmp/half/rootfs/bin")).unwrap();
    std::fs::write(place.folder().join("tmp/half/rootfs/bin/x"), "x").unwrap();
    Images::open(&place.folder(), Bounds::default(), 16).unwrap();
    assert_eq!(std::fs::read_dir(place.folder().join("tmp")).unwrap().count(), 0);
}

#[test]
fn no_other_user_of_the_machine_reads_images() {
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("made/images");
    // As an older server made it.
    for part in ["blobs", "names"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
        std::fs::set_permissions(folder.join(part), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let images = Images::open(&folder, Bounds::default(), 16).unwrap();
    images.import(Some(&tenant("t")), "box", tar(&[file("f", b"1")]).as_slice(), &unused).unwrap();
    for part in ["blobs", "names", "names/t", "tmp"] {
        assert_eq!(mode(&folder.join(part)), 0o700, "{part}");
    }
    Images::open(&dir.path().join("new"), Bounds::default(), 16).unwrap();
    assert_eq!(mode(&dir.path().join("new")), 0o700);
}
