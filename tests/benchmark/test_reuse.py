"""A folder's records serve every run that they are right for: tables are those of a run in a new folder."""

from __future__ import annotations

import csv
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captum_face import PairSaliency, PairSimilarity
from captum_face._runs import Recorder
from captum_face.attr import on_sides
from captum_face.benchmark import Measured, Metric, benchmark
from captum_face.benchmark import run as run_module
from captum_face.benchmark._keys import grouped
from captum_face.data import FacePairs, read_csv
from captum_face.engines.cohort import People, choose_cohort

TABLES = ("config.json", "pairs.csv", "metrics.csv", "curves.csv")
RUN = {
    "methods": ["xssab", "corrrise:n_masks=20"],
    "metrics": ["deletion_swap", "partner_swap", "patch_effect"],
    "threshold": 0.9,
    "examples": 2,
}


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(run_module, "render_report", lambda *_: "")


def tables(folder):
    return {name: (folder / name).read_bytes() for name in TABLES}


@pytest.fixture
def crowd(tmp_path):
    """Twelve people on two photos each; lists of pairs among them; a model that tells them apart."""
    random = np.random.default_rng(1)
    for person in range(12):
        face = random.integers(0, 256, (16, 16, 3))
        for photo in range(2):
            noisy = np.clip(face + random.normal(0, 8, face.shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / f"{person}_{photo}.png")
    genuine = [(f"{i}_0.png", f"{i}_1.png", 1) for i in range(12)]
    impostor = [(f"{i}_0.png", f"{(i + 5) % 12}_1.png", 0) for i in range(12)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16 * 3, 8))

    def listed(n=10, order=1, name="pairs.csv"):
        rows = [row for two in zip(genuine, impostor, strict=True) for row in two][:n][::order]
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([("image_a", "image_b", "same"), *rows])
        return read_csv(tmp_path / name)

    return tmp_path, PairSimilarity(model, preprocess="arcface"), listed


MORE = {
    "one method more": ({}, {"methods": [*RUN["methods"], "saliency"]}),
    "the same method smoothed": ({}, {"methods": [*RUN["methods"], "xssab:smooth=1"]}),
    "one that compares with other people": ({}, {"methods": [*RUN["methods"], "swap_rise:n_masks=8"]}),
    "one method less": ({"methods": [*RUN["methods"], "saliency"]}, {}),
    "methods in another order": ({}, {"methods": RUN["methods"][::-1]}),
    "one metric more": ({}, {"metrics": [*RUN["metrics"], "deletion_black"]}),
    "one metric less": ({}, {"metrics": RUN["metrics"][:2]}),
    "metrics in another order": ({}, {"metrics": RUN["metrics"][::-1]}),
    "another protocol": ({}, {"metrics": (), "protocol": "published"}),
    "more examples": ({}, {"examples": 4}),
    "fewer examples": ({}, {"examples": 0}),
    "a longer list": ({}, {"n": 12}),
    "a shorter list": ({}, {"n": 7}),
    "a list in another order": ({}, {"order": -1}),
    "all of it": (
        {"methods": ["saliency", "swap_rise:n_masks=8"], "n": 9},
        {"methods": ["saliency", "xssab", "swap_rise:n_masks=8"], "n": 12, "order": -1, "examples": 1},
    ),
}

NEW = {
    "one method more": 30,
    "the same method smoothed": 30,
    "one that compares with other people": 30,
    "one method less": 0,
    "methods in another order": 0,
    "one metric more": 40,
    "one metric less": 0,
    "metrics in another order": 0,
    "more examples": 24,
    "a list in another order": 48,  # its examples are others
}


@pytest.mark.parametrize("case", MORE)
def test_what_is_new_is_computed_and_the_tables_are_those_of_a_fresh_run(crowd, case):
    folder, pair, listed = crowd

    def run(where, *, n=10, order=1, **options):
        return benchmark(pair, listed(n, order), folder / where, **{**RUN, **options})

    first, then = MORE[case]
    run("out", **first)
    again, fresh = run("out", **then), run("fresh", **then)
    assert fresh.failures == []
    assert tables(folder / "out") == tables(folder / "fresh")
    # 10 pairs, 4 methods, 3 metrics: what is new is less than all.
    assert again.n_computed < fresh.n_computed or case == "another protocol"
    assert again.n_computed == NEW.get(case, again.n_computed)
    # And back: all of it is there.
    back = run("out", **first)
    assert back.n_computed == 0
    run("fresh first", **first)
    assert tables(folder / "out") == tables(folder / "fresh first")


def test_killed_in_the_middle_of_what_is_new(crowd, monkeypatch):
    folder, pair, listed = crowd
    more = {**RUN, "methods": ["saliency", *RUN["methods"]], "metrics": [*RUN["metrics"], "deletion_black"]}
    benchmark(pair, listed(), folder / "out", **RUN)
    before = tables(folder / "out")
    whole, written = Recorder.write, []

    def killed(self, record):
        if len(written) == 7:
            self._file.write(json.dumps(record).encode()[:40])
            self._file.flush()
            raise KeyboardInterrupt
        written.append(record)
        whole(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            benchmark(pair, listed(12), folder / "out", **more)
    # Until the new ones are whole the folder holds those of the run before.
    assert tables(folder / "out") == before
    again = benchmark(pair, listed(12), folder / "out", **more)
    fresh = benchmark(pair, listed(12), folder / "fresh", **more)
    assert again.n_computed < fresh.n_computed
    assert tables(folder / "out") == tables(folder / "fresh")


def test_failures_are_tried_again_by_a_longer_run(crowd, monkeypatch):
    folder, pair, listed = crowd
    run = {**RUN, "methods": ["saliency"]}
    (folder / "4_0.png").rename(folder / "away.png")
    (folder / "4_0.png").write_bytes(b"not a picture")

    @on_sides
    def broken(self, sides, *, abs=False):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(PairSaliency, "attribute", broken)
        first = benchmark(pair, listed(9), folder / "out", **run)
    assert {line.split(" on ")[0] for line in first.failures} == {"saliency", "random", "center"}
    longer = {**run, "methods": ["saliency", "xssab"]}
    again = benchmark(pair, listed(11), folder / "out", **longer)
    fresh = benchmark(pair, listed(11), folder / "fresh", **longer)
    assert again.failures == fresh.failures != []  # those of the broken image
    assert again.n_computed < fresh.n_computed
    assert tables(folder / "out") == tables(folder / "fresh")
    # The image is mended: what is measured with it is new, and nothing else's.
    (folder / "away.png").rename(folder / "4_0.png")
    again = benchmark(pair, listed(11), folder / "out", **longer)
    fresh = benchmark(pair, listed(11), folder / "fresh 2", **longer)
    assert again.failures == []
    assert again.n_computed < fresh.n_computed
    assert tables(folder / "out") == tables(folder / "fresh 2")


def test_another_image_of_the_same_name_is_another_image(crowd):
    folder, pair, listed = crowd
    benchmark(pair, listed(), folder / "out", **RUN)
    # It is the probe of two pairs, and perhaps a member of other pairs' cohort.
    Image.open(folder / "1_0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "1_0.png")
    again = benchmark(pair, listed(), folder / "out", **RUN)
    fresh = benchmark(pair, listed(), folder / "fresh", **RUN)
    assert 2 * 4 * 3 <= again.n_computed < fresh.n_computed
    assert tables(folder / "out") == tables(folder / "fresh")


def test_a_threshold_from_the_pairs_moves_with_them_and_the_advice_works(crowd):
    folder, pair, listed = crowd
    run = {**RUN, "metrics": ["partner_swap"], "threshold": None, "examples": 0}
    first = benchmark(pair, listed(8), folder / "out", **run)
    there = first.config["threshold"]["value"]
    with pytest.warns(UserWarning, match="all is computed anew. Give the threshold") as caught:
        again = benchmark(pair, listed(16), folder / "out", **run)
    fresh = benchmark(pair, listed(16), folder / "fresh", **run)
    assert again.n_computed == fresh.n_computed
    assert tables(folder / "out") == tables(folder / "fresh")
    advised = float(str(caught[0].message).split("Give the threshold ")[1].split(" to ")[0])
    assert advised == there
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the threshold is")
        kept = benchmark(pair, listed(16), folder / "out", **{**run, "threshold": advised})
    assert 0 < kept.n_computed < again.n_computed
    benchmark(pair, listed(16), folder / "fresh kept", **{**run, "threshold": advised})
    assert tables(folder / "out") == tables(folder / "fresh kept")


def test_another_model_that_hides_its_weights_is_refused(crowd):
    folder, pair, listed = crowd
    models = [lambda images: pair.embedding_model(images), lambda images: pair.embedding_model(images).abs()]
    run = {**RUN, "methods": ["corrrise:n_masks=20"], "model_name": "mine"}
    first, second = (PairSimilarity(model, preprocess="arcface") for model in models)
    benchmark(first, listed(), folder / "out", **run)
    assert benchmark(first, listed(), folder / "out", **run).n_computed == 0
    with pytest.raises(ValueError, match=r"results of another model: \w+.png and \w+.png scored .* there"):
        benchmark(second, listed(), folder / "out", **run)


def test_another_metric_of_the_same_name_is_another_metric(crowd):
    folder, pair, listed = crowd

    def own(n):
        measure = lambda case: Measured(float(n)) if case.scene.same else None  # noqa: E731
        return Metric("own", "", "higher", "genuine", "value", measure, {"n": n})

    run = {**RUN, "metrics": [own(1), "partner_swap"]}
    assert benchmark(pair, listed(), folder / "out", **run).value("xssab", "own") == 1
    again = benchmark(pair, listed(), folder / "out", **{**run, "metrics": [own(2), "partner_swap"]})
    assert (again.value("xssab", "own"), again.n_computed) == (2, 10 * 4)
    # One that does not apply to a pair is not asked again.
    assert benchmark(pair, listed(), folder / "out", **run).n_computed == 0


def test_a_probe_against_many():
    """Groups are of one probe, do not depend on the order, and a partner more changes few of them."""

    def groups_of(names):
        listed = FacePairs(names, [False] * len(names), None, source="a list")
        return [[names[i] for i in group.pairs] for group in grouped(SimpleNamespace(pairs=listed))]

    names = [("probe", f"{i}.png") for i in range(1000)] + [("other", "0.png")]
    groups = groups_of(names)
    assert sorted(groups) == sorted(groups_of(names[::-1]))
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert [("other", "0.png")] in groups
    assert 1000 / 32 < len(groups) < 100
    assert max(map(len, groups)) <= 32
    longer = groups_of([*names[:700], ("probe", "new.png"), *names[700:]])
    assert sum(group not in longer for group in groups) <= 2


def test_a_cohort_changes_only_where_what_is_new_is_chosen():
    pair = PairSimilarity(nn.Identity())
    random = torch.Generator().manual_seed(0)
    embeddings = {f"{i}": torch.randn(64, generator=random) for i in range(41)}
    fewer = {name: embeddings[name] for name in reversed(embeddings) if name != "40"}
    changed = 0
    for seed in range(50):
        options = {"people": People([]), "n": 8, "threshold": 0.9, "seed": seed}
        before = choose_cohort(pair, ["0", "1"], fewer, **options)
        after = choose_cohort(pair, ["0", "1"], embeddings, **options)
        assert after == before or [name for name in after if name != "40"] == before[:-1]
        changed += after != before
    assert 1 <= changed <= 25  # 8 of 39 are drawn
