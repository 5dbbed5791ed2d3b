#!/bin/sh
# Writes fixtures/stamps/v1/foreign: what other programs signed, and the keys they signed with.
#
#     python3 tests/interop/interop.py --prepare
#     PATH="$PWD/target/interop/venv/bin:$PATH" sh tests/interop/make_foreign.sh
#
# Needs openssl 3 and model_signing, securesystemslib as interop.py installs them. Keys that are there are kept; signatures
# are new each time, since these clients draw their nonces at random. The keys are public: they are for tests alone.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
stamps=$here/../../fixtures/stamps
mkdir -p "$stamps/v1/foreign"
cd "$stamps/v1/foreign"

new() { # file, command that writes the key on stdout
    file=$1
    shift
    test -e "$file" || "$@" > "$file"
}

# SEC1 behind a block of EC PARAMETERS, as `openssl ecparam -genkey` writes it without -noout.
new test-p256.sec1.pem openssl ecparam -name prime256v1 -genkey
new test-p384.pkcs8.pem openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384
# Keys to refuse. The password is "test".
new test-p256.encrypted-pkcs8.pem openssl pkcs8 -topk8 -v2 aes256 -passout pass:test -in test-p256.sec1.pem
new test-p256.encrypted-sec1.pem openssl ec -aes256 -passout pass:test -in test-p256.sec1.pem
new test-p521.pkcs8.pem openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521
new test-ed25519.pkcs8.pem openssl genpkey -algorithm ED25519
for key in p521 ed25519; do
    openssl pkey -pubout -in test-$key.pkcs8.pem -out test-$key.pub
done

sign() { # curve, private key
    folder=model-signing-$1
    mkdir -p "$folder"
    cp "$stamps/stamped-v1.onnx" "$folder/model.onnx"
    echo "A file beside the model, signed with it." > "$folder/notes.txt"
    # model_signing sorts by parts of paths: notes/more.txt before notes.txt, which by code points is the other way round.
    if test "$1" = p384; then
        mkdir -p "$folder/notes"
        echo "A file further down." > "$folder/notes/more.txt"
    fi
    openssl pkey -pubout -in "$2" -out "$folder.pub"
    model_signing sign key --private_key "$2" --signature "$folder/model.sig" "$folder"
    model_signing verify key --public_key "$folder.pub" --signature "$folder/model.sig" "$folder"
}
sign p256 test-p256.sec1.pem
sign p384 test-p384.pkcs8.pem

# A DSSE envelope, without a bundle around it. The payload is not ASCII, so that its length in bytes is not that in letters.
python - <<'EOF'
import hashlib
import json
import pathlib

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

private = load_pem_private_key(pathlib.Path("test-p256.sec1.pem").read_bytes(), None)
keyid = hashlib.sha256(pathlib.Path("model-signing-p256.pub").read_bytes()).hexdigest()
signer = CryptoSigner(private, SSlibKey.from_crypto(private.public_key(), keyid))
payload = '{"_type":"https://in-toto.io/Statement/v1","subject":[],"note":"gr\u00fc\u00dfe \u00ff?"}'
envelope = Envelope(payload.encode(), "application/vnd.in-toto+json", {})
envelope.sign(signer)
pathlib.Path("securesystemslib-p256.json").write_text(json.dumps(envelope.to_dict(), indent=1) + "\n")
EOF
