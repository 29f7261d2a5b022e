"""The URL of a queue on NATS."""

import pytest

from adapters.nats.address import Options, address_of
from eventcore.errors import Kind, StoreError


def test_says_nothing_but_the_server() -> None:
    address = address_of("nats://broker")
    assert (address.hosts, address.shown) == (("broker:4222",), "broker:4222")
    assert (address.user, address.password, address.token) == (None, None, None)
    assert (address.stream, address.prefix, address.encrypted) == ("EVENTCORE", "eventcore", False)
    assert (address.options, address.chosen) == (Options(), frozenset())


def test_says_everything() -> None:
    address = address_of(
        "tls://ada:p%40ss%2Fw%3Ard@one:4223,two,[::1]:4224/Shop-1?replicas=3&max_bytes=5000000&ack_wait_seconds=2.5"
        "&max_ack_pending=7&in_flight=8&timeout_seconds=0.5&prefix=a.b&creds_file=c&tls_ca=d&tls_cert=e&tls_key=f"
    )
    assert address.hosts == ("one:4223", "two:4222", "[::1]:4224")
    assert (address.user, address.password, address.token) == ("ada", "p@ss/w:rd", None)
    assert (address.stream, address.prefix, address.encrypted) == ("Shop-1", "a.b", True)
    assert address.options == Options(
        prefix="a.b",
        replicas=3,
        max_bytes=5_000_000,
        ack_wait_seconds=2.5,
        max_ack_pending=7,
        in_flight=8,
        timeout_seconds=0.5,
        creds_file="c",
        tls_ca="d",
        tls_cert="e",
        tls_key="f",
    )
    assert address.chosen >= {"replicas", "max_bytes", "ack_wait_seconds", "max_ack_pending"}


def test_a_user_without_a_password_is_a_token() -> None:
    address = address_of("nats://s3cr%40t@broker")
    assert (address.user, address.password, address.token) == (None, None, "s3cr@t")


def test_an_empty_password_is_one() -> None:
    address = address_of("nats://ada:@broker")
    assert (address.user, address.password, address.token) == ("ada", "", None)


@pytest.mark.parametrize(
    ("url", "encrypted"),
    [("nats://b", False), ("tls://b", True), ("nats://b?tls_ca=f", True), ("nats://b?tls_cert=f", True)],
)
def test_encryption_is_asked_for_by_scheme_or_option(url: str, encrypted: bool) -> None:
    assert address_of(url).encrypted is encrypted


def test_subjects_are_named_after_the_stream() -> None:
    assert address_of("nats://b/SHOP_2").prefix == "shop_2"


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("b/a.b", "name of the stream"),
        ("b/a/b", "name of the stream"),
        ("b/a*", "name of the stream"),
        ("b/a%20b", "name of the stream"),
        ("b:0", "host"),
        ("b:65536", "host"),
        ("b:x", "host"),
        ("b,,c", "host"),
        ("b c", "host"),
        ("[::1", "a host of the URL is none"),
        ("b?replicas", "name=value"),
        ("b?replica=3", "no option 'replica'; there are prefix, replicas"),
        ("b?replicas=x", "replicas"),
        ("b?replicas=6", "replicas must lie between 1 and 5"),
        ("b?max_bytes=1000", "max_bytes"),
        ("b?ack_wait_seconds=0.5", "ack_wait_seconds"),
        ("b?ack_wait_seconds=nan", "ack_wait_seconds"),
        ("b?timeout_seconds=0", "timeout_seconds"),
        ("b?in_flight=0", "in_flight"),
        ("b?prefix=a.", "prefix"),
        ("b?prefix=a.*", "prefix"),
        ("b?prefix=$JS", "prefix"),
        ("b?tls_key=f", "tls_cert"),
        ("ada:p@ss@b", "%40"),
        ("ada:pa/ss@b", "%2F"),
        ("ada:pa#ss@b", "%23"),
        ("ada:pa?ss@b", "%3F"),
    ],
)
def test_what_means_nothing_is_refused_and_not_repeated(rest: str, says: str) -> None:
    with pytest.raises(StoreError) as caught:
        address_of(f"nats://{rest}")
    assert caught.value.kind is Kind.INVALID
    assert says in caught.value.message
    assert "ss" not in caught.value.message.replace("password", "")
