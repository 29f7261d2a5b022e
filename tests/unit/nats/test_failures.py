"""What the errors of NATS mean: never that events are given up."""

import ssl

import pytest
from nats import errors
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

from adapters.nats import failures
from adapters.nats.address import address_of
from eventcore.errors import Kind

ADDRESS = address_of("nats://ada:s3cret@broker/SHOP?prefix=shop.events")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ServiceUnavailableError(503, "maximum bytes exceeded", 10077), Kind.FULL, "stream_full"),
        (ServiceUnavailableError(503, "maximum messages exceeded", 10077), Kind.FULL, "stream_full"),
        (ServiceUnavailableError(503, "write: no space left on device", 10077), Kind.FULL, "disk_full"),
        (ServiceUnavailableError(503, "store is closed", 10077), Kind.UNAVAILABLE, "unavailable"),
        (APIError(500, "insufficient storage resources available", 10047), Kind.FULL, "no_room"),
        (APIError(400, "resource limits exceeded for account", 10002), Kind.FULL, "no_room"),
        (APIError(400, "message size exceeds maximum allowed", 10054), Kind.TOO_LARGE, "chunk_too_large"),
        (APIError(404, "stream not found", 10059), Kind.UNAVAILABLE, "no_stream"),
        (APIError(404, "consumer not found", 10014), Kind.UNAVAILABLE, "no_consumer"),
        (APIError(400, "expected stream does not match", 10060), Kind.UNAVAILABLE, "other_stream"),
        (APIError(503, "JetStream not enabled", 10076), Kind.UNAVAILABLE, "no_jetstream"),
        (APIError(503, "JetStream system temporarily unavailable", 10008), Kind.UNAVAILABLE, "not_ready"),
        (APIError(429, "too many requests", 10167), Kind.UNAVAILABLE, "overloaded"),
        (APIError(400, "a new one", 99_999), Kind.UNAVAILABLE, "unavailable"),
        (APIError(), Kind.UNAVAILABLE, "unavailable"),
        (NoStreamResponseError(), Kind.UNAVAILABLE, "no_stream"),
        (errors.NoRespondersError(), Kind.UNAVAILABLE, "no_jetstream"),
        (errors.TimeoutError(), Kind.TIMEOUT, "too_slow"),
        (TimeoutError(), Kind.TIMEOUT, "too_slow"),
        (errors.OutboundBufferLimitError(), Kind.UNAVAILABLE, "disconnected"),
        (errors.ConnectionClosedError(), Kind.UNAVAILABLE, "disconnected"),
        (errors.StaleConnectionError(), Kind.UNAVAILABLE, "disconnected"),
        (errors.MaxPayloadError(), Kind.TOO_LARGE, "chunk_too_large"),
        (errors.Error("nats: 'Authorization Violation'"), Kind.UNAVAILABLE, "access_denied"),
        (errors.Error("nats: 'User Authentication Expired'"), Kind.UNAVAILABLE, "access_denied"),
        (errors.Error("nats: permissions violation for publish to shop"), Kind.UNAVAILABLE, "not_allowed"),
        (errors.Error("nats: maximum connections exceeded"), Kind.UNAVAILABLE, "overloaded"),
        (errors.Error("nats: Secure Connection - TLS Required"), Kind.UNAVAILABLE, "tls_failed"),
        (errors.Error("nats: something new"), Kind.UNAVAILABLE, "unavailable"),
        (errors.SecureConnWantedError(), Kind.UNAVAILABLE, "not_encrypted"),
        (ssl.SSLCertVerificationError("certificate verify failed"), Kind.UNAVAILABLE, "tls_failed"),
        (ConnectionRefusedError(), Kind.UNAVAILABLE, "unreachable"),
        (AssertionError("a surprise in the driver"), Kind.UNAVAILABLE, "unavailable"),
    ],
    ids=repr,
)
def test_each_error_has_a_meaning(error: Exception, kind: Kind, code: str) -> None:
    meant = failures.meaning(error, ADDRESS)
    assert (meant.kind, meant.code) == (kind, code)
    assert meant.retryable is (kind is not Kind.TOO_LARGE)
    assert "broker:4222" in meant.message
    assert "s3cret" not in meant.message


@pytest.mark.parametrize("number", failures._BY_NUMBER)
def test_each_number_has_a_sentence(number: int) -> None:
    """All its places are filled, and nothing that the server says makes an event at fault."""
    meant = failures.meaning(APIError(400, "{nothing} to format", number), ADDRESS)
    assert "{where}" not in meant.message
    assert meant.kind is not Kind.DATA


def test_what_the_server_says_of_an_unknown_error_is_passed_on() -> None:
    meant = failures.meaning(APIError(400, "wait for the moon" + "!" * 100, 99_999), ADDRESS)
    assert "(wait for the moon!" in meant.message
    assert len(meant.message) < 200
