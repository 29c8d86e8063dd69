"""Options that all commands share which run a model."""

from __future__ import annotations

import io
import json
import sys

import click
import pytest
import torch

from captum_face import PairSimilarity
from captum_face.cli import COMMANDS, main
from captum_face.pair.passes import default_batch_size
from tests.cli.conftest import run

RUNNING = {*COMMANDS} - {"align", "methods"}
PAIR = ("explain", "a.png", "b.png", "--model", "own_models:build", "--output", "out")


@pytest.mark.parametrize("command", sorted(RUNNING))
def test_all_commands_that_run_a_model_have_them(command):
    with click.Context(main) as context:
        found = main.get_command(context, command)
    names = {name for option in found.params for name in option.opts}
    assert names >= {"--device", "--precision", "--batch-size"}


def test_precision_and_batch_size_reach_the_model(folder, monkeypatch):
    seen = []
    forward = PairSimilarity.embed

    def watched(pair, images, *arguments, **options):
        seen.append((pair.precision, default_batch_size(images.device)))
        return forward(pair, images, *arguments, **options)

    monkeypatch.setattr(PairSimilarity, "embed", watched)
    rule = default_batch_size(torch.device("cpu"))
    result = run(*PAIR, "--method", "corrrise:n_masks=6", "--precision", "bfloat16", "--batch-size", "3")
    assert result.exit_code == 0, result.output
    assert ("bfloat16", 3) in seen
    (saved,) = (folder / "out").glob("*corrrise_n_masks=6.json")
    summary = json.loads(saved.read_text("utf-8"))
    assert summary["protocol"]["precision"] == "bfloat16"
    assert default_batch_size(torch.device("cpu")) == rule  # for that run alone


def test_images_in_one_pass(folder, monkeypatch):
    """The maps are those of any other size, and no pass is larger."""
    (folder / "counting.py").write_text(
        "from tests.conftest import small_net\n"
        "sizes = []\n"
        "def build():\n"
        "    net = small_net()\n"
        "    net.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))\n"
        "    return net\n"
    )
    result = run(
        "explain", "a.png", "b.png", "--model", "counting:build", "--method", "corrrise:n_masks=9",
        "--batch-size", "2", "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert max(sys.modules["counting"].sizes) == 2


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "xpu:7"])
def test_devices_that_are_not_there(folder, device):
    result = run(*PAIR, "--device", device)
    assert result.exit_code == 1
    assert f"expected a device that is there, got {device}" in result.output
    assert not (folder / "out").exists()


def test_progress_bars_on_a_terminal_alone(folder, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    arguments = [*PAIR, "--method", "corrrise:n_masks=6"]
    assert "%|" not in run(*arguments).output
    for stream, bars in ((Terminal(), True), (io.StringIO(), False)):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", stream)
            with pytest.raises(SystemExit):
                main(arguments)
        assert ("%|" in stream.getvalue()) == bars


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell):
    from click.shell_completion import get_completion_class

    def offered(*words):
        kind = get_completion_class(shell)(main, {}, "captum-face", "_CAPTUM_FACE_COMPLETE")
        return [item.value for item in kind.get_completions(list(words[:-1]), words[-1])]

    assert offered("tr") == ["train-decoder"]
    assert offered("explain", "--met") == ["--method"]
    assert offered("explain", "--method", "corr") == ["corrrise"]
    assert offered("methods", "fg") == ["fggb"]
    assert offered("identify", "--model", "iresnet1") == ["iresnet18", "iresnet100"]
    assert "captum-face" in get_completion_class(shell)(main, {}, "captum-face", "_X").source()


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_figures_of_a_format_in_the_same_bytes(folder, kind):
    found = []
    for output in ("one", "two"):
        methods = ("--method", "fggb", "--method", "xssab")
        result = run(*PAIR[:-1], output, *methods, "--format", kind)
        assert result.exit_code == 0, result.output
        found.append({path.name: path.read_bytes() for path in (folder / output).glob(f"*.{kind}")})
    assert len(found[0]) == 3
    assert found[0] == found[1]


@pytest.mark.real
def test_a_guessed_preset_is_printed_and_recorded(shared, folder):
    faces = [shared / "data" / "lfw_crops" / f"010_{i}.png" for i in (1, 2)]
    model = ("--model", shared / "models" / "mobilefacenet.onnx", "--method", "fggb", "--output", "out")
    result = run("explain", *faces, *model)
    assert result.exit_code == 0, result.output
    assert "Preprocess: imagenet, guessed from the file name" in result.stderr
    (saved,) = (folder / "out").glob("*.fggb.json")
    protocol = json.loads(saved.read_text("utf-8"))["protocol"]
    assert protocol["preprocess_guessed"] == "imagenet, guessed from the file name"


@pytest.mark.parametrize(
    "arguments", [("benchmark", "--method", "random", "--output", "out"), ("threshold", "--far", "0.1")]
)
def test_rendered_pairs_are_refused_for_other_alignments(folder, arguments):
    result = run(*arguments, "--synthetic", "60", "--model", "own_models:build", "--preprocess", "facenet")
    assert result.exit_code != 0
    expected = "in ArcFace's alignment with --synthetic, got one of 160 x 160 in the alignment facenet"
    assert expected in " ".join(result.output.split())
