"""Services that are slow, fail, cost money and answer wrongly."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from captum_face import FGGB, CorrRISE, PairSimilarity, explain
from captum_face.models import RemoteEmbedding, RemoteScore, RequestsUsedUp, ServiceError
from captum_face.models.adapters import remote
from captum_face.testing import small_net

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that would be made; they take no time."""
    made = []
    monkeypatch.setattr(remote.time, "sleep", made.append)
    return made


class Service:
    """Embeds by a small network; fails at the requests that it is told to."""

    def __init__(self, fail=(), error=None):
        self.net = small_net().eval()
        self.sizes, self.fail, self.error = [], set(fail), error or ConnectionError("down")

    def __call__(self, images):
        self.sizes.append(len(images))
        if len(self.sizes) in self.fail:
            raise self.error
        with torch.no_grad():
            return self.net(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255).numpy()


def images(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 18, 14), generator=generator) / 255


def embeddings(n, seed=0):
    with torch.no_grad():
        return small_net().eval()(images(n, seed))


def test_batches_of_different_images_only():
    service = Service()
    remote_one = RemoteEmbedding(service, name="s 1", batch_size=4)
    twice = torch.cat([images(10), images(10)])
    torch.testing.assert_close(remote_one(twice), torch.cat([embeddings(10)] * 2))
    assert service.sizes == [4, 4, 2]
    assert remote_one.requests == 3
    assert repr(remote_one) == "RemoteEmbedding(s 1, 3 requests)"


def test_explained_as_the_network_itself_is_by_methods_that_need_embeddings():
    """All but the rounding to 256 levels."""
    pair = PairSimilarity(RemoteEmbedding(Service(), name="s 1"), threshold=0.2)
    white = PairSimilarity(small_net().eval(), threshold=0.2)
    a, b = images(1), images(1, 1)
    for method in ("corrrise:n_masks=20", "xface:sizes=[6],stride=6"):
        got, expected = (explain(p, a, b, method).maps[0] for p in (pair, white))
        assert np.corrcoef(got.flatten(), expected.flatten())[0, 1] > 0.99
    with pytest.raises(TypeError, match="expected an embedding model that can be differentiated"):
        FGGB(pair).attribute((a, b))


@pytest.mark.parametrize("size", [None, "auto"])
def test_methods_fill_each_request(size):
    """And measure nothing by requests that tell nothing."""
    service = Service()
    pair = PairSimilarity(RemoteEmbedding(service, name="s 1", batch_size=24))
    CorrRISE(pair).attribute((images(1), images(1, 1)), n_masks=48, seed=0, perturbations_per_eval=size)
    assert service.sizes.count(24) == 4  # two for each side
    assert sum(service.sizes) <= 2 * 48 + 2
    pairs = []
    scores = RemoteScore(lambda found: pairs.append(len(found)) or compare(found), name="s 1", batch_size=24)
    CorrRISE(scores).attribute((images(1), images(1, 1)), n_masks=48, seed=0, perturbations_per_eval=size)
    assert pairs.count(24) == 4


def test_failures_are_tried_again_after_growing_pauses(pauses):
    service = Service(fail=(1, 2, 4))
    remote_one = RemoteEmbedding(service, name="s 1", batch_size=4, backoff=2)
    random.seed(0)
    with pytest.warns(RuntimeWarning, match=r"s 1: ConnectionError \(down\); attempt 2 of 5 in"):
        got = remote_one(images(6))
    torch.testing.assert_close(got, embeddings(6))
    assert (service.sizes, remote_one.requests) == ([4, 4, 4, 2, 2], 5)
    assert all(low <= pause <= high for pause, low, high in zip(pauses, (1, 2, 1), (2, 4, 2), strict=True))


def test_a_service_that_stays_away_is_named_and_nothing_is_lost(pauses, tmp_path):
    service = Service(fail=range(3, 100))
    file = tmp_path / "answers.sqlite"
    remote_one = RemoteEmbedding(service, name="s 1", batch_size=4, retries=2, cache=file)
    with pytest.raises(
        ServiceError,
        match=r"of s 1, got ConnectionError \(down\) at the last of 3 attempts; 5 requests .*: it goes on",
    ) as caught:
        remote_one(images(12))
    assert isinstance(caught.value.__cause__, ConnectionError)
    again = Service()
    torch.testing.assert_close(RemoteEmbedding(again, name="s 1", cache=file)(images(12)), embeddings(12))
    assert again.sizes == [4]  # the eight of the first two requests are known


def test_mistakes_of_the_function_are_not_tried_again(pauses):
    service = Service(fail=(1,), error=NameError("name 'respnse' is not defined"))
    with pytest.raises(NameError, match="respnse"):
        RemoteEmbedding(service, name="s 1")(images(1))
    assert (service.sizes, pauses) == ([1], [])


def test_the_cap_is_never_exceeded_and_said_before_a_request(pauses):
    service = Service()
    remote_one = RemoteEmbedding(service, name="s 1", batch_size=4, max_requests=4)
    remote_one(images(8))
    with pytest.raises(
        RequestsUsedUp, match="at most max_requests=4 requests to s 1, 2 were made and 3 more are needed now"
    ):
        remote_one(images(12, 1))
    assert service.sizes == [4, 4]
    service.fail = {3, 4}
    with pytest.raises(RequestsUsedUp, match="4 were made and 1 more"):  # new attempts count
        remote_one(images(4, 2))
    assert (len(service.sizes), remote_one.requests) == (4, 4)


def test_threads_together_keep_to_the_cap():
    remote_one = RemoteEmbedding(Service(), name="s 1", batch_size=1, max_requests=20)

    def work(seed):
        try:
            return seed, remote_one(images(3, seed))
        except RequestsUsedUp:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = [each for each in pool.map(work, range(30)) if each]
    assert 18 <= remote_one.requests == len(remote_one.call.sizes) <= 20  # three at a time
    assert found
    for seed, got in found:
        torch.testing.assert_close(got, embeddings(3, seed))


def test_threads_share_a_cache(tmp_path):
    service = Service()
    remote_one = RemoteEmbedding(service, name="s 1", cache=tmp_path / "answers.sqlite")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: remote_one(images(3, seed % 4)), range(24)))
    for seed, got in enumerate(found):
        torch.testing.assert_close(got, embeddings(3, seed % 4))
    before = len(service.sizes)
    remote_one(torch.cat([images(3, seed) for seed in range(4)]))
    assert len(service.sizes) == before


def test_a_run_that_was_cut_off_asks_for_nothing_twice(tmp_path, pauses):
    file, a, b = tmp_path / "answers.sqlite", images(1), images(1, 1)

    def run(service):
        pair = PairSimilarity(RemoteEmbedding(service, name="s 1", batch_size=8, cache=file, retries=0))
        return explain(pair, a, b, "corrrise:n_masks=40", perturbations_per_eval=8).maps[0]

    uninterrupted = Service()
    whole = run(uninterrupted)
    file.unlink()
    first, second, third = Service(fail=(5,)), Service(), Service()
    with pytest.raises(ServiceError):
        run(first)
    torch.testing.assert_close(run(second), whole)
    assert len(first.sizes) - 1 + len(second.sizes) == len(uninterrupted.sizes)
    torch.testing.assert_close(run(third), whole)
    assert third.sizes == []


def test_answers_of_other_versions_and_sizes_are_kept_apart(tmp_path):
    file, first, second = tmp_path / "answers.sqlite", Service(), Service()
    second.net.fc.weight.data *= -1
    RemoteEmbedding(first, name="s 1", cache=file)(images(2))
    got = RemoteEmbedding(second, name="s 2", cache=file)(images(2))
    assert second.sizes == [2]
    assert not torch.allclose(got, embeddings(2))
    wide = images(1).reshape(1, 3, 14, 18)  # the same bytes
    RemoteEmbedding(first, name="s 1", cache=file)(wide)
    assert first.sizes == [2, 1]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda images: np.zeros((len(images) - 1, 4)), ValueError, r"shape \(3, D\) from s 1 for 3 image"),
        (
            lambda images: [[1.0]] * 2 + [None],
            ValueError,
            "got None for image 2 of 3; .* switch its detection",
        ),
        (lambda images: np.full((len(images), 4), np.nan), ValueError, "finite embeddings from s 1"),
        (lambda images: {"embeddings": []}, TypeError, "of numbers from s 1, got dict"),
        (lambda images: None, TypeError, "from s 1, got None"),
    ],
)
def test_wrong_answers_are_errors_at_once(answer, error, message, pauses, tmp_path):
    file = tmp_path / "answers.sqlite"
    with pytest.raises(error, match=message):
        RemoteEmbedding(answer, name="s 1", cache=file)(images(3))
    assert pauses == []
    assert RemoteEmbedding(Service(), name="s 1", cache=file)(images(3)).shape == (3, 7)  # nothing was kept


def test_a_service_that_changes_its_embeddings_is_found_out(tmp_path):
    file = tmp_path / "answers.sqlite"
    changed = RemoteEmbedding(lambda found: np.ones((len(found), len(found))), name="s 1", batch_size=2)
    with pytest.raises(
        ValueError, match=r"of length 2 from s 1, as before, got length 1; .* name= its version"
    ):
        changed(images(3))
    RemoteEmbedding(Service(), name="s 1", cache=file)(images(1))
    with pytest.raises(ValueError, match="of length 7 from s 1, as before, got length 3"):
        RemoteEmbedding(lambda found: np.ones((len(found), 3)), name="s 1", cache=file)(images(1, 1))


def test_a_request_that_hangs_is_given_up():
    done = threading.Event()
    hanging = RemoteEmbedding(lambda found: done.wait(30), name="s 1", timeout=0.05, retries=1, backoff=0)
    started = time.monotonic()
    with pytest.raises(
        ServiceError, match=r"TimeoutError \(no answer within timeout=0.05 s\) .* of 2 attempts"
    ):
        hanging(images(1))
    done.set()
    assert time.monotonic() - started < 5
    assert hanging.requests == 2
    quick = RemoteEmbedding(Service(), name="s 1", timeout=30)
    torch.testing.assert_close(quick(images(2)), embeddings(2))
    with pytest.raises(NameError):
        RemoteEmbedding(Service(fail=(1,), error=NameError()), name="s 1", timeout=30)(images(1))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"name": ""}, ValueError, "name of the service with its version"),
        ({"call": "http://faces"}, TypeError, "call to be a function of a list, got str"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"retries": -1}, ValueError, "retries as a whole number of at least 0, got -1"),
        ({"backoff": -1}, ValueError, "backoff"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"max_requests": 0}, ValueError, "max_requests"),
    ],
)
def test_bad_arguments(given, error, message):
    with pytest.raises(error, match=message):
        RemoteEmbedding(**{"call": Service(), "name": "s 1"} | given)


def test_a_cache_that_is_none(tmp_path):
    (tmp_path / "text.csv").write_text("no database " * 200)
    with pytest.raises(
        ValueError, match=r"a file of earlier answers, .* got .*text.csv \(file is not a database"
    ):
        RemoteEmbedding(Service(), name="s 1", cache=tmp_path / "text.csv")
    with pytest.raises(FileNotFoundError, match="in a folder that exists"):
        RemoteEmbedding(Service(), name="s 1", cache=tmp_path / "missing" / "answers.sqlite")
    with pytest.raises(ValueError, match="unable to open"):
        RemoteEmbedding(Service(), name="s 1", cache=tmp_path)


def test_images_of_another_size_are_refused_before_a_request():
    service = Service()
    with pytest.raises(ValueError, match=r"\(N, 3, 112, 112\), got \(1, 3, 18, 14\)"):
        RemoteEmbedding(service, name="s 1", input_size=(112, 112))(images(1))
    assert service.sizes == []


# --- scores alone


def compare(pairs):
    net = small_net().eval()
    with torch.no_grad():
        a, b = (
            net(torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) / 255)
            for side in zip(*pairs, strict=True)
        )
        return torch.cosine_similarity(a, b).tolist()


def test_scores_alone_are_enough_for_corrrise(tmp_path):
    service = RemoteScore(compare, name="s 1", batch_size=8, cache=tmp_path / "scores.sqlite")
    white = PairSimilarity(small_net().eval())
    a, b = images(1), images(1, 1)
    options = {"n_masks": 30, "seed": 0}
    got, expected = (CorrRISE(forward).attribute((a, b), **options)[0] for forward in (service, white))
    assert np.corrcoef(got.flatten(), expected.flatten())[0, 1] > 0.99
    made = service.requests
    CorrRISE(service).attribute((a, b), **options)
    assert service.requests == made
    torch.testing.assert_close(service(images(3), b), white(images(3), b).detach())
    with pytest.raises(TypeError, match="PairSimilarity"):
        FGGB(service).attribute((a, b))


@pytest.mark.parametrize("answer", [0.5, [0.5], [[0.1, 0.2], [0.1, 0.2]], [0.5, None], [0.5, float("nan")]])
def test_wrong_scores_are_refused(answer):
    with pytest.raises((ValueError, TypeError), match="s 1"):
        RemoteScore(lambda pairs: answer, name="s 1")(images(2), images(1, 1))


def test_batches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected batches of one length, or one of 1, got 2 and 3"):
        RemoteScore(compare, name="s 1")(images(2), images(3))
