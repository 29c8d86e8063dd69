"""What goes wrong in long runs: broken images and models, damaged records, full folders, two runs at once."""

from __future__ import annotations

import csv
import inspect
import json
import re
import warnings

import pytest
import torch
from PIL import Image
from torch import nn

from captum_face import PairSaliency, PairSimilarity
from captum_face._runs import claimed
from captum_face.benchmark import METRICS, Measured, Metric, _plan, benchmark
from captum_face.benchmark._keys import Keys
from captum_face.benchmark._records import merged, read_records
from captum_face.data import FacePairs, read_csv

RUN = {"methods": ["saliency"], "metrics": ["deletion_swap"], "threshold": 0.9}
TABLES = ("config.json", "pairs.csv", "metrics.csv", "curves.csv")
LISTED = "image_a,image_b,same\n"


@pytest.fixture(autouse=True)
def no_report(request, monkeypatch):
    """Figures take longer than all the rest: only tests that read the report make it."""
    if "report.html" not in inspect.getsource(request.function):
        monkeypatch.setattr("captum_face.benchmark.run.render_report", lambda *_: "")


def tables(folder):
    return {name: (folder / name).read_bytes() for name in TABLES}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def row(result, method, metric="deletion_swap", subset="all"):
    return next(r for r in result.rows if (r.method, r.metric.name, r.subset) == (method, metric, subset))


class AnySize(nn.Module):
    """Takes images of every size."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.last = nn.Linear(3 * 16, 8)

    def forward(self, images):
        return self.last(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))


class Fails(nn.Module):
    """Answers NaN to one image, or raises."""

    def __init__(self, model, image, error=None):
        super().__init__()
        self.model, self.error = model, error
        self.register_buffer("image", image)

    def forward(self, images):
        wrong = (images - self.image).abs().amax((1, 2, 3)) < 1e-6
        if self.error is not None and wrong.any():
            raise self.error
        return torch.where(wrong[:, None], torch.nan, self.model(images))


@pytest.mark.parametrize(
    ("error", "message"), [(None, "finite embeddings"), (RuntimeError("no face"), "RuntimeError: no face")]
)
def test_a_model_that_fails_on_one_image_costs_its_pairs_alone(photos, error, message):
    folder, pair = photos
    pairs = read_csv(folder / "pairs.csv")
    normalised = pair.preprocess(pairs.image("2_1.png")[None])
    broken = PairSimilarity(Fails(pair.embedding_model, normalised, error), preprocess="arcface")
    result = benchmark(broken, pairs, folder / "out", **RUN)
    assert len(result.failures) == 3
    assert all("2_0.png and 2_1.png: 2_1.png: " in line and message in line for line in result.failures)
    assert (row(result, "saliency").n_pairs, row(result, "saliency").n_failed) == (4, 1)
    assert [r["score"] == "" for r in rows_of(folder / "out" / "pairs.csv")] == [False] * 4 + [True]


def test_a_model_that_fails_on_all_images_is_an_error(photos):
    folder, _ = photos
    pair = PairSimilarity(nn.Linear(5, 5))
    with pytest.raises(
        ValueError, match="at least one pair that can be scored, got none: 0_0.png: RuntimeError: "
    ):
        benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **RUN)


def test_a_model_that_cannot_take_batches_says_so(photos):
    folder, pair = photos
    one = PairSimilarity(lambda images: pair.embedding_model(images[:1]), preprocess="arcface")
    with pytest.raises(ValueError, match="max_batch_size"):
        benchmark(one, read_csv(folder / "pairs.csv"), folder / "out", **RUN)


def test_pairs_of_two_sizes_fail_and_lists_of_two_sizes_do_not(photos):
    folder, _ = photos
    for name, side in (("2_1.png", 20), ("3_0.png", 20), ("3_1.png", 20)):
        Image.open(folder / "2_0.png").resize((side, side)).save(folder / name)
    with (folder / "pairs.csv").open("a") as file:
        file.write("3_0.png,3_1.png,1\n")
    pair = PairSimilarity(AnySize(), preprocess="arcface")
    metrics = ["deletion_swap", "deletion_black"]
    result = benchmark(
        pair,
        read_csv(folder / "pairs.csv"),
        folder / "out",
        **{**RUN, "metrics": metrics, "threshold": 0.999},
    )
    apart = [line for line in result.failures if "2_0.png and 2_1.png" in line]
    assert len(apart) == 3
    assert all("two images of one size" in line for line in apart)
    # Nobody of the size of the last pair could stand in; what needs nobody is measured.
    alone = [line for line in result.failures if "3_0.png" in line]
    assert len(alone) == 3
    assert all("an image of another person" in line for line in alone)
    assert row(result, "saliency", "deletion_swap", "genuine").n_failed == 2
    assert row(result, "saliency", "deletion_black", "genuine").n_failed == 1


def test_what_needs_no_other_person_needs_none_in_the_list(photos):
    folder, pair = photos
    (folder / "one.csv").write_text(LISTED + "0_0.png,0_1.png,1\n")
    run = {"methods": ["saliency"], "protocol": "published", "threshold": 0.5}
    assert benchmark(pair, read_csv(folder / "one.csv"), folder / "out", **run).failures == []
    assert rows_of(folder / "out" / "pairs.csv")[0]["cohort"] == ""
    with pytest.raises(ValueError, match="an image of another person"):
        benchmark(pair, read_csv(folder / "one.csv"), folder / "other", **{**run, "protocol": "swap"})


def test_scores_that_tell_nobody_apart_have_no_threshold(photos):
    folder, _ = photos
    constant = PairSimilarity(lambda images: torch.ones(len(images), 4))
    with pytest.raises(ValueError, match="do not tell genuine from impostor pairs; give a threshold"):
        benchmark(constant, read_csv(folder / "pairs.csv"), folder / "out", **{**RUN, "threshold": None})
    assert not (folder / "out" / "config.json").exists()


def test_an_image_with_itself(photos):
    folder, pair = photos
    (folder / "self.csv").write_text(LISTED + "0_0.png,0_0.png,1\n0_1.png,2_0.png,0\n1_1.png,1_1.png,1\n")
    result = benchmark(pair, read_csv(folder / "self.csv"), folder / "out", **RUN)
    assert result.failures == []
    assert [float(r["score"]) for r in rows_of(folder / "out" / "pairs.csv")][0::2] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    "damage",
    [
        b'{"pair": 1, "meth',  # cut in the middle of a file that goes on
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"{}",
        b'{"key": "0", "tried": {}, "seconds": 1, "measured": {"deletion_swap": {}}, "errors": {}}',
        b'{"key": "0", "tried": {}, "seconds": 1, "measured": [1], "errors": {}}',
        b'{"key": null, "tried": {}, "seconds": 1, "measured": {}, "errors": {}}',
        b'{"key": "0", "tried": {}, "seconds": 1, "measured": {}, "errors": 3}',
        b'{"key": "0", "tried": ["deletion_swap"], "seconds": 1, "measured": {}, "errors": {}}',
        b'{"key": "0", "tried": {"deletion_swap": 1}, "seconds": 1, "measured": {}, "errors": {}}',
    ],
)
def test_a_damaged_record_is_left_out(tmp_path, damage):
    good = {"tried": {}, "seconds": 1.0, "measured": {}, "errors": {}}
    lines = [json.dumps({**good, "key": str(i)}).encode() + b"\n" for i in range(4)]
    (tmp_path / "records-0.jsonl").write_bytes(b"".join([*lines[:2], damage + b"\n", *lines[3:], b"{cut"]))
    with pytest.warns(UserWarning, match=r"records-0.jsonl is damaged: no record in 1 of its lines \(3\)"):
        assert [record["key"] for record in read_records(tmp_path)] == ["0", "1", "3"]


def test_a_run_with_damaged_records_goes_on(photos):
    folder, pair = photos
    pairs = read_csv(folder / "pairs.csv")
    benchmark(pair, pairs, folder / "out", **RUN)
    before = tables(folder / "out")
    file = folder / "out" / "records-0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 15
    file.write_bytes(b"".join([*lines[:4], lines[4][:20] + b"\n", *lines[5:]]))
    with pytest.warns(UserWarning, match="is damaged"):
        benchmark(pair, pairs, folder / "out", **RUN)
    assert tables(folder / "out") == before
    assert file.read_bytes().count(b"\n") == 16


def test_what_went_well_replaces_what_failed_wherever_it_stands():
    keys = Keys({(0, "a"): "x", (1, "a"): "y"}, {"m": "1", "n": "2"})
    value = {"value": 0.5, "curve": ()}
    good = {
        "key": "x",
        "tried": {"m": "1"},
        "errors": {},
        "measured": {"m": value},
        "seconds": 1.0,
        "score": 0.7,
    }
    bad = {"key": "x", "tried": {"m": "1"}, "errors": {"m": "broke"}, "measured": {}, "seconds": None}
    other = {"key": "y", "tried": {"m": "1"}, "errors": {"m": "again"}, "measured": {}, "seconds": None}
    expected = [
        {
            "pair": 0,
            "method": "a",
            "score": 0.7,
            "seconds": 1.0,
            "tried": ["m"],
            "measured": {"m": value},
            "errors": {},
        },
        {
            "pair": 1,
            "method": "a",
            "score": None,
            "seconds": None,
            "tried": [],
            "measured": {},
            "errors": {"m": "again"},
        },
    ]
    assert merged([good, bad, other], keys, ["m", "n"]) == expected
    assert merged([other, bad, good], keys, ["m", "n"]) == expected
    # Neither another pair, nor another metric of the name, nor one that is not asked for.
    foreign = [{**good, "key": "z"}, {**good, "tried": {"m": "3"}}, {**good, "tried": {"o": "1"}}]
    assert merged([other, *foreign, bad, good], keys, ["m", "n"]) == expected
    # One that does not apply to the pair is done and has no value; the order is that of the run.
    more = {**good, "tried": {"n": "2"}, "measured": {}}
    (first,) = merged([more, good], keys, ["m", "n"])
    assert (set(first["tried"]), [*first["measured"]]) == ({"m", "n"}, ["m"])
    more = {**more, "measured": {"n": value}}
    assert [*merged([more, good], keys, ["m", "n"])[0]["measured"]] == ["m", "n"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b""])
def test_a_damaged_configuration_is_an_error(photos, content):
    folder, pair = photos
    (folder / "out").mkdir()
    (folder / "out" / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"configuration of a run in .*config.json, which is damaged"):
        benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **RUN)


def test_a_folder_of_an_older_version_is_refused(photos):
    folder, pair = photos
    (folder / "out").mkdir()
    (folder / "out" / "config.json").write_text('{"versions": {}, "threshold": {"value": 0.9}}')
    with pytest.raises(ValueError, match="holds a run of another version of captum_face"):
        benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **RUN)


def test_rounding_of_the_threshold_is_no_other_run(photos, monkeypatch):
    """On another processor the equal error rate of the same pairs lies at a slightly other score."""
    folder, pair = photos
    pairs = read_csv(folder / "pairs.csv")
    run, whole = {**RUN, "metrics": ["partner_swap"], "threshold": None}, _plan.eer
    assert benchmark(pair, pairs, folder / "out", **run).n_computed == 15
    before = tables(folder / "out")
    monkeypatch.setattr(_plan, "eer", lambda *of: whole(*of)._replace(threshold=whole(*of).threshold + 1e-7))
    assert benchmark(pair, pairs, folder / "out", **run).n_computed == 0
    assert tables(folder / "out") == before
    # Of other pairs it is another threshold, however near.
    monkeypatch.setattr(FacePairs, "fingerprint", lambda self: "another")
    with pytest.warns(UserWarning, match="the threshold is .*: these are not used, and all is computed anew"):
        assert benchmark(pair, pairs, folder / "out", **run).n_computed == 15


def test_two_runs_in_one_folder_are_refused(photos, monkeypatch):
    pytest.importorskip("fcntl")
    folder, pair = photos
    pairs = read_csv(folder / "pairs.csv")
    with claimed(folder / "out", first=True):
        monkeypatch.setattr(PairSimilarity, "embed", None)  # it is refused before any pass
        with pytest.raises(ValueError, match="another run is at work in"):
            benchmark(pair, pairs, folder / "out", **RUN)
        with claimed(folder / "out", first=False):  # another process of the same run
            pass
        with pytest.raises(ValueError, match="another run is at work in"):  # still
            benchmark(pair, pairs, folder / "out", **RUN)
    monkeypatch.undo()
    assert benchmark(pair, pairs, folder / "out", **RUN).failures == []
    assert not list((folder / "out").glob(".*"))


def test_a_folder_that_cannot_be_written_is_found_before_any_pass(photos, monkeypatch):
    folder, pair = photos
    monkeypatch.setattr(PairSimilarity, "embed", None)
    (folder / "out").mkdir()
    (folder / "out" / ".lock").mkdir()  # for root, who may write anywhere
    with pytest.raises(OSError, match=r"\.lock"):
        benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **RUN)
    with pytest.raises(OSError, match="pairs.csv"):
        benchmark(pair, read_csv(folder / "pairs.csv"), folder / "pairs.csv", **RUN)


def test_a_full_disk_leaves_the_run_to_go_on(photos, monkeypatch):
    folder, pair = photos
    pairs = read_csv(folder / "pairs.csv")
    from captum_face.benchmark import run

    def full(path, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            benchmark(pair, pairs, folder / "out", **RUN)
    assert not (folder / "out" / "metrics.csv").exists()
    benchmark(pair, pairs, folder / "out", **RUN)
    benchmark(pair, pairs, folder / "fresh", **RUN)
    assert tables(folder / "out") == tables(folder / "fresh")
    assert len(list(read_records(folder / "out"))) == 15


def test_interrupted_from_the_keyboard(photos, monkeypatch):
    folder, pair = photos
    pairs = read_csv(folder / "pairs.csv")
    whole, calls = PairSaliency.attribute, []

    def interrupted(self, inputs, *, abs=False, show_progress=False):
        calls.append(inputs)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, inputs, abs=abs)

    with monkeypatch.context() as patch:
        patch.setattr(PairSaliency, "attribute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            benchmark(pair, pairs, folder / "out", **RUN)
    assert pair.threshold is None
    assert 0 < len(list(read_records(folder / "out"))) < 15
    benchmark(pair, pairs, folder / "out", **RUN)
    benchmark(pair, pairs, folder / "fresh", **RUN)
    assert tables(folder / "out") == tables(folder / "fresh")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed as an integer of at least 0, got -1"),
        ({"seed": True}, "seed as an integer"),
        ({"examples": -1}, "examples as an integer of at least 0, got -1"),
        ({"metrics": (), "protocol": ()}, "at least one metric or protocol"),
        ({"metrics": [METRICS["symmetry"], Metric("symmetry", "", "lower", "all", "", print)]}, "two of the"),
    ],
)
def test_bad_options_are_refused_before_any_pass(photos, options, message, monkeypatch):
    folder, pair = photos
    monkeypatch.setattr(PairSimilarity, "embed", None)
    with pytest.raises((ValueError, TypeError), match=message):
        benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **{**RUN, **options})
    assert not (folder / "out").exists()


def test_a_metric_of_ones_own(photos):
    folder, pair = photos

    def measure(case):
        if not case.scene.same:
            return None
        return Measured(float(case.maps[0].abs().mean()), curve=(1.0, 0.5, 0.0))

    own = Metric("<size>", "How <large>?", "higher", "genuine", "mean <&>", measure, {"norm": "<l1>"})
    result = benchmark(
        pair, read_csv(folder / "pairs.csv"), folder / "out", **{**RUN, "metrics": [own, "deletion_swap"]}
    )
    assert result.failures == []
    assert row(result, "saliency", "<size>", "all").n_pairs == 3
    assert result.value("saliency", "<size>") == row(result, "saliency", "<size>", "genuine").mean > 0
    assert json.loads((folder / "out" / "config.json").read_text())["metrics"]["<size>"]["norm"] == "<l1>"
    written = rows_of(folder / "out" / "metrics.csv")
    assert {(r["metric"], r["norm"]) for r in written} == {("<size>", "<l1>"), ("deletion_swap", "")}
    assert {r["score"] for r in rows_of(folder / "out" / "curves.csv") if r["metric"] == "<size>"} == {
        "1", "0.5", "0",
    }  # fmt: skip
    report = (folder / "out" / "report.html").read_text()
    assert "&lt;size&gt;" in report
    assert not re.search("<size>|<large>|<l1>|<&>", report)
    # One alone, not in a list.
    options = {"methods": "saliency", "metrics": own, "threshold": 0.9}
    alone = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "one", **options)
    assert alone.value("saliency", "<size>") == result.value("saliency", "<size>")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"better": "bigger"}, "expected one of .*lower"),
        ({"subset": "accepted"}, "expected one of .*all"),
        ({"needs": "masks"}, "expected one of .*all"),
        ({"order": "similr"}, "did you mean 'similar'"),
        ({"mode": "removal"}, "expected one of .*deletion"),
        ({"curve": "area"}, "expected one of .*score"),
        ({"protocol": "black"}, "expected one of .*swap"),
        ({"settings": {"order": "dissimilar"}}, "order= as a field of the metric 'm', got it in settings"),
    ],
)
def test_metrics_that_make_no_sense_are_refused(wrong, message):
    fields = {"name": "m", "asks": "", "better": "lower", "subset": "all", "statistic": "", "measure": print}
    with pytest.raises(ValueError, match=message):
        Metric(**{**fields, **wrong})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_failures(photos, value):
    folder, pair = photos
    own = Metric(
        "own", "", "higher", "all", "value", lambda case: Measured(value if case.scene.same else 1.0)
    )
    result = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **{**RUN, "metrics": [own]})
    assert (row(result, "saliency", "own").n_pairs, row(result, "saliency", "own").n_failed) == (2, 3)
    assert row(result, "saliency", "own").mean == 1
    assert any("expected a finite value of own, got" in line for line in result.failures)
    assert row(result, "saliency", "own", "genuine").n_pairs == 0
    report = re.sub(r"data:image/png;base64,[^']+", "", (folder / "out" / "report.html").read_text())
    assert not re.search(r">nan|>inf", report)
    assert "nan" not in result.text()


def test_failures_count_where_a_metric_applies(photos):
    """Nothing is known to differ in photos, and patches are pasted into genuine pairs alone."""
    folder, pair = photos
    (folder / "1_0.png").write_bytes(b"not a picture")
    metrics = ["changed_auc", "patch_auc", "deletion_swap"]
    result = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **{**RUN, "metrics": metrics})
    assert {r.metric.name for r in result.rows} == {"patch_auc", "deletion_swap"}
    assert row(result, "saliency", "patch_auc", "all").n_failed == 1
    assert not any(r.subset.startswith("impostor") for r in result.rows if r.metric.name == "patch_auc")
    assert row(result, "saliency", "deletion_swap", "impostor").n_failed == 1
    assert "changed_auc" not in result.text()


def test_names_are_text_and_no_markup(photos):
    folder, pair = photos
    name = "<script>alert(1)<$x_&'.png"
    (folder / "0_0.png").rename(folder / name.replace("/", ""))
    listed = folder / "<b>pairs&.csv"
    listed.write_text(LISTED + f'"{name}",0_1.png,1\n1_0.png,2_0.png,0\n2_0.png,2_1.png,1\n')
    result = benchmark(pair, read_csv(listed), folder / "out", **RUN, examples=3, model_name="<i>mine</i>")
    assert result.failures == []
    report = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<b>pairs|<i>mine", report)
    assert "&lt;script&gt;" in report
    assert "&lt;b&gt;pairs&amp;.csv" in report


def test_the_best_value_is_one_of_all_pairs(photos):
    """A method that fails on the hard pairs has an easier mean, and no claim to be the best."""
    folder, pair = photos

    def measure(case):
        if "saliency" in repr(case.method._spec) and not case.scene.same:
            raise ValueError("too hard")
        return Measured(1.0 if case.scene.same else 0.2)

    own = Metric("own", "", "higher", "all", "value", measure)
    run = {**RUN, "metrics": [own], "methods": ["saliency", "xssab"], "examples": 0}
    result = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **run)
    assert row(result, "saliency", "own").mean > row(result, "xssab", "own").mean
    report = (folder / "out" / "report.html").read_text(encoding="utf-8")
    main = report[: report.index("By subset")]
    rows = dict(re.findall(r"<td>(saliency|xssab)</td><td( class='best')?>", main))
    assert rows == {"saliency": "", "xssab": " class='best'"}


def test_published_values_stand_beside(photos):
    folder, pair = photos
    run = {"methods": ["fggb", "fggb:smooth=1"], "protocol": "published", "threshold": 0.9}
    result = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **run)
    value = 100 * result.value("fggb:smooth=1", "published_deletion")
    text = result.text()
    assert f"fggb:smooth=1 published_deletion: 24.18 (LFW, arXiv 2403.04549), here {value:.2f}" in text
    assert "corrrise published_insertion: 85.70 (LFW, arXiv 2305.08546), here not measured" in text
    report = (folder / "out" / "report.html").read_text(encoding="utf-8")
    cells = re.search(r"<tr><td>fggb:smooth=1</td><td>published_deletion</td>(.*?)</tr>", report)[1]
    assert cells.startswith("<td>24.18</td>")
    assert f"<td>{value:.2f}</td>" in cells


def test_a_pair_does_not_depend_on_what_else_is_in_the_run(photos):
    """Neither on other metrics and examples nor on other pairs, with one threshold and one other person."""
    folder, pair = photos
    pairs = read_csv(folder / "pairs.csv")
    methods = ["corrrise:n_masks=20", "rise:n_masks=20"]
    metrics = ["deletion_black", "partner_swap"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = benchmark(
            pair, pairs, folder / "a", methods=methods, metrics=metrics, threshold=0.9, examples=0
        )
        shown = benchmark(
            pair, pairs, folder / "b", methods=methods[::-1], metrics=metrics[::-1], threshold=0.9, examples=5
        )
        parts = [
            benchmark(
                pair, pairs.subset([i]), folder / f"c{i}", methods=methods, metrics=metrics, threshold=0.9
            )
            for i in range(len(pairs))
        ]
    assert whole.failures == shown.failures == []
    for method in (*methods, "random", "center"):
        for metric in metrics:
            value = row(whole, method, metric).mean
            assert row(shown, method, metric).mean == pytest.approx(value, rel=1e-5), method
            alone = [row(part, method, metric).mean for part in parts]
            assert sum(alone) / len(alone) == pytest.approx(value, rel=1e-5), method


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_pictures_as_files(photos, kind):
    """Those of report.html."""
    folder, pair = photos
    run = {**RUN, "examples": 1, "figures": kind}
    benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **run)
    names = sorted(path.name for path in (folder / "out" / "figures").iterdir())
    assert len(names) == 2
    assert names[0] == f"curves-deletion_swap.{kind}"
    assert re.fullmatch(rf"example-.*\.{kind}", names[1])
    start = {"pdf": b"%PDF", "svg": b"<?xml"}[kind]
    assert all((folder / "out" / "figures" / name).read_bytes().startswith(start) for name in names)
    # They are no part of what was computed.
    again = benchmark(pair, read_csv(folder / "pairs.csv"), folder / "out", **{**RUN, "examples": 1})
    assert again.n_computed == 0
    with pytest.raises(ValueError, match="unknown format of a figure 'gif'"):
        benchmark(pair, read_csv(folder / "pairs.csv"), folder / "other", **RUN, figures="gif")
    assert not (folder / "other").exists()
