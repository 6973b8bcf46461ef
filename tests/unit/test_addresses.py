"""Addresses: what people write as a password works, and is never shown."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog
from pydantic import ValidationError

from edgebus.addresses import (
    has_credentials,
    hide_credentials,
    local_path,
    public_address,
    read_address,
)
from edgebus.bus import BrokerSettings
from edgebus.contracts import Identity
from edgebus.service import configure_logging
from edgebus.service.presence import Presence
from edgebus.service.settings import LogSettings

_SECRET = "S3cret"


@pytest.mark.parametrize(
    ("text", "password", "place"),
    [
        ("rtsp://admin:S3cret@127.0.0.1:9/s", "S3cret", "127.0.0.1:9"),
        ("rtsp://admin:a/S3cret@127.0.0.1:9/s", "a/S3cret", "127.0.0.1:9"),
        ("rtsp://admin:a@S3cret@127.0.0.1:9/s", "a@S3cret", "127.0.0.1:9"),
        ("rtsp://admin:p@S3/cret@127.0.0.1:9/s", "p@S3/cret", "127.0.0.1:9"),
        ("rtsp://admin:S3cret?#@10.0.0.1", "S3cret?#", "10.0.0.1"),
        ("rtsp://admin:S3cret:554@[::1]:554/s", "S3cret:554", "[::1]:554"),
        ("rtsp://admin:S3%2Fcret@h/s", "S3/cret", "h"),
        ("rtsp://admin:50%S3cret@h/s", "50%S3cret", "h"),
        ("mqtt://u:S3cret,1@h:1883", "S3cret,1", "h:1883"),
        ("http://cam/snap?user=me@example.com&pwd=S3cret", None, "cam"),
        ("http://u:S3cret@cam:80/x?user=me@a.b&key=S3cret", "S3cret", "cam:80"),
        ("http://cam/snap@2x.jpg", None, "cam"),
    ],
)
def test_a_password_may_hold_what_a_url_reserves(
    text: str, password: str | None, place: str
) -> None:
    address = read_address(text)
    assert (address.password, address.place) == (password, place)
    assert read_address(address.url) == address
    assert _SECRET not in repr(address)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://admin:1234/S3cret@10.0.0.1/s",  # a host `admin`, port 1234?
        "rtsp://u:S3cret@h/live@main",
        "rtsp://admin:S3cret",
        "rtsp://admin:my S3cret@h/s",
        "admin:S3cret@10.0.0.1/s",
        "mqtt://u:S3cret\n@h",
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError) as error:
        read_address(text)
    assert _SECRET not in str(error.value)
    with pytest.raises(ValidationError) as refused:
        BrokerSettings(url=text)
    assert _SECRET not in str(refused.value)


_SHOWN = {
    "rtsp://admin:S3cret@127.0.0.1:9/s": "rtsp://***@127.0.0.1:9/…",
    "rtsp://admin:S3/S3cret@127.0.0.1:9/s": "rtsp://***@127.0.0.1:9/…",
    "rtsp://admin:S3@S3cret@127.0.0.1:9/s": "rtsp://***@127.0.0.1:9/…",
    "rtsp://admin:1234/S3cret@127.0.0.1:9/s": "rtsp://***",
    "rtsp://S3cret@h/s": "rtsp://***@h/…",
    "rtsp://admin:S3cret": "rtsp://***",
    "rtsp://h:554/user=admin_password=S3cret_channel=1.sdp": "rtsp://h:554/…",
    "http://127.0.0.1/snap?user=admin&pwd=S3cret": "http://127.0.0.1/…",
    "http://h/snap?t=S3cret#S3cret": "http://h/…",
    "http://h?S3cret": "http://h/…",
    "srt://h:9000?passphrase=S3cret": "srt://h:9000/…",
    "mqtt://u:S3,cret@h,mqtt://u:S3cret@h2": "mqtt://***",
    'rtsp://u:a"S3cret@h/s': "rtsp://***@h/…",
    "rtsp://u:it's S3cret@h/s": "rtsp://***@h/…",
    "admin:S3cret@10.0.0.1/s": "***@10.0.0.1/s",
}


@pytest.mark.parametrize(("address", "shown"), _SHOWN.items())
def test_nothing_that_may_be_a_password_is_shown(address: str, shown: str) -> None:
    if "," not in address:
        assert public_address(address) == shown
    assert has_credentials(address)
    for text in (repr(address), f"{{'source': {address!r}}}", json.dumps({"a": address, "b": 1})):
        assert _SECRET not in hide_credentials(text)
        assert "cret@" not in hide_credentials(text)
    if " " not in address:
        for text in (
            address,
            f"source={address} fps=3",
            f"{address}: cannot be opened",
            f"({address})",
        ):
            assert _SECRET not in hide_credentials(text)


@pytest.mark.parametrize(
    "text",
    [
        "write mqtt://host:port or mqtts://host:port, for example mqtt://localhost:1883.",
        "mqtt://a:1883,mqtt://b:1883",
        "street@pi-01.front/stable at 12:30:11; see https://example.org/a/b.html",
        "/data/a=b/c@d.mp4",
        "http://[::1]:8086/x",
    ],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert hide_credentials(text) == text
    assert hide_credentials(hide_credentials(text)) == hide_credentials(text)


def test_a_file_address_is_a_path() -> None:
    assert local_path("file:///a/b%20c.mp4") == "/a/b c.mp4"
    assert local_path("file://localhost/a.mp4") == "/a.mp4"
    assert local_path("file:/a#1.mp4") == "/a#1.mp4"
    assert local_path("a/file:b.mp4") == "a/file:b.mp4"
    with pytest.raises(ValueError, match="nas"):
        local_path("file://nas/a.mp4")


@pytest.mark.parametrize("form", ["json", "console"])
def test_logs_hide_them_in_every_field_traceback_and_library(form: str) -> None:
    out = io.StringIO()
    address = "rtsp://admin:a/S3cret@10.0.0.1/s?key=S3cret"
    configure_logging(LogSettings(format=form), stream=out)  # type: ignore[arg-type]
    try:
        raise RuntimeError(address)
    except RuntimeError:
        structlog.get_logger().exception(f"no {address}", source=address, all=[address])
    logging.getLogger("other").warning("cannot open %s", address)
    assert out.getvalue().count("10.0.0.1") >= 4
    assert _SECRET not in out.getvalue()


def test_a_state_never_holds_one() -> None:
    identity = Identity(base="edgebus", site="lab", node="pi", service="camera")
    presence = Presence(identity=identity, version="1")
    presence.change("degraded", "camera front: rtsp://a:S3cret@h/s is away")
    assert _SECRET not in presence.message().encode().decode()
