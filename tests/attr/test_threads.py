"""Several threads explain one model, and many: maps, models and the process are as with one thread."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.fx.experimental.symbolic_shapes  # adds a warning filter; autograd imports it when it needs it
from torch import nn

from captum_face import METHODS, PairSimilarity
from captum_face.metrics import randomization
from captum_face.pair.similarity import frozen
from captum_face.testing import model_state
from tests.attr.test_contract import FAST, every_method, same_state
from tests.conftest import small_net

THREADS, ROUNDS = 4, 2


def attribute(method, pair, images):
    return torch.cat(method.build(pair).attribute(images, **FAST.get(method.name, {})))


def together(work, n=THREADS):
    """What ``work(i)`` gives in as many threads, all of which begin at once."""
    barrier = threading.Barrier(n)

    def begin(i):
        barrier.wait(30)
        return work(i)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(begin, range(n)))


@every_method
def test_one_model(method, images):
    """In training mode, so that a thread that comes first to its end would let the others see it."""
    net = small_net().train()
    pair = PairSimilarity(net, threshold=0.2, preprocess="arcface")
    before, filters = model_state(net), list(warnings.filters)
    want = attribute(method, pair, images)
    for maps in together(lambda _: [attribute(method, pair, images) for _ in range(ROUNDS)]):
        for got in maps:
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert same_state(before, model_state(net))
    assert list(warnings.filters) == filters


def test_all_methods_on_one_model_at_once(images):
    """A method that puts hooks on layers, and one that passes images through them."""
    net = small_net().train()
    pair = PairSimilarity(net, threshold=0.2, preprocess="arcface")
    before = model_state(net)
    names = [
        "guided_backprop",
        "deep_lift",
        "saliency",
        "layer_gradcam",
        "fggb",
        "lrp",
        "corrrise",
        "kernel_shap",
    ]
    want = {name: attribute(METHODS[name], pair, images) for name in names}
    score = pair.eval()(*images)
    net.train()

    def work(i):
        order = names[i:] + names[:i]
        return [(name, attribute(METHODS[name], pair, images)) for name in order] + [
            ("score", pair.decide(*images))
        ]

    for found in together(work):
        for name, got in found:
            if name == "score":
                assert torch.equal(got, score >= 0.2)
            else:
                torch.testing.assert_close(got, want[name], rtol=1e-5, atol=1e-6)
    assert same_state(before, model_state(net))


def test_weights_that_a_metric_replaces_reach_no_other_thread(images):
    net = small_net().train()
    pair = PairSimilarity(net, threshold=0.2)
    method, before = METHODS["saliency"].build(pair), model_state(net)
    want, known = method.attribute(images), randomization(method, images).similarity

    def work(i):
        if i % 2:
            return randomization(method, images).similarity
        return [method.attribute(images) for _ in range(6)]

    for i, found in enumerate(together(work)):
        if i % 2:
            torch.testing.assert_close(found, known)
        else:
            for maps in found:
                torch.testing.assert_close(maps, want)
    assert same_state(before, model_state(net))


@pytest.mark.parametrize("name", ["lrp", "bilrp", "kernel_shap", "gradient_shap", "guided_backprop"])
def test_each_thread_its_own_model(name, images):
    """Tracing, random states and warning filters belong to the process."""
    nets = [small_net().train() for _ in range(THREADS)]
    pairs = [PairSimilarity(net, threshold=0.2) for net in nets]
    want = attribute(METHODS[name], pairs[0], images)
    call = nn.Module.__call__
    for maps in together(lambda i: [attribute(METHODS[name], pairs[i], images) for _ in range(ROUNDS)]):
        for got in maps:
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert nn.Module.__call__ is call
    assert all(net.training for net in nets)


def test_another_model_runs_while_one_is_traced(images):
    """What other threads run is no part of a trace."""
    net, other = small_net().eval(), small_net(dimensions=5).eval()
    pair = PairSimilarity(net, threshold=0.2)
    want, done = other(images[0]), threading.Event()

    def work(i):
        if i:
            for _ in range(8):
                METHODS["lrp"].build(pair).attribute(images)
            done.set()
            return True
        same = []
        while not done.wait(0):
            same.append(torch.equal(other(images[0]), want))
        return all(same)

    assert all(together(work, 2))


def test_frozen_is_lifted_by_the_last(images):
    net = small_net().train()
    first, second = frozen(net), frozen(net)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    second.__exit__(None, None, None)
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())


def test_threads_may_score_inside_frozen(images):
    """The thread that froze the model need not be the one that runs it."""
    pair = PairSimilarity(small_net().train(), threshold=0.2)
    with pair.frozen():
        want = pair(*images)
        for got in together(lambda _: pair(*images)):
            torch.testing.assert_close(got, want)
