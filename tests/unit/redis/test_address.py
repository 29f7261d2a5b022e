"""URLs: what they may say, and that no password is ever shown."""

import traceback
from pathlib import Path

import pytest

from adapters.redis import open_dedup
from adapters.redis.address import Options, address_of
from eventcore.errors import Kind, StoreError
from tests.unit.redis.relay import a_certificate, missing_openssl


@pytest.mark.parametrize(
    ("url", "host", "port", "database", "user", "password"),
    [
        ("redis://", "localhost", 6379, 0, None, None),
        ("redis:///3", "localhost", 6379, 3, None, None),
        ("redis://cache.example", "cache.example", 6379, 0, None, None),
        ("redis://cache.example:6380/", "cache.example", 6380, 0, None, None),
        ("redis://[::1]:6380/15", "::1", 6380, 15, None, None),
        ("redis://:p%40s%2Fs@h", "h", 6379, 0, None, "p@s/s"),
        ("redis://:@h", "h", 6379, 0, None, None),
        ("redis://a%3Ada:secret@h/1", "h", 6379, 1, "a:da", "secret"),
        ("rediss://a:b@h", "h", 6379, 0, "a", "b"),
    ],
)
def test_which_server_and_who_we_are(
    url: str, host: str, port: int, database: int, user: str | None, password: str | None
) -> None:
    address = address_of(url)
    assert (address.host, address.port, address.database) == (host, port, database)
    assert (address.user, address.password) == (user, password)
    assert (address.tls is not None) == url.startswith("rediss:")


def test_options() -> None:
    assert address_of("redis://h").options == Options()
    assert address_of("redis://h?timeout_ms=50&ttl_seconds=60&connections=2&prefix=a:b-c.d_E").options == Options(
        timeout_ms=50, ttl_seconds=60, connections=2, prefix="a:b-c.d_E"
    )


def test_a_password_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" p@ss \r\n")
    assert address_of(f"redis://h?password_file={file}").password == " p@ss "
    assert address_of(f"redis://ada@h?password_file={file}").user == "ada"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", None])
def test_a_file_without_a_password(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "zqxj"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StoreError, match="password_file") as caught:
        address_of(f"redis://h?password_file={file}")
    assert caught.value.kind is Kind.INVALID
    assert "zqxj" not in caught.value.message


def test_an_address_does_not_show_its_password() -> None:
    assert repr(address_of("redis://ada:zqxj@h/1")) == "<Address h:6379/1>"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory://",
        "redis",
        "redis:",
        "redis:6379",
        "redis:/h",
        "redis+cluster://h",
        "redis://u:zqxj@part@h",
        "redis://u:zq/xj@h",
        "redis://u:77/zqxj@h",
        "redis://u:zq?xj@h",
        "redis://u:zq#xj@h",
        "redis://u:77#zqxj@h",
        "redis://u:zqxj@[h",
        "redis://u:zqxj@h:port",
        "redis://u:zqxj@h:0",
        "redis://u:zqxj@h:99999",
        "redis://u:zqxj@h,other",
        "redis://u:zqxj@h x",
        "redis://u:zqxj@h/events",
        "redis://u:zqxj@h/-1",
        "redis://u:zqxj@h/1/2",
        "redis://u:zqxj@h/٣",
        "redis://zqxj@h",
        "redis://u:@h",
        "redis://u:zqxj@h?timeout_ms",
        "redis://u:zqxj@h?timeout_ms=",
        "redis://u:zqxj@h?timeout_ms=0",
        "redis://u:zqxj@h?timeout_ms=10001",
        "redis://u:zqxj@h?timeout_ms=many",
        "redis://u:zqxj@h?timeout_ms=50&timeout_ms=60",
        "redis://u:zqxj@h?ttl_seconds=0",
        "redis://u:zqxj@h?ttl_seconds=1e9",
        "redis://u:zqxj@h?connections=0",
        "redis://u:zqxj@h?prefix=",
        "redis://u:zqxj@h?prefix=a%7Bb",
        "redis://u:zqxj@h?prefix=a%0Ab",
        "redis://u:zqxj@h?password_file=/nowhere",
        "redis://u:zqxj@h?ca_file=/nowhere",
        "rediss://u:zqxj@h?ca_file=/nowhere",
        "rediss://u:zqxj@h?cert_file=/nowhere",
        "rediss://u:zqxj@h?key_file=/nowhere",
    ],
)
async def test_what_no_url_may_say(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        await open_dedup(url)
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_url")
    told = caught.value.message + "".join(traceback.format_exception_only(caught.value.__cause__))
    for part in ("zq", "xj", "77", "nowhere") if "/nowhere" not in url else ("zq", "xj"):
        assert part not in told
    assert "nowhere" not in caught.value.message


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("decode_responses=true", "no decode_responses;"),
        ("retry_on_timeout=1", "no retry_on_timeout;"),
        ("db=1", "no db;"),
        ("Zqxj%20=1", "no one of its options;"),
    ],
)
async def test_an_unknown_option_is_named(option: str, named: str) -> None:
    with pytest.raises(StoreError, match=named) as caught:
        await open_dedup(f"redis://h?{option}")
    assert "timeout_ms" in caught.value.message


@pytest.mark.skipif(missing_openssl() is not None, reason=str(missing_openssl()))
def test_certificates_are_read_when_the_cache_is_opened(tmp_path: Path) -> None:
    certificate, key = a_certificate(tmp_path)
    address = address_of(f"rediss://h?ca_file={certificate}&cert_file={certificate}&key_file={key}")
    assert address.tls is not None
    assert [dict(*entry["subject"])["commonName"] for entry in address.tls.get_ca_certs()] == ["localhost"]
    for query in (f"cert_file={certificate}", f"ca_file={key}", f"cert_file={certificate}&key_file={certificate}"):
        with pytest.raises(StoreError, match="is not what it should be"):
            address_of(f"rediss://h?{query}")
