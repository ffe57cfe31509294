"""NKeys, against a key pair of the field's own `nk`, whose seed and public key its documentation prints."""

import base64
import binascii

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from callboard_kit.nkeys import UserKey, new_seed

pytestmark = pytest.mark.unit

SEED = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"
PUBLIC = "UCK5N7N66OBOINFXAYC2ACJQYFSOD4VYNU6APEJTAVFZB2SVHLKGEW7L"


def test_seed_has_the_public_key_that_other_tools_give_it() -> None:
    assert UserKey(SEED).public == PUBLIC
    assert UserKey(f"{SEED}\n").public == PUBLIC


def test_new_seed_signs_what_its_public_key_verifies() -> None:
    key = UserKey(new_seed())
    raw = base64.b32decode(key.public)
    signature = key.sign("nonce")
    padded = signature + b"=" * (-len(signature) % 4)
    Ed25519PublicKey.from_public_bytes(raw[1:33]).verify(base64.urlsafe_b64decode(padded), b"nonce")


def _seed_of_an_account() -> str:
    raw = bytearray(base64.b32decode(SEED + "=" * (-len(SEED) % 8)))[:-2]
    raw[0] &= 0xF8
    return base64.b32encode(bytes(raw) + binascii.crc_hqx(bytes(raw), 0).to_bytes(2, "little")).decode().rstrip("=")


@pytest.mark.parametrize("seed", ["", "secret", SEED[:-1], SEED[:9] + "A" + SEED[10:], PUBLIC, _seed_of_an_account()])
def test_other_text_is_no_seed(seed: str) -> None:
    with pytest.raises(ValueError, match="NKey"):
        UserKey(seed)
