//! What needs mounts of one's own: each test runs itself again as root of a mount namespace that ends with it.

use std::process::Command;

use auralink_infrastructure::vm::VmError;
use auralink_infrastructure::vm::image::unpack::Bounds;
use auralink_infrastructure::vm::remove::remove_tree;

use crate::tars::{file, place, tar, unused};

const INSIDE: &str = "AURALINK_TEST_MOUNTS";

/// Runs the test `name` of this binary in a new mount namespace. Mounts made there are not seen outside, and end with it.
fn inside(name: &str) {
    let me = std::env::current_exe().unwrap();
    let unshare = ["--mount", "--map-root-user", "--propagation", "private"];
    let output = Command::new("unshare").args(unshare).arg(me).args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output();
    let output = output.expect("`unshare` (util-linux) is missing: run make setup");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn mount(args: &[&str]) {
    let status = Command::new("mount").args(args).status().unwrap();
    assert!(status.success(), "mount {args:?}");
}

#[test]
fn a_mount_below_stops_the_removal_before_anything_is_lost() {
    if std::env::var_os(INSIDE).is_none() {
        return inside("mounts::a_mount_below_stops_the_removal_before_anything_is_lost");
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, precious) = (dir.path().join("tree"), dir.path().join("precious"));
    std::fs::create_dir_all(tree.join("root/usr")).unwrap();
    std::fs::create_dir_all(&precious).unwrap();
    std::fs::write(precious.join("file"), "precious").unwrap();
    std::fs::write(tree.join("own"), "x").unwrap();
    // Of the same file system: device numbers do not tell it.
    mount(&["--bind", precious.to_str().unwrap(), tree.join("root/usr").to_str().unwrap()]);
    let error = remove_tree(&tree).unwrap_err();
    assert!(error.to_string().contains("unmount it first"), "{error}");
    assert!(precious.join("file").exists() && tree.join("own").exists());
    assert!(Command::new("umount").arg(tree.join("root/usr")).status().unwrap().success());
    remove_tree(&tree).unwrap();
    assert!(precious.join("file").exists() && !tree.exists());
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    if std::env::var_os(INSIDE).is_none() {
        return inside("mounts::a_full_disk_is_said_and_leaves_nothing");
    }
    let place = place(Bounds::default());
    let folder = place.folder();
    mount(&["-t", "tmpfs", "-o", "size=1m,nr_inodes=100", "tmpfs", folder.to_str().unwrap()]);
    let images = auralink_infrastructure::vm::image::Images::open(&folder, Bounds::default(), 16).unwrap();
    let large = tar(&[file("small", b"x"), file("large", &vec![7; 2 << 20])]);
    let many = tar(&(0..200).map(|n| file(&format!("f{n}"), b"")).collect::<Vec<_>>());
    for archive in [large, many] {
        let Err(VmError::Io { source, .. }) = images.import(None, "box", archive.as_slice(), &unused) else { panic!("it was taken") };
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{source}");
        assert_eq!(std::fs::read_dir(folder.join("tmp")).unwrap().count() + std::fs::read_dir(folder.join("blobs")).unwrap().count(), 0);
    }
    images.import(None, "box", tar(&[file("small", b"x")]).as_slice(), &unused).unwrap();
    drop(images);
    assert!(Command::new("umount").arg(&folder).status().unwrap().success());
}
