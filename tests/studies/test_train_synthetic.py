from __future__ import annotations

from functools import partial

import pytest
import torch
import train_synthetic as training
from click.testing import CliRunner
from safetensors.torch import load_file

from captum_face.data.synthetic import PARTS
from captum_face.models.synthetic_net import (
    SyntheticFaceNet,
    synthetic,
    synthetic_metadata,
    synthetic_threshold,
)

TINY = training.Settings(families=3, siblings=2, epochs=3, steps=2, batch_size=8)


def test_shipped_weights_verify_people_nobody_trained_on():
    eer, threshold = training.evaluate(synthetic(), people=120, seed=2**41 + 7)
    assert eer < 0.03
    assert threshold == pytest.approx(synthetic_threshold(), abs=0.12)


def test_shipped_weights_are_those_of_the_default_command():
    assert synthetic_metadata()["settings"] == training.asdict(training.Settings())


def test_every_part_lowers_the_score_when_it_is_exchanged():
    drops = training.part_drops(synthetic(), synthetic_threshold(), people=24)
    for part in PARTS:
        assert drops[part][0] > 0.03, part
    assert drops["eyes+brows"][0] > max(drops["eyes"][0], drops["brows"][0])


def test_siblings_differ_in_one_to_three_parts_from_their_ancestor():
    people = training.families(20, 5, seed=0)
    ancestors = training.synthetic.sample_identities(20, 0).repeat(5)
    differ = torch.stack([(people.vectors[p] != ancestors.vectors[p]).any(dim=1) for p in PARTS], dim=1)
    assert differ.sum(dim=1).max() == 3
    assert differ.any(dim=0).all()
    # An exchange between two clean-shaven people is none: the only way to differ in nothing.
    assert differ.any(dim=1).float().mean() > 0.95


def test_training_that_was_cut_off_resumes_exactly(tmp_path, monkeypatch):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    whole = training.train(TINY, workers=0).state_dict()
    assert torch.equal(torch.get_rng_state(), state)

    checkpoint = tmp_path / "net.checkpoint"
    render, calls = training.synthetic.render, []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return render(*args, **kwargs)

    monkeypatch.setattr(training.synthetic, "render", dies)
    with pytest.raises(KeyboardInterrupt):
        training.train(TINY, checkpoint, workers=0)
    monkeypatch.undo()
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
    resumed = training.train(TINY, checkpoint, workers=0).state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name

    with pytest.raises(ValueError, match=r"expected a checkpoint of .*'seed': 1"):
        training.train(training.Settings(seed=1), checkpoint)


def test_command_writes_weights_with_their_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "evaluate", partial(training.evaluate, people=4))
    monkeypatch.setattr(training, "part_drops", partial(training.part_drops, people=2))
    threads, output = torch.get_num_threads(), tmp_path / "net.safetensors"
    arguments = ["--output", str(output), "--epochs", "1", "--steps", "2"]
    result = CliRunner().invoke(training.main, arguments, catch_exceptions=False)
    torch.set_num_threads(threads)
    assert result.exit_code == 0
    assert "equal error rate on unseen identities" in result.output
    assert all(part in result.output for part in PARTS)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    network = SyntheticFaceNet()
    network.load_state_dict(load_file(output))


def test_unseen_people_are_not_in_the_training_data():
    """A CPU's generator knows 32 bits of a seed: a larger one would repeat the stream of a small one."""
    settings = training.Settings()
    trained = training.families(settings.families, settings.siblings, settings.seed)
    unseen = training.synthetic.sample_identities(200, training.UNSEEN)
    for part in PARTS:
        if part != "beard":  # six in ten have none
            same = (trained.vectors[part][:, None] == unseen.vectors[part]).all(-1)
            assert not same.any(), part
    assert 2 * (training.UNSEEN + 10_000) < 2**32
