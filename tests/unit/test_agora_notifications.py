"""Webhook notifications: genuine or not, and what they say."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from realtime.adapters.agora_notifications import Notification, verify_notification
from realtime.domain.agora_presence import UserEvent

# The two examples of Agora's documentation, an older one with `eventMs` and today's without.
SECRET = "secret"
_FIELDS = (
    b'"eventType":10,"noticeId":"4eb720f0-8da7-11e9-a43e-53f411c2761f","notifyMs":1560408533119,'
    b'"payload":{"a":"1","b":2},"productId":1}'
)
BODY = b'{"eventMs":1560408533119,' + _FIELDS
SHA1 = "033c62f40f687675f17f0f41f91a40c71c0f134c"
SHA256 = "6d3320c60b11101395b7fc8f9068748808a0aa1bfa064438e39d1bc2c7d74d99"
DOCUMENTED = [
    pytest.param(BODY, SHA1, SHA256, id="with eventMs"),
    pytest.param(
        b"{" + _FIELDS,
        "5a3bb6a6d9fad2ea9ae3fb707a14c9d7f3136df1",
        "de96da5acf03b0021ac3b4fa2225e7ae6f3533a30d50bb02c08ea4fa748bda24",
        id="without eventMs",
    ),
]


@pytest.mark.parametrize(("body", "sha1", "sha256"), DOCUMENTED)
def test_the_documented_signatures_are_accepted(body, sha1, sha256):
    assert verify_notification(SECRET, body, sha256, None)
    assert verify_notification(SECRET, body, sha256, sha1)
    assert verify_notification(SECRET, body, sha256, "not looked at")
    assert verify_notification(SECRET, body, None, sha1)


@pytest.mark.parametrize(
    ("v2", "v1"),
    [
        (None, None),
        ("", None),
        ("", SHA1),
        (SHA1, SHA1),
        (SHA256[:-1] + "8", SHA1),
        (SHA256[:-1], None),
        (None, SHA256),
        (None, ""),
        ("é" * 64, None),
        ("\udc80", None),
    ],
)
def test_a_missing_or_wrong_signature_is_refused_and_v1_never_stands_in_for_a_v2_that_is_there(v2, v1):
    assert not verify_notification(SECRET, BODY, v2, v1)


def test_another_body_or_secret_is_refused():
    assert not verify_notification(SECRET, BODY + b" ", SHA256, None)
    assert not verify_notification("Secret", BODY, SHA256, None)
    assert not verify_notification(SECRET, BODY + b" ", None, SHA1)


def test_an_empty_secret_with_which_anybody_could_sign_is_refused():
    forged = hmac.new(b"", BODY, hashlib.sha256).hexdigest()
    with pytest.raises(ValueError, match="secret is empty"):
        verify_notification("", BODY, forged, None)


@given(secret=st.text(st.characters(codec="utf-8"), min_size=1), body=st.binary())
def test_the_signature_is_of_the_raw_bytes_whatever_they_are(secret, body):
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert verify_notification(secret, body, signature, None)


def read(**changes: Any) -> Notification:
    received = {
        "sid": "C866467GVJJ54687",
        "noticeId": "2000001428:4330:107",
        "productId": 1,
        "eventType": 107,
        "notifyMs": 1611566412672,
        "payload": {"channelName": "call_1", "uid": 12, "clientSeq": 67299, "ts": 1611566412, "platform": 7},
    }
    return Notification.model_validate_json(json.dumps(received | changes))


def payload(**fields: Any) -> dict[str, Any]:
    return {"channelName": "call_1", "uid": 12, "clientSeq": 5, "ts": 1_700_000_000} | fields


def test_the_documented_example_is_read():
    said = Notification.model_validate_json(BODY)
    assert (said.notice_id, said.product_id, said.event_type) == ("4eb720f0-8da7-11e9-a43e-53f411c2761f", 1, 10)
    assert said.user_event() is None


@pytest.mark.parametrize("event_type", [103, 105, 107, 111, 112])
def test_joins_and_changes_of_role_say_that_the_user_is_there(event_type):
    assert read(eventType=event_type, payload=payload(reason=1)).user_event() == UserEvent(
        "call_1", 12, 5, in_channel=True, at=1_700_000_000
    )


@pytest.mark.parametrize("event_type", [104, 106, 108])
def test_leaves_say_why_and_for_how_long(event_type):
    said = read(eventType=event_type, payload=payload(reason=9, duration=61, account="somebody"))
    assert said.user_event() == UserEvent("call_1", 12, 5, in_channel=False, at=1_700_000_000, reason=9)
    assert (said.payload.duration, said.payload.account) == (61, "somebody")


def test_a_reason_that_no_column_holds_is_refused():
    with pytest.raises(ValidationError):
        read(eventType=104, payload=payload(reason=2**31)).user_event()


@pytest.mark.parametrize("event_type", [101, 102])
def test_events_of_a_channel_are_about_no_user(event_type):
    assert read(eventType=event_type, payload={"channelName": "call_1", "ts": 1_700_000_000}).user_event() is None


def test_an_unknown_type_of_event_is_about_no_user():
    assert read(eventType=4711, payload=payload()).user_event() is None


def test_another_product_is_about_no_user_whatever_its_payload_holds():
    for other in ({"uid": "somebody", "clientSeq": {}}, "text", [1], None):
        assert read(productId=3, payload=other).user_event() is None


def test_unknown_fields_are_passed_over():
    assert read(newField={"a": 1}, payload=payload(newField=[1])).user_event() is not None


def test_what_may_be_missing_may_be_missing():
    bare = Notification.model_validate({"noticeId": "n", "productId": 1, "eventType": 108})
    assert (bare.sid, bare.notify_ms, bare.user_event()) == (None, None, None)
    assert read(payload=None).user_event() is None
    assert read(payload={"channelName": "call_1"}).user_event() is None
    assert read(payload={"channelName": "call_1", "uid": 0}).user_event() is None
    assert read(payload={"uid": 12}).user_event() is None


def test_without_a_number_or_time_of_its_own_the_event_is_read_as_having_none_and_the_time_it_was_sent():
    assert read(payload={"channelName": "call_1", "uid": 12}).user_event() == UserEvent(
        "call_1", 12, None, in_channel=True, at=1611566412
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"noticeId": ""},
        {"noticeId": None},
        {"noticeId": "x" * 257},
        {"productId": None},
        {"eventType": "join"},
        {"notifyMs": -1},
        {"payload": []},
        {"payload": payload(uid="somebody")},
        {"payload": payload(uid=2**32)},
        {"payload": payload(clientSeq=2**63)},
        {"payload": payload(clientSeq=-1)},
        {"payload": payload(channelName="x" * 257)},
        {"payload": payload(ts="yesterday")},
    ],
)
def test_what_has_not_the_documented_form_is_refused(changes):
    with pytest.raises(ValidationError):
        read(**changes)


@given(
    st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_junk_is_a_validation_error_and_nothing_worse(junk):
    with pytest.raises(ValidationError):
        Notification.model_validate_json(junk)
