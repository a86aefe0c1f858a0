import base64
import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.errors import LLMError
from datafast_nb.models.wire import (
    Secret,
    SecretHeaders,
    WireReply,
    clean_text,
    decode_json,
    encode_json,
    quote,
    retry_after_s,
    status_error,
)

KEY = "sk-test-Zq8Lm3Xw9Tr5Kd7V"


def test_secret_is_in_no_view_of_it_and_in_no_pickle():
    secret = Secret(KEY)
    pickled = pickle.dumps(secret)
    assert KEY not in repr(secret) + str(secret) + f"{secret}"
    assert KEY.encode() not in pickled
    assert not pickle.loads(pickled)
    assert copy.copy(secret).reveal() == copy.deepcopy(secret).reveal() == KEY
    with pytest.raises(TypeError):
        vars(secret)


def test_headers_show_names_only_and_pickle_empty():
    headers = SecretHeaders({"Authorization": f"Bearer {KEY}"})
    assert "Authorization" in repr(headers) and KEY not in repr(headers)
    assert pickle.loads(pickle.dumps(headers)) == {}
    assert copy.deepcopy(headers) == copy.copy(headers) == headers


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 12), st.integers(8, 23))
def test_redaction_leaves_no_piece_of_the_key(before, after, start, length):
    for form in (KEY, KEY[::-1], base64.b64encode(KEY.encode()).decode()):
        piece = form[start : start + length]
        text = Secret(KEY).redact(f"{before} {piece} {after}")
        assert not any(form[i : i + 8] in text for i in range(len(form) - 7))


def test_redaction_takes_out_keys_it_was_not_told():
    text = Secret().redact("Bearer abc.def, key sk-abcd****wxyz and AIzaSyABCDEFGHIJ end")
    assert "abc" not in text and "AIza" not in text and text.endswith("end")


def test_quote_is_one_short_line_with_a_count_of_the_rest():
    text = quote(b"a b\n" * 200)
    assert "\n" not in text
    assert text.endswith("more characters)") and len(text) < 340


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3),
        ({"retry-after": "86400"}, 86400),
        (
            {
                "date": "Sat, 01 Jan 2000 10:00:00 GMT",
                "retry-after": "Sat, 01 Jan 2000 10:00:07 GMT",
            },
            7,
        ),
        (
            {
                "date": "Sat, 01 Jan 2000 10:00:09 GMT",
                "retry-after": "Sat, 01 Jan 2000 10:00:07 GMT",
            },
            0,
        ),
        ({"retry-after": "Sat, 01 Jan 2000 10:00:07 GMT"}, 0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "when ready"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after_s(headers) == seconds


@given(st.text(), st.text())
def test_retry_after_never_fails(value, date):
    seconds = retry_after_s({"retry-after": value, "date": date})
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "", "bad_request"),
        (401, "", "auth"),
        (402, "", "quota"),
        (403, "", "auth"),
        (404, "", "not_found"),
        (408, "", "server"),
        (413, "", "bad_request"),
        (422, "", "bad_request"),
        (429, "rate_limit_exceeded", "rate_limited"),
        (429, "insufficient_quota", "quota"),
        (500, "", "server"),
        (529, "", "server"),
    ],
)
def test_status_becomes_kind(status, code, kind):
    reply = WireReply(status, {}, encode_json({"error": {"code": code, "message": "because"}}))
    error = status_error(reply, model="m1", place="api.example")
    assert (error.kind, error.status, error.model) == (kind, status, "m1")
    assert "because" in str(error) and "m1" in str(error) and "api.example" in str(error)


@given(st.binary())
def test_any_body_is_an_object_or_one_error(body):
    try:
        value = decode_json(WireReply(200, {}, body), model="m")
    except LLMError as exc:
        assert exc.kind in ("bad_reply", "html", "not_utf8")
    else:
        assert isinstance(value, dict)


def test_deeply_nested_body_is_an_error():
    for body in (b"[" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000):
        with pytest.raises(LLMError, match="no JSON object"):
            decode_json(WireReply(200, {}, body), model="m")


def test_nan_beside_the_answer_does_not_lose_it():
    value = decode_json(WireReply(200, {}, b'{"logprob": NaN, "text": "x"}'), model="m")
    assert value["text"] == "x"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_clean_text_keeps_whole_text(text):
    assert clean_text(text) == text


@given(st.text(st.characters(categories=["Cs", "Lu"])))
def test_clean_text_can_always_be_written(text):
    assert clean_text(text).encode("utf-8") is not None


def test_lone_surrogates_are_replaced_in_requests_and_pairs_joined():
    body = encode_json({"a\udc00": ["x\ud800y", "\ud83d\ude00"]})
    assert body.decode() == '{"a\ufffd": ["x\ufffdy", "\U0001f600"]}'


def test_request_that_is_no_json_is_an_error_of_ours():
    with pytest.raises(LLMError, match="no JSON"):
        encode_json({"a": object()})
