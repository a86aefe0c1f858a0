"""Numbers and texts as displays write them."""

from __future__ import annotations

import math
import re

import pytest
from documents import record_values, texts
from hypothesis import given
from hypothesis import strategies as st
from odd_values import ODD
from parsed import is_obeyed
from payloads import PAYLOADS, without_space

from datafast_nb.display import formats

NAN = math.nan
amounts = st.floats(0, 1e12)


# Money.


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "$0"),
        (-0.0, "$0"),
        (12, "$12"),
        (1.2, "$1.2"),
        (0.15, "$0.15"),
        (0.0015, "$0.0015"),
        (0.000061, "$0.000061"),
        (0.00000061, "$0.00000061"),
        (1234.5, "$1,234"),
        (99.6, "$100"),
        (9.96, "$10"),
        (0.996, "$1.0"),
        (0.0999, "$0.10"),
        (None, "unknown"),
        (NAN, "unknown"),
        (math.inf, "unknown"),
        (-1.25, "−$1.2"),
        (1e-15, "$0"),
    ],
)
def test_dollars_have_two_significant_digits(value, said):
    assert formats.usd(value) == said


@given(st.floats(1e-12, 1e9))
def test_dollars_say_the_value_without_exponent(value):
    said = formats.usd(value)
    assert re.fullmatch(r"\$[\d,]+(\.\d+)?", said)
    assert float(said[1:].replace(",", "")) == pytest.approx(value, rel=0.0501)
    digits = said[1:].replace(",", "").replace(".", "").lstrip("0")
    assert len(digits) == 2 if 1e-11 < value < 99.5 else len(digits) >= 1


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.13, 0.27, "$0.13–0.27"),
        (0.13, 0.131, "$0.13"),
        (0, 0, "$0"),
        (0, 0.5, "$0–0.50"),
        (NAN, 1, "unknown"),
        (1, NAN, "unknown"),
        (1, math.inf, "unknown"),
        (999, 12_000, "$999–12,000"),
    ],
)
def test_ranges_repeat_the_sign_once(low, high, said):
    assert formats.usd_range(low, high) == said


@given(amounts, amounts)
def test_ranges_hold_both_ends(a, b):
    said = formats.usd_range(a, b)
    assert said.count("$") == 1
    assert said == formats.usd(a) if "–" not in said else said.startswith(formats.usd(a) + "–")
    assert said.endswith(formats.usd(b).removeprefix("$"))


# Numbers.


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (790, "790"),
        (999, "999"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (1_000, "1.0k"),
        (1_732, "1.7k"),
        (9_949, "9.9k"),
        (9_950, "10k"),
        (621_000, "621k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (1_200_000, "1.2M"),
        (3e9, "3.0G"),
        (5e13, "50,000G"),
    ],
)
def test_large_amounts_have_two_or_three_digits(value, said):
    assert formats.amount(value) == said


@given(amounts)
def test_amounts_are_near_the_value(value):
    said = formats.amount(value)
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(said[-1], 1)
    number = float(said.rstrip("kMG").replace(",", "")) * scale
    assert number == pytest.approx(value, rel=0.051, abs=0.5)
    assert scale == 1e9 or len(said) <= 4


@given(st.floats(0, 1e11), st.floats(0, 1e11))
def test_amounts_keep_their_order(a, b):
    def size(said: str) -> float:
        scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(said[-1], 1)
        return float(said.rstrip("kMG").replace(",", "")) * scale

    low, high = sorted((a, b))
    assert size(formats.amount(low)) <= size(formats.amount(high))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (100, 84, "−16%"),
        (100, 103, "+3%"),
        (5, 5, "same"),
        (0, 0, "same"),
        (0, 5, ""),
        (NAN, 5, ""),
        (5, NAN, ""),
        (NAN, NAN, ""),
        (1, math.inf, ""),
        (math.inf, 1, ""),
        (1, 5_000, "+499,900%"),
        (1_000, 1_001, "+0.1%"),
        (1_000_000, 1_000_001, "less than +0.1%"),
        (1_000_000, 999_999, "less than −0.1%"),
        (100, 99.7, "−0.3%"),
        (-10, -5, "+50%"),
        (-10, -15, "−50%"),
    ],
)
def test_changes_have_a_true_sign(before, after, said):
    assert formats.change(before, after) == said


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6))
def test_a_change_has_the_sign_of_the_difference(before, after):
    said = formats.change(before, after)
    if after == before:
        assert said == "same"
    else:
        assert ("+" in said) == (after > before) and ("−" in said) == (after < before)
        assert not re.search(r"[+−]0%", said)


@pytest.mark.parametrize(
    ("n", "said"),
    [(0, "0 calls"), (1, "1 call"), (2, "2 calls"), (1_732, "1,732 calls"), (1.0, "1 call")],
)
def test_nouns_follow_their_numbers(n, said):
    assert formats.plural(n, "call") == said


def test_nouns_with_a_form_of_their_own():
    assert formats.plural(2, "reply", "replies") == "2 replies"
    assert formats.plural(1, "reply", "replies") == "1 reply"


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (9_999, "9,999"), (1234567, "1,234,567"), (2.4, "2"), (math.inf, "unknown")],
)
def test_counts_are_whole(value, said):
    assert formats.count(value) == said


def test_guesses_say_so():
    assert formats.count(24, about=True) == "~24"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0 s"),
        (0.004, "< 0.01 s"),
        (0.006, "0.01 s"),
        (0.84, "0.84 s"),
        (0.996, "1.0 s"),
        (9.2, "9.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (80, "1 min 20 s"),
        (3_599.6, "1 h"),
        (7_500, "2 h 5 min"),
        (7_199, "2 h"),
        (360_000, "100 h"),
        (36_000_000, "10,000 h"),
        (NAN, "unknown"),
        (math.inf, "unknown"),
    ],
)
def test_durations_are_said_in_their_unit(value, said):
    assert formats.seconds(value) == said


@given(st.floats(0, 1e6))
def test_durations_are_near_the_value(value):
    said = formats.seconds(value)
    units = {"s": 1, "min": 60, "h": 3600}
    total = sum(
        float(n) * units[unit]
        for n, unit in re.findall(r"([\d.]+) (s|min|h)", said.replace(",", ""))
    )
    # Half of the last digit that is said.
    bounds = [(0.005, 0.01), (0.99, 0.006), (9.9, 0.06), (3_599, 0.6), (math.inf, 31)]
    assert abs(total - value) <= next(near for limit, near in bounds if value < limit)
    assert not re.search(r"(?<![\d.])60 (s|min)", said)


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (812, "812 bytes"),
        (1_000, "1.0 kB"),
        (4_200, "4.2 kB"),
        (999_600, "1.0 MB"),
        (1_300_000, "1.3 MB"),
        (12e9, "12 GB"),
    ],
)
def test_sizes_of_files(n, said):
    assert formats.file_size(n) == said


# Texts.


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_payloads_are_printable(payload):
    assert without_space(formats.printable(payload)) == without_space(PAYLOADS[payload])


@given(texts)
def test_printable_text_is_obeyed_by_nothing_and_stays_as_it_is(text):
    said = formats.printable(text)
    assert not [c for c in said if is_obeyed(c)]
    assert formats.printable(said) == said
    said.encode()
    if not any(is_obeyed(c) for c in text):
        assert said == text


@given(record_values, st.none() | st.integers(1, 400))
def test_cells_are_one_line_and_bounded(value, width):
    said = formats.cell(value, width)
    assert "\n" not in said
    assert not [c for c in said if is_obeyed(c)]
    assert len(said) <= max(width or formats.MAX_CELL + formats.SLACK, 12)


@given(st.text("ab ", max_size=500), st.integers(10, 200))
def test_what_a_cell_cuts_is_counted(text, width):
    line = " ".join(text.split())
    said = formats.cell(text, width)
    if len(line) <= width:
        assert said == line
        return
    head, n = re.fullmatch(r"(.*)… \+([\d,]+)", said).groups()  # type: ignore[union-attr]
    assert line.startswith(head) and len(line) - len(head) == int(n)


@given(st.text(max_size=300), st.integers(1, 100))
def test_what_is_clipped_is_counted(text, width):
    said = formats.clip(text, width)
    if len(text) <= width + formats.SLACK:
        assert said == text
    else:
        assert said == f"{text[:width]}… +{len(text) - width:,}"


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_one_line(name):
    said = formats.one_line(ODD[name])
    assert type(said) is str and "\n" not in said
    assert not re.search("0x[0-9a-f]{6}", said)
    assert said == formats.one_line(ODD[name])


def test_errors_that_cannot_be_written_are_named():
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert formats.error_text(Broken()) == "Broken: its message cannot be written (RuntimeError)"
    assert formats.error_text(ValueError()) == "ValueError"
    error = ValueError("x")
    error.add_note("where")
    assert formats.error_text(error) == "ValueError: x · where"
    assert len(formats.error_text(ValueError("x" * 10**6))) < 1_000


def test_names_are_listed_whole_until_the_width():
    assert formats.some_names(["a", "b"]) == "a, b"
    assert formats.some_names(["abc"] * 100, 20) == "abc, abc, abc, abc, …"
    assert formats.some_names([]) == ""


def test_digests_are_short():
    digest = "sha256:" + "0123456789ab" + "c" * 52
    assert formats.short_digests(f"key {digest}.") == "key sha256:0123456789ab…."
