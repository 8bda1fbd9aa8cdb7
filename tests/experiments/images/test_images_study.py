"""The images experiment: a tiny study from files to verdict, its metrics, baselines and certificate, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import Tensor

import arch_lab
from arch_lab.budget import BudgetError
from arch_lab.models import ImageClassifier, Shape, recipe
from arch_lab.study.study import Study
from blocks.errors import ConfigError
from experiments.images.baselines import image_baselines
from experiments.images.certificate import certify_images
from experiments.images.data import ImageBatch, ImagesConfig, prepare_images
from experiments.images.model import ImageModel, image_metrics
from tests.experiments.images.image_files import write_mnist

Compared = tuple[Path, Study]
M2 = {"filter_order": 16, "filter_emb": 5}


def study(folder: Path, name: str = "tiny", **changes: Any) -> Path:
    """A study of the look-alike of MNIST; ``changes`` replace top-level keys."""
    if not (folder / "data").exists():
        write_mnist(folder / "data", train=40, test=8)
    content: dict[str, Any] = {
        "description": "tiny",
        "experiment": "images",
        "arms": [
            {"architecture": "m2_vit", "options": M2},
            {"architecture": "vit", "options": {"head_width": 8, "pool": "mean"}},
        ],
        "budget": {"params": 6.0e4, "train_flops": 6.0e9},
        "data": {"source": "mnist", "root": str(folder / "data"), "patch": 7, "tune_fraction": 0.2},
        "objective": {"label_smoothing": 0.05},
        "training": {"batch_size": 16, "evaluations": 2},
        "learning_rates": [0.004],
        "seeds": [0, 1],
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("images")
    return folder, arch_lab.compare(
        str(study(folder)), output=folder / "runs", cache=folder / "cache", quiet=True
    )


def test_a_study_ends_in_a_verdict_about_nats_per_image(compared: Compared) -> None:
    folder, result = compared
    assert result.matched and result.primary.key == "cross_entropy"
    assert "nats per image" in result.verdict.text
    for run in result.results:
        assert run.status == "finished" and run.scores["cross_entropy"] < math.log(10)
        assert 0.1 < run.scores["top1_accuracy"] <= run.scores["top5_accuracy"] <= 1
        assert run.scores["images_per_second"] == pytest.approx(run.tokens_per_second / 16)
    assert [b.name for b in result.baselines] == ["majority class", "linear softmax"]
    page = (folder / "runs/tiny/report.html").read_text()
    assert all(word in page for word in ("nats per image", "top-5 accuracy", "linear softmax", "images"))
    assert (folder / "runs/tiny/results.csv").read_text().startswith("arm,")
    assert len(list((folder / "runs/tiny").glob("runs/*/*/events.out.tfevents*"))) == 4


def test_arms_are_matched_on_parameters_and_training_flops(compared: Compared) -> None:
    for arm in compared[1].arms:
        model = recipe(arm.architecture, arm.options).model(arm.shape, vocabulary=10, max_tokens=16)
        assert isinstance(model, ImageClassifier)
        assert arm.parameters["total"] == sum(p.numel() for p in model.parameters())
        assert arm.parameters["body"] + arm.parameters["head"] == pytest.approx(6e4, rel=0.01)
        assert arm.flops_per_token * 16 * 16 * arm.steps == pytest.approx(6e9, rel=0.01)
        assert arm.options["image"] == [28, 28] and arm.options["patch"] == 7


def test_every_arm_has_a_certificate_and_a_model_that_loads(compared: Compared) -> None:
    folder = compared[0] / "runs/tiny"
    for arm in ("m2_vit", "vit"):
        assert json.loads((folder / f"certificates/{arm}.json").read_text())["kind"] == "images"
        loaded = arch_lab.load(folder / f"runs/{arm}/lr-0.004_seed-0")
        assert loaded.model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)  # type: ignore[operator]


def test_the_same_command_again_keeps_every_run(compared: Compared) -> None:
    folder, result = compared
    events: list[str] = []
    again = arch_lab.compare(
        str(study(folder)),
        output=folder / "runs",
        cache=folder / "cache",
        observer=lambda event, facts: events.append(event),
    )
    assert events[-1] == "report" and "run" not in events
    assert again.results == result.results


def test_a_linear_model_beats_the_class_shares_where_pixels_tell(tmp_path: Path) -> None:
    write_mnist(tmp_path, train=40, test=8)
    data = prepare_images(
        ImagesConfig(source="mnist", root=str(tmp_path), tune_fraction=0.2), tmp_path / "cache"
    )
    majority, linear = image_baselines(data)
    expected = {"cross_entropy": math.log(10), "top1_accuracy": 0.1, "top5_accuracy": 0.5}
    assert majority.scores == pytest.approx(expected)
    assert linear.scores["cross_entropy"] < 1.5 and linear.scores["top1_accuracy"] > 0.7
    assert image_baselines(data)[1] == linear


def test_metrics_are_those_of_scikit_learn_whatever_the_batches() -> None:
    scores, labels = torch.randn(37, 10), torch.randint(10, (37,))
    metrics = image_metrics()
    for part in (slice(0, 5), slice(5, 37)):
        metrics.update(scores[part], labels[part])
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["cross_entropy"] == pytest.approx(
        log_loss(labels, scores.double().softmax(1), labels=range(10)), rel=1e-5
    )
    for k in (1, 5):
        assert found[f"top{k}_accuracy"] == pytest.approx(
            top_k_accuracy_score(labels, scores, k=k, labels=range(10))
        )


def test_label_smoothing_changes_the_loss_and_no_metric() -> None:
    settings = {
        "architecture": "vit",
        "options": {"image": [8, 8], "patch": 4, "head_width": 8},
        "width": 16,
        "depth": 1,
        "ffn_width": 16,
    }
    torch.manual_seed(0)
    plain = ImageModel(**settings, vocabulary=5, max_tokens=4)
    smooth = ImageModel(label_smoothing=0.1, **settings, vocabulary=5, max_tokens=4)
    smooth.load_state_dict(plain.state_dict())
    batch = ImageBatch(images=torch.randn(4, 3, 8, 8), labels=torch.tensor([0, 1, 2, 3]))
    logs = plain.model(batch.images).log_softmax(1)
    right, spread = -logs[range(4), range(4)].mean(), -logs.mean()
    torch.testing.assert_close(plain.training_step(batch, 0), right)
    torch.testing.assert_close(smooth.training_step(batch, 0), 0.9 * right + 0.1 * spread)


class OverTheBatch(ImageClassifier):
    """A model that centres its features over the batch, as batch norm in training mode does."""

    def features(self, images: Tensor) -> Tensor:
        x = super().features(images)
        return x - x.mean(dim=0)


class HalfBlind(ImageClassifier):
    def hidden(self, images: Tensor) -> Tensor:
        return super().hidden(images * (torch.arange(8) < 4))


def test_the_certificate_fails_models_that_mix_images_or_are_blind() -> None:
    config = recipe("vit", {"image": [8, 8], "channels": 1, "patch": 4, "head_width": 8}).config(
        Shape(width=16, depth=1, ffn_width=16), vocabulary=5, max_tokens=4
    )
    honest = ImageClassifier(config)  # type: ignore[arg-type]
    kept = [p.clone() for p in honest.parameters()]
    assert certify_images(honest).passed
    assert all(torch.equal(a, b) for a, b in zip(kept, honest.parameters(), strict=True))
    assert "depend on the other images" in certify_images(OverTheBatch(config)).reason  # type: ignore[arg-type]
    assert "do not react to patch 1" in certify_images(HalfBlind(config)).reason  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arms": [{"name": "words", "architecture": "gemma3"}]},
            r"arm 'words': architecture 'gemma3' reads tokens.*m2_vit, vit",
        ),
        ({"arms": [{"architecture": "m2_bert"}]}, "'m2_bert' reads tokens of text, not pixels"),
        ({"data": {"source": "mnits"}}, "did you mean 'mnist'"),
        ({"data": {"source": "mnist", "patch": 5}}, "28 x 28 pixels cannot be cut into patches of 5 x 5"),
        ({"data": {"source": "mnist", "tokenizer": {}}}, "unknown option 'tokenizer'"),
        ({"objective": {"label_smothing": 0.1}}, "did you mean 'label_smoothing'"),
        ({"objective": {"label_smoothing": 1.0}}, "label_smoothing: must be below 1, got 1"),
        (
            {"training": {"sequence_length": 64}},
            "is 64, but an image of 28 x 28 pixels in patches of 4 is 49 tokens",
        ),
        ({"arms": [{"architecture": "vit", "options": {"patch": 7}}]}, "patch is set by the data"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_file_is_read(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_mnist(tmp_path / "data", train=2, test=1)
    path = study(tmp_path, **{"data": {"source": "mnist"}, **changes})
    with pytest.raises(ConfigError, match=message) as caught:
        arch_lab.plan(str(path))
    assert "\n" not in str(caught.value)


def test_arms_that_miss_the_budget_are_refused(tmp_path: Path) -> None:
    shapes = [{"width": 32, "depth": 2, "ffn_width": 64}, {"width": 32, "depth": 3, "ffn_width": 64}]
    arms = [
        {"name": f"arm{i}", "architecture": "vit", "options": {"head_width": 8}, "shape": shape}
        for i, shape in enumerate(shapes)
    ]
    with pytest.raises(BudgetError, match=r"refused: arm 'arm1' is .* on params"):
        arch_lab.plan(str(study(tmp_path, arms=arms, budget={"params": 18_000, "train_flops": 4.0e9})))


def test_a_text_study_refuses_an_image_arm_and_a_masked_one_too(tmp_path: Path) -> None:
    for experiment in ("perplexity", "masked"):
        path = study(
            tmp_path,
            experiment=experiment,
            data={"source": "embedded"},
            objective={},
            arms=[{"architecture": "vit"}],
        )
        with pytest.raises(ConfigError, match="'vit' classifies images: it reads pixels, not tokens; choose"):
            arch_lab.plan(str(path))
