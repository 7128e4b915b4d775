"""A composer asked composed queries whose answers are known, beside the plain sums that it has to beat."""

# Axes: Q queries, N pictures, D embedding width.
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.models.composer import Composer
from sightline.models.release import LoadedModel, encoder_of
from trainer.benchmarks import triplets
from trainer.benchmarks.annotations import Files
from trainer.benchmarks.baselines import PLAIN, TowerBaseline, weighted_sum
from trainer.benchmarks.composer import ComposerSystem
from trainer.benchmarks.features import FeatureStore
from trainer.benchmarks.protocol import ComposedEncoder
from trainer.benchmarks.ranking import rank_task
from trainer.benchmarks.run import query_vectors
from trainer.composing.config import ComposeConfig

COMPOSED, BEST_SUM = "composed_map_at_10", "best_sum_map_at_10"
SUM_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7)


def measure_composer(composer: Composer, *, loaded: LoadedModel, config: ComposeConfig) -> dict[str, float]:
    """mAP@10 and recall of the composer on the queries that `config.data` names, and mAP@10 of the best plain sum.

    {} if no queries are named. The weight of the sum is the best for these very
    queries, which favours the sum.
    """
    data = config.data
    if data.queries is None or data.gallery is None:
        return {}
    files = Files(annotations=data.root / data.queries, images=data.root / data.gallery, split="val")
    encoder = encoder_of(loaded, composer=composer)
    exam = Exam(files=files, cache=config.run.root / "cache")
    scores = exam.scores(ComposerSystem(encoder))
    sums = [
        exam.scores(TowerBaseline(encoder, system=f"sum:{weight}", combine=weighted_sum(weight)))["map_at_10"]
        for weight in SUM_WEIGHTS
    ]
    best = {COMPOSED: scores["map_at_10"], BEST_SUM: max(sums), "gain_over_sum": scores["map_at_10"] - max(sums)}
    return best | {f"composed_{name}": value for name, value in scores.items()}


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Composed queries over a pool, for any number of systems of one embedding space."""

    files: Files
    cache: Path

    def scores(self, encoder: ComposedEncoder) -> dict[str, float]:
        """recall_at_k and map_at_10, 0 to 1."""
        (task,) = triplets.read(self.files).tasks
        store = FeatureStore(self.cache, encoder=encoder)
        for _ in store.vectors(task.pictures):
            pass
        pictures_ND = store.stored(task.pictures)[:]
        queries_QD = query_vectors(encoder, task, pictures=pictures_ND, wording=PLAIN)
        ranked = rank_task(task, score=lambda part: queries_QD[part] @ pictures_ND.T)
        return triplets.scores({task.name: ranked})["all"]
