"""Triplet losses, miners and in-batch choices: properties of their sources, and pytorch-metric-learning as second opinion."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import blocks
from arch_lab.laws.strategies import seeds
from blocks.errors import ConfigError
from blocks.losses import DISTANCES, triplet_loss
from blocks.triplet.in_batch import KINDS, batch_triplets
from blocks.triplet.mining import ClassTripletMiner, RegressionTripletMiner, Triplets, _some_pairs


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(t: Triplets) -> list[tuple[int, ...]]:
    return list(zip(t.anchor.tolist(), t.positive.tolist(), t.negative.tolist(), strict=True))


# --- losses -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seed=seeds(), n=st.integers(1, 9), margin=st.floats(0.01, 6))
def test_the_hinge_is_zero_exactly_where_the_margin_is_met_and_knows_no_place_or_turn(
    seed: int, n: int, margin: float
) -> None:
    a, p, q = draw(seed, 3, n, 4)
    each = triplet_loss(a, p, q, margin=margin, reduction="none")
    met = (a - q).square().sum(-1) - (a - p).square().sum(-1) >= margin
    assert torch.equal(each == 0, met)
    turn, shift = torch.linalg.qr(draw(seed + 1, 4, 4))[0], draw(seed + 2, 4)
    moved = triplet_loss(*(x @ turn + shift for x in (a, p, q)), margin=margin)
    torch.testing.assert_close(moved, each.mean(), rtol=1e-10, atol=1e-10)


def test_the_cosine_hinge_does_not_depend_on_lengths() -> None:
    a, p, q = draw(0, 3, 6, 4)
    wanted = F.relu(F.cosine_similarity(a, q) - F.cosine_similarity(a, p) + 0.3).mean()
    torch.testing.assert_close(triplet_loss(a, 7 * p, 0.1 * q, margin=0.3, distance="cosine"), wanted)


def test_without_a_triplet_the_loss_is_zero_and_trains_nothing() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    for reduction in ("mean", "active"):
        loss = triplet_loss(x[:0], x[:0], x[:0], margin=1.0, reduction=reduction)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.item() == 0 and not gradient.any()


def test_equal_points_have_a_finite_gradient_at_every_distance() -> None:
    for distance in DISTANCES:
        x = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(triplet_loss(x, x, 1 * x, margin="soft", distance=distance), x)  # type: ignore[arg-type]
        assert gradient.isfinite().all()


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("reduction", ["mean", "active"])
@pytest.mark.parametrize("soft", [False, True])
def test_losses_equal_those_of_pytorch_metric_learning(power: int, reduction: Any, soft: bool) -> None:
    from pytorch_metric_learning import distances, losses, reducers

    reducer = reducers.MeanReducer() if reduction == "mean" else reducers.AvgNonZeroReducer()
    metric = distances.LpDistance(normalize_embeddings=False, power=power)
    # its smooth form keeps the margin inside: 0 there is the soft margin of the paper
    theirs = losses.TripletMarginLoss(
        margin=0.0 if soft else 0.7, smooth_loss=soft, distance=metric, reducer=reducer
    )
    x, labels = draw(1, 12, 5), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 0, 1])
    t = batch_triplets(x, labels, kind="all")
    ours = triplet_loss(
        *(x[i] for i in t),
        margin="soft" if soft else 0.7,
        distance="squared" if power == 2 else "euclidean",
        reduction=reduction,
    )
    torch.testing.assert_close(ours, theirs(x, labels, indices_tuple=t))


def test_the_cosine_loss_equals_that_of_pytorch_metric_learning() -> None:
    from pytorch_metric_learning import distances, losses, reducers

    theirs = losses.TripletMarginLoss(
        margin=0.2, distance=distances.CosineSimilarity(), reducer=reducers.MeanReducer()
    )
    x, labels = draw(2, 12, 5), torch.arange(12) % 3
    t = batch_triplets(x, labels, kind="all")
    ours = triplet_loss(*(x[i] for i in t), margin=0.2, distance="cosine")
    torch.testing.assert_close(ours, theirs(x, labels, indices_tuple=t))


def test_the_head_puts_the_loss_on_what_it_embeds() -> None:
    h = blocks.build("triplet", width=6, embedding_width=4, margin=5).double()
    a, p, q = draw(3, 3, 7, 6)
    torch.testing.assert_close(h.loss(a, p, q), triplet_loss(h(a), h(p), h(q), margin=5.0))
    unit = blocks.build(
        "triplet", width=6, embedding_width=4, normalise=True, relu=False, distance="cosine", margin=0.2
    ).double()
    torch.testing.assert_close(unit(a).norm(dim=-1), torch.ones(7, dtype=torch.float64))
    assert h(a).min() >= 0


@pytest.mark.parametrize(
    "options",
    [{"margin": 0.0}, {"margin": float("inf")}, {"margin": "hard"}, {"distance": "l1"}, {"reduction": "sum"}],
)
def test_unknown_options_of_the_loss_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"margin must be|unknown (distance|reduction)"):
        triplet_loss(*draw(0, 3, 2, 2), **({"margin": 1.0} | options))


# --- choices within a batch -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    seed=seeds(),
    n=st.integers(2, 20),
    classes=st.integers(1, 5),
    kind=st.sampled_from(KINDS),
    distance=st.sampled_from(DISTANCES),
)
def test_a_batch_gives_the_triplets_pytorch_metric_learning_finds(
    seed: int, n: int, classes: int, kind: Any, distance: Any
) -> None:
    from pytorch_metric_learning import distances, miners

    x, labels = draw(seed, n, 3), torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))
    metric = {
        "squared": lambda: distances.LpDistance(normalize_embeddings=False, power=2),
        "euclidean": lambda: distances.LpDistance(normalize_embeddings=False, power=1),
        "cosine": distances.CosineSimilarity,
    }[distance]()
    miner = miners.BatchHardMiner if kind == "batch_hard" else miners.TripletMarginMiner
    own = {} if kind == "batch_hard" else {"margin": 1e9 if kind == "all" else 0.8, "type_of_triplets": kind}
    theirs = {tuple(t) for t in torch.stack(miner(distance=metric, **own)(x, labels)).T.tolist()}
    found = torch.stack(batch_triplets(x, labels, kind=kind, margin=0.8, distance=distance)).T.tolist()
    assert {tuple(t) for t in found} == theirs and len(found) == len(theirs)
    assert found == sorted(found)
    assert all(a != p and labels[a] == labels[p] != labels[q] for a, p, q in found)


def test_mining_in_pieces_finds_what_one_piece_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    from blocks.triplet import in_batch

    x, labels = draw(4, 20, 3), torch.arange(20) % 4
    whole = batch_triplets(x, labels, margin=1.0)
    monkeypatch.setattr(in_batch, "PIECE", 45)
    assert torch.equal(torch.stack(batch_triplets(x, labels, margin=1.0)), torch.stack(whole)) and len(
        whole[0]
    )


def test_a_batch_without_pairs_or_negatives_gives_none_of_every_kind() -> None:
    for labels in (torch.arange(4), torch.zeros(4, dtype=torch.long), torch.zeros(0, dtype=torch.long)):
        for kind in KINDS:
            assert all(len(t) == 0 for t in batch_triplets(draw(5, len(labels), 3), labels, kind=kind))  # type: ignore[arg-type]


def test_a_kind_is_named_with_its_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'semihard'"):
        batch_triplets(draw(0, 2, 2), torch.arange(2), kind="semi_hard")  # type: ignore[arg-type]


# --- classes ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    seed=seeds(),
    n=st.integers(4, 40),
    classes=st.integers(2, 8),
    cap=st.none() | st.integers(1, 5),
    ordered=st.booleans(),
)
def test_class_triplets_are_right_reproducible_and_complete(
    seed: int, n: int, classes: int, cap: int | None, ordered: bool
) -> None:
    labels = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))
    labels[:3] = torch.tensor([0, 0, 1])  # one pair and one negative at least
    miner = ClassTripletMiner(ap_pairs=cap, an_pairs=4, ordered=ordered)
    t = miner.mine(labels, seed)
    torch.randn(3)  # the global generator has no part in it
    assert rows(miner.mine(labels, seed)) == rows(t)
    assert all(a != p and labels[a] == labels[p] != labels[q] for a, p, q in rows(t))
    assert len(set(rows(t))) == len(t)
    sizes = labels.bincount(minlength=classes).tolist()
    pairs = [k * (k - 1) // (1 if ordered else 2) for k in sizes]
    wanted = sum(min(p, cap or p) * min(n - k, 4) for k, p in zip(sizes, pairs, strict=True))
    assert len(t) == wanted and t.centres == sum(k > 0 for k in sizes) and t.no_pair == sizes.count(1)


def test_the_published_counts_of_speaker_triplets_come_out() -> None:
    """3 + 1 utterances, 50 negatives: 200 triplets a speaker train and 100 validate (726,200 and 363,100 for 3,631 speakers)."""
    labels = torch.arange(30).repeat_interleave(4)
    train, validation = ClassTripletMiner(an_pairs=50).mine(labels, 0).split(0.7)
    assert (len(train), len(validation)) == (30 * 200, 30 * 100)
    assert 3631 * 200 == 726_200 and 3631 * 100 == 363_100
    assert len(ClassTripletMiner(an_pairs=50, ordered=True).mine(labels, 0)) == 30 * 12 * 50


@settings(max_examples=25)
@given(seed=seeds(), share=st.floats(0, 1))
def test_a_split_keeps_every_pair_on_one_side_and_the_share_of_each_centre(seed: int, share: float) -> None:
    labels = torch.randint(5, (25,), generator=torch.Generator().manual_seed(seed))
    t = ClassTripletMiner(an_pairs=3).mine(labels, seed)
    train, validation = t.split(share)
    assert sorted(rows(train) + rows(validation)) == sorted(rows(t))
    assert not set(train.pair.tolist()) & set(validation.pair.tolist())
    for c in t.centre.unique():
        pairs = len(t.pair[t.centre == c].unique())
        assert len(train.pair[train.centre == c].unique()) == int(share * pairs + 1e-9)


@pytest.mark.parametrize(
    "labels", [torch.zeros(6, dtype=torch.long), torch.arange(6), torch.zeros(0, dtype=torch.long)]
)
def test_classes_that_give_no_triplet_are_one_clear_error(labels: Tensor) -> None:
    with pytest.raises(ConfigError, match="no triplet from") as caught:
        ClassTripletMiner().mine(labels, 0)
    assert "\n" not in str(caught.value)


# --- a continuous target ----------------------------------------------------------------------------------------------

MINERS = st.builds(
    RegressionTripletMiner,
    pos_radius=st.floats(0.02, 0.2),
    neg_radius=st.floats(0.25, 0.8),
    run=st.integers(2, 15),
    pairs=st.integers(1, 10),
    negatives=st.integers(1, 10),
    index_runs=st.booleans(),
)


@settings(max_examples=50)
@given(seed=seeds(), n=st.integers(2, 60), miner=MINERS)
def test_regression_triplets_keep_their_bounds_and_are_reproducible(
    seed: int, n: int, miner: RegressionTripletMiner
) -> None:
    y = 2 * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    y[:2] = torch.tensor([-1.0, -1.0])
    y = torch.cat([y, torch.ones(1, dtype=torch.float64)])  # a pair, and one item far from it
    t = miner.mine(y, seed)
    torch.randn(3)
    again = miner.mine(y, seed)
    assert rows(again) == rows(t) and torch.equal(again.pair, t.pair)
    a, p, q = t.of(y)
    assert (t.anchor != t.positive).all()
    assert ((a - p).abs() <= 2 * miner.pos_radius + 1e-12).all() and (
        (a - q).abs() >= miner.neg_radius - miner.pos_radius - 1e-12
    ).all()
    centre = y[t.centre]
    assert ((a - centre).abs() <= miner.pos_radius).all() and ((q - centre).abs() >= miner.neg_radius).all()
    assert t.centres == n + 1 and 0 <= t.no_pair + t.no_negative <= t.centres
    for c in t.centre.unique():
        near = int(((y - y[c]).abs() <= miner.pos_radius).sum())
        far = int(((y - y[c]).abs() >= miner.neg_radius).sum())
        pairs = (
            near * (near - 1) // 2
            if near <= miner.run
            else min(miner.pairs, miner.run * (miner.run - 1) // 2)
        )
        if not miner.index_runs and near > miner.run:
            pairs = min(miner.pairs, near * (near - 1) // 2)
        mine = t.centre == c
        assert int(mine.sum()) == pairs * (far if far <= miner.run else min(miner.negatives, far))
        assert len({frozenset(r[:2]) for r, m in zip(rows(t), mine.tolist(), strict=True) if m}) == pairs


def test_centres_that_give_nothing_are_counted_by_reason() -> None:
    """0 and 0.05 pair up and have 1 far away; 1 has nobody near; 0.52 has nobody near and nobody far."""
    t = RegressionTripletMiner().mine(torch.tensor([0.0, 0.05, 1.0, 0.52]), 0)
    assert (t.centres, t.no_pair, t.no_negative) == (4, 2, 0)
    assert set(rows(t)) == {(0, 1, 2), (0, 1, 3)}
    near = RegressionTripletMiner().mine(torch.tensor([0.0, 0.0, 0.45, 0.45, 0.95, 0.95]), 0)
    assert (near.no_pair, near.no_negative) == (0, 0)
    lonely = RegressionTripletMiner(neg_radius=0.6).mine(torch.tensor([0.0, 0.0, 0.45, 0.45, 0.95, 0.95]), 0)
    assert (lonely.no_pair, lonely.no_negative) == (0, 2), "0.45 has nobody 0.6 away"


@pytest.mark.parametrize("labels", [[0.0, 0.0, 0.1], [0.0, 1.0, 2.0], [], [0.0, float("nan")]])
def test_targets_that_give_no_triplet_are_one_clear_error(labels: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"no triplet from|finite numbers") as caught:
        RegressionTripletMiner().mine(torch.tensor(labels), 0)
    assert "\n" not in str(caught.value)


def test_an_index_run_pairs_neighbours_in_the_table_and_the_free_draw_pairs_anybody() -> None:
    """100 equal labels: runs of 15 never pair rows more than 14 apart, whatever the centre; so the row order matters."""
    y = torch.cat([torch.zeros(100), torch.ones(1)])
    runs, free = RegressionTripletMiner().mine(y, 0), RegressionTripletMiner(index_runs=False).mine(y, 0)
    assert int((runs.anchor - runs.positive).abs().max()) <= 14
    assert int((free.anchor - free.positive).abs().max()) > 50
    reached = set(runs.anchor.tolist()) | set(runs.positive.tolist())
    assert max(reached) == 99, "the original never starts the last run and so never draws the last item"


def test_the_published_counts_of_regression_triplets_come_out() -> None:
    """Plenty on both sides: 10 pairs times 10 negatives a centre, 7 of the pairs train."""
    y = torch.cat([torch.zeros(20), torch.ones(20)])
    train, validation = RegressionTripletMiner().mine(y, 1).split()
    assert (len(train), len(validation)) == (40 * 70, 40 * 30)


@settings(max_examples=30)
@given(seed=seeds(), n=st.integers(2, 12), count=st.integers(1, 80))
def test_pairs_drawn_by_number_are_the_pairs_there_are(seed: int, n: int, count: int) -> None:
    found = [tuple(pair) for pair in _some_pairs(n, count, torch.Generator().manual_seed(seed)).tolist()]
    every = set(combinations(range(n), 2))
    assert len(found) == len(set(found)) == min(count, len(every)) and set(found) <= every


@pytest.mark.parametrize(
    "options", [{"pos_radius": 0.6}, {"pos_radius": -0.1}, {"run": 1}, {"pairs": 0}, {"negatives": 0}]
)
def test_impossible_miners_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="RegressionTripletMiner: "):
        RegressionTripletMiner(**options)
