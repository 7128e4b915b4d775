"""Where the boxes and arrows of composed retrieval stand; what they say is `composed_method`'s to find out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sightline.data.keywords import PLACEHOLDER
from trainer.experiments.drawing import Box, Drawing, Line
from trainer.experiments.method_parts import (
    COMPUTED,
    FROZEN,
    LOSS,
    ROW,
    Columns,
    Part,
    draw_label,
    draw_legend,
    draw_panel,
    draw_part,
    draw_plain,
    share_of,
    shown_count,
    times,
)

WIDTH, HEIGHT = 1120.0, 1028.0
_CAPTION, _MASKED = "a red car on the beach", f"a {PLACEHOLDER} on the {PLACEHOLDER}"


@dataclass(frozen=True, kw_only=True)
class ComposedParts:
    """All that the drawing says of the models."""

    tag: str
    """Architecture of the towers."""
    image_size: int
    """Side of a picture in pixels."""
    dimension: int
    """Width of the shared space."""
    num_tower_parameters: int
    num_trained: int
    """Parameters that stage 2 trains."""
    template: str
    """The sentence around pseudo-word and edit."""
    noise_scale: float
    """Noise of stage 1 in units of the encoder's own spread."""
    temperature: float
    """Of stage 2's loss."""
    phi_rate: float
    """phi's learning rate in stage 2 as a share of the others'."""
    first: Mapping[str, Part]
    second: Mapping[str, Part]
    picture_prompts: Part


def composed_drawing(parts: ComposedParts) -> str:
    """The drawing as SVG."""
    drawing = Drawing(
        width=WIDTH,
        height=HEIGHT,
        title="Composed retrieval in two stages",
        description=(
            "Stage 1 trains phi on captions alone: a caption's vector becomes a word that brings the masked caption"
            " back. Stage 2 trains adapter, prompts and phi on edits: a picture and a sentence find the caption of the"
            " wanted picture. The towers stay frozen, and so does the index that is asked."
        ),
    )
    draw_legend(
        drawing,
        "Composed retrieval in two stages",
        note=f"on {parts.tag} towers, {parts.num_tower_parameters:,} parameters; stage 2 trains {parts.num_trained:,}",
        note_x=382,
        units="M, k: million, thousand parameters, embeddings included",
    )
    _draw_first(drawing, parts=parts)
    _draw_after_first(drawing, parts=parts)
    _draw_second(drawing, parts=parts)
    _draw_asked(drawing, parts=parts)
    return drawing.svg()


def _draw_first(drawing: Drawing, *, parts: ComposedParts) -> None:
    draw_panel(
        drawing, Box(x=20, y=86, width=1080, height=272), title="Stage 1: captions alone", loss="L = 2 - 2 cos(q, e)"
    )
    whole, blurred, masked = 128.0, 204.0, 286.0
    caption, hidden = _at("given", whole), _at("given", masked)
    reader, again = _at("read", whole), _at("again", masked)
    noise, phi, loss = _at("near", blurred), _at("phi", blurred), _at("end", whole, height=masked + ROW - whole)
    draw_plain(drawing, caption, f"caption|{_CAPTION}")
    draw_plain(drawing, hidden, f"masked|{_MASKED}")
    draw_plain(drawing, noise, f"noise|e + {times(parts.noise_scale)}s u n|unit length again", style=COMPUTED)
    draw_plain(drawing, loss, "SMP|the masked|caption, read with|its word, is the|caption again", style=LOSS)
    for box, name in ((reader, "text"), (again, "text"), (phi, "phi")):
        draw_part(drawing, box, parts.first[name])
    turn = reader.x + reader.width + 22
    for before, after in (
        (caption.right(), reader.left()),
        (noise.right(), phi.left()),
        (hidden.right(), again.left()),
    ):
        drawing.arrow(before, after)
    drawing.arrow(reader.right(), loss.left(share_of(loss, whole)))
    drawing.arrow((turn, reader.right()[1]), (turn, noise.left()[1]), noise.left())
    drawing.arrow(phi.right(), (again.top()[0], phi.right()[1]), again.top())
    drawing.arrow(again.right(), loss.left(share_of(loss, masked)))
    draw_label(drawing, "e", (turn + 6, whole + ROW / 2))
    draw_label(drawing, "q", (again.x + again.width + 16, masked + ROW / 2))
    draw_label(drawing, "s: spread of captions; u, n: random", (noise.x, blurred - 2))
    draw_label(drawing, PLACEHOLDER, (phi.x + phi.width + 16, blurred + ROW / 2))
    draw_label(drawing, f"one word for every {PLACEHOLDER} of the caption", (noise.x, masked + ROW / 2))


def _draw_after_first(drawing: Drawing, *, parts: ComposedParts) -> None:
    """What passes from stage 1 to stage 2."""
    towers = Box(x=36, y=378, width=420, height=46)
    count = f"{shown_count(parts.num_tower_parameters)}, the same in both stages, and they made the index"
    drawing.box(
        towers, [Line(text="the towers of a release", size=13, is_bold=True), Line(text=count, size=11)], style=FROZEN
    )
    drawing.arrow(towers.top(0.12), (towers.top(0.12)[0], 358))
    drawing.arrow(towers.bottom(0.12), (towers.bottom(0.12)[0], 444))
    x = _at("phi", 0).top()[0]
    drawing.arrow((x, 358), (x, 444))
    draw_label(drawing, "copied once: phi, and the spread s", (x + 12, 411))


def _draw_second(drawing: Drawing, *, parts: ComposedParts) -> None:
    draw_panel(
        drawing,
        Box(x=20, y=444, width=1080, height=430),
        title="Stage 2: edits in words",
        loss=f"L = cross-entropy of q to y and of y to q, temperature {parts.temperature:g}",
    )
    seen, prompted, said, wanted, kept = 486.0, 564.0, 646.0, 728.0, 804.0
    loss = _at("end", said, height=kept + ROW - said)
    draw_plain(drawing, loss, "InfoNCE|q finds its y, and|y its q, among all|those of the batch", style=LOSS)
    _draw_reference(drawing, parts=parts, seen=seen, prompted=prompted)
    _draw_query(drawing, parts=parts, seen=seen, said=said)
    _draw_captions(drawing, parts=parts, wanted=wanted, kept=kept)
    again, captions = _at("again", said), _at("read", wanted)
    drawing.arrow(again.right(), loss.left(share_of(loss, said)))
    draw_label(drawing, "q", (again.x + again.width + 16, said + ROW / 2))
    for y, words in (
        (wanted, "y: the other edits' are negatives; one that says the same is not"),
        (kept, "y of the same query without its edit: to any query that ignores it, a hard negative"),
    ):
        drawing.arrow((captions.x + captions.width, y + ROW / 2), loss.left(share_of(loss, y)))
        draw_label(drawing, words, (captions.x + captions.width + 14, y + ROW / 2))


def _draw_reference(drawing: Drawing, *, parts: ComposedParts, seen: float, prompted: float) -> None:
    """From the picture that is shown to its pseudo-word."""
    side, (picture, tower, adapter, phi) = parts.image_size, (_at(x, seen) for x in ("given", "read", "near", "phi"))
    draw_plain(drawing, picture, f"reference picture|{side} x {side} px")
    for box, name in ((tower, "picture"), (adapter, "adapter"), (phi, "phi")):
        draw_part(drawing, box, parts.second[name])
    prompts = _at("read", prompted)
    draw_part(drawing, prompts, parts.picture_prompts)
    for before, after in ((picture, tower), (tower, adapter), (adapter, phi)):
        drawing.arrow(before.right(), after.left())
    drawing.arrow(prompts.top(), tower.bottom(), is_dashed=True)
    draw_label(drawing, "z", (tower.x + tower.width + 16, seen + ROW / 2))
    draw_label(drawing, "a choice: these in the adapter's place", (prompts.x + prompts.width + 14, prompted + 30))
    draw_label(drawing, "(then pixels are needed, not z)", (prompts.x + prompts.width + 14, prompted + 48))
    draw_label(drawing, f"rate x {parts.phi_rate:g}", (phi.x + 16, seen + ROW + 22))


def _draw_query(drawing: Drawing, *, parts: ComposedParts, seen: float, said: float) -> None:
    """The sentence with the pseudo-word in it, read with prompts."""
    sentence, tower, phi = _at("given", said), _at("again", said), _at("phi", seen)
    prompts = Box(x=tower.x + 68, y=seen, width=150, height=ROW)
    draw_plain(drawing, sentence, f"edit|{parts.template}")
    draw_part(drawing, prompts, parts.second["text_prompts"])
    draw_part(drawing, tower, parts.second["text"])
    drawing.arrow(sentence.right(), tower.left())
    drawing.arrow(phi.right(), (tower.x + 30, seen + ROW / 2), tower.top(30 / tower.width))
    drawing.arrow((tower.x + 108, seen + ROW), tower.top(108 / tower.width))
    draw_label(drawing, PLACEHOLDER, (phi.x + phi.width + 16, seen + ROW / 2))
    plain = parts.template.partition(PLACEHOLDER)[0] + PLACEHOLDER
    draw_label(
        drawing, f"and each picture once more without its edit: “{plain}”", (sentence.right()[0] + 30, said + ROW / 2)
    )


def _draw_captions(drawing: Drawing, *, parts: ComposedParts, wanted: float, kept: float) -> None:
    """What queries are to find: captions, read by the tower as it is."""
    tower = _at("read", wanted, height=kept + ROW - wanted)
    drawing.box(
        tower,
        [*parts.second["text"].lines(), Line(text="without prompts", size=11)],
        style=parts.second["text"].style(),
    )
    for y, words in ((wanted, "caption|of the wanted picture"), (kept, "caption|of the reference")):
        given = _at("given", y)
        draw_plain(drawing, given, words)
        drawing.arrow(given.right(), tower.left(share_of(tower, y)))


def _draw_asked(drawing: Drawing, *, parts: ComposedParts) -> None:
    """The query and the index that never heard of it."""
    panel = Box(x=20, y=908, width=1080, height=104)
    draw_panel(drawing, panel, title="Asked: the index of plain picture vectors", loss="no picture is encoded anew")
    row = panel.y + 38
    given, query, nearest, index, tower, pictures = (
        _at(x, row) for x in ("given", "read", "near", "phi", "again", "end")
    )
    draw_plain(drawing, given, "picture, or stored z,|and an edit")
    draw_plain(drawing, query, "q|as in stage 2", style=COMPUTED)
    draw_plain(drawing, nearest, "nearest|by cosine", style=COMPUTED)
    draw_plain(drawing, index, f"index|{parts.dimension} wide, as it was", style=COMPUTED)
    draw_part(drawing, tower, parts.second["picture"])
    draw_plain(drawing, pictures, "pictures|of the gallery")
    for start, end in (
        (given.right(), query.left()),
        (query.right(), nearest.left()),
        (index.left(), nearest.right()),
        (tower.left(), index.right()),
        (pictures.left(), tower.right()),
    ):
        drawing.arrow(start, end)
    x = query.top()[0]
    drawing.arrow((x, 874), (x, panel.y))
    draw_label(drawing, "adapter, prompts and phi go beside the towers into the release", (x + 12, 901))


_COLUMNS = Columns(
    {
        "given": (36.0, 170.0),
        "read": (236.0, 150.0),
        "near": (434.0, 124.0),
        "phi": (592.0, 136.0),
        "again": (770.0, 150.0),
        "end": (962.0, 126.0),
    }
)
_at = _COLUMNS.at
