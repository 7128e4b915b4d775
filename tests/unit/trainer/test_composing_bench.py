"""The benchmark of a composer's training: every part runs, and what it says follows from what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.composing import BASELINE, NARROW, PARTS, Work, an_edit, measured, quick, random_towers, write_records
from trainer.composing.recipes import FOLDER_COMPOSED


@pytest.mark.slow
def test_every_part_is_measured_and_the_rest_follows(tmp_path: Path) -> None:
    work = quick(Work(captions=100, triplets=50, sample=512, config=FOLDER_COMPOSED))
    loaded = random_towers(NARROW)
    rows = {row["part"]: row for row in measured(work, loaded=loaded, folder=tmp_path)}
    steps = [f"stage 2, steps: {name}" for name in PARTS]
    once = ["captions, masked and encoded once", "references and targets, encoded once"]
    assert list(rows) == [BASELINE, once[0], "stage 1, steps", once[1], *steps]
    assert rows[BASELINE]["over_baseline"] == 1.0
    assert all(row["cpu_s_per_1000"] > 0 and row["measured_items"] == work.sample for row in rows.values())
    assert rows["stage 1, steps"]["extrapolated"]["recipe"]["items"] == 4 * FOLDER_COMPOSED.inversion.steps
    assert rows[steps[0]]["extrapolated"]["one_pass"]["items"] == work.triplets
    model = loaded.model.tower.model
    text = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.visual.parameters()) - 1
    assert rows[steps[-1]]["trained_parameters"] == text


def test_no_two_captions_are_alike_and_each_edit_changes_its_own(tmp_path: Path) -> None:
    records = write_records(tmp_path / "pictures", count=40)
    assert len({record.caption for record in records}) == len(records)
    for number, record in enumerate(records):
        edit = an_edit(record, number=number)
        changed = [a != b for a, b in zip(record.caption.split(), edit.target_caption.split(), strict=True)]
        assert changed == [False, False, True, *[False] * (len(changed) - 3)]
        assert edit.modification.split()[-1] == edit.target_caption.split()[2]
