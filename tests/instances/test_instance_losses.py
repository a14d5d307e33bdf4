"""The discriminative loss against the paper's equations, written out as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import probe
from probe.instances import discriminative_loss, discriminative_terms


def literal(embedding, labels, delta_var=0.5, delta_dist=1.5, norm=2, weights=(1, 1, 0.001)):
    """De Brabandere et al. (2017), equations 1 to 4, image by image and object by object."""
    total = embedding.new_zeros(())
    for x, numbers in zip(embedding, labels, strict=True):
        objects = [n for n in numbers.unique().tolist() if n]
        if not objects:
            continue
        centres, variance = [], 0
        for n in objects:
            pixels = x[:, numbers == n]
            centres.append(pixels.mean(1))
            away = torch.linalg.vector_norm(pixels - centres[-1][:, None], norm, 0)
            variance = variance + (away - delta_var).relu().square().mean()
        distance = 0
        for a, one in enumerate(centres):
            for b, other in enumerate(centres):
                if a != b:
                    apart = torch.linalg.vector_norm(one - other, norm)
                    distance = distance + (2 * delta_dist - apart).relu().square()
        k = len(objects)
        regularisation = sum(torch.linalg.vector_norm(c, norm) for c in centres)
        total = total + weights[0] * variance / k + weights[2] * regularisation / k
        if k > 1:
            total = total + weights[1] * distance / (k * (k - 1))
    return total / len(embedding)


@st.composite
def problems(draw):
    batch, dimensions = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    known = draw(st.sampled_from([[0], [0, 1], [0, 1, 2, 3], [0, 4, 7, 900], [5, 2**40, 3]]))
    labels = rng.choice(known, (batch, height, width))
    labels[rng.random(batch) < 0.3] = 0  # images without objects
    embedding = draw(st.sampled_from([0.5, 2.0])) * rng.normal(
        size=(batch, dimensions, height, width)
    )
    return torch.from_numpy(embedding), torch.from_numpy(labels)


OPTIONS = st.fixed_dictionaries(
    {
        "delta_var": st.sampled_from([0.0, 0.5]),
        "delta_dist": st.sampled_from([0.5, 1.5]),
        "norm": st.sampled_from([1, 2, math.inf]),
        "weights": st.sampled_from([(1, 1, 0.001), (0.5, 2, 0.1)]),
    }
)


@given(problems(), OPTIONS)
def test_it_is_the_papers_loss(problem, options):
    embedding, labels = problem
    mine, theirs = (embedding.clone().requires_grad_() for _ in range(2))
    got, wanted = discriminative_loss(mine, labels, **options), literal(theirs, labels, **options)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)
    got.backward()
    if wanted.requires_grad:
        wanted.backward()
        finite = torch.nan_to_num(theirs.grad)  # autograd's norm has no slope at 0
        torch.testing.assert_close(mine.grad, finite, atol=1e-6, rtol=1e-6)
    else:
        assert not mine.grad.any()
    single = discriminative_loss(embedding.float(), labels, **options)
    torch.testing.assert_close(single.double(), wanted.detach(), atol=1e-5, rtol=1e-5)


@given(problems(), st.permutations(range(5)))
def test_names_of_objects_do_not_matter(problem, order):
    embedding, labels = problem
    known, member = labels.unique(return_inverse=True)
    names = torch.tensor([0 if known[0] == 0 else 17, *(10 * n + 3 for n in order)])[: len(known)]
    got = discriminative_loss(embedding, names[member])
    torch.testing.assert_close(got, discriminative_loss(embedding, labels))


def test_identical_centres_cost_nine_and_have_finite_gradients():
    labels = torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2]]])
    embedding = torch.full((1, 3, 2, 4), 0.2, requires_grad=True)
    variance, distance, regularisation = discriminative_terms(embedding, labels)
    assert (variance.item(), distance.item()) == (0, 9)
    assert regularisation.item() == pytest.approx(0.2 * math.sqrt(3))
    discriminative_loss(embedding, labels).backward()
    assert torch.isfinite(embedding.grad).all()


def test_gradients_are_those_of_differences():
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 3, 4), generator=generator)
    for norm in (1, 2, math.inf):
        assert torch.autograd.gradcheck(
            lambda x, p=norm: discriminative_loss(x, labels, norm=p), embedding.requires_grad_()
        )


def test_without_objects_there_is_nothing_to_lose():
    embedding = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = discriminative_loss(embedding, torch.zeros(2, 4, 4, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert not embedding.grad.any()


def test_half_precision_is_summed_in_single():
    embedding = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3200).reshape(2, 40, 40) % 5
    for dtype in (torch.float16, torch.bfloat16):
        got = discriminative_loss(embedding.to(dtype), labels)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, literal(embedding.to(dtype).float(), labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": torch.zeros(2, 3, 4)}, "embedding: expected a tensor"),
        ({"embedding": torch.zeros(2, 3, 4, 5, dtype=torch.long)}, "embedding"),
        ({"labels": torch.zeros(2, 5, 4, dtype=torch.long)}, "labels: expected a tensor"),
        ({"labels": torch.full((2, 4, 5), -1)}, "labels: expected 0 for background"),
        ({"labels": torch.zeros(2, 4, 5)}, "labels"),
        ({"norm": 3}, "norm: expected 1, 2 or math.inf, got 3"),
        ({"delta_var": -1}, "delta_var"),
        ({"weights": (1, 1)}, "weights: expected three"),
    ],
)
def test_what_does_not_fit_is_said(change, message):
    given = {"embedding": torch.zeros(2, 3, 4, 5), "labels": torch.ones(2, 4, 5, dtype=torch.long)}
    with pytest.raises(probe.ProbeError, match=message):
        discriminative_loss(**{**given, **change})


def test_void_pixels_are_no_object():
    embedding = torch.randn(1, 4, 6, 6)
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    labels[:, :2], labels[:, 2:4] = 1, 2
    void = labels.clone()
    void[:, 4:] = 255
    assert discriminative_loss(embedding, void) == discriminative_loss(embedding, labels)
    counted = discriminative_loss(embedding, void, ignore_index=None)
    assert counted != discriminative_loss(embedding, labels)
