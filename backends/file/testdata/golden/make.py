"""Made main.keyring and wraps.json, once: they are never made again.

It follows the words of the format, not the Go code: a keyring file is this JSON
with this spacing, whose sha256 is over the same bytes with that field empty; a
wrap is a 96-bit nonce, then AES-256-GCM's ciphertext and tag, with the canonical
pairs as associated data. The keys are for tests and open nothing else.
"""

import base64
import hashlib
import json
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ID, KEY = "000102030405060708090a0b0c0d0e0f", "main"
KEKS = [hashlib.sha256(b"keybroker golden keyring %d" % n).digest() for n in (1, 2, 3)]
STATES = ["active", "retired", "active"]


def file():
    versions = [
        {
            "version": n + 1,
            "created": "2026-11-2%dT12:00:00Z" % n,
            "state": STATES[n],
            "kek": base64.b64encode(KEKS[n]).decode(),
        }
        for n in range(3)
    ]
    doc = {"format": "keybroker-keyring/1", "keyring": ID, "key": KEY, "versions": versions, "sha256": ""}
    text = lambda: (json.dumps(doc, indent=2) + "\n").encode()
    doc["sha256"] = hashlib.sha256(text()).hexdigest()
    return text()


def canonical(pairs):
    out = struct.pack(">I", len(pairs))
    for name in sorted(pairs, key=lambda s: s.encode()):
        for s in (name.encode(), pairs[name].encode()):
            out += struct.pack(">I", len(s)) + s
    return out


def wrap(version, size, pairs):
    plaintext = hashlib.sha512(b"plaintext %d" % size).digest()[:size]
    nonce = hashlib.sha256(b"nonce %d %d" % (version, size)).digest()[:12]
    sealed = AESGCM(KEKS[version - 1]).encrypt(nonce, plaintext, canonical(pairs))
    return {
        "version": str(version),
        "reference": ID + "/" + KEY,
        "associated_data": canonical(pairs).hex(),
        "plaintext": plaintext.hex(),
        "ciphertext": (nonce + sealed).hex(),
    }


PAIRS = {"keybroker:key": "tikv", "größe": "鍵"}
with open("main.keyring", "xb") as f:
    f.write(file())
with open("wraps.json", "x") as f:
    json.dump([wrap(1, 32, PAIRS), wrap(1, 1, {}), wrap(2, 32, PAIRS), wrap(3, 64, PAIRS)], f, indent=2)
    f.write("\n")
