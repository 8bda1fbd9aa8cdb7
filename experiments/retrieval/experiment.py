"""Retrieval on small public sets: pretrained encoders, fine-tuned with equal effort, beside BM25 and chance.

Learning rates are chosen by nDCG@10 on queries held out of the training part; what is reported no choice has
looked at. Every text is cut at the same number of tokens for every method.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from arch_lab.checkpoints.opening import MODEL
from arch_lab.data import DataError, Tokenizer
from arch_lab.data.files import file_hash
from arch_lab.judge.measures import Task
from arch_lab.judge.records import Record
from arch_lab.stored import Facts
from arch_lab.study.open_study import Experiment, Progress
from arch_lab.study.plan import PlannedArm
from arch_lab.study.pretrained import PretrainedArm, pretrained_arms
from arch_lab.study.task_study import Curve, Fitted, TaskStudy
from arch_lab.study.trial import Job, Trial
from blocks.errors import ConfigError
from experiments.retrieval.baselines import BM25Index, Chance, bm25s_library
from experiments.retrieval.config import RetrievalStudyConfig
from experiments.retrieval.encoder import TextEncoder, text_encoder
from experiments.retrieval.readers import RetrievalSet, read_retrieval
from experiments.retrieval.scoring import NDCG, Scorer, evaluate, measures_of
from experiments.retrieval.texts import CutTexts, cut_texts

ZERO_SHOT = "_zero_shot"  # behind the name of an arm
BASELINES = ("bm25", "bm25_whole", "random")


class RetrievalStudy(TaskStudy):
    """One study of retrieval.

    ``bodies``: the pretrained arms; ``texts``: the sets by name, as every method reads them.
    """

    config: RetrievalStudyConfig
    bodies: list[PretrainedArm]
    texts: dict[str, CutTexts]

    def __init__(self, config: RetrievalStudyConfig) -> None:
        super().__init__(config)
        self._indices: dict[tuple[str, bool], BM25Index] = {}  # a memo, not state

    def read(self, progress: Progress) -> None:
        config = self.config
        bm25s_library()  # required now, not after an hour
        self.bodies = list(pretrained_arms(config.pretrained, config.arms or ()).values())
        check_names(config, self.bodies)
        sets, self.absent = read_sets(config, progress)
        encoders = {arm.name: text_encoder(arm, config.training) for arm in self.bodies}
        tokenizer = one_tokenizer(encoders)
        self.texts = {data.name: cut_texts(data, config.training_of(data.name), tokenizer) for data in sets}
        check_encoders(config, encoders, self.texts)
        self.tasks = tuple(
            Task(name=name, measures=measures_of(texts.data), counted=(NDCG.key,), facts=texts.facts)
            for name, texts in self.texts.items()
        )
        self.arms = planned_arms(config, self.bodies, encoders, self.texts)
        weights = [f"{arm.name} {file_hash(arm.first / MODEL)}" for arm in self.bodies]
        self._pretraining = [tokenizer.fingerprint, *weights]

    def fingerprint(self, task: str) -> str:
        parts = [self.texts[task].data.fingerprint, *self._pretraining]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def fit(self, trial: Trial, job: Job) -> Fitted:
        texts = self.texts[trial.task]
        started = time.perf_counter()
        arm = next((arm for arm in self.bodies if trial.arm in (arm.name, arm.name + ZERO_SHOT)), None)
        if arm is not None:
            return self._encoder(trial, texts, arm, job)
        scorer: Scorer
        if trial.arm == "random":
            scorer = Chance(texts.data.documents, texts.data.all_queries, seed=trial.seed)
        else:
            scorer = self.index(trial.task, whole=trial.arm == "bm25_whole")
        scores = evaluate(texts.data, "test", scorer)
        return Fitted(scores=scores, facts={"seconds": time.perf_counter() - started})

    def finish(self, study_folder: Path, records: Sequence[Record], progress: Progress) -> tuple[str, ...]:
        constants = self.config.bm25
        notes = [f"{name}: {note}" for name, texts in self.texts.items() for note in texts.data.notes]
        return (*notes, f"bm25: Lucene's formula, k1 {constants.k1:g}, b {constants.b:g}, not tuned")

    def _encoder(self, trial: Trial, texts: CutTexts, arm: PretrainedArm, job: Job) -> Fitted:
        """Fine-tune an encoder; without a learning rate score it as it comes from pretraining."""
        from lightning.pytorch.utilities.seed import isolate_rng

        from experiments.retrieval.training import PairLoader, PairOrder, fine_tune

        started = time.perf_counter()
        facts: Facts = {"steps": 0}
        curve: Curve = ()
        with isolate_rng():
            torch.manual_seed(trial.seed)
            encoder = text_encoder(arm, texts.training)
            if trial.learning_rate is not None:
                order = PairOrder(texts.data, texts.training, self.pools(trial.task), seed=trial.seed)
                outcome = fine_tune(
                    encoder,
                    PairLoader(texts, order),
                    texts.training,
                    learning_rate=trial.learning_rate,
                    report=job.step,
                )
                seconds = time.perf_counter() - started
                facts = {"steps": order.steps, "pairs": len(order.pairs), "training seconds": seconds}
                if outcome.diverged:
                    return Fitted(scores=None, facts={**facts, "seconds": time.perf_counter() - started})
                curve = outcome.curve()
            job.detail(f"encoding {len(texts.scored):,} documents")
            scorer = Cosine(encoder, texts)
        return Fitted(
            scores=evaluate(texts.data, "test", scorer),
            tuned=None if trial.learning_rate is None else evaluate(texts.data, "tune", scorer)[NDCG.key],
            facts={**facts, "seconds": time.perf_counter() - started},
            curve=curve,
        )

    def index(self, task: str, *, whole: bool) -> BM25Index:
        """BM25 of the documents of a set, cut as for the encoders or whole."""
        if (task, whole) not in self._indices:
            texts, constants = self.texts[task], self.config.bm25
            documents = texts.data.documents if whole else texts.documents
            queries = texts.data.all_queries if whole else texts.queries
            self._indices[task, whole] = BM25Index(documents, queries, k1=constants.k1, b=constants.b)
        return self._indices[task, whole]

    def pools(self, task: str) -> dict[str, list[str]]:
        """Training query -> documents its negatives are drawn from."""
        texts = self.texts[task]
        training, data = texts.training, texts.data
        if not training.negatives:
            return {}
        pools = {query: data.irrelevant(query) for query in data.training_queries}
        if data.candidates is not None or training.negatives_from == "random":
            return pools
        index = self.index(task, whole=False)
        for query, pool in pools.items():
            best = np.argsort(-index([query], pool)[0], kind="stable")[: training.negative_pool]
            pools[query] = [pool[i] for i in best]
        return pools


class Cosine:
    """``scorer(queries, documents)``: cosines (Q, N) in float32 of vectors made once."""

    def __init__(self, encoder: TextEncoder, texts: CutTexts) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        queries = texts.data.scored_queries
        query_rows = [texts.query_rows[query] for query in queries]
        document_rows = [texts.document_rows[document] for document in texts.scored]
        training = texts.training
        self.queries = encoder.encode(query_rows, max_tokens=training.query_tokens, device=device)
        self.documents = encoder.encode(document_rows, max_tokens=training.document_tokens, device=device)
        self.row = {query: at for at, query in enumerate(queries)}
        self.column = {document: at for at, document in enumerate(texts.scored)}

    def __call__(self, queries: list[str], documents: list[str]) -> np.ndarray:
        query_vectors = self.queries[[self.row[query] for query in queries]]
        scores: np.ndarray = query_vectors @ self.documents[[self.column[each] for each in documents]].T
        return scores


def read_sets(config: RetrievalStudyConfig, progress: Progress) -> tuple[list[RetrievalSet], dict[str, str]]:
    """Sets that can be read, and of the others why not. Raises: DataError when there is none."""
    sets, absent = [], {}
    for name in config.tasks:
        try:
            progress(f"reading {name}")
            sets.append(read_retrieval(name, config.folder, complete=config.complete))
        except DataError as error:
            absent[name] = str(error)
    if not sets:
        raise DataError(f"none of the sets can be read: {absent[config.tasks[0]]}")
    return sets, absent


def check_names(config: RetrievalStudyConfig, arms: Sequence[PretrainedArm]) -> None:
    """Raises: ConfigError for an arm with the name of a baseline."""
    names = {arm.name for arm in arms}
    clash = sorted({*BASELINES, *(name + ZERO_SHOT for name in names)} & names)
    if clash:
        raise ConfigError(
            f"arm {clash[0]!r} has the name of a baseline; rename it in the study {config.pretrained}"
        )


def check_encoders(
    config: RetrievalStudyConfig, encoders: Mapping[str, TextEncoder], sets: Mapping[str, CutTexts]
) -> None:
    """Raises: ConfigError for texts longer than an arm reads, and zero-shot scores of new weights."""
    for name, encoder in encoders.items():
        for task, texts in sets.items():
            longest = max(texts.training.query_tokens, texts.training.document_tokens)
            if longest > encoder.body.max_tokens:
                raise ConfigError(
                    f"{task}: texts of {longest} tokens, but {name} was pretrained on "
                    f"{encoder.body.max_tokens}; lower training.document_tokens or training.query_tokens"
                )
        if config.zero_shot and encoder.has_new_weights:
            raise ConfigError(
                f"zero_shot: pooler {config.training.pooler!r} or the projection has weights that "
                "pretraining "
                "did not train; set zero_shot: false"
            )


def planned_arms(
    config: RetrievalStudyConfig,
    bodies: Sequence[PretrainedArm],
    encoders: Mapping[str, TextEncoder],
    sets: Mapping[str, CutTexts],
) -> tuple[PlannedArm, ...]:
    """The encoders first, as in the verdict; then the baselines."""
    lengths = {length for texts in sets.values() for length in texts.lengths}
    tuned, untuned = [], []
    for arm in bodies:
        facts = arm_facts(arm, encoders[arm.name], sorted(lengths))
        tuned.append(PlannedArm(name=arm.name, facts=facts, code=arm.code))
        if config.zero_shot:
            untuned.append(baseline(arm.name + ZERO_SHOT, facts=facts, code=arm.code))
    return (
        *tuned,
        *untuned,
        baseline("bm25", facts={"texts": "cut, as for the encoders"}),
        baseline("bm25_whole", facts={"texts": "whole"}),
        PlannedArm(name="random", tuned=False, baseline=True),
    )


def baseline(name: str, *, facts: Facts, code: dict[str, str] | None = None) -> PlannedArm:
    """An arm that is fitted once."""
    return PlannedArm(name=name, tuned=False, seeded=False, baseline=True, facts=facts, code=code or {})


def arm_facts(arm: PretrainedArm, encoder: TextEncoder, lengths: Sequence[int]) -> Facts:
    """What a reader must know of an encoder. ``lengths``: tokens that texts are cut at."""
    return {
        "texts": "cut",
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "embedding": arm.planned.parameters["embedding"],
        **{f"FLOPs, {tokens} tokens": encoder.flops(tokens) for tokens in lengths},
        "pretrained": f"{arm.score} at {arm.learning_rate:g}, seed {next(iter(arm.runs))}",
    }


def one_tokenizer(encoders: Mapping[str, TextEncoder]) -> Tokenizer:
    """Raises: ConfigError when arms cut text differently, or an arm reads no text at all."""
    tokenizers = {name: encoder.body.tokenizer for name, encoder in encoders.items()}
    missing = [name for name, tokenizer in tokenizers.items() if tokenizer is None]
    if missing:
        raise ConfigError(f"arm {missing[0]!r} was trained without a tokenizer, so it cannot read text")
    (first, tokenizer), *others = tokenizers.items()
    for name, other in others:
        if other.fingerprint != tokenizer.fingerprint:  # type: ignore[union-attr]
            raise ConfigError(
                f"arms {first!r} and {name!r} have different tokenizers, so they would read different texts"
            )
    assert tokenizer is not None
    return tokenizer


class Retrieval(Experiment):
    """Retrieval with pretrained encoders."""

    config = RetrievalStudyConfig

    def open(self, config: RetrievalStudyConfig) -> RetrievalStudy:
        return RetrievalStudy(config)


EXPERIMENT = Retrieval()
