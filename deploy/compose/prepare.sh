#!/bin/sh
# Run once by compose.yaml, as root: puts into the folder $1 what the server reads: a certificate of an authority of its
# own, and the auth file $2. The server's user ($3, as UID:GID) owns them. What is there stays, but for the auth file.
set -eu
umask 077
folder=$1 auth_file=$2 owner=$3
cd "$folder"
if ! [ -e server.pem ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 365 \
    -subj "/CN=blockyard authority" -keyout ca-key.pem -out ca.pem
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 365 \
    -CA ca.pem -CAkey ca-key.pem -subj "/CN=blockyard" -addext "basicConstraints=critical,CA:false" \
    -addext "subjectAltName=DNS:localhost,DNS:blockyard,IP:127.0.0.1" -keyout server-key.pem -out server.pem
  rm ca-key.pem  # nothing else is to be signed with it
fi
cp "$auth_file" auth.toml.new
mv auth.toml.new auth.toml
chown "$owner" . server.pem server-key.pem auth.toml ca.pem
