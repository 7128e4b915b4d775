"""Caption, rewrite, search as the benchmarks ask it: no composer, the plain text tower reads one sentence."""

# Axes: N pictures, Q queries, D embedding width, C channels; after C, H and W are pixels.
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sightline.composition import Edit
from sightline.data.formats import read_any_captions
from sightline.errors import UsageError
from sightline.language.captioning import KeptCaptioner, ModelCaptioner
from sightline.language.endpoint import Endpoint, RewriteSettings
from sightline.language.kept import KeptAnswers
from sightline.language.model_rewriter import ModelRewriter
from sightline.language.rewriting import Captioner, CaptionSearch, JoiningRewriter, RecordCaptioner, Rewriter
from sightline.models.encoder_model import EncoderModel
from sightline.settings import read_settings
from trainer.benchmarks.baselines import PLAIN
from trainer.benchmarks.protocol import Floats, Pixels, References
from trainer.triplets.applying import RuleRewriter


class RewriteSystem:
    """A ComposedEncoder that says what is looked for, and lets the text tower read it."""

    def __init__(self, encoder: EncoderModel, *, search: CaptionSearch) -> None:
        self.system, self.template = f"rewrite:{re.sub(r'[^A-Za-z0-9_.:@+-]', '_', search.name)}", PLAIN
        self.embedding_space_id, self.dimension = encoder.embedding_space_id, encoder.dimension
        self.image_size = encoder.image_size
        self._encoder, self._search = encoder, search
        self._num_asked, self._problems = 0, Counter[str]()

    @property
    def notes(self) -> tuple[str, ...]:
        """How many sentences are not the rewriter's own, and why; nothing if all are."""
        if not self._problems:
            return ()
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._problems.most_common())
        return (f"{self._problems.total()} of {self._num_asked} sentences are a fallback's: {reasons}",)

    def preprocess(self, image: Image.Image) -> Pixels:
        """The picture as uint8 [3, H, W]."""
        return self._encoder.preprocess(image)

    def encode_images(self, pixels_NCHW: Pixels) -> Floats:
        """Unit vectors [N, D] of pictures."""
        return self._encoder.encode_images(pixels_NCHW)[0]

    def encode_composed(self, references: References, texts: Sequence[str]) -> Floats:
        """Unit vectors [Q, D] of the sentences that references and texts become."""
        found = self._search.sentences(references.pictures, [Edit(texts=(text,)) for text in texts])
        self._num_asked += len(found)
        self._problems.update(one.problem.reason for one in found if one.problem is not None)
        return self._encoder.encode_texts([one.text for one in found])


def open_caption_search(rewriter: str, captions: str, *, device: str, kept_in: Path) -> CaptionSearch:
    """The path that two words of the command line name; what models answer is kept in `kept_in`.

    `rewriter` is rules, joined, endpoint or the folder of an instruct model;
    `captions` endpoint, the folder of an image-to-text model or a captions file.
    Raises UsageError, and SettingInvalid for an endpoint that is not set.
    """
    captioner = _captioner(captions, device=device, kept_in=kept_in)
    return CaptionSearch(captioner, _rewriter(rewriter, device=device, kept_in=kept_in))


def _rewriter(name: str, *, device: str, kept_in: Path) -> Rewriter:
    plain: dict[str, type[RuleRewriter] | type[JoiningRewriter]] = {"rules": RuleRewriter, "joined": JoiningRewriter}
    if name in plain:
        return plain[name]()
    kept = KeptAnswers(kept_in / "rewrites.jsonl")
    if name == "endpoint":
        return ModelRewriter(_endpoint(), fallback=RuleRewriter(), kept=kept)
    if not Path(name).is_dir():
        raise UsageError(f"rewriter: got {name!r}, expected rules, joined, endpoint or the folder of an instruct model")
    # Imported here: transformers takes seconds that rules do not need.
    from sightline.models.instruct import InstructModel

    return ModelRewriter(InstructModel(Path(name), device=device), fallback=RuleRewriter(), kept=kept)


def _captioner(name: str, *, device: str, kept_in: Path) -> Captioner:
    kept = kept_in / "captions.jsonl"
    if name == "endpoint":
        return KeptCaptioner(ModelCaptioner(_endpoint()), KeptAnswers(kept))
    if (Path(name) / "config.json").is_file():
        from sightline.models.captioner import PictureCaptioner

        return KeptCaptioner(PictureCaptioner(Path(name), device=device), KeptAnswers(kept))
    if not Path(name).exists():
        raise UsageError(f"captions: got {name!r}, expected a captions file, endpoint or the folder of a model")
    first: dict[str, str] = {}
    for record in read_any_captions(Path(name)):
        first.setdefault(record.image_id, record.caption)
    return RecordCaptioner(first, name=Path(name).name)


def _endpoint() -> Endpoint:
    return Endpoint(read_settings(RewriteSettings, section="rewrite"))
