"""The experiments that readers of ZRIGF ask for: what each part, each picture and each label is worth, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sightline.errors import UsageError
from sightline.models.config import CLIP, FAITHFUL
from trainer.config import FitConfig, GenerativeSettings
from trainer.experiments.answering import MAIN, Sight, measure_answers
from trainer.experiments.cost import PARTS, measure_cost
from trainer.experiments.gating import measure_gate
from trainer.experiments.plan import Cell, Claim, Experiment, Model, Suite
from trainer.overrides import replace_nested

FULL = "full"
ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    FULL: {},
    "no-tim": {"stage1.tim_weight": 0.0},
    "no-tamim": {"stage1.tamim_weight": 0.0},
    "no-mf": {"model.wo_mf": True},
    "no-it": {"model.wo_it": True},
    "no-stage1": {"stage1.steps": 0},
    "text-only": {"stage2.image_dropout": 1.0},
}
"""The settings that each ablation changes; `text-only` is asked without pictures too, as it never saw one."""
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "tamim 0": {"stage1.tamim_weight": 0.0},
    "tamim 0.2": {"stage1.tamim_weight": 0.2},
    "tamim 10": {"stage1.tamim_weight": 10.0},
    "smoothing 0.1": {"stage2.label_smoothing": 0.1},
}
PRESERVATION: Mapping[str, Mapping[str, Any]] = {
    f"preservation {weight:g}": {"stage2.preservation_weight": weight} for weight in (0.0, 0.1, 1.0)
}
"""More losses, of faithful models alone: others have nothing to preserve."""
FEW_PAIRS = 0.25
"""Share of the captioned pictures in the harder setting."""
NUM_PICTURES = (0, 1, 2, 3, 5, 8)
SHARES = (0.01, 0.05, 0.25, 1.0)
_SHOWN = (MAIN, "colour_accuracy", "place_accuracy", "retrieval_recall_at_1")
_TUNED_STEPS, _TUNED_RATE = 1 / 3, 0.3
"""Fine-tuning takes a third of stage 2's steps at three tenths of its rate; a few triples alone take a third too."""


def zrigf_cells(base: FitConfig, data_digest: str) -> list[Cell]:
    """Every cell of all experiments for one seed, that of `base`; `labelled` where there are annotated dialogues.

    Raises UsageError for data without questions.
    """
    if base.data.questions is None:
        raise UsageError(f"experiments zrigf: {base.recipe} has no questions with known answers; set data.questions")
    models = _Models(base, data_digest=data_digest)
    full = models.changed({})
    return [
        *_ablation(models),
        *_relevance(full),
        *_pictures(full),
        *_losses(models),
        *_quality(full),
        *(_labelled(models) if base.data.dialogues_annotated else []),
        *_harder(models),
        *_gate(full),
        *_cost(full),
    ]


def _cost(full: Model) -> list[Cell]:
    """The parts of a clip model; a faithful one, whose reader is tower and generator at once, has no such parts."""
    if full.config.model.variant != CLIP:
        return []
    return [_cell("cost", part, full, measure=measure_cost, options={"part": part}, is_timed=True) for part in PARTS]


def zrigf_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The best number of pictures, and where labels alone catch up with no label at all."""
    means = {(row["experiment"], row["cell"]): row["mean"] for row in rows if row["metric"] == MAIN}
    by_k = {k: means[name] for k in NUM_PICTURES if (name := ("pictures", f"k={k}")) in means}
    notes = []
    if by_k:
        best = max(by_k, key=lambda k: by_k[k])
        notes.append(f"Pictures: of k = {', '.join(map(str, by_k))} the best mean is that of k = {best}.")
    if ("labelled", "fine-tuned 0%") in means:
        notes.append(_crossover(means))
    return notes


def _crossover(means: Mapping[tuple[str, str], float]) -> str:
    start = means["labelled", "fine-tuned 0%"]
    alone = {share: means["labelled", f"labels only {_percent(share)}"] for share in SHARES}
    reached = [share for share in SHARES if alone[share] >= start]
    if not reached:
        return f"Labelled: the mean of labels alone never reaches that of the model without a label ({start:.3f})."
    return (
        f"Labelled: the mean of labels alone reaches that of the model without a label ({start:.3f}) at "
        f"{_percent(reached[0])} of the annotated triples ({alone[reached[0]]:.3f})."
    )


class _Models:
    """Models of one seed; stage 1 is a model of its own, trained once for all that share it."""

    def __init__(self, base: FitConfig, *, data_digest: str) -> None:
        self._base, self._data_digest = base, data_digest
        self.are_faithful = base.model.variant == FAITHFUL

    def changed(self, values: Mapping[str, Any]) -> Model:
        """The base with settings changed, both stages."""
        config = replace_nested(self._base, values=values)
        parent = self.stage_one(config) if config.stage1.steps else None
        return Model(config=config, data_digest=self._data_digest, parent=parent)

    def stage_one(self, config: FitConfig) -> Model:
        """Stage 1 of `config` alone; nothing that only stage 2 reads tells two of them apart."""
        plain = replace(config.model, wo_mf=False, wo_it=False)
        alone = replace(config, model=plain, stage2=GenerativeSettings(steps=0))
        return Model(config=alone, data_digest=self._data_digest)

    def labelled(self, share: float) -> Model:
        """Stage 2 on annotated triples alone, after the same stage 1; few of them are learned in fewer steps."""
        steps = round(self._base.stage2.steps * max(share, _TUNED_STEPS))
        return self.changed({"stage2.annotated_share": share, "stage2.steps": max(1, steps)})

    def tuned(self, share: float) -> Model:
        """The full model, trained a little further on annotated triples."""
        full = self.changed({})
        stage2 = full.config.stage2
        changes = {
            "stage2.annotated_share": share,
            "stage2.steps": max(1, round(stage2.steps * _TUNED_STEPS)),
            "stage2.learning_rate": stage2.learning_rate * _TUNED_RATE,
        }
        return replace(full, config=replace_nested(full.config, values=changes), parent=full)


def _cell(experiment: str, name: str, model: Model, **values: Any) -> Cell:
    return Cell(experiment=experiment, name=name, seed=model.config.seed, model=model, **values)


def _asked(experiment: str, name: str, model: Model, **sight: Any) -> Cell:
    return _cell(experiment, name, model, measure=measure_answers, options=asdict(Sight(**sight)))


def _ablation(models: _Models) -> list[Cell]:
    return [
        _asked("ablation", name, models.changed(values), k=0 if name == "text-only" else 3)
        for name, values in ABLATIONS.items()
    ]


def _relevance(full: Model) -> list[Cell]:
    kinds = [_asked("relevance", kind, full, pictures=kind) for kind in ("retrieved", "random", "shuffled", "oracle")]
    believed = _asked("relevance", "random without a floor", full, pictures="random", is_gated=False)
    return [*kinds, believed, _asked("relevance", "none", full, k=0)]


def _pictures(full: Model) -> list[Cell]:
    return [_asked("pictures", f"k={k}", full, k=k) for k in NUM_PICTURES]


def _losses(models: _Models) -> list[Cell]:
    weighed = {**LOSSES, **(PRESERVATION if models.are_faithful else {})}
    return [_asked("losses", name, models.changed(values)) for name, values in weighed.items()]


def _quality(full: Model) -> list[Cell]:
    damages = {"blur": (1, 2, 4), "noise": (0.1, 0.2, 0.4), "coarse": (2, 4, 8)}
    cells = [_asked("quality", "clean", full)]
    for kind, amounts in damages.items():
        cells += [_asked("quality", f"{kind} {amount}", full, damage=kind, amount=float(amount)) for amount in amounts]
    cells += [
        _asked("quality", f"wrong {_percent(share)}", full, wrong_share=share) for share in (0.25, 0.5, 0.75, 1.0)
    ]
    return cells


def _labelled(models: _Models) -> list[Cell]:
    cells = [_asked("labelled", "fine-tuned 0%", models.changed({}))]
    cells += [_asked("labelled", f"fine-tuned {_percent(share)}", models.tuned(share)) for share in SHARES]
    return cells + [_asked("labelled", f"labels only {_percent(share)}", models.labelled(share)) for share in SHARES]


def _harder(models: _Models) -> list[Cell]:
    named = {name: models.changed(ABLATIONS[name]) for name in (FULL, "no-tamim", "no-mf", "no-it")}
    few = {name: models.changed({**ABLATIONS[name], "stage1.pair_share": FEW_PAIRS}) for name in (FULL, "no-tamim")}
    return [
        *(_asked("harder", f"few pairs: {name}", model) for name, model in few.items()),
        *(_asked("harder", f"half wrong: {name}", model, wrong_share=0.5) for name, model in named.items()),
        *(_asked("harder", f"noise: {name}", model, damage="noise", amount=0.2) for name, model in named.items()),
    ]


def _gate(full: Model) -> list[Cell]:
    sights = {"every picture": Sight(is_gated=False), "over the floor": Sight(), "no picture": Sight(k=0)}
    return [_cell("gate", name, full, measure=measure_gate, options=asdict(sight)) for name, sight in sights.items()]


def _percent(share: float) -> str:
    return f"{share:.0%}"


_EXPERIMENTS = (
    Experiment(
        name="ablation",
        title="What each part is worth",
        question="The same training with one part left out. text-only never saw a picture and is asked without one.",
        metrics=_SHOWN,
    ),
    Experiment(
        name="relevance",
        title="Which pictures are shown",
        question="The full model, shown what it retrieved, random pictures that do not show the subject, what was "
        "retrieved for a question about another subject, none, or the nearest of those that do show the subject "
        "(oracle). As in service, no picture is shown if the best scores less than the model's calibrated floor; "
        "random ones also without that floor.",
        metrics=(MAIN, "right_picture_share", "colour_accuracy", "place_accuracy"),
    ),
    Experiment(
        name="pictures",
        title="How many pictures are shown",
        question="The full model, trained with one to three pictures, asked with k; also by the turns of the dialogue.",
        metrics=(MAIN, *(f"accuracy_after_{turns}_turns" for turns in (1, 2, 3, 4)), "right_picture_share"),
        axis="pictures shown",
    ),
    Experiment(
        name="losses",
        title="How losses are weighed",
        question="The weight of the masked-picture loss of stage 1 against matching, and smoothed labels in stage 2; "
        "of a faithful model the weight of the preservation loss, too.",
        metrics=_SHOWN,
    ),
    Experiment(
        name="quality",
        title="How good the pictures are",
        question="Every picture of the pool blurred (radius in pixels), noisy (deviation as a share of white) or "
        "coarse (resolution divided) before search and reading, after it was scaled for the tower; or a share of the "
        "pictures shown exchanged for wrong ones.",
        metrics=(MAIN, "right_picture_share", "retrieval_recall_at_1"),
    ),
    Experiment(
        name="labelled",
        title="What a little annotation adds",
        question="The full model, fine-tuned on a share of annotated triples for a third of the steps; and a model "
        "whose stage 2 read nothing but those triples, for a third of the steps where they are few.",
        metrics=_SHOWN,
        axis="share of annotated triples, %",
        is_logarithmic=True,
    ),
    Experiment(
        name="harder",
        title="Where a part should count more",
        question="Stage 1 on a quarter of the captioned pictures; half of the pictures shown exchanged for wrong ones; "
        "every picture of the pool noisy (a fifth of white).",
        metrics=_SHOWN,
    ),
    Experiment(
        name="gate",
        title="When no picture is shown",
        question="The full model with every retrieved picture, with those of dialogues whose best picture scores the "
        "calibrated floor or more, and with none: questions answered right, and held-out dialogues whose reply states "
        "a fact (visual) or none (small talk).",
        metrics=(
            MAIN,
            "small_talk_picture_rate",
            "visual_picture_rate",
            "small_talk_perplexity",
            "visual_perplexity",
        ),
    ),
    Experiment(
        name="cost",
        title="What each part costs",
        question="One reply of eight tokens on one thread, as ratios to a plain BART of the same size measured in "
        "turn. picture-tower reads one picture and is paid when a picture is indexed; whole is the reply with all "
        "other parts, its parameters those of a whole release.",
        metrics=("latency_ratio", "memory_ratio", "parameters_ratio", "latency_ms", "memory_bytes", "parameters"),
    ),
)

_CLAIMS = (
    *(
        Claim(experiment="ablation", better=FULL, worse=worse, margin=margin, text=text)
        for worse, margin, text in (
            ("no-tim", 0.0, "Text-image matching helps."),
            ("no-tamim", 0.0, "Text-assisted masked image modelling helps."),
            ("no-mf", 0.0, "Multimodal fusion helps."),
            ("no-it", 0.0, "Information transfer helps."),
            ("no-stage1", 0.3, "Contrastive pre-training is worth more than 0.3."),
            ("text-only", 0.3, "Pictures are worth more than 0.3 over a plain text model."),
        )
    ),
    Claim(experiment="relevance", better="retrieved", worse="random", text="Retrieved pictures beat random ones."),
    Claim(experiment="relevance", better="retrieved", worse="shuffled", text="They beat those of another question."),
    Claim(experiment="relevance", better="retrieved", worse="none", text="They beat no picture."),
    Claim(
        experiment="relevance",
        better="none",
        worse="random",
        margin=-0.1,
        text="Random pictures tell no more than 0.1 above none.",
    ),
    Claim(
        experiment="relevance",
        better="oracle",
        worse="retrieved",
        margin=-0.02,
        text="Right pictures are no worse than retrieved ones (within 0.02).",
    ),
    Claim(experiment="pictures", better="k=3", worse="k=1", text="Three pictures beat one, as the authors report."),
    Claim(experiment="pictures", better="k=3", worse="k=5", text="Three pictures beat five, as the authors report."),
    Claim(experiment="losses", better="tamim 10", worse="tamim 0.2", text="A weight of 10 beats the authors' 0.2."),
    Claim(experiment="quality", better="clean", worse="blur 4", text="Strong blur hurts."),
    Claim(experiment="quality", better="clean", worse="noise 0.4", text="Strong noise hurts."),
    Claim(experiment="quality", better="clean", worse="coarse 8", text="An eighth of the resolution hurts."),
    Claim(experiment="quality", better="clean", worse="wrong 100%", text="Wrong pictures alone hurt."),
    Claim(
        experiment="relevance",
        better="random without a floor",
        worse="random",
        text="The floor keeps random pictures from being believed.",
    ),
    Claim(
        experiment="gate",
        better="over the floor",
        worse="every picture",
        margin=-0.05,
        text="The floor costs no more than 0.05 of the questions.",
    ),
    *(
        Claim(experiment="harder", better=f"{setting}: {FULL}", worse=f"{setting}: {worse}", text=text)
        for setting, worse, text in (
            ("few pairs", "no-tamim", "Masked image modelling helps where pairs are few."),
            ("half wrong", "no-mf", "Fusion helps where half of the pictures are wrong."),
            ("half wrong", "no-it", "Information transfer helps where half of the pictures are wrong."),
            ("noise", "no-tamim", "Masked image modelling helps on noisy pictures."),
            ("noise", "no-mf", "Fusion helps on noisy pictures."),
            ("noise", "no-it", "Information transfer helps on noisy pictures."),
        )
    ),
    Claim(
        experiment="labelled",
        better="fine-tuned 100%",
        worse="fine-tuned 0%",
        text="All labels improve the full model.",
    ),
    Claim(
        experiment="labelled",
        better="fine-tuned 0%",
        worse="labels only 1%",
        text="No label and text-only dialogues beat 1 % of the labels alone.",
    ),
)

ZRIGF = Suite(
    name="zrigf",
    title="What pictures add to a dialogue, and what each part of ZRIGF adds to that",
    metric=MAIN,
    unit="subjects",
    experiments=_EXPERIMENTS,
    claims=_CLAIMS,
    recipe="toytown-tiny",
    quick_recipe="toytown-quick",
    cells=zrigf_cells,
    notes=zrigf_notes,
)
