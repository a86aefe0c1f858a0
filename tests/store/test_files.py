from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.store.files import atomic_write, parse_json, partial_path, read_lines

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def test_new_file_holds_what_was_written_and_follows_the_umask(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a.txt", lambda f: f.write(b"one") and None)
    finally:
        os.umask(former)
    assert (tmp_path / "a.txt").read_bytes() == b"one"
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a.txt"]


def test_mode_bits_of_a_former_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    path.chmod(0o604)
    atomic_write(path, lambda f: f.write(b"new") and None)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o604


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), OSError(28, "full")])
def test_an_error_leaves_the_former_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        atomic_write(path, write)
    assert caught.value is error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]
    if isinstance(error, OSError):
        assert "stands untouched" in caught.value.__notes__[0]


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / "real.txt"
    target.write_bytes(b"old")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    atomic_write(link, lambda f: f.write(b"new") and None)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path / "data") == ["real.txt"]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        atomic_write(tmp_path / "pipe", lambda f: None)
    assert (tmp_path / "pipe").is_fifo()


def test_a_disk_that_fills_up_at_any_point_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = (
        "import resource, sys\n"
        "from datafast_nb.store.files import atomic_write\n"
        "for limit in (0, 1, 4095, 4096, 100_000, 299_999):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        atomic_write(sys.argv[1], lambda f: [f.write(b'x' * 1000) for _ in range(300)])\n"
        "    except OSError as exc:\n"
        "        print(exc.errno)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["27"] * 6, done.stderr  # EFBIG
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/name.jsonl", "a/name.partial.jsonl"),
        ("name.jsonl.gz", "name.partial.jsonl.gz"),
        ("a.b/name", "a.b/name.partial"),
        ("v1.2.csv", "v1.2.partial.csv"),
    ],
)
def test_partial_path_puts_the_suffix_before_the_extension(path: str, expected: str) -> None:
    assert partial_path(path, "partial") == expected
    assert partial_path(path, "") == path


@given(JSON, st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : "), (",\n", "\t:")]))
def test_parse_json_gives_back_any_value(value: object, separators: tuple[str, str]) -> None:
    import json

    text = json.dumps(value, separators=separators, ensure_ascii=False)
    found = parse_json(text.encode())
    assert found == value
    assert repr(found) == repr(value)  # 1 and 1.0 and True apart


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        '{"a" :1,"a" :2}',
        '{"a":1,"\\u0061":2}',
        '{"x":[{"a":{"b":1,"b":1}}]}',
        '{"a" :"\\":","a":1}',  # as many `":` as distinct keys
        '{"a":{"c":1},"a":{"d":2}}',
    ],
)
def test_parse_json_refuses_a_key_twice(text: str) -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        parse_json(text.encode())


@given(
    st.lists(st.tuples(st.sampled_from('ab":\\ '), st.text(' a:"\\', max_size=4)), max_size=4),
    st.sampled_from([":", " :", "\t:"]),
)
def test_parse_json_notices_repeated_keys_like_the_slow_check(
    pairs: list[tuple[str, str]], colon: str
) -> None:
    import json

    text = "{" + ",".join(json.dumps(k) + colon + json.dumps(v) for k, v in pairs) + "}"
    if len(dict(pairs)) == len(pairs):
        assert parse_json(text.encode()) == dict(pairs)
    else:
        with pytest.raises(ValueError, match="occurs twice"):
            parse_json(text.encode())


def test_parse_json_keeps_large_integers_and_refuses_half_surrogates_and_depth() -> None:
    assert parse_json(b'{"a":[36893488147419103233]}') == {"a": [2**65 + 1]}
    assert parse_json(b"1e300") == 1e300
    with pytest.raises(ValueError, match="surrogates"):
        parse_json(b'"\\ud83d"')
    with pytest.raises(ValueError, match="deep"):
        parse_json(b"[" * 50_000 + b"]" * 50_000)


def test_lines_end_at_line_feeds_alone_and_lose_the_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "a\u2028b\x85c\rd\r\n\ne"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(text.encode(encoding))
        chosen = "utf-16" if encoding == "utf-16" else "utf-8-sig"
        assert b"".join(read_lines(str(path), chosen)).decode() == text
        assert len(list(read_lines(str(path), chosen))) == 3


@pytest.mark.parametrize(
    "moment", ["f.write(b'half'); die()", "f.write(b'whole'); f.flush(); die()"]
)
def test_a_kill_while_writing_leaves_the_former_file(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    code = (
        "import os, sys\n"
        "from datafast_nb.store.files import atomic_write\n"
        "def die(): os.kill(os.getpid(), 9)\n"
        f"def write(f): {moment}\n"
        "atomic_write(sys.argv[1], write)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_what_a_killed_write_leaves_is_removed_by_the_next_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("former\n")
    code = (
        "import os, sys\n"
        "from datafast_nb.store.files import atomic_write\n"
        "def write(file):\n"
        "    file.write(b'half')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), 9)\n"
        f"atomic_write({str(path)!r}, write)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert path.read_text() == "former\n" and left.read_text() == "half"
    other = tmp_path / ".other.jsonl.0123456789abcdef.tmp"  # of another file, or of nobody's
    other.touch()
    atomic_write(path, lambda file: file.write(b"whole\n"))
    assert left.exists(), "it might be a write of another process that has just begun"
    for file in (left, other):
        os.utime(file, (1, 1))
    atomic_write(path, lambda file: file.write(b"whole\n"))
    assert not left.exists() and other.exists() and path.read_text() == "whole\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on open files")
def test_a_write_under_way_is_left_alone(tmp_path):
    path = tmp_path / "rows.jsonl"

    def write(file):
        file.write(b"outer")
        (aside,) = [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]
        os.utime(aside, (1, 1))  # slow, and not dead
        atomic_write(path, lambda inner: inner.write(b"inner"))
        assert aside.exists()

    atomic_write(path, write)
    assert path.read_bytes() == b"outer"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
