"""One process, or a Ray Train worker for each device, that train the same weights. Knows Ray; knows no step.

driver:  begin(config)                       settings checked and written down
worker:  train_from(config, model, team)     gradients averaged; the first writes the checkpoints
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.engine.supervision import TaskFailed
from cluster.machine import local_machine
from cluster.spec import paths
from cluster.stops import handled_by, kept, restore
from generation.training.config import TrainConfig
from generation.training.shelves import PackageMissing
from generation.training.team import ProcessGroup
from generation.training.trainers import begin, device_of, prepare, train_from

LOG = logging.getLogger("generation.training")
LOG_NAME = "train.log"


def train(config: TrainConfig, model: str) -> None:
    """Train a model, on as many workers as the settings say or this machine has GPUs."""
    begin(config)
    workers = workers_of(config)
    if workers == 1:
        with asked_to_stop() as stop:
            train_from(config, model, stop=stop)
    else:
        train_on_ray(config, model, workers)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, or a signal asked for the end; the second time it interrupts at once."""
    pressed: list[int] = []

    def press(number: int, frame: Any) -> None:
        pressed.append(number)
        restore(before)

    with handled_by(press) as before:
        try:
            yield lambda: bool(pressed)
        except KeyboardInterrupt:
            if pressed and callable(handler := before[pressed[0]]):
                handler(pressed[0], None)  # which ends this call, and is to know by which signal
            raise


def workers_of(config: TrainConfig) -> int:
    """What is asked for; else one for each GPU, or one."""
    return config.workers or (max(1, local_machine().gpus) if device_of(config).type == "cuda" else 1)


def train_on_ray(config: TrainConfig, model: str, workers: int) -> None:
    """Train as `train` does, with several workers of Ray Train. Raises TaskFailed, PackageMissing."""
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise PackageMissing(
            f"more than one worker needs Ray Train: pip install 'ray[train]' ({_last(error)})"
        ) from None
    from cluster.engine.executors.ray_actors import connect

    config = absolute(config)
    prepare(config, model)
    gpu = device_of(config).type == "cuda"
    owns_ray = connect(workers * config.threads)
    LOG.info("%d workers; progress goes to %s", workers, config.out / LOG_NAME)
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "config": config.model_dump(mode="json", by_alias=True),
            "model": model,
            "size": workers,
        },
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker=None if gpu else {"CPU": config.threads}
        ),
        run_config=RunConfig(name=model, storage_path=str(config.out / "ray")),
    )
    try:
        with kept(signal.SIGINT):
            trainer.fit()
    except Exception as error:
        raise TaskFailed(f"training on {workers} workers failed: {_last(error)}") from error
    finally:
        if owns_ray:
            ray.shutdown()


def absolute(config: TrainConfig) -> TrainConfig:
    """The settings as workers, who have working folders of their own, understand them."""
    data = config.data.model_copy(
        update={name: paths.absolute(path) for name, path in config.data if path is not None}
    )
    cache = None if config.cache is None else paths.absolute(config.cache)
    return config.model_copy(update={"out": paths.absolute(config.out), "data": data, "cache": cache})


def work(task: dict[str, Any]) -> None:
    """One worker; its process group has been set up."""
    from ray.train import get_context
    from ray.train.torch import get_device

    config = TrainConfig(**task["config"])
    team = ProcessGroup(get_context().get_world_rank(), task["size"], get_device())
    if team.rank == 0:
        logging.basicConfig(filename=config.out / LOG_NAME, format="%(asctime)s %(message)s", force=True)
        logging.getLogger("generation.training").setLevel(logging.INFO)
    train_from(config, task["model"], team)


def _last(error: BaseException) -> str:
    """The end of a message: of a worker's traceback, the error itself."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
