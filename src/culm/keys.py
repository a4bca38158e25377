"""Keys that seal messages, by id: one is used for what is sent, all of them are known for what arrives.

A seal binds the bytes to what they belong to: arguments to the id, task, queue, `expires` and `deadline` of their job, a result to
its job, an event to its scope, topic and key. Bytes that were moved to another job do not open there.

To rotate: make the new key known everywhere, then use it everywhere, and forget the old one when the last message is gone that it
sealed.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from culm.envelope import Encrypted, Envelope, Signed, is_wrapped, unwrap, wrap
from culm.errors import ConfigError, NotAuthentic
from culm.options import check_name, printable

LEAST_BYTES = 32
SALT_BYTES, NONCE_BYTES = 16, 12

Belongs = tuple[str | int | None, ...]  # what a message belongs to, its kind first

_encode = msgspec.msgpack.Encoder().encode


class Keys:
    """Seals what is sent and opens what arrives. Once an app has keys, it takes nothing unsealed.

    Args:
        known: secrets of 32 bytes or more, by id. The ids travel with the messages; the secrets are never shown.
        use: the id of the key for what is sent; by default the only one.
        encrypt: also make messages unreadable to whoever has no key (needs `pip install 'culm[crypto]'`). What is only signed still opens.

    Raises:
        ConfigError: a secret is too short, an id is none, or it is not said which key to use.

    Example:
        >>> app = App("redis://queue", keys=Keys({"2025-06": new, "2025-01": old}, use="2025-06"))
    """

    def __init__(self, known: Mapping[str, bytes], *, use: str | None = None, encrypt: bool = False) -> None:
        for key_id, secret in known.items():
            _check(key_id, secret)
        if use is None and len(known) == 1:
            use = next(iter(known))
        if use is None or use not in known:
            raise ConfigError(f"keys: say which of {', '.join(sorted(known)) or '(none)'} seals what is sent, with use=, got {use!r}")
        if encrypt:
            _aead(bytes(32))  # whether it is installed
        self._use = use
        self._encrypt = encrypt
        self._signing = {key_id: hmac.digest(secret, b"culm sign", "sha256") for key_id, secret in known.items()}
        self._hiding = {key_id: hmac.digest(secret, b"culm encrypt", "sha256") for key_id, secret in known.items()}

    @classmethod
    def from_env(cls, name: str = "CULM_KEYS", *, encrypt: bool = False) -> Keys:
        """From `id:base64,id:base64,...`, of which the first is used. Raises ConfigError, never with what the variable holds."""
        known: dict[str, bytes] = {}
        for n, part in enumerate(os.environ.get(name, "").split(","), 1):
            key_id, colon, text = part.strip().partition(":")
            try:
                known[key_id] = base64.b64decode(text, altchars=b"-_" if set(text) & set("-_") else None, validate=True)
            except (binascii.Error, ValueError):
                colon = ""
            if not colon:
                raise ConfigError(f"${name} must be id:base64,id:base64,..., but its part {n} is not")
        return cls(known, use=next(iter(known)), encrypt=encrypt)

    def __repr__(self) -> str:
        return f"<Keys {', '.join(self._signing)}; uses {self._use}{' to encrypt' if self._encrypt else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled")

    def seal(self, data: bytes, belongs: Belongs) -> bytes:
        if not self._encrypt:
            return wrap(Signed(self._use, self._mac(self._use, belongs, data), data))
        salt = os.urandom(SALT_BYTES + NONCE_BYTES)
        return wrap(Encrypted(self._use, salt, self._cipher(self._use, salt).encrypt(salt[SALT_BYTES:], data, _said(self._use, belongs))))

    def open(self, data: bytes, belongs: Belongs) -> bytes:
        """What was sealed. Raises NotAuthentic, before anything of it is decoded."""
        if not is_wrapped(data):
            raise NotAuthentic("it is not signed, and this app has keys")
        envelope = unwrap(data)
        if not isinstance(envelope, Signed | Encrypted):
            raise NotAuthentic("it is not signed, and this app has keys")
        if envelope.key not in self._signing:
            raise NotAuthentic(f"it is sealed with key {shown(envelope)}, which this app does not know")
        if isinstance(envelope, Encrypted):
            return self._decrypted(envelope, belongs)
        if not hmac.compare_digest(envelope.mac, self._mac(envelope.key, belongs, envelope.body)):
            raise NotAuthentic(f"its signature with key {shown(envelope)} is false: its bytes were changed, or are another message's")
        return envelope.body

    def _mac(self, key_id: str, belongs: Belongs, data: bytes) -> bytes:
        return hmac.digest(self._signing[key_id], _said(key_id, belongs) + data, "sha256")

    def _cipher(self, key_id: str, salt: bytes) -> Any:
        """Every message has a key of its own, so that random nonces never meet under one key."""
        return _aead(hmac.digest(self._hiding[key_id], salt[:SALT_BYTES], "sha256"))

    def _decrypted(self, envelope: Encrypted, belongs: Belongs) -> bytes:
        if len(envelope.salt) != SALT_BYTES + NONCE_BYTES:
            raise NotAuthentic("its envelope cannot be read: it has no salt")
        from cryptography.exceptions import InvalidTag

        cipher = self._cipher(envelope.key, envelope.salt)
        try:
            plain: bytes = cipher.decrypt(envelope.salt[SALT_BYTES:], envelope.body, _said(envelope.key, belongs))
        except InvalidTag:
            raise NotAuthentic(f"it does not open with key {shown(envelope)}: its bytes were changed, or are another message's") from None
        return plain


def shown(envelope: Envelope) -> str:
    """The id of its key, which whoever made the message chose."""
    return repr(printable(getattr(envelope, "key", "")[:40]))


def _said(key_id: str, belongs: Belongs) -> bytes:
    """MessagePack says itself where it ends: no two things that a message may belong to have the same bytes."""
    return _encode(("culm", 1, key_id, *belongs))


def _check(key_id: object, secret: object) -> None:
    try:
        check_name(key_id, "key id")
    except (TypeError, ValueError) as e:
        raise ConfigError(f"keys: {e}") from None
    if not isinstance(secret, bytes) or len(secret) < LEAST_BYTES:
        got = f"{len(secret)} bytes" if isinstance(secret, bytes) else f"a {type(secret).__name__}"
        raise ConfigError(f"keys: the secret of {key_id!r} must be {LEAST_BYTES} bytes or more, got {got}; os.urandom(32) makes one")


def _aead(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise ConfigError("encryption needs a package that is not installed; run: pip install 'culm[crypto]'") from None
    return AESGCM(key)
