#!/bin/bash
# A private Docker or Podman for tests: daemons.sh docker|podman FOLDER. Its standard input is its life: `kill` ends the daemon at once, `start`
# starts it again, and the end of input (the test process is gone, however it went) ends everything and removes the folder.
#
# Nothing but what was started here is ended, by process number; nothing mounted is removed through: mounts below the folder are taken off
# first, and rm stays on its file system.
set -u
kind=$1 folder=$2
export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
cd "$folder" || exit 1
trap : INT TERM HUP
# What is started in the background here would ignore what a terminal's keys send, and so would all programs in all containers.
plain='env --default-signal'
containerd= daemon=

start() {
  case $kind in
    docker)
      rm -f docker.pid
      $plain dockerd -H "unix://$folder/s" --containerd "$folder/c" --storage-driver vfs --bridge=none --iptables=false --ip6tables=false \
        --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/docker.pid" --add-runtime "gvisor=$folder/gvisor" \
        >>"$folder/log" 2>&1 </dev/null & daemon=$! ;;
    podman)
      rm -f s
      CONTAINERS_STORAGE_CONF=$folder/storage.conf CONTAINERS_CONF=$folder/containers.conf \
        $plain podman system service --time=0 "unix://$folder/s" >>"$folder/log" 2>&1 </dev/null & daemon=$! ;;
  esac
}

prepare() {
  case $kind in
    docker)
      # --network=none: a recent kernel shows in every network namespace what this runsc takes for the mark of the first one.
      printf '#!/bin/sh\nexec runsc --platform=ptrace --network=none --file-access=shared "$@"\n' >gvisor && chmod +x gvisor
      $plain containerd --root "$folder/containerd" --state "$folder/state" --address "$folder/c" >>"$folder/log" 2>&1 </dev/null & containerd=$!
      for _ in $(seq 300); do [ -S c ] && break; sleep 0.1; done ;;
    podman)
      printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/data"\nrunroot = "%s/run"\n' "$folder" "$folder" >storage.conf
      printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\ntmp_dir = "%s/tmp"\n[network]\nnetwork_config_dir = "%s/net"\n' \
        "$folder" "$folder" >containers.conf ;;
  esac
}

finish() {
  # Podman's containers do not end with it.
  if [ "$kind" = podman ]; then
    CONTAINERS_STORAGE_CONF=$folder/storage.conf CONTAINERS_CONF=$folder/containers.conf timeout 60 podman rm -f -t 0 -a >>log 2>&1
  fi
  [ -n "$daemon" ] && kill "$daemon" 2>/dev/null && wait "$daemon"
  [ -n "$containerd" ] && kill "$containerd" 2>/dev/null && wait "$containerd"
  cd /
  for _ in 1 2 3; do
    awk -v below="$folder/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do umount -l "$mount"; done
  done
  rm -rf --one-file-system "$folder" 2>/dev/null
}

prepare
start
while read -r word; do
  case $word in
    kill) kill -9 "$daemon"; wait "$daemon" 2>/dev/null ;;
    start) start ;;
  esac
  echo "$word"
done
finish
