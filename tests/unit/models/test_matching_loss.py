"""TIM: the symmetric contrastive loss, its masked negatives and its gather across workers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sightline.models.tim import matching_loss
from sightline.models.workers import gather_with_gradient
from tests.two_workers import in_two_workers


def vectors(count: int, *, seed: int) -> Tensor:
    values = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1)


def test_equal_pairs_cost_the_logarithm_of_the_batch() -> None:
    same = torch.ones(6, 4) / 2
    loss = matching_loss(same, same, pair_ids_B=torch.arange(6), logit_scale=torch.tensor(7.0))
    assert loss.item() == pytest.approx(math.log(6))


def test_perfect_pairs_cost_nothing_at_a_high_scale() -> None:
    eye = torch.eye(4)
    assert matching_loss(eye, eye, pair_ids_B=torch.arange(4), logit_scale=torch.tensor(100.0)).item() < 1e-6


def test_the_loss_is_symmetric_in_text_and_picture() -> None:
    text, image, ids = vectors(7, seed=0), vectors(7, seed=1), torch.tensor([0, 1, 2, 0, 3, 4, 4])
    forth = matching_loss(text, image, pair_ids_B=ids, logit_scale=torch.tensor(3.0))
    back = matching_loss(image, text, pair_ids_B=ids, logit_scale=torch.tensor(3.0))
    torch.testing.assert_close(forth, back)


def test_two_captions_of_one_picture_are_not_negatives() -> None:
    eye = torch.eye(3)[[0, 0, 1]]  # rows 0 and 1 are one picture and agree entirely
    scale = torch.tensor(100.0)
    told = matching_loss(eye, eye, pair_ids_B=torch.tensor([5, 5, 6]), logit_scale=scale)
    untold = matching_loss(eye, eye, pair_ids_B=torch.tensor([5, 7, 6]), logit_scale=scale)
    assert told.item() < 1e-6
    assert untold.item() == pytest.approx(2 / 3 * math.log(2))


def test_a_wrong_caption_is_a_negative_of_its_own_picture_alone() -> None:
    text, image, wrong, ids = vectors(5, seed=0), vectors(5, seed=1), vectors(5, seed=2), torch.tensor([0, 1, 0, 2, 3])
    got = matching_loss(text, image, wrong, pair_ids_B=ids, logit_scale=torch.tensor(3.0))
    costs = []
    for row in range(5):
        rivals = [other for other in range(5) if other == row or ids[other] != ids[row]]
        by_text = torch.tensor([3.0 * text[row] @ image[other] for other in rivals])
        by_image = torch.tensor([3.0 * image[row] @ text[other] for other in rivals] + [3.0 * image[row] @ wrong[row]])
        place = rivals.index(row)
        costs += [-by_text.log_softmax(0)[place], -by_image.log_softmax(0)[place]]
    torch.testing.assert_close(got, torch.stack(costs).mean(), atol=1e-9, rtol=1e-9)


def test_one_worker_gathers_itself() -> None:
    values = vectors(3, seed=0)
    assert gather_with_gradient(values) is values


WRONG = vectors(8, seed=2)


def _loss_of_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    text, image, scale, ids = leaves()
    rows = slice(4 * rank, 4 * rank + 4)
    loss = matching_loss(text[rows], image[rows], WRONG[rows], pair_ids_B=ids[rows], logit_scale=scale)
    loss.backward()
    gradients = [leaf.grad for leaf in (text, image, scale)]
    for value in [loss.detach(), *gradients]:
        dist.all_reduce(value)  # summed, then halved below: what DDP does
    if rank == 0:
        result = {"loss": loss.detach() / 2, "text": text.grad / 2, "image": image.grad / 2, "scale": scale.grad / 2}
        save(result, Path(folder))
    dist.destroy_process_group()


def save(result: dict[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(result, folder / "result.safetensors")


def leaves() -> tuple[Any, Any, Any, Tensor]:
    text, image = vectors(8, seed=0).requires_grad_(), vectors(8, seed=1).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    return text, image, scale, torch.tensor([0, 1, 2, 3, 4, 1, 0, 5])


@pytest.mark.slow
def test_two_workers_compute_what_one_computes_with_all_pairs(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    in_two_workers("tests.unit.models.test_matching_loss", _loss_of_rank.__name__, str(tmp_path))
    got = load_file(tmp_path / "result.safetensors")
    text, image, scale, ids = leaves()
    loss = matching_loss(text, image, WRONG, pair_ids_B=ids, logit_scale=scale)
    loss.backward()
    expected = {"loss": loss.detach(), "text": text.grad, "image": image.grad, "scale": scale.grad}
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-12, rtol=1e-9, msg=name)
