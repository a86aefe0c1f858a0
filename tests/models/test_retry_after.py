"""Waits that providers state in headers."""

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.errors import LLMError
from datafast_nb.models.retry_after import reset_s, retry_after_s
from datafast_nb.models.wire import WireReply, status_error

NOON = "Sat, 01 Jan 2000 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"}, 7.66),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 60.0),
        ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "5s"}, None),
        ({"x-ratelimit-reset-tokens": "5s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "3s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "8s",
            },
            8.0,
        ),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2000-01-01T12:00:09Z",
                "date": NOON,
            },
            9.0,
        ),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2000-01-01T11:59:00Z",
                "date": NOON,
            },
            0.0,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, None),
        ({}, None),
    ],
)
def test_reset_of_a_limit_that_is_used_up(headers, seconds):
    assert reset_s(headers) == (seconds if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=80), st.text(max_size=40))
def test_reset_is_bounded_whatever_is_sent(value, date):
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": value, "date": date}
    seconds = reset_s(headers)
    assert seconds is None or 0 <= seconds <= 60


@given(st.integers(0, 10**6), st.integers(-(10**6), 10**6))
def test_a_date_counts_from_the_servers_own_clock(server_clock, wait):
    headers = {
        "date": email.utils.formatdate(server_clock + 10**6, usegmt=True),
        "retry-after": email.utils.formatdate(server_clock + 10**6 + wait, usegmt=True),
    }
    assert retry_after_s(headers) == max(0, wait)


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s"}, 2.0),
        (
            429,
            {
                "retry-after": "5",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "2s",
            },
            5.0,
        ),
        (503, {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s"}, None),
        (503, {"retry-after": "4"}, 4.0),
        (400, {"retry-after": "4"}, None),
    ],
)
def test_a_stated_wait_comes_before_a_reset_and_resets_count_for_refusals_only(
    status, headers, seconds
):
    error = status_error(WireReply(status, headers, b"{}"), model="m", place="here")
    assert isinstance(error, LLMError) and error.retry_after_s == seconds
