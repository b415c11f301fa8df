#!/bin/sh
# Made backup.age, armored.age and identity.txt, once: they are never made again.
# It needs tar of GNU and age, and no keybroker: a backup is a ustar archive of
# keybroker-keyring-backup and the keys' files, by name, mode 0600, of nobody and of
# no time, encrypted to age recipients. The identity is for tests and opens nothing
# else.
set -eu
cd "$(dirname "$0")"
test ! -e backup.age
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
echo 1 >"$dir/keybroker-keyring-backup"
cp ../../../testdata/golden/main.keyring "$dir"
age-keygen -o identity.txt
tar --create --format=ustar --blocking-factor=1 --mode=0600 --owner=:0 --group=:0 --numeric-owner --mtime=@0 \
	--directory "$dir" keybroker-keyring-backup main.keyring >"$dir/tar"
recipient=$(age-keygen -y identity.txt)
age --encrypt --recipient "$recipient" --output backup.age "$dir/tar"
age --encrypt --armor --recipient "$recipient" --output armored.age "$dir/tar"
