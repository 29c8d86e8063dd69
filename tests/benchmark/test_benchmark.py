"""The benchmark: planted methods, resumption, refusal, failures, the report."""

from __future__ import annotations

import csv
import functools
import html
import json
import math
import re

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.utils import save_image

from captum_face import FGGB, METHODS, EachSide, PairSimilarity
from captum_face._runs import Recorder
from captum_face.attr import method, on_sides
from captum_face.attr.spec import parse_methods
from captum_face.benchmark import METRICS, PROTOCOLS, benchmark
from captum_face.benchmark import run as run_module
from captum_face.benchmark._plan import own_seed
from captum_face.benchmark._records import read_records
from captum_face.benchmark._tables import metric_rows, subsets
from captum_face.data import read_csv, render_faces, synthetic_pairs
from captum_face.engines.cohort import People, choose_cohort
from captum_face.metrics import eer
from captum_face.models import load_pair

TABLES = ("config.json", "pairs.csv", "metrics.csv", "curves.csv")
CHEAP = ["xssab", "saliency"]


@pytest.fixture(scope="module")
def pairs():
    return synthetic_pairs(6, seed=3)


@pytest.fixture(scope="module")
def pair():
    return load_pair("synthetic")


@pytest.fixture(scope="module")
def finished(pair, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    return benchmark(pair, pairs, folder, methods=CHEAP, examples=2)


def tables(folder):
    return {name: (folder / name).read_bytes() for name in TABLES}


def rows_of(folder, name="metrics.csv"):
    with open(folder / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_its_tables(finished, pair, pairs):
    folder = finished.folder
    assert finished.failures == []
    rows = rows_of(folder)
    assert {row["method"] for row in rows} == {"xssab", "saliency", "random", "center"}
    assert {row["metric"] for row in rows} == set(PROTOCOLS["swap"])
    assert {row["subset"] for row in rows} >= {"all", "genuine", "impostor"}
    own = {name: METRICS[name].subset for name in PROTOCOLS["swap"]}
    by_key = {(row["method"], row["metric"], row["subset"]): row for row in rows}
    for metric, subset in own.items():
        row = by_key["xssab", metric, subset]
        # 2 genuine, 2 impostor and 2 changed pairs; what is known to differ is known of the changed alone.
        assert int(row["n_pairs"]) == {"genuine": 2, "impostor": 4}[subset] - 2 * metric.startswith("changed")
        assert row["n_failed"] == "0"
        assert float(row["interval_low"]) <= float(row["mean"]) <= float(row["interval_high"])
    scores = [float(row["score"]) for row in rows_of(folder, "pairs.csv")]
    with torch.no_grad():
        expected = [float(pair(a[None], b[None])) for a, b, _ in pairs]
    assert scores == pytest.approx(expected, rel=1e-4)
    assert pair.threshold == pytest.approx(load_pair("synthetic").threshold)


def test_images_that_are_no_aligned_faces_are_counted(pair, tmp_path):
    faces = [*render_faces(3), render_faces(4)[3].flip(1)]
    for index, face in enumerate(faces):
        save_image(face, tmp_path / f"{index}.png")
    lines = ["image_a,image_b,same", "0.png,1.png,0", "2.png,3.png,0", "0.png,2.png,0"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    pairs = read_csv(tmp_path / "list.csv")
    metrics = {"metrics": "deletion_black", "methods": "saliency", "threshold": 0.5, "examples": 0}
    result = benchmark(pair, pairs, tmp_path / "out", **metrics)
    assert list(result.unaligned) == ["3.png"]
    assert [row["unaligned"] for row in rows_of(tmp_path / "out", "pairs.csv")] == ["", "b", ""]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "1 of 4 images do not look like aligned faces" in report
    assert {row["n_failed"] for row in rows_of(tmp_path / "out")} == {"0"}


def test_means_are_those_of_the_curves_and_of_a_loop(finished, pair, pairs):
    from captum_face import XSSAB
    from captum_face.metrics import perturbation_curve

    members = [row["cohort"] for row in rows_of(finished.folder, "pairs.csv")]
    threshold = finished.config["threshold"]["value"]
    areas = []
    for index, (image_a, image_b, same) in enumerate(pairs):
        if same:
            inputs = (image_a[None], image_b[None])
            other = pairs.image(members[index])[None]
            maps = XSSAB(pair).attribute(inputs, threshold=threshold)
            seed = own_seed(0, *pairs.names[index])
            curve = perturbation_curve(pair, inputs, maps, fill="swap", cohort=other, seed=seed)
            areas.append(float(curve.auc()))
    assert finished.value("xssab", "deletion_swap") == pytest.approx(sum(areas) / len(areas), rel=1e-5)
    points = [
        float(row["score"])
        for row in rows_of(finished.folder, "curves.csv")
        if (row["method"], row["metric"], row["subset"]) == ("xssab", "deletion_swap", "genuine")
    ]
    assert len(points) == 11
    assert np.trapezoid(points, dx=0.1) == pytest.approx(sum(areas) / len(areas), rel=1e-4)


def test_the_centre_baseline_argues_the_way_a_metric_asks(finished, pair, pairs):
    """Against the match where the evidence against it is asked for: else it would be easy to beat."""
    from captum_face.attr import Center
    from captum_face.metrics import perturbation_curve, pixel_auc

    members = [row["cohort"] for row in rows_of(finished.folder, "pairs.csv")]
    found = {"deletion_swap": [], "partner_swap": [], "changed_auc": []}
    for index, (image_a, image_b, same) in enumerate(pairs):
        inputs, truth = (image_a[None], image_b[None]), pairs.truth(index)
        centre, seed = Center(pair).attribute(inputs)[0], own_seed(0, *pairs.names[index])
        if same:
            other = pairs.image(members[index])[None]
            curve = perturbation_curve(pair, inputs, (centre, None), fill="swap", cohort=other, seed=seed)
            found["deletion_swap"].append(float(curve.auc()))
            continue
        curve = perturbation_curve(pair, inputs, (-centre, None), order="dissimilar", fill="swap", seed=seed)
        found["partner_swap"].append(float(curve.auc()))
        if truth is not None:
            aucs = [float(pixel_auc(-centre, mask[None], order="dissimilar")) for mask in truth]
            found["changed_auc"].append(sum(aucs) / 2)
    for metric, values in found.items():
        assert finished.value("center", metric) == pytest.approx(sum(values) / len(values), rel=1e-5)
    # What differs are parts of the face, and the face is in the middle.
    assert finished.value("center", "changed_auc") > 0.6


def test_what_asks_for_evidence_against_a_match_says_so():
    asks = {name for name in METRICS if METRICS[name].order == "dissimilar"}
    assert asks == {
        "partner_swap", "patches_fmr", "patch_effect", "patch_auc", "patch_mass", "patch_pointing",
        "changed_auc", "changed_mass", "changed_pointing", "published_dissimilar_deletion",
    }  # fmt: skip
    assert {name for name in METRICS if METRICS[name].needs_member} == {
        "deletion_swap", "insertion_swap", "hiding_swap", "patches_fnmr",
        "patch_effect", "patch_auc", "patch_mass", "patch_pointing",
    }  # fmt: skip


def test_the_report_is_one_file_that_needs_no_network(finished):
    text = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in re.sub(r"data:image/png;base64,[^']+", "", text)
    # 8 curves of 18 metrics, and the sheets of two examples.
    assert text.count("<img") == sum(METRICS[name].mode is not None for name in PROTOCOLS["swap"]) + 2
    assert "nan" not in re.sub(r"data:image/png;base64,[^']+", "", text)
    # Of 6 pairs nobody can tell: the marks stand in the legend alone.
    assert text.count("✓") == text.count("✗") == 1
    # A table for each question: what a metric asks for decides where it stands.
    main = html.unescape(text[: text.index("By subset")])
    similar, dissimilar = main.split("Dissimilarity: what lowers the score?")
    for name in PROTOCOLS["swap"]:
        here, there = (dissimilar, similar) if METRICS[name].order == "dissimilar" else (similar, dissimilar)
        assert METRICS[name].asks in here
        assert METRICS[name].asks not in there


def test_a_run_by_distance(pairs, tmp_path):
    pair = load_pair("synthetic", score="euclidean")
    result = benchmark(
        pair, pairs, tmp_path, methods=["center"], metrics="deletion_swap", threshold=6.5, examples=1
    )
    assert result.config["threshold"]["value"] == -42.25
    assert result.config["threshold"]["shown"]["threshold"] == 6.5
    rows = rows_of(tmp_path, "pairs.csv")
    distances = [float(row["distance"]) for row in rows]
    assert distances == pytest.approx([(-float(row["score"])) ** 0.5 for row in rows], rel=1e-5)
    assert [int(row["accepted"]) for row in rows] == [int(distance <= 6.5) for distance in distances]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "threshold 6.5000 (distance, given by the caller)" in text
    equal = eer([float(row["score"]) for row in rows], [int(row["same"]) for row in rows])
    assert re.search(r"equal error rate [\d.]+% at (\d\.\d+),", text)[1] == f"{(-equal.threshold) ** 0.5:.4f}"
    # What is printed, taken again, reuses everything.
    assert (
        benchmark(
            pair, pairs, tmp_path, methods=["center"], metrics="deletion_swap", threshold=-42.25, examples=1
        ).n_computed
        == 0
    )


def test_example_sheets_show_methods_in_the_order_of_the_tables(finished, pair, pairs, monkeypatch):
    from captum_face.benchmark import _report

    shown, whole = [], _report.show_comparison

    def spy(explanations, **options):
        shown.append([explanation.method for explanation in explanations])
        return whole(explanations, **options)

    monkeypatch.setattr(_report, "show_comparison", spy)
    benchmark(pair, pairs, finished.folder, methods=CHEAP, examples=2)
    assert shown == [["xssab", "saliency", "random", "center"]] * 2


def test_the_same_call_again_changes_nothing(finished, pair, pairs):
    before, lines = tables(finished.folder), (finished.folder / "records-0.jsonl").read_bytes()
    benchmark(pair, pairs, finished.folder, methods=CHEAP, examples=2)
    assert tables(finished.folder) == before
    assert (finished.folder / "records-0.jsonl").read_bytes() == lines


@pytest.mark.parametrize("moment", [0, 5, 17])
def test_an_interrupted_run_ends_with_identical_tables(finished, pair, pairs, tmp_path, monkeypatch, moment):
    """Interrupted in the middle of writing a record: the cut line is dropped, the rest goes on."""

    class Killed(BaseException):
        pass

    count = 0
    whole = Recorder.write

    def write(self, record):
        nonlocal count
        if count == moment:
            self._file.write(json.dumps(record).encode()[:40])
            self._file.flush()
            raise Killed
        count += 1
        whole(self, record)

    # The report is not compared, and drawing it takes longer than all the rest.
    monkeypatch.setattr(run_module, "render_report", lambda *_: "")
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "write", write)
        with pytest.raises(Killed):
            benchmark(pair, pairs, tmp_path, methods=CHEAP, examples=2)
    assert pair.threshold == load_pair("synthetic").threshold
    assert not (tmp_path / "metrics.csv").exists()
    benchmark(pair, pairs, tmp_path, methods=CHEAP, examples=2)
    assert len(list(read_records(tmp_path))) == 6 * 4
    assert tables(tmp_path) == tables(finished.folder)


def test_a_method_gives_the_same_numbers_whatever_else_is_in_the_run(finished, pair, pairs, tmp_path):
    alone = benchmark(pair, pairs, tmp_path, methods=["xssab"], examples=0)
    for row in alone.rows:
        assert row.mean == finished.value(row.method, row.metric.name, row.subset)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"model_name": "mine"}, "model.name was 'SyntheticFaceNet', is 'mine'"),
    ],
)
def test_a_folder_of_another_run_is_refused(finished, pair, pairs, changed, message):
    before = tables(finished.folder)
    with pytest.raises(ValueError, match=message):
        benchmark(pair, pairs, finished.folder, **{"methods": CHEAP, "examples": 2, **changed})
    assert tables(finished.folder) == before


def test_another_precision_is_refused(finished, pair, pairs):
    reduced = PairSimilarity(pair.embedding_model, threshold=pair.threshold, precision="bfloat16")
    with pytest.raises(ValueError, match=r"model\.precision was 'float32', is 'bfloat16'"):
        benchmark(reduced, pairs, finished.folder, methods=CHEAP, examples=2)


def test_other_weights_are_refused(finished, pairs):
    other = load_pair("synthetic")
    with torch.no_grad():
        next(other.parameters()).mul_(1.0001)
    with pytest.raises(ValueError, match=r"model\.weights was"):
        benchmark(other, pairs, finished.folder, methods=CHEAP, examples=2)


def test_records_without_a_configuration_are_refused(pair, pairs, tmp_path):
    (tmp_path / "records-0.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="records without a config.json"):
        benchmark(pair, pairs, tmp_path, methods=CHEAP)


def test_a_broken_image_is_reported_and_counted(photos):
    folder, pair = photos
    (folder / "2_1.png").write_bytes(b"not a picture")
    run = {"methods": ["saliency"], "metrics": ["deletion_swap", "partner_swap"], "threshold": 0.9}
    result = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **run)
    broken = [line for line in result.failures if "2_1.png" in line]
    assert len(broken) == 3  # the method and both null baselines
    assert "line 6" in broken[0]
    genuine = next(row for row in result.rows if (row.method, row.subset) == ("saliency", "genuine"))
    assert (genuine.n_pairs, genuine.n_failed) == (2, 1)
    report = (folder / "out" / "report.html").read_text()
    assert "1 pairs could not be scored" in report
    assert "1 failed" in report
    assert rows_of(folder / "out", "pairs.csv")[-1]["score"] == ""


def test_what_a_method_cannot_do_is_reported_and_the_others_go_on(photos):
    folder, pair = photos
    metrics = {"metrics": ["deletion_swap", "patch_auc"], "threshold": 0.9, "examples": 0}
    result = benchmark(
        pair, read_csv(folder / "pairs.csv"), folder / "out", methods=["layer_gradcam", "xssab"], **metrics
    )
    assert {line.split(" on ")[0] for line in result.failures} >= {"layer_gradcam"}
    failed = next(row for row in result.rows if row.method == "layer_gradcam")
    assert (failed.n_pairs, failed.n_failed) == (5, 5) or (failed.n_pairs, failed.n_failed) == (0, 5)
    assert math.isnan(failed.mean)
    assert result.value("xssab", "deletion_swap") == result.value("xssab", "deletion_swap", "genuine")


def test_failures_are_tried_again(photos, monkeypatch):
    folder, pair = photos
    run = {"methods": ["saliency"], "metrics": ["deletion_swap"], "threshold": 0.9, "examples": 0}
    from captum_face import PairSaliency

    @on_sides
    def broken(self, sides, *, abs=False):
        return 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(PairSaliency, "attribute", broken)
        first = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **run)
    assert len(first.failures) == 5
    assert all("ZeroDivisionError" in line for line in first.failures)
    again = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **run)
    fresh = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "fresh", **run)
    assert again.failures == []
    assert tables(folder / "out") == tables(folder / "fresh")
    assert fresh.value("saliency", "deletion_swap") == again.value("saliency", "deletion_swap")


def test_nan_attributions_are_failures(photos, monkeypatch):
    folder, pair = photos
    from captum_face import PairSaliency

    @on_sides
    def broken(self, sides, *, abs=False):
        return sides.explain(lambda side: side.partners * float("nan"))

    monkeypatch.setattr(PairSaliency, "attribute", broken)
    run = {"methods": ["saliency"], "metrics": ["deletion_swap"], "threshold": 0.9, "examples": 0}
    result = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **run)
    assert len(result.failures) == 5
    assert all("NaN" in line for line in result.failures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["fgbb"]}, "did you mean 'fggb'"),
        ({"methods": ["fggb:n_masks=3"]}, "option of fggb"),
        ({"methods": ["fggb:smooth=-1"]}, "smooth of at least 0"),
        ({"methods": ["fggb:signed"]}, "KEY=VALUE"),
        ({"metrics": ["deletion"]}, "unknown metric"),
        ({"protocol": "black"}, "unknown protocol"),
        ({"threshold": 2.0}, "threshold that the score can reach"),
    ],
)
def test_bad_input_is_refused_before_any_pass(pair, pairs, tmp_path, options, message, monkeypatch):
    monkeypatch.setattr(pair, "embed", None)
    with pytest.raises(ValueError, match=message):
        benchmark(pair, pairs, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_one_class_needs_a_threshold(pair, pairs, tmp_path):
    genuine = pairs.subset(pairs.same.nonzero().flatten())
    with pytest.raises(ValueError, match="no threshold is given"):
        benchmark(pair, genuine, tmp_path, methods=["random"])
    run = {"methods": ["random"], "metrics": ["deletion_swap"]}
    assert benchmark(pair, genuine, tmp_path, threshold=0.5, **run).failures == []


def test_nobody_to_stand_in_is_an_error(pair, pairs, tmp_path):
    with pytest.raises(ValueError, match="an image of another person"):
        benchmark(pair, pairs.subset([0]), tmp_path, methods=["random"], threshold=0.5)


def test_methods_are_parsed_with_their_options():
    specs = parse_methods(["corrrise:n_patches=10,smooth=2.5", "random", "fggb:gradient=signed", "fggb"])
    assert [spec.label for spec in specs] == [
        "corrrise:n_patches=10,smooth=2.5", "fggb:gradient=signed", "fggb", "random", "center",
    ]  # fmt: skip
    assert (specs[0].options, specs[0].sigma) == ({"n_patches": 10}, 2.5)
    assert specs[1].settings()["options"]["gradient"] == "signed"
    assert len(parse_methods(["all"])) == len({spec.name for spec in parse_methods(["all"])})


def test_another_decoder_in_the_same_file_is_another_run(tmp_path):
    path = tmp_path / "decoder.safetensors"
    (spec, *_) = parse_methods([f"reconstruction:decoder={path}"])
    before = []
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        before.append(spec.settings())
    assert before[0] == before[2] != before[1]
    assert before[1]["options"]["decoder_sha256"] != before[0]["options"]["decoder_sha256"]


def test_another_image_in_the_folder_of_a_cohort_is_another_cohort(tmp_path):
    folder = tmp_path / "people"
    (folder / "0").mkdir(parents=True)
    (spec, *_) = parse_methods([f"swap_rise:cohort={folder}"])
    before = []
    for name, content in (("a.png", b"1"), ("b.png", b"2"), ("b.png", b"3"), ("notes.txt", b"no image")):
        (folder / "0" / name).write_bytes(content)
        before.append(spec.settings()["options"]["cohort_sha256"])
    assert len({*before}) == 3
    assert before[2] == before[3]


def test_the_cohort_is_other_people():
    pair = PairSimilarity(nn.Identity())
    embeddings = {
        "a1": torch.tensor([1.0, 0.0]),
        "a2": torch.tensor([0.9, 0.1]),
        "a3": torch.tensor([-1.0, 0.0]),  # linked to a1 through a2, however it scores
        "look-alike": torch.tensor([1.0, 0.05]),
        "other": torch.tensor([0.0, 1.0]),
    }
    people = People([("a1", "a2"), ("a2", "a3")])

    def choose(names, n=1, **options):
        return choose_cohort(pair, names, embeddings, people, n=n, **{"threshold": 0.5, "seed": 0, **options})

    for seed in range(10):
        assert choose(("a1", "a2"), seed=seed) == ["other"]
    assert choose(("a1", "a2"), n=5) == ["other"]
    assert choose(("a1", "other"), threshold=-0.5) == []
    assert choose(("a1",), without=["other"]) == []
    # One image a person: of a1, a2 and a3 only one.
    assert len(choose(("other",), n=5)) == 2


def test_methods_that_compare_get_other_people(tmp_path, request):
    """None of them is in the pair, looks like it to the model, or stands in for hidden pixels."""
    seen = []

    class Spy(FGGB):
        @on_sides
        def attribute(self, sides, *, cohort=None):
            seen.append((sides.images, cohort))
            return FGGB.attribute.on_sides(self, sides)

    method("spy", family="gradient", source="", passes="")(Spy)
    request.addfinalizer(lambda: METHODS.unregister("spy"))
    pair = load_pair("synthetic")
    pairs = synthetic_pairs(12, seed=3)
    result = benchmark(pair, pairs, tmp_path / "run", methods="spy", metrics="deletion_swap", examples=0)
    assert not result.failures
    assert result.config["methods"]["spy"]["options"]["cohort"] == "other people of the list"
    assert len(seen) == 12
    images = {name: pairs.image(name) for name in pairs.image_names}
    with open(tmp_path / "run" / "pairs.csv", newline="") as file:
        rows = {row["image_a"]: row for row in csv.DictReader(file)}
    for inputs, cohort in seen:
        names = [name for face in cohort for name, image in images.items() if torch.equal(face, image)]
        probe = next(name for name, image in images.items() if torch.equal(inputs[0][0], image))
        assert 4 <= len(names) == len(cohort) <= 16
        assert not {probe, rows[probe]["image_b"], rows[probe]["cohort"]} & {*names}
        with torch.no_grad():
            for image in inputs:
                assert pair(image, cohort).max() < float(result.config["threshold"]["value"])


def test_too_few_others_to_compare_with_is_a_failure_of_these_methods_alone(tmp_path):
    pairs = synthetic_pairs(2, seed=3)
    result = benchmark(
        load_pair("synthetic"),
        pairs,
        tmp_path / "run",
        methods=["swap_rise:n_masks=4", "saliency"],
        metrics="partner_swap",
        threshold=0.594,
        examples=0,
    )
    assert {failure.split(" on ")[0] for failure in result.failures} == {"swap_rise:n_masks=4"}
    assert "expected at least 4 people" in result.failures[0]


def test_rows_against_closed_forms():
    def record(method, index, value):
        measured = {} if value is None else {"deletion_swap": {"value": value, "curve": []}}
        errors = {"deletion_swap": "it broke"} if value is None else {}
        return {"method": method, "pair": index, "measured": measured, "errors": errors}

    noise = np.random.default_rng(0).normal(0, 1, 40)
    records = []
    for index in range(40):
        # Pairs differ much, methods by a constant: only the paired difference can see it.
        records += [
            record("good", index, None if index == 3 else float(noise[index])),
            record("same", index, float(noise[index] + 0.1)),
            record("random", index, float(noise[index] + 0.1)),
            record("center", index, float(noise[index] + 0.2)),
        ]
    groups = subsets([True] * 40, [index % 2 == 0 for index in range(40)])
    assert set(groups) == {"all", "genuine", "genuine accepted", "genuine rejected"}
    rows = {
        (row.method, row.subset): row
        for row in metric_rows(
            records, ["good", "same", "random", "center"], [METRICS["deletion_swap"]], groups, 0
        )
    }
    good = rows["good", "genuine"]
    kept = np.delete(noise, 3)
    assert (good.n_pairs, good.n_failed) == (39, 1)
    assert good.mean == pytest.approx(kept.mean())
    assert good.standard_error == pytest.approx(kept.std(ddof=1) / math.sqrt(39))
    # Lower is better, so that a difference of .1 below the baseline is a gain of .1.
    assert good.gains["random"] == pytest.approx((0.1, 0.1, 0.1))
    assert good.gains["center"] == pytest.approx((0.2, 0.2, 0.2))
    half_width = 1.96 * good.standard_error
    assert good.interval == pytest.approx((good.mean - half_width, good.mean + half_width), abs=0.06)
    assert good.beats_null
    assert not rows["same", "genuine"].beats_null
    assert not rows["random", "genuine"].beats_null
    assert rows["good", "genuine rejected"].n_pairs == 19


def test_sanity_metrics_tell_methods_from_what_ignores_the_model(pair, pairs, tmp_path):
    run = {"methods": ["saliency:smooth=1"], "protocol": "sanity", "threshold": 0.5, "examples": 0}
    result = benchmark(pair, pairs.subset([0, 1]), tmp_path, **run)
    assert result.failures == []
    assert result.value("center", "randomization") == pytest.approx(1)
    assert result.value("random", "randomization") == pytest.approx(1)
    assert result.value("saliency:smooth=1", "randomization") < 0.5
    assert result.value("saliency:smooth=1", "symmetry") == pytest.approx(1, abs=1e-3)
    assert result.value("center", "sensitivity") == 0
    assert result.value("saliency:smooth=1", "sensitivity") > 0
    # On the best scale a map is never worse than an empty one, and no map is perfect.
    assert 0 < result.value("saliency:smooth=1", "infidelity") < 0.01


def test_a_probe_is_explained_once_for_all_its_pairs(photos, monkeypatch):
    """Three pairs of one probe, and the same as single pairs: the same numbers, a third of the work."""
    folder, pair = photos
    lines = ["image_a,image_b,same", "0_0.png,0_1.png,1", "0_0.png,1_0.png,0", "0_0.png,2_0.png,0"]
    (folder / "probe.csv").write_text("\n".join([*lines, "1_1.png,1_0.png,1"]) + "\n")
    pairs = read_csv(folder / "probe.csv")
    from captum_face import CorrRISE

    calls, whole = [], CorrRISE.attribute.on_sides

    @on_sides
    @functools.wraps(whole)
    def counted(self, sides, **given):
        maps = whole(self, sides, **given)
        calls.append(tuple(map(len, (*sides.images, *maps))))
        return maps

    monkeypatch.setattr(CorrRISE, "attribute", counted)
    run = {
        "methods": ["corrrise:n_masks=50", "corrrise:n_masks=50,smooth=1"],
        "threshold": 0.9,
        "examples": 0,
    }
    together = benchmark(pair, pairs, folder / "out", metrics=["deletion_black", "deletion_blur"], **run)
    assert together.failures == []
    # Image A of three pairs at once and of one alone; nothing for image B, nothing twice for the smoothing.
    assert calls == [(1, 3, 3), (1, 1, 1)]
    single = [
        benchmark(
            pair, pairs.subset([i, 3]), folder / f"out{i}", metrics=["deletion_black", "deletion_blur"], **run
        ).value("corrrise:n_masks=50", "deletion_black", "impostor" if i else "genuine")
        for i in range(3)
    ]
    assert together.value("corrrise:n_masks=50", "deletion_black", "impostor") == pytest.approx(
        (single[1] + single[2]) / 2, rel=1e-4
    )


def test_methods_as_classes_and_as_instances(pair, tmp_path):
    class Doubled(FGGB):
        pass

    def gradcam(layer):
        return EachSide(pair, captum.attr.LayerGradCam, layer=layer)

    pairs = synthetic_pairs(3, seed=3)
    run = functools.partial(benchmark, pair, pairs, metrics="deletion_swap", examples=0)
    given, doubled = [FGGB, Doubled, gradcam("stage2")], f"{__name__}.{Doubled.__qualname__}"
    result = run(tmp_path / "out", methods=given)
    assert result.failures == []
    own = {row["method"]: row["mean"] for row in rows_of(result.folder)}
    assert own.keys() == {"fggb", doubled, "captum_face.attr.each_side.EachSide", "random", "center"}
    named = run(tmp_path / "named", methods=["fggb", "captum.attr.LayerGradCam:layer=stage2"])
    by_name = {row["method"].partition(":")[0]: row["mean"] for row in rows_of(named.folder)}
    assert own["fggb"] == own[doubled] == by_name["fggb"]
    assert own["captum_face.attr.each_side.EachSide"] == by_name["captum.attr.LayerGradCam"]
    assert run(tmp_path / "out", methods=given).failures == []
    # One on another layer goes by the same name; its results are its own.
    other = run(tmp_path / "out", methods=[*given[:2], gradcam("stage1")])
    assert other.n_computed == 3
    assert other.value("captum_face.attr.each_side.EachSide", "deletion_swap") != result.value(
        "captum_face.attr.each_side.EachSide", "deletion_swap"
    )
    # One alone is one, as a text is.
    assert run(tmp_path / "one", methods=FGGB(pair)).failures == []
    with pytest.raises(ValueError, match="two of the name"):
        run(tmp_path / "two", methods=[gradcam("stage2"), gradcam("stage1")])
    with pytest.raises(ValueError, match="got one on another"):
        run(tmp_path / "other", methods=FGGB(load_pair("synthetic")))
