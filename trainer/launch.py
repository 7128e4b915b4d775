"""Ray around the trainer: Ray Train for one run, tasks for many. The one file of the trainer that knows Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from sightline.errors import SightlineError
from sightline.settings import environment, set_environment
from trainer.config import from_json, to_json
from trainer.runs import AnyConfig, ConfigT
from trainer.step import TrainingDiverged


def train_on_ray(config: ConfigT, *, loop: Callable[..., None]) -> Path:
    """Folder of the final checkpoint of `loop(config, reporter=...)` on Ray Train workers.

    Starts a private Ray in this process's machine unless RAY_ADDRESS names a
    cluster, as it does inside a Ray job. A run of the same name is resumed.
    Raises what a worker raised in the end, if that is one of our errors; a training
    that diverged would do so again, and is not tried again.
    """
    with _ray_session(num_cpus=config.run.num_workers), own_errors():
        result = TorchTrainer(
            partial(_train_worker, kind=type(config), loop=loop),
            train_loop_config=to_json(config),
            scaling_config=_scaling(config),
            run_config=_run_config(config),
            torch_config=TorchConfig(backend="nccl" if config.run.device == "cuda" else "gloo"),
        ).fit()
    if isinstance(result.return_value, TrainingDiverged):
        raise result.return_value
    assert result.checkpoint is not None, "a finished run has a checkpoint"
    return Path(result.checkpoint.path)


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Raise the first worker's error of ours in place of Ray's report of it."""
    try:
        yield
    except WorkerGroupError as error:
        own = [failure for _, failure in sorted(error.worker_failures.items()) if isinstance(failure, SightlineError)]
        if not own:
            raise
        raise own[0] from error


class RayReporter:
    """A Ray Train worker's line to its controller."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()

    def restore(self) -> Path | None:
        """The newest checkpoint of the run; the storage is a folder that every worker sees."""
        checkpoint = ray.train.get_checkpoint()
        return Path(checkpoint.path) if checkpoint else None

    def save(self, write: Callable[[Path], None], *, stage: str, step: int, loss: float) -> None:
        """Hand a checkpoint to Ray, which copies it into the run folder: a barrier over all workers."""
        metrics = {"stage": stage, "step": step, "loss": loss}
        if self.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="sightline-checkpoint-") as folder:
            write(Path(folder))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


class RayExecutor:
    """Runs calls as Ray tasks of one core each."""

    def __init__(self) -> None:
        self._running: dict[ray.ObjectRef[None], str] = {}

    def submit(self, key: str, function: Callable[..., None], *arguments: Any) -> None:
        """Hand the call to Ray; a worker that dies is replaced twice."""
        task = ray.remote(num_cpus=1, max_retries=2)(function)
        self._running[task.remote(*arguments)] = key

    def next_done(self) -> str:
        """Wait for any call to end and give its key; an error that it raised is raised here."""
        ready, _ = ray.wait(list(self._running), num_returns=1)
        key = self._running.pop(ready[0])
        ray.get(ready[0])
        return key


@contextlib.contextmanager
def ray_executor() -> Iterator[RayExecutor]:
    """Calls as Ray tasks until the block ends: on the cluster of RAY_ADDRESS, else on all cores of this machine."""
    with _ray_session(num_cpus=1):
        yield RayExecutor()


def _train_worker(
    values: dict[str, Any], *, kind: type[AnyConfig], loop: Callable[..., None]
) -> TrainingDiverged | None:
    """Train; a divergence, which every worker meets at the same step, is handed back: Ray retries what is raised."""
    try:
        loop(from_json(kind, values), reporter=RayReporter())
    except TrainingDiverged as error:
        return error
    return None


def _scaling(config: AnyConfig) -> ScalingConfig:
    use_gpu = config.run.device == "cuda"
    return ScalingConfig(num_workers=config.run.num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1})


def _run_config(config: AnyConfig) -> RunConfig:
    return RunConfig(
        name=config.run.name,
        storage_path=config.run.root.resolve().as_posix(),
        failure_config=FailureConfig(max_failures=config.run.max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=config.run.keep_checkpoints),
    )


@contextlib.contextmanager
def _ray_session(*, num_cpus: int) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    _settle_ray()
    if environment("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, num_cpus),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _settle_ray() -> None:
    defaults = {
        # Ray would move workers into folders of their own, where relative paths of the settings name nothing.
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        # A report waits for the controller's next look; at the default of 2 s a short run would mostly wait.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    }
    for name, value in defaults.items():
        if not environment(name):
            set_environment(name, value)
