"""Retrieval on small public sets: encoders pretrained at one budget, fine-tuned with equal effort, beside BM25 and chance.

Learning rates are chosen by nDCG@10 on queries held out of the training part; what is reported no choice has looked at. Every text is cut
at the same number of tokens for every method.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arch_lab.data import DataError, Tokenizer
from arch_lab.data.files import file_hash
from arch_lab.study.pretrained import PretrainedArm, pretrained_arms
from arch_lab.study.run import MODEL
from arch_lab.tasks import TaskEngine
from arch_lab.tasks.contract import Cell, Fitted, Method, Task, TaskStudyConfig, Tell
from blocks.errors import ConfigError
from experiments.retrieval.baselines import BM25Index, Chance, bm25s_library
from experiments.retrieval.config import RetrievalStudyConfig, RetrievalTraining
from experiments.retrieval.encoder import TextEncoder, text_encoder, token_rows
from experiments.retrieval.readers import RetrievalSet, read_retrieval
from experiments.retrieval.scoring import NDCG, evaluate, measures_of

ZERO_SHOT = "_zero_shot"  # behind the name of an arm
BASELINES = ("bm25", "bm25_whole", "random")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One set as the methods are shown it: ids -> token ids, and what those say. (Ids of queries and documents may be the same.)"""

    data: RetrievalSet
    training: RetrievalTraining
    query_rows: Mapping[str, np.ndarray]
    document_rows: Mapping[str, np.ndarray]
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    facts: Mapping[str, Any]

    @property
    def asked(self) -> dict[str, str]:
        """Every query of the set, whole."""
        return {query: text for split in self.data.queries.values() for query, text in split.items()}

    @property
    def scored(self) -> list[str]:
        """The documents that a tuning or a reported query ranks."""
        if self.data.candidates is None:
            return list(self.data.documents)
        queries = [*self.data.queries["tune"], *self.data.queries["test"]]
        return list(dict.fromkeys(document for query in queries for document in self.data.candidates[query]))


class PreparedRetrieval:
    """Sets, tokens and arms of one study (arch_lab.tasks.contract.Prepared)."""

    def __init__(
        self,
        config: RetrievalStudyConfig,
        arms: list[PretrainedArm],
        sets: list[RetrievalSet],
        absent: dict[str, str],
    ) -> None:
        self.config, self.arms, self.absent = config, arms, absent
        bodies = {arm.name: text_encoder(arm, config.training) for arm in arms}
        tokenizer = one_tokenizer(bodies)
        self.shown = {data.name: shown(data, config.training_of(data.name), tokenizer) for data in sets}
        for name, encoder in bodies.items():
            for task, each in self.shown.items():
                longest = max(each.training.query_tokens, each.training.document_tokens)
                if longest > encoder.body.max_tokens:
                    raise ConfigError(
                        f"{task}: texts of {longest} tokens, but {name} was pretrained on {encoder.body.max_tokens}; "
                        "lower training.document_tokens or training.query_tokens"
                    )
            if config.zero_shot and (
                config.training.projection is not None or next(encoder.pooler.parameters(), None) is not None
            ):
                raise ConfigError(
                    f"zero_shot: pooler {config.training.pooler!r} or the projection has weights that pretraining did not train; "
                    "set zero_shot: false"
                )
        self.methods = self._methods(bodies)
        self.tasks = tuple(
            Task(name=name, measures=measures_of(each.data), counted=(NDCG.key,), facts=dict(each.facts))
            for name, each in self.shown.items()
        )
        self._bodies = [
            tokenizer.fingerprint,
            *(f"{arm.name} {file_hash(arm.first / MODEL)}" for arm in arms),
        ]
        self._indices: dict[tuple[str, bool], BM25Index] = {}

    def fingerprint(self, task: str) -> str:
        return hashlib.sha256(
            " ".join([self.shown[task].data.fingerprint, *self._bodies]).encode()
        ).hexdigest()

    def _methods(self, encoders: Mapping[str, TextEncoder]) -> tuple[Method, ...]:
        lengths = [
            (each.training.query_tokens, each.training.document_tokens) for each in self.shown.values()
        ]
        found = []
        for arm in self.arms:
            encoder = encoders[arm.name]
            costs = {
                f"FLOPs, {n} tokens": encoder.flops(n) for n in sorted({n for both in lengths for n in both})
            }
            facts = {
                "texts": "cut",
                "parameters": sum(p.numel() for p in encoder.parameters()),
                "embedding": arm.entry["parameters"]["embedding"],
                **costs,
                "pretrained": f"{arm.score} at {arm.learning_rate:g}, seed {next(iter(arm.runs))}",
            }
            found.append(Method(name=arm.name, facts=facts, code=arm.code))
            if self.config.zero_shot:
                name = arm.name + ZERO_SHOT
                found.append(
                    Method(name=name, tuned=False, seeded=False, baseline=True, facts=facts, code=arm.code)
                )
        found += [
            Method(
                name="bm25",
                tuned=False,
                seeded=False,
                baseline=True,
                facts={"texts": "cut, as for the encoders"},
            ),
            Method(name="bm25_whole", tuned=False, seeded=False, baseline=True, facts={"texts": "whole"}),
            Method(name="random", tuned=False, baseline=True),
        ]
        # the arms first, as in the verdict
        return tuple(sorted(found, key=lambda method: method.baseline))

    def fit(self, cell: Cell, folder: Path, tell: Tell) -> Fitted:
        each = self.shown[cell.task]
        started = time.perf_counter()
        arm = next((arm for arm in self.arms if cell.method in (arm.name, arm.name + ZERO_SHOT)), None)
        if arm is not None:
            return self._encoder(cell, each, arm, tell)
        if cell.method == "random":
            scorer: Any = Chance(each.data.documents, each.asked, seed=cell.seed)
        else:
            scorer = self._index(cell.task, whole=cell.method == "bm25_whole")
        return Fitted(
            scores=evaluate(each.data, "test", scorer), facts={"seconds": time.perf_counter() - started}
        )

    def finish(self, chosen: dict[tuple[str, str], list[Path]], folder: Path, tell: Tell) -> list[str]:
        constants = self.config.bm25
        notes = [f"{name}: {note}" for name, each in self.shown.items() for note in each.data.notes]
        return [*notes, f"bm25: Lucene's formula, k1 {constants.k1:g}, b {constants.b:g}, not tuned"]

    def _encoder(self, cell: Cell, each: Shown, arm: PretrainedArm, tell: Tell) -> Fitted:
        from lightning.pytorch.utilities.seed import isolate_rng

        from experiments.retrieval.training import PairLoader, PairOrder, fine_tune

        started = time.perf_counter()
        facts: dict[str, Any] = {"steps": 0}
        curve: tuple[tuple[int, str, float], ...] = ()
        with isolate_rng():
            torch.manual_seed(cell.seed)
            encoder = text_encoder(arm, each.training)
            if cell.learning_rate is not None:
                order = PairOrder(each.data, each.training, self._pools(cell.task), seed=cell.seed)
                loader = PairLoader(
                    each.data, order, each.training, queries=each.query_rows, documents=each.document_rows
                )
                fitted = fine_tune(
                    encoder, loader, each.training, learning_rate=cell.learning_rate, report=tell
                )
                facts = {
                    "steps": order.steps,
                    "pairs": len(order.pairs),
                    "training seconds": time.perf_counter() - started,
                }
                if fitted.diverged:
                    return Fitted(scores=None, facts={**facts, "seconds": time.perf_counter() - started})
                curve = fitted.curve()
            tell(f"encoding {len(each.scored):,} documents")
            scorer = Cosine(encoder, each)
        return Fitted(
            scores=evaluate(each.data, "test", scorer),
            tuned=None if cell.learning_rate is None else evaluate(each.data, "tune", scorer)[NDCG.key],
            facts={**facts, "seconds": time.perf_counter() - started},
            curve=curve,
        )

    def _index(self, task: str, *, whole: bool) -> BM25Index:
        if (task, whole) not in self._indices:
            each, constants = self.shown[task], self.config.bm25
            documents, queries = (
                (each.data.documents, each.asked) if whole else (each.documents, each.queries)
            )
            self._indices[task, whole] = BM25Index(documents, queries, k1=constants.k1, b=constants.b)
        return self._indices[task, whole]

    def _pools(self, task: str) -> dict[str, list[str]]:
        """Training query -> documents its negatives are drawn from."""
        each = self.shown[task]
        t, data = each.training, each.data
        if not t.negatives:
            return {}
        pools = {query: data.irrelevant(query) for query in data.queries["train"]}
        if data.candidates is not None or t.negatives_from == "random":
            return pools
        index = self._index(task, whole=False)
        for query, pool in pools.items():
            best = np.argsort(-index([query], pool)[0], kind="stable")[: t.negative_pool]
            pools[query] = [pool[i] for i in best]
        return pools


class Cosine:
    """``scorer(queries, documents)``: cosines (Q, N) in float32 of vectors made once."""

    def __init__(self, encoder: TextEncoder, each: Shown) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        queries = [*each.data.queries["tune"], *each.data.queries["test"]]
        t = each.training
        self.queries = encoder.encode(
            [each.query_rows[q] for q in queries], max_tokens=t.query_tokens, device=device
        )
        self.documents = encoder.encode(
            [each.document_rows[d] for d in each.scored], max_tokens=t.document_tokens, device=device
        )
        self.row = {query: at for at, query in enumerate(queries)}
        self.column = {document: at for at, document in enumerate(each.scored)}

    def __call__(self, queries: list[str], documents: list[str]) -> np.ndarray:
        scores: np.ndarray = (
            self.queries[[self.row[q] for q in queries]]
            @ self.documents[[self.column[d] for d in documents]].T
        )
        return scores


def one_tokenizer(encoders: Mapping[str, TextEncoder]) -> Tokenizer:
    """Raises: ConfigError when arms cut text differently, or an arm reads no text at all."""
    found = {name: encoder.body.tokenizer for name, encoder in encoders.items()}
    missing = [name for name, tokenizer in found.items() if tokenizer is None]
    if missing:
        raise ConfigError(f"arm {missing[0]!r} was trained without a tokenizer, so it cannot read text")
    (first, tokenizer), *others = found.items()
    for name, other in others:
        if other.fingerprint != tokenizer.fingerprint:  # type: ignore[union-attr]
            raise ConfigError(
                f"arms {first!r} and {name!r} have different tokenizers, so they would read different texts"
            )
    assert tokenizer is not None
    return tokenizer


def shown(data: RetrievalSet, training: RetrievalTraining, tokenizer: Tokenizer) -> Shown:
    """The set, cut where ``training`` says, the same for whoever asks. Raises: DataError for fewer training pairs than a batch takes."""
    pairs = len(data.pairs("train"))
    if pairs < training.batch_size:
        raise DataError(
            f"{data.name}: {pairs} training pairs, fewer than training.batch_size {training.batch_size}"
        )
    asked = {query: text for split in data.queries.values() for query, text in split.items()}
    document_rows, long_documents = token_rows(
        tokenizer, list(data.documents.values()), max_tokens=training.document_tokens
    )
    query_rows, long_queries = token_rows(tokenizer, list(asked.values()), max_tokens=training.query_tokens)
    documents = dict(zip(data.documents, document_rows, strict=True))
    queries = dict(zip(asked, query_rows, strict=True))
    facts = {
        "train / tune / reported": " / ".join(str(len(each)) for each in data.queries.values()),
        "pairs": pairs,
        "documents": len(data.documents),
        "ranks": "all" if data.candidates is None else "own candidates",
        "query": f"{training.query_tokens} tokens ({long_queries / len(asked):.0%} cut)",
        "document": f"{training.document_tokens} tokens ({long_documents / len(data.documents):.0%} cut)",
        "loss": f"{training.loss}, {training.negatives} negatives",
    }
    return Shown(
        data=data,
        training=training,
        query_rows=queries,
        document_rows=documents,
        documents={key: tokenizer.decode(row) for key, row in documents.items()},
        queries={key: tokenizer.decode(row) for key, row in queries.items()},
        facts=facts,
    )


class Retrieval:
    """The experiment as the engine of task studies sees it (arch_lab.tasks.contract.TaskExperiment)."""

    config: type[TaskStudyConfig] = RetrievalStudyConfig

    def open(self, config: RetrievalStudyConfig, cache: Path, tell: Tell) -> PreparedRetrieval:
        bm25s_library()  # asked for now, not after an hour
        arms = list(pretrained_arms(config.pretrained, config.arms or ()).values())
        taken = {*BASELINES, *(arm.name + ZERO_SHOT for arm in arms)} & {arm.name for arm in arms}
        if taken:
            raise ConfigError(
                f"arm {sorted(taken)[0]!r} has the name of a baseline; rename it in the study {config.pretrained}"
            )
        sets, absent = [], {}
        for name in config.tasks:
            try:
                tell(f"reading {name}")
                sets.append(read_retrieval(name, config.folder, complete=config.complete))
            except DataError as error:
                absent[name] = str(error)
        if not sets:
            raise DataError(f"none of the sets can be read: {absent[config.tasks[0]]}")
        return PreparedRetrieval(config, arms, sets, absent)


EXPERIMENT = TaskEngine(Retrieval())
