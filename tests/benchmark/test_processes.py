"""Real processes: killed at any moment, and several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from captum_face.cli import main

TABLES = ("config.json", "pairs.csv", "metrics.csv", "curves.csv")
COMMAND = (
    "-m", "captum_face", "benchmark", "--model", "synthetic", "--synthetic", "6", "--method", "xssab",
    "--metric", "deletion_swap", "--metric", "patch_effect", "--metric", "changed_auc", "--examples", "1",
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


def alone(command, output):
    """One run that nothing happens to, in this process: another would take seconds to begin."""
    done = CliRunner().invoke(main, [*command[2:], "--output", str(output)])
    assert done.exit_code == 0, done.output
    return done.output


def tables(folder):
    return {name: (folder / name).read_bytes() for name in TABLES}


def lines(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("records-*.jsonl"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert "xssab" in alone(COMMAND, folder)
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
    alone(COMMAND, tmp_path)
    assert tables(tmp_path) == uninterrupted


def test_two_processes_give_the_tables_of_one(uninterrupted, tmp_path):
    finish(start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", output=tmp_path))
    assert {path.name for path in tmp_path.glob("records-*.jsonl")} == {"records-0.jsonl", "records-1.jsonl"}
    assert all(path.stat().st_size for path in tmp_path.glob("records-*.jsonl"))
    assert lines(tmp_path) == RECORDS
    assert tables(tmp_path) == uninterrupted
    # What two processes did, one takes over as it is.
    alone(COMMAND, tmp_path)
    assert lines(tmp_path) == RECORDS
    assert tables(tmp_path) == uninterrupted


def test_two_processes_add_to_what_one_did_and_one_to_what_is_left_of_two(tmp_path):
    """A folder is begun by one process, added to by two, which are killed, and finished by one."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    common = ["--threshold", "0.5", "--examples", "1"]
    few = [*COMMAND[: COMMAND.index("--metric")], "--metric", "deletion_swap", *common]
    more = [*COMMAND, "--method", "saliency", *common]
    more[more.index("6")] = "8"
    alone(few, tmp_path / "out")
    begun = lines(tmp_path / "out")
    assert begun == RECORDS
    started = [sys.executable, *launcher, *more, "--output", str(tmp_path / "out")]
    killed = subprocess.Popen(started, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while killed.poll() is None and lines(tmp_path / "out") < begun + 6:
        time.sleep(0.005)
    killed.send_signal(signal.SIGTERM)  # torchrun passes it on to its processes
    killed.communicate()
    left = lines(tmp_path / "out")
    assert begun < left < begun + 8 * 4
    assert "reused from" in alone(more, tmp_path / "out")
    alone(more, tmp_path / "fresh")
    assert tables(tmp_path / "out") == tables(tmp_path / "fresh")


def test_another_run_in_the_folder_is_an_error_in_every_process(uninterrupted, tmp_path):
    for name, content in uninterrupted.items():
        (tmp_path / name).write_bytes(content)
    changed = [*COMMAND, "--seed", "1", "--output", str(tmp_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, *changed], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "holds another run" in done.stdout + done.stderr
    assert tables(tmp_path) == uninterrupted


def test_more_processes_than_pairs(tmp_path):
    few = [
        *COMMAND[: COMMAND.index("--method")],
        "--method",
        "center",
        "--metric",
        "partner_swap",
        "--examples",
        "0",
    ]
    few[few.index("6")] = "2"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command = [sys.executable, *launcher, *few, "--output", str(tmp_path / "three")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    alone(few, tmp_path / "one")
    assert lines(tmp_path / "three") == 2 * 2
    assert tables(tmp_path / "three") == tables(tmp_path / "one")


def test_a_process_that_dies_ends_the_others(tmp_path):
    (tmp_path / "mortal.py").write_text(
        "import os\n"
        "from captum_face.models import synthetic\n"
        "def make():\n"
        "    model = synthetic()\n"
        "    def dies(*_):\n"
        f"        begun = os.path.exists({str(tmp_path / 'out' / 'records-1.jsonl')!r})\n"
        "        if os.environ.get('RANK') == '1' and begun:\n"
        "            os._exit(7)\n"
        "    model.register_forward_hook(dies)\n"
        "    return model\n"
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*COMMAND, "--preprocess", "arcface", "--threshold", "0.5", "--output", str(tmp_path / "out")]
    command[command.index("synthetic")] = "mortal:make"
    done = subprocess.run(
        [sys.executable, *launcher, *command],
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode != 0
    assert "exitcode  : 7" in done.stderr
    assert not (tmp_path / "out" / "metrics.csv").exists()
    assert not any(path.suffix == ".part" for path in (tmp_path / "out").iterdir())


def test_a_second_run_in_the_folder_of_a_running_one_is_refused(uninterrupted, tmp_path):
    pytest.importorskip("fcntl")
    first = start(output=tmp_path)
    while first.poll() is None and not (tmp_path / "config.json").exists():
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)
    second = start(output=tmp_path)
    text = second.communicate(timeout=300)[0].decode()
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert "Error: another run is at work in" in text
    assert "Traceback" not in text
    finish(first)
    assert tables(tmp_path) == uninterrupted
