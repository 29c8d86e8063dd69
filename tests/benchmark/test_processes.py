"""Real processes: killed at any moment, and several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

TABLES = ("config.json", "pairs.csv", "metrics.csv", "curves.csv")
COMMAND = (
    "-m", "captum_face", "benchmark", "--model", "synthetic", "--synthetic", "6", "--method", "xssab",
    "--metric", "deletion_swap", "--metric", "patch_effect", "--metric", "changed_auc",
)  # fmt: skip
RECORDS = 6 * 3
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*before, output):
    return subprocess.Popen(
        [sys.executable, *before, *COMMAND, "--output", str(output)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process):
    text = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, text
    return text


def tables(folder):
    return {name: (folder / name).read_bytes() for name in TABLES}


def lines(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("records-*.jsonl"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert "xssab" in finish(start(output=folder))
    assert lines(folder) == RECORDS
    return tables(folder)


def test_a_run_killed_at_three_moments_ends_with_identical_tables(uninterrupted, tmp_path):
    for wanted in (0, 4, 11):
        process = start(output=tmp_path)
        while process.poll() is None:
            begun = (tmp_path / "config.json").exists()
            if begun and lines(tmp_path) >= wanted:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"
        assert wanted <= lines(tmp_path) < RECORDS
        assert not (tmp_path / "metrics.csv").exists()
    finish(start(output=tmp_path))
    assert tables(tmp_path) == uninterrupted


def test_two_processes_give_the_tables_of_one(uninterrupted, tmp_path):
    finish(start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", output=tmp_path))
    assert {path.name for path in tmp_path.glob("records-*.jsonl")} == {"records-0.jsonl", "records-1.jsonl"}
    assert all(path.stat().st_size for path in tmp_path.glob("records-*.jsonl"))
    assert lines(tmp_path) == RECORDS
    assert tables(tmp_path) == uninterrupted
    # What two processes did, one takes over as it is.
    finish(start(output=tmp_path))
    assert lines(tmp_path) == RECORDS
    assert tables(tmp_path) == uninterrupted


def test_another_run_in_the_folder_is_an_error_in_every_process(uninterrupted, tmp_path):
    for name, content in uninterrupted.items():
        (tmp_path / name).write_bytes(content)
    changed = [*COMMAND, "--seed", "1", "--output", str(tmp_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, *changed], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "holds another run" in done.stdout + done.stderr
    assert tables(tmp_path) == uninterrupted
