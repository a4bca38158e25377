"""A seal opens only with a known key, for what it was made for, and unchanged; keys are never shown."""

from __future__ import annotations

import base64
import builtins
import os
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from culm import ConfigError, Keys, NotAuthentic
from culm.envelope import Encrypted, Signed, Stored, unwrap, wrap

OLD, NEW = b"o" * 32, b"n" * 40
ME = ("arguments", "job-1", "mail.send", "mail", None, None)
EACH = pytest.mark.parametrize("encrypt", [False, True], ids=["signed", "encrypted"])


@EACH
def test_what_was_sealed_opens_for_what_it_belongs_to(encrypt: bool) -> None:
    keys = Keys({"a": NEW}, encrypt=encrypt)
    sealed = keys.seal(b"hello", ME)
    assert keys.open(sealed, ME) == b"hello"
    assert (b"hello" in sealed) is not encrypt


@EACH
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_single_changed_bit_does_not_open(encrypt: bool, at: int, bit: int) -> None:
    keys = Keys({"a": NEW}, encrypt=encrypt)
    sealed = bytearray(keys.seal(b"hello world", ME))
    sealed[at % len(sealed)] ^= 1 << bit
    with pytest.raises(NotAuthentic):
        keys.open(bytes(sealed), ME)


@EACH
@pytest.mark.parametrize("n", range(len(ME)))
def test_bytes_that_were_moved_to_another_job_task_or_queue_do_not_open(encrypt: bool, n: int) -> None:
    keys = Keys({"a": NEW}, encrypt=encrypt)
    other = (*ME[:n], "other", *ME[n + 1 :])
    with pytest.raises(NotAuthentic, match="its bytes were changed, or are another message's"):
        keys.open(keys.seal(b"hello", ME), other)


@EACH
def test_what_belongs_to_one_thing_cannot_be_read_as_another_by_shifting_letters(encrypt: bool) -> None:
    keys = Keys({"a": NEW}, encrypt=encrypt)
    with pytest.raises(NotAuthentic):
        keys.open(keys.seal(b"x", ("arguments", "ab", "c")), ("arguments", "a", "bc"))


@EACH
def test_rotation_knows_several_keys_and_uses_one(encrypt: bool) -> None:
    before = Keys({"old": OLD}, encrypt=encrypt)
    both = Keys({"new": NEW, "old": OLD}, use="new", encrypt=encrypt)
    after = Keys({"new": NEW}, encrypt=encrypt)
    assert both.open(before.seal(b"x", ME), ME) == b"x"
    assert after.open(both.seal(b"x", ME), ME) == b"x"
    with pytest.raises(NotAuthentic, match="it is sealed with key 'old', which this app does not know"):
        after.open(before.seal(b"x", ME), ME)


@EACH
def test_another_secret_under_the_same_id_does_not_open(encrypt: bool) -> None:
    with pytest.raises(NotAuthentic, match="with key 'a'"):
        Keys({"a": NEW}, encrypt=encrypt).open(Keys({"a": OLD}, encrypt=encrypt).seal(b"x", ME), ME)


def test_an_app_that_encrypts_still_opens_what_is_only_signed() -> None:
    assert Keys({"a": NEW}, encrypt=True).open(Keys({"a": NEW}).seal(b"x", ME), ME) == b"x"
    assert Keys({"a": NEW}).open(Keys({"a": NEW}, encrypt=True).seal(b"x", ME), ME) == b"x"


def test_two_encryptions_of_the_same_have_nothing_in_common() -> None:
    keys = Keys({"a": NEW}, encrypt=True)
    one, two = unwrap(keys.seal(b"x" * 100, ME)), unwrap(keys.seal(b"x" * 100, ME))
    assert isinstance(one, Encrypted)
    assert isinstance(two, Encrypted)
    assert one.salt != two.salt
    assert one.body != two.body


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x91\x01", "it is not signed, and this app has keys"),
        (b"", "it is not signed"),
        (b"\xc1", "its envelope cannot be read"),
        (b"\xc1\x90", "its envelope cannot be read"),
        (b"\xc1" + b"\x91" * 10_000, "its envelope cannot be read"),
        (wrap(Stored(bytes(32), 1)), "it is not signed"),
        (wrap(Signed("a", b"", b"x")), "is false"),
        (wrap(Signed("a", bytes(32), b"x")), "is false"),
        (wrap(Encrypted("a", b"", b"x")), "it has no salt"),
        (wrap(Encrypted("a", bytes(28), b"")), "it does not open with key 'a'"),
        (wrap(Signed("\x1b[31m" + "x" * 500, bytes(32), b"x")), "it is sealed with key"),
    ],
)
def test_hostile_bytes_are_refused_in_one_short_line(data: bytes, says: str) -> None:
    with pytest.raises(NotAuthentic, match=says) as caught:
        Keys({"a": NEW}).open(data, ME)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("known", "given", "says"),
    [
        ({}, {}, "say which of \\(none\\) seals what is sent"),
        ({"a": NEW, "b": OLD}, {}, "say which of a, b seals what is sent, with use=, got None"),
        ({"a": NEW}, {"use": "b"}, "got 'b'"),
        ({"a": b"short"}, {}, "the secret of 'a' must be 32 bytes or more, got 5 bytes"),
        ({"a": "hunter2hunter2hunter2hunter2hunter2"}, {}, "got a str"),
        ({"a b": NEW}, {}, "key id must be"),
        ({3: NEW}, {}, "key id must be a str"),
    ],
)
def test_keys_that_cannot_be_are_one_clear_line_without_the_secret(known: Any, given: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Keys(known, **given)
    assert not any(secret in str(caught.value) for secret in ("short", "hunter2", "nnnn"))


def test_keys_are_never_shown_and_never_pickled() -> None:
    keys = Keys({"new": NEW, "old": OLD}, use="new", encrypt=True)
    assert repr(keys) == "<Keys new, old; uses new to encrypt>"
    assert "nnnn" not in f"{keys} {keys!r}"
    with pytest.raises(TypeError, match="keys are not pickled"):
        pickle.dumps(keys)


def test_keys_come_from_the_environment_the_first_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = os.urandom(33)
    monkeypatch.setenv("CULM_KEYS", f"new:{base64.b64encode(NEW).decode()}, old:{base64.urlsafe_b64encode(secret).decode()}")
    keys = Keys.from_env()
    assert repr(keys) == "<Keys new, old; uses new>"
    assert keys.open(Keys({"old": secret}).seal(b"x", ME), ME) == b"x"


@pytest.mark.parametrize("text", ["", "new", "new:???hunter2???", f"a:{base64.b64encode(NEW).decode()},hunter2"])
def test_a_bad_variable_is_one_clear_line_without_what_it_holds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEYS", text)
    with pytest.raises(ConfigError, match=r"\$SOME_KEYS must be id:base64,id:base64,\.\.\., but its part \d is not") as caught:
        Keys.from_env("SOME_KEYS")
    assert "hunter2" not in str(caught.value)


def test_encryption_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert repr(Keys({"a": NEW})) == "<Keys a; uses a>"
    with pytest.raises(ConfigError, match=r"pip install 'culm\[crypto\]'"):
        Keys({"a": NEW}, encrypt=True)
