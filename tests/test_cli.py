"""The command line as a shell user meets it: in processes of its own."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import datafast_nb
from datafast_nb import FakeModel, LLMStep, Source, options
from datafast_nb.cli import main
from datafast_nb.store.memo import Memo

local_model = pytest.mark.local_model
Done = subprocess.CompletedProcess[str]
LONG = "The honey bee dances to tell its nest mates where flowers are, and how far. " * 3


def command(*args: str, cwd: Path, **more: Any) -> Done:
    """`datafast-nb args` with stdout and stderr in pipes."""
    return subprocess.run(
        [sys.executable, "-m", "datafast_nb", *args],
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=110,
        check=False,
        **more,
    )


def one_line_error(done: Done) -> str:
    """The one line on stderr of a command that failed."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def remember(n: int) -> None:
    """Answers in the memo of this test."""
    model = FakeModel(name="scripted")
    step = LLMStep(prompt="{text}", output_columns=["a"], model=model)
    (Source.list([{"text": f"text {i}"} for i in range(n)]) >> step).run()
    datafast_nb.memo.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return Path(os.environ["DATAFAST_NB_HOME"])


# Help.


def test_the_module_and_the_script_are_the_same_command(tmp_path):
    script = Path(sys.executable).with_name("datafast-nb")
    by_script = subprocess.run(
        [script, "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    by_module = command("--version", cwd=tmp_path)
    assert by_script.stdout == by_module.stdout == f"datafast-nb {datafast_nb.__version__}\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["demo", "memo", "lab", "--home", "--version"]),
        (["demo"], ["--input FILE", "--column NAME", "--limit N", "--output FILE", "csv"]),
        (["memo"], ["info", "export", "load"]),
        (["memo", "info"], ["info"]),
        (["memo", "export"], ["file"]),
        (["memo", "load"], ["file"]),
        (["lab"], ["path"]),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, list) else "",
)
def test_help_names_what_there_is(args, words, capsys):
    with pytest.raises(SystemExit) as exc:
        main([*args, "--help"])
    assert exc.value.code == 0
    out, err = capsys.readouterr()
    assert err == "" and all(word in out for word in words)
    assert "usage: datafast-nb" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "COMMAND"),
        (["dmeo"], "dmeo"),
        (["memo"], "ACTION"),
        (["memo", "export"], "file"),
        (["demo", "--limit", "0"], "give 1 or more"),
        (["demo", "--limit", "-3"], "give 1 or more"),
        (["demo", "--limit", "many"], "many"),
        (["demo", "--limit", "2.5"], "2.5"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(args, said, capsys):
    with pytest.raises(SystemExit) as exc:
        main(args)
    assert exc.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and "_count" not in err


def test_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; from datafast_nb.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pandas', 'openai', 'aiohttp', 'xllamacpp', 'pyarrow', 'IPython'}\n"
        "print('loaded', heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("loaded set()\n")


# The demo.


@local_model
@pytest.mark.timeout(240)
def test_demo_writes_questions_and_the_second_run_asks_nothing(tmp_path):
    first = command("demo", "--limit", "2", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    output = tmp_path / "demo-output" / "qa.jsonl"
    written = output.read_bytes()
    rows = [json.loads(line) for line in written.splitlines()]
    assert len(rows) == 2
    assert all(row["question"] and row["answer"] and row["text"] for row in rows)
    # Graph, estimate, progress, result, ledger, in this order.
    out = first.stdout
    at = 0
    for mark in ("documents", "2 new calls", "2 records", "Ledger", "List prices", "Report"):
        at = out.index(mark, at)
    assert "2 model calls" in out
    report = output.with_suffix(".report.html").read_text("utf-8")
    assert "Record 0 in full" in report and rows[0]["id"] in report
    progress = re.findall(r"ask: (\d+) of (\d+) calls", first.stderr)
    assert progress[-1] == ("2", "2") and {total for _, total in progress} == {"2"}

    second = command("demo", "--limit", "2", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert output.read_bytes() == written
    assert "● 2 from the memo" in second.stdout and "new call" not in second.stdout
    assert re.search(r"\b0 model calls", second.stdout)

    both = first.stdout + first.stderr + second.stdout + second.stderr
    assert "\x1b" not in both and "\r" not in both
    assert "Traceback" not in both and "Warning" not in both


@local_model
@pytest.mark.timeout(240)
def test_demo_takes_a_file_whose_text_has_another_name(tmp_path):
    with (tmp_path / "mine.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "body"])
        writer.writerow([1, "short", "Too short."])
        writer.writerow([2, "long", LONG])
        writer.writerow([3, "empty", ""])
    done = command(
        "demo", "--input", "mine.csv", "--limit", "1", "--output", "new/qa.jsonl", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(x) for x in (tmp_path / "new" / "qa.jsonl").read_text("utf-8").splitlines()]
    assert [str(row["id"]) for row in rows] == ["2"]
    assert rows[0]["body"] == LONG and rows[0]["question"]


@local_model
@pytest.mark.timeout(240)
def test_a_reader_that_leaves_early_ends_the_demo_quietly(tmp_path):
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "datafast_nb", "demo", "--limit", "1"],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        assert pipe.readline().startswith("documents")
    _, err = process.communicate(timeout=110)
    assert process.returncode == 0
    assert "Traceback" not in err and "BrokenPipe" not in err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.csv", None, "missing.csv"),
        ("numbers.csv", "", "numbers.csv"),
        ("numbers.jsonl", '{"a": 1}\n{"a": 2}\n', "--column"),
        ("broken.jsonl", '{"text": "x"\n', "line 1"),
        ("picture.png", "not a table", "png"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content, "utf-8")
    done = command("demo", "--input", name, "--limit", "1", cwd=tmp_path)
    assert said in one_line_error(done)
    assert not (tmp_path / "demo-output" / "qa.jsonl").exists()


def test_a_file_of_numbers_has_no_text(tmp_path):
    (tmp_path / "numbers.json").write_text('[{"a": 1}, {"a": 2.5}]', "utf-8")
    done = command("demo", "--input", "numbers.json", cwd=tmp_path)
    assert "no column holds text; name one with --column" in one_line_error(done)


def test_a_column_that_the_file_has_not_is_one_line(tmp_path):
    (tmp_path / "mine.csv").write_text(f'body,b\n"{LONG}",y\n', "utf-8")
    done = command("demo", "--input", "mine.csv", "--column", "txt", cwd=tmp_path)
    line = one_line_error(done)
    assert "txt" in line and "body" in line


def test_a_folder_in_the_way_of_the_output_is_one_line(tmp_path):
    (tmp_path / "out").write_text("a file", "utf-8")
    done = command("demo", "--output", "out/qa.jsonl", "--limit", "1", cwd=tmp_path)
    assert "out" in one_line_error(done)
    (tmp_path / "dir.jsonl").mkdir()
    done = command("demo", "--output", "dir.jsonl", "--limit", "1", cwd=tmp_path)
    assert "dir.jsonl" in one_line_error(done)


# The memo.


def test_memo_info_counts_answers(tmp_path, home):
    remember(3)
    done = command("memo", "info", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "3 answers" in done.stdout
    assert "fake/scripted" in done.stdout and f"{home.name}/memo" in done.stdout
    assert "\x1b" not in done.stdout


def test_memo_info_of_an_empty_project(tmp_path):
    done = command("memo", "info", cwd=tmp_path)
    assert done.returncode == 0 and "no answer yet" in done.stdout


def test_home_chooses_the_memo(tmp_path):
    remember(2)
    done = command("--home", str(tmp_path / "other"), "memo", "info", cwd=tmp_path)
    assert "no answer yet" in done.stdout and "other" in done.stdout


def test_answers_move_from_one_memo_to_another(tmp_path):
    remember(4)
    done = command("memo", "export", "answers.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "4 answers written to answers.jsonl\n")
    other = str(tmp_path / "other")
    done = command("--home", other, "memo", "load", "answers.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "4 answers taken in from answers.jsonl\n")
    done = command("--home", other, "memo", "load", "answers.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "0 answers taken in from answers.jsonl\n")
    memo = Memo(tmp_path / "other" / "memo")
    try:
        assert memo.info().n_draws == 4
    finally:
        memo.close()
    options.home = other
    model = FakeModel(name="scripted")
    step = LLMStep(prompt="{text}", output_columns=["a"], model=model)
    assert len((Source.list([{"text": f"text {i}"} for i in range(4)]) >> step).run()) == 4
    assert model.calls == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("load", "missing.jsonl"), "missing.jsonl"),
        (("load", "notes.txt"), "notes.txt"),
        (("load", "empty.jsonl"), "empty.jsonl"),
        (("load", "."), "."),
        (("export", "no/such/folder/a.jsonl"), "no/such/folder"),
        (("export", "."), "."),
    ],
)
def test_files_that_cannot_be_exchanged_are_one_line(tmp_path, args, said):
    (tmp_path / "notes.txt").write_text("just notes\nof mine\n", "utf-8")
    (tmp_path / "empty.jsonl").touch()
    assert said in one_line_error(command("memo", *args, cwd=tmp_path))


def test_a_memo_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder", "utf-8")
    done = command("--home", "file/memo", "memo", "info", cwd=tmp_path)
    assert "file" in one_line_error(done)


def test_a_mode_that_does_not_exist_is_one_line(tmp_path):
    env = {**os.environ, "DATAFAST_NB_MODE": "fast"}
    done = command("memo", "info", cwd=tmp_path, env=env)
    assert "'fast'" in one_line_error(done)


@pytest.mark.parametrize("args", [("memo", "info"), ("--help",)])
def test_a_closed_pipe_is_no_error(tmp_path, args):
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "datafast_nb", *args],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == ""


def test_output_that_the_terminal_cannot_encode_does_not_break_the_command(tmp_path):
    remember(1)
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    (tmp_path / "wörter.jsonl").write_text('{"a": 1}\n', "utf-8")
    for args in (("memo", "info"), ("demo", "--input", "wörter.jsonl")):
        done = command(*args, cwd=tmp_path, env=env)
        assert "Traceback" not in done.stderr
