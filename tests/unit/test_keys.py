"""API keys: their text, how one is found, and what people may write about them."""

import re
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore import keys
from eventcore.errors import EventcoreError
from eventcore.keys import ApiKey, Keyring, Refused, make_key

NOW_US = 1_700_000_000_000_000


def a_key(random_bytes: bytes = bytes(25), **changes: Any) -> tuple[str, ApiKey]:
    return make_key(random_bytes, **({"project": "default", "scopes": ("read",), "now_us": NOW_US} | changes))


random_bytes = st.binary(min_size=25, max_size=25)


@given(random_bytes)
def test_a_key_is_readable_and_kept_as_its_hash_alone(some: bytes) -> None:
    text, key = a_key(some)
    assert re.fullmatch(r"ec_live_[a-z2-7]{8}_[a-z2-7]{32}", text)
    assert key.digest == sha256(text.encode()).digest()
    assert (text[:16], text[8:16]) == (key.prefix, key.key_id)
    assert text[17:] not in repr(key)
    assert text.encode() not in msgspec.msgpack.encode(key)


@given(random_bytes, random_bytes)
def test_other_random_bytes_make_another_key(one: bytes, other: bytes) -> None:
    assert (a_key(one)[0] == a_key(other)[0]) is (one == other)


@given(st.lists(random_bytes, unique_by=lambda some: some[:5]), random_bytes)
def test_a_key_is_found_by_its_own_text_only(known: list[bytes], stranger: bytes) -> None:
    made = [a_key(some) for some in known]
    keyring = Keyring(key for _, key in made)
    for text, key in made:
        assert keyring.find(text, NOW_US) == key
        for wrong in (text[:-1], text + "a", text.upper(), " " + text, text + "\n", text[:17] + "a" * 32):
            if wrong != text:
                assert isinstance(keyring.find(wrong, NOW_US), Refused)
    text, key = a_key(stranger)
    assert (keyring.find(text, NOW_US) == key) is (stranger in known)


def test_the_right_id_with_another_secret_is_nobody() -> None:
    text, key = a_key()
    forged, _ = a_key(bytes(24) + b"\1")
    assert forged[:17] == text[:17]
    assert Keyring([key]).find(forged, NOW_US) == Refused(reason="unknown", prefix=key.prefix)


@pytest.mark.parametrize("changes", [{"revoked_us": NOW_US}, {"expires_us": NOW_US}])
def test_only_who_knows_the_secret_learns_that_a_key_has_ended(changes: dict[str, int]) -> None:
    key = msgspec.structs.replace(a_key()[1], **changes)
    forged, _ = a_key(bytes(24) + b"\1")
    found = Keyring([key]).find(forged, NOW_US)
    assert isinstance(found, Refused)
    assert found.reason == "unknown"


@given(st.none() | st.integers(0, 2 * NOW_US), st.none() | st.integers(0, 2 * NOW_US), st.integers(0, 2 * NOW_US))
def test_a_key_is_good_until_its_first_end(expires_us: int | None, revoked_us: int | None, now_us: int) -> None:
    text, key = a_key(expires_us=expires_us)
    key = msgspec.structs.replace(key, revoked_us=revoked_us)
    is_good = all(end is None or now_us < end for end in (expires_us, revoked_us))
    assert (Keyring([key]).find(text, now_us) == key) is is_good


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ec_live_",
        "ec_live_abcdefgh",
        "é" * 49,
        "ec_live_abcdefgh_" + "1" * 32,
        "x" * 100_000,
        "\0",
        "ec_test_abcdefgh_" + "a" * 32,
    ],
)
def test_what_is_no_key_is_shown_nowhere(text: str) -> None:
    assert Keyring([a_key()[1]]).find(text, NOW_US) == Refused(reason="malformed")
    assert keys.shown_prefix(text) is None


def test_a_keyring_is_empty_only_where_no_key_was_ever_made() -> None:
    assert Keyring().is_empty
    assert not Keyring([msgspec.structs.replace(a_key()[1], revoked_us=0)]).is_empty


@given(st.lists(st.sampled_from(keys.SCOPES), min_size=1))
def test_scopes_come_once_and_in_order(names: list[str]) -> None:
    found = keys.parse_scopes(names)
    assert set(found) == set(names)
    assert [scope for scope in keys.SCOPES if scope in found] == list(found)


@pytest.mark.parametrize("names", [[], [""], ["write"], ["read", "Admin"], ["ingest,read"], ["*"]])
def test_other_scopes_are_refused(names: list[str]) -> None:
    with pytest.raises(EventcoreError) as refused:
        keys.parse_scopes(names)
    assert refused.value.field == "scopes"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://shop.example", "https://shop.example"), ("HTTPS://Shop.Example:443", "https://shop.example"),
        ("http://localhost:3000", "http://localhost:3000"), ("http://[::1]:80", "http://[::1]"),
        ("http://shop.example:443", "http://shop.example:443"), (" https://a ", "https://a"),
    ],
)  # fmt: skip
def test_origins_are_kept_as_browsers_send_them(written: str, meant: str) -> None:
    assert keys.parse_origins([written, meant]) == (meant,)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "*",
        "shop.example",
        "https://shop.example/",
        "https://a/b",
        "file://a",
        "https://u@a",
        "https://*.a",
        "https://a:b",
        "https://a#b",
    ],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(EventcoreError) as refused:
        keys.parse_origins([origin])
    assert refused.value.code == "invalid_origin"


def test_a_key_has_only_so_many_origins() -> None:
    with pytest.raises(EventcoreError) as refused:
        keys.parse_origins(f"https://{number}.example" for number in range(keys.MOST_ORIGINS + 1))
    assert refused.value.code == "too_many_origins"


@pytest.mark.parametrize("label", ["a" * 101, "a\nb", "\x1b[31m", "a\0"])
def test_labels_that_no_terminal_should_see_are_refused(label: str) -> None:
    with pytest.raises(EventcoreError):
        keys.parse_label(label)


@pytest.mark.parametrize(("parse", "least", "most"), [(keys.parse_days, 1, 36_500), (keys.parse_grace, 0, 2_592_000)])
def test_times_have_bounds(parse: Any, least: int, most: int) -> None:
    assert parse(least, NOW_US) >= NOW_US
    assert parse(most, NOW_US) > NOW_US
    for number in (least - 1, most + 1, 10**30):
        with pytest.raises(EventcoreError):
            parse(number, NOW_US)


@pytest.mark.parametrize("text", ["abcdefgh", "ec_live_abcdefgh", "ec_live_abcdefgh_" + "a" * 32, " abcdefgh\n"])
def test_an_id_is_found_in_what_people_paste(text: str) -> None:
    assert keys.parse_key_id(text) == "abcdefgh"


def test_a_mistyped_key_is_not_repeated() -> None:
    text = a_key(bytes(range(25)))[0][:-1]
    with pytest.raises(EventcoreError) as refused:
        keys.parse_key_id(text)
    assert text[17:] not in refused.value.message
