"""The experiments on composed retrieval: every system side by side, what each part of ours adds, who writes its edits.

Ours is MoTaDual-style (arXiv 2410.23736), not a reproduction. The prototype that the settings come from, and what is
known of the paper, stands in docs/composed-retrieval.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from sightline.composition import NEGATIVE_SHARE
from sightline.data.captions import CaptionRecord
from sightline.data.triplets import COMPOSED_FOLDER
from sightline.errors import UsageError
from trainer.composing.config import AlignmentSettings, ComposeConfig, ComposedDataSettings, InversionSettings
from trainer.composing.data import load_composed_corpus
from trainer.composing.recipes import TOYTOWN_COMPOSED
from trainer.config import DataSettings, FitConfig, GenerativeSettings, flatten
from trainer.experiments.composers import COSTS, ComposerModel
from trainer.experiments.finding import (
    CAPTION_THAT,
    MAIN,
    ORACLE,
    TEXT_REFERENCE,
    TRAINING_FREE,
    Search,
    asked_digest,
    has_negations,
    measure_search,
)
from trainer.experiments.negation import NUM_NEGATED, ORDINARY, Negation, measure_negation
from trainer.experiments.plan import Cell, Claim, Experiment, Model, Suite, Trainable
from trainer.overrides import replace_nested
from trainer.recipes import TOYTOWN_TINY
from trainer.triplets.ledger import Ledger
from trainer.triplets.planning import plan
from trainer.triplets.rules import RuleGenerator
from trainer.triplets.run import run
from trainer.triplets.similarity import clip_token_count

SUM_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7)
_NO_STAGE_TWO = {"alignment.steps": 0}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "pic2word": {"inversion.method": "pic2word", "inversion.dropout": 0.1, **_NO_STAGE_TWO},
    "searle": {"inversion.method": "searle", **_NO_STAGE_TWO},
    "stage1": _NO_STAGE_TWO,
    "full": {},
}
"""Systems with a phi of their own; `full` is the recipe."""
_TOLD = ("stage1", "full")
"""Those that are asked, too, with the reference's caption in its picture's place: what the modality costs them."""
_STILL = {"alignment.phi_rate": 0.0}
"""phi stays as stage 1 made it."""
_NO_TEXT, _NO_PICTURE = {"alignment.text_side": "none"}, {"alignment.picture_side": "none"}
_PROMPTS, _DEEP = {"alignment.text_side": "prompts"}, {"alignment.picture_side": "deep"}
PARTS: Mapping[str, Mapping[str, Any]] = {
    "stage1": _NO_STAGE_TWO,
    "text prompts": _PROMPTS | _NO_PICTURE | _STILL,
    "adapter": _NO_TEXT | _STILL,
    "deep picture prompts": _NO_TEXT | _DEEP | _STILL,
    "text prompts + adapter": _PROMPTS | _STILL,
    "text + deep prompts": _PROMPTS | _DEEP | _STILL,
    "coupled prompts": _PROMPTS | _DEEP | _STILL | {"alignment.coupling": "linear"},
    "phi": _NO_TEXT | _NO_PICTURE,
    "prompts": _PROMPTS,
    "prompts, 4 experts": _PROMPTS | {"alignment.num_experts": 4},
    "text tower": _NO_PICTURE | _STILL,
    "full": {},
    "full, by entropy": {"alignment.weighs_by_entropy": True},
    "full, no reference pairs": {"alignment.has_reference_pairs": False},
    "full, from captions": {"alignment.reference": "caption"},
    "full, no anchor": {"alignment.is_anchored": False},
}
"""What stage 2 trains; `prompts` is text prompts, adapter and phi, `full` a text tower in the prompts' place."""
NOISES: Mapping[str, Mapping[str, Any]] = {
    "no noise": {"inversion.noise_scale": 0.0, **_NO_STAGE_TWO},
    "noise 1": _NO_STAGE_TWO,
    "noise 2": {"inversion.noise_scale": 2.0, **_NO_STAGE_TWO},
}
NEGATIONS: Mapping[str, Mapping[str, Any]] = {
    "as said": {},
    **{f"taken away {share}": {"share": share} for share in (0.1, 0.3, 0.5, 0.8)},
    "parted": {"share": NEGATIVE_SHARE, "reads_whole": False},
}
"""What is made of words that say what is not wanted; `parted` is what a chat does."""
PARTS_OF_EDITS = ("train", "val")
MODEL_EDITS = tuple(Path(COMPOSED_FOLDER) / f"edits_model_{part}.jsonl" for part in PARTS_OF_EDITS)
"""Edits that a language model wrote, if any did (`python -m trainer triplets --generator endpoint`, or `local`)."""
_RULES, _SHIFTED = "edits_rules_{digest}_{part}.jsonl", "shifted_test"
_SHOWN = (MAIN, "recall_at_1", f"held_out_{MAIN}", *COSTS)


def composed_cells(base: FitConfig, data_digest: str) -> list[Cell]:
    """Every cell of all experiments for one seed, that of `base`, on the towers of its stage 1."""
    towers = Model(config=replace(base, stage2=GenerativeSettings(steps=0)), data_digest=data_digest)
    composers = _Composers(towers, steps_share=_share_of(base))
    cells = [*_systems(towers, composers), *_parts(composers), *_edits(composers), *_noise(composers)]
    folder = base.data.root / COMPOSED_FOLDER
    cells += _negation(composers) if has_negations(folder) else []
    has_shifted = (folder / f"queries_{_SHIFTED}.jsonl").exists()
    return cells + (_systems(towers, composers, experiment="shifted", part=_SHIFTED) if has_shifted else [])


def _composed_data(data: DataSettings) -> ComposedDataSettings:
    """What composers learn from beside towers of that data. Raises UsageError where no captions are held out."""
    if data.captions_val is None:
        raise UsageError("experiments composed: set data.captions_val; phi is judged by captions that are held out")
    return ComposedDataSettings(
        kind=data.kind,
        root=data.root,
        captions_train=data.captions_train,
        captions_val=data.captions_val,
        images=data.images,
        skip_bad=data.skip_bad,
    )


class _Composers:
    """Composers of one seed on one pair of towers."""

    def __init__(self, towers: Model, *, steps_share: float) -> None:
        self._towers = towers
        self.root = towers.config.data.root
        """Of the data."""
        data = _composed_data(towers.config.data)
        base = replace(TOYTOWN_COMPOSED, seed=towers.config.seed, data=data, speed=towers.config.speed)
        whole = {name: flatten(base)[name][1] for name in _LENGTHS}
        shorter = {name: max(1, round(steps_share * steps)) for name, steps in whole.items()}
        self._base: ComposeConfig = replace_nested(base, values=shorter)
        self._digest = load_composed_corpus(data).digest
        self.asked = asked_digest(data.root / COMPOSED_FOLDER)
        """sha256 of the test queries and what belongs to them."""

    def changed(self, values: Mapping[str, Any]) -> ComposerModel:
        """The recipe with settings changed; its stage 1 is a model of its own, trained once for all that share it."""
        config = replace_nested(self._base, values=values)
        stage_one = replace(config, alignment=AlignmentSettings(steps=0))
        first = ComposerModel(config=stage_one, data_digest=self._digest, parent=self._towers)
        return self._aligned(config, first=first, data_digest=self._digest) if config.alignment.steps else first

    def by_rules(self) -> ComposerModel:
        """The recipe, taught by edits that rules wrote about the captions."""
        train, val = (_written_by_rules(self._base.data, part=part, digest=self._digest) for part in PARTS_OF_EDITS)
        return self.taught_by(train, val)

    def taught_by(self, train: Path, val: Path) -> ComposerModel:
        """The recipe, taught by the edits of these files below the data's root."""
        data = replace(self._base.data, edits_train=train, edits_val=val)
        config, first = replace(self._base, data=data), self.changed(_NO_STAGE_TWO)
        return self._aligned(config, first=first, data_digest=load_composed_corpus(data).digest)

    def _aligned(self, config: ComposeConfig, *, first: ComposerModel, data_digest: str) -> ComposerModel:
        alone = replace(config, inversion=InversionSettings(steps=0))
        return ComposerModel(config=alone, data_digest=data_digest, parent=first)


_LENGTHS = ("inversion.steps", "inversion.optimisation_steps", "alignment.steps")


def _share_of(base: FitConfig) -> float:
    """How long composers train, as a share of their recipe: as much as their towers do of toytown-tiny's, at most 1."""
    return min(1.0, base.stage1.steps / TOYTOWN_TINY.stage1.steps)


def _cell(experiment: str, name: str, model: Trainable, **search: Any) -> Cell:
    options = asdict(Search(**search))
    return Cell(experiment=experiment, name=name, seed=model.seed, model=model, measure=measure_search, options=options)


def _systems(
    towers: Model, composers: _Composers, *, experiment: str = "systems", part: str = Search.part
) -> list[Cell]:
    data = asked_digest(towers.config.data.root / COMPOSED_FOLDER, part=part)
    cell = partial(_cell, experiment, part=part, data=data)
    cells = [cell("random", towers, system="random", weight=float(towers.seed))]
    cells += [cell(f"{system}-only", towers, system=system) for system in ("image", "text")]
    cells += [cell(f"sum-{weight}", towers, system="sum", weight=weight) for weight in SUM_WEIGHTS]
    cells.append(cell("slerp", towers, system="slerp", weight=0.5))
    cells += [cell(name, towers, system=name) for name in (CAPTION_THAT, TRAINING_FREE)]
    cells += [cell(name, composers.changed(values)) for name, values in METHODS.items()]
    for name in _TOLD:
        cells.append(cell(f"{name}-{TEXT_REFERENCE}", composers.changed(METHODS[name]), system=TEXT_REFERENCE))
    return [*cells, cell(ORACLE, towers, system=ORACLE)]


def _parts(composers: _Composers) -> list[Cell]:
    return [_cell("parts", name, composers.changed(values), data=composers.asked) for name, values in PARTS.items()]


def _edits(composers: _Composers) -> list[Cell]:
    models = {
        "from facts": composers.changed({}),
        "by rules": composers.by_rules(),
        "none": composers.changed(_NO_STAGE_TWO),
    }
    if all((composers.root / path).is_file() for path in MODEL_EDITS):
        models["by a model"] = composers.taught_by(*MODEL_EDITS)
    return [_cell("edits", name, model, data=composers.asked) for name, model in models.items()]


def _noise(composers: _Composers) -> list[Cell]:
    return [_cell("noise", name, composers.changed(values), data=composers.asked) for name, values in NOISES.items()]


def _negation(composers: _Composers) -> list[Cell]:
    model = composers.changed({})
    return [
        Cell(
            experiment="negation",
            name=name,
            seed=model.seed,
            model=model,
            measure=measure_negation,
            options=asdict(Negation(data=composers.asked, **values)),
        )
        for name, values in NEGATIONS.items()
    ]


def _written_by_rules(data: ComposedDataSettings, *, part: str, digest: str) -> Path:
    """The file, below the data's root, of edits by rules about the captions of the pictures that have edits.

    Written once for a corpus of this digest; with held-out templates for validation.
    """
    name = Path(COMPOSED_FOLDER) / _RULES.format(digest=digest[:16], part=part)
    path = data.root / name
    if path.exists():
        return name
    corpus = load_composed_corpus(data)
    captions = corpus.captions_train if part == "train" else corpus.captions_val
    known = {edit.image_id for edit in (corpus.edits_train if part == "train" else corpus.edits_val)}
    records: list[CaptionRecord] = [record for record in captions if record.image_id in known]
    generator = RuleGenerator((record.caption for record in records), seed=0, is_held_out=part == "val")
    asks, _ = plan(records, generator, edits_per_caption=3, edit_types=_RULE_TYPES)
    partial = path.with_name(f"{path.stem}.partial.jsonl")
    with closing(Ledger(partial, name=generator.name, about={}, notes={})) as ledger:
        run(asks, generator, ledger=ledger, count_tokens=clip_token_count, band=None, on_settled=lambda: None)
    partial.rename(path)
    return name


_RULE_TYPES = ("add", "remove", "replace", "attribute", "count", "background")


def composed_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The best plain sum, and how much of the two discrepancies each stage closes."""
    means = {(row["experiment"], row["cell"]): row["mean"] for row in rows if row["metric"] == MAIN}
    sums = {weight: mean for weight in SUM_WEIGHTS if (mean := means.get(("systems", f"sum-{weight}"))) is not None}
    if not sums or ("systems", ORACLE) not in means:
        return []
    best = max(sums, key=lambda weight: sums[weight])
    at = {name: means["systems", name] for name in (*_TOLD, *(f"{name}-{TEXT_REFERENCE}" for name in _TOLD), ORACLE)}
    return [
        f"The best plain sum has text weight {best} ({sums[best]:.3f}), chosen on the test queries themselves.",
        *(_discrepancies(name, at) for name in _TOLD),
        f"Stage 2 closes {at['full'] - at['stage1']:.3f} of {at[ORACLE] - at['stage1']:.3f}.",
    ]


def _discrepancies(name: str, at: Mapping[str, float]) -> str:
    told = at[f"{name}-{TEXT_REFERENCE}"]
    return (
        f"{name}: the task costs {at[ORACLE] - told:.3f} ({at[ORACLE]:.3f} with the target's caption, {told:.3f} when "
        f"the reference's caption passes through the sentence), the modality {told - at[name]:.3f} more "
        f"({at[name]:.3f} from the reference's picture)."
    )


_EXPERIMENTS = (
    Experiment(
        name="systems",
        title="Which system finds the picture that is meant",
        question="Queries of a picture and a sentence, one right answer each, the reference left out (in Toytown 600 "
        "over 1,200 pictures). Towers alone: chance, the picture, the sentence, both summed (the text's weight behind "
        "the dash), on the arc between them, or a caption with the sentence; training-free edits that caption by "
        "rules. These two, stage1-text-reference and full-text-reference are told the reference's caption, oracle "
        "the target's: nobody could be, they are ceilings. Parameters are all that learn after the towers.",
        metrics=(*_SHOWN, "negation_without_map_at_10", "paraphrase_agreement"),
    ),
    Experiment(
        name="shifted",
        title="The same in a gallery that training never saw the like of",
        question="The systems above, trained no further, asked for pictures in another style. Only where the data have "
        f"such queries (`{COMPOSED_FOLDER}/queries_{_SHIFTED}.jsonl`).",
        metrics=_SHOWN,
    ),
    Experiment(
        name="parts",
        title="What each part of stage 2 is worth",
        question="The same stage 1, then different parts trained on the same edits for as many steps.",
        metrics=_SHOWN,
    ),
    Experiment(
        name="edits",
        title="What writes the edits",
        question="Edits from the world's facts, as good as any could be; by rules that read captions alone; none; by a "
        f"language model, where it wrote `{MODEL_EDITS[0]}` and `{MODEL_EDITS[1].name}`.",
        metrics=_SHOWN,
    ),
    Experiment(
        name="noise",
        title="Noise on captions in stage 1",
        question="Stage 1 alone with noise of 0, 1 and 2 times the encoder's own spread.",
        metrics=_SHOWN,
    ),
    Experiment(
        name="negation",
        title="What is not wanted, taken away",
        question="Edits that negate something (without the car; no longer red; not red but blue), read as they are "
        "said; with the negatives found by rules and a share of their vector taken away from the query; and parted, as "
        f"a chat does it: what is wanted is read alone, and {NEGATIVE_SHARE} of the negatives taken away. The rules "
        f"know these wordings. {ORDINARY} is of the test queries, of which {NUM_NEGATED} negate anything.",
        metrics=(
            MAIN,
            *(f"negation_{kind}_{MAIN}" for kind in ("without", "no_longer", "not_but")),
            ORDINARY,
            NUM_NEGATED,
        ),
    ),
)

_BASELINES = (
    *("random", "image-only", "text-only", *(f"sum-{weight}" for weight in SUM_WEIGHTS), "slerp"),
    *("pic2word", "searle", "stage1-text-reference"),
)

_CLAIMS = (
    Claim(
        experiment="systems",
        better="full",
        worse="stage1",
        margin=0.1,
        text="Dual alignment is worth more than 10 points over stage 1.",
    ),
    *(
        Claim(experiment="systems", better="full", worse=worse, margin=0.05, text=f"It beats {worse} by 5 points.")
        for worse in _BASELINES
    ),
    Claim(experiment="systems", better=ORACLE, worse="full", text="The target's caption is a ceiling."),
    Claim(experiment="parts", better="text prompts", worse="stage1", text="Text prompts help."),
    Claim(experiment="parts", better="adapter", worse="stage1", text="The adapter helps."),
    Claim(
        experiment="parts",
        better="text prompts + adapter",
        worse="adapter",
        text="Text prompts help beside the adapter.",
    ),
    Claim(experiment="parts", better="text tower", worse="stage1", text="A whole text tower of queries helps (RTD)."),
    Claim(experiment="parts", better="full", worse="text tower", text="Adapter and phi help beside a text tower."),
    Claim(experiment="parts", better="prompts", worse="phi", text="Prompts and adapter help beside a tuned phi."),
    Claim(experiment="parts", better="prompts, 4 experts", worse="prompts", text="Experts help."),
    Claim(experiment="parts", better="full", worse="prompts", text="A text tower does more than prompts in one."),
    Claim(experiment="parts", better="full, by entropy", worse="full", text="Weighing by entropy helps."),
    Claim(experiment="parts", better="full", worse="full, no reference pairs", text="Reference pairs help."),
    Claim(experiment="parts", better="full", worse="full, from captions", text="References as pictures help."),
    Claim(experiment="parts", better="full", worse="full, no anchor", text="A frozen target branch helps."),
    Claim(experiment="edits", better="by rules", worse="none", text="Edits by rules help."),
    Claim(experiment="edits", better="from facts", worse="by rules", text="Better edits help."),
    Claim(experiment="edits", better="by a model", worse="by rules", text="A language model writes better edits."),
    Claim(experiment="negation", better="taken away 0.3", worse="as said", text="Taking negatives away helps."),
    Claim(experiment="negation", better="parted", worse="as said", text="Parting a sentence as a chat does helps."),
    Claim(experiment="noise", better="noise 1", worse="no noise", text="Noise helps stage 1."),
)

COMPOSED = Suite(
    name="composed",
    title="What a picture and a sentence find, and what each part of the composer adds to that",
    metric=MAIN,
    unit="families of queries",
    experiments=_EXPERIMENTS,
    claims=_CLAIMS,
    recipe="toytown-fine",
    quick_recipe="toytown-quick",
    cells=composed_cells,
    notes=composed_notes,
)
