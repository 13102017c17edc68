"""What training changes, and how it is kept: weights, momentum, gradient scale, number of steps and their seconds.

A state says nothing of the number of processes or of the device: what eight GPUs saved, one CPU goes on from.

    state = start(detector.model, config, runtime, processes)
    state.save(path, config)
    state.resume(path, config)
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from freeanchor.checkpoints.backbone_weights import load_backbone, read_backbone
from freeanchor.checkpoints.native import load_tensors, load_weights, save_tensors
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.errors import brief, is_number, is_whole
from freeanchor.runtime import Runtime
from freeanchor.training.processes import ALONE, Processes, sync_batch_norm
from freeanchor.training.recipe import TrainConfig, TrainingError, build_optimizer


@dataclass
class TrainingState:
    """What training changes; `network` is the model as the processes share it, `run` says of which training it is."""

    model: RetinaNet
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    step: int = 0
    seconds: float = 0.0
    network: nn.Module | None = None
    run: str = ""

    def save(self, path: Path, config: TrainConfig) -> None:
        """Write everything needed to go on from here."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer") if parameter.requires_grad else None
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        header = {"step": self.step, "seconds": self.seconds, "config": repr(config), "run": self.run}
        save_tensors(path, tensors, {**header, "scaler": self.scaler.state_dict()})

    def resume(self, path: Path, config: TrainConfig, processes: Processes = ALONE) -> None:
        """Go back to what `save` wrote, if it did; raises TrainingError where that is damaged, or of another training.

        The first process reads; the others, on whatever host, are told.
        """
        found = processes.from_main(load_tensors(path) if processes.is_main and path.exists() else None)
        if found is not None:
            self._restore(*found, path=path, config=config)

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any], path: Path, config: TrainConfig) -> None:
        if what := _fault(tensors, header, config, self.run):
            raise TrainingError(f"{path}: {what}; delete it to train anew")
        weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        load_weights(self.model, weights, path)
        for name, parameter in self.model.named_parameters():
            momentum = tensors.get(f"momentum.{name}")
            if momentum is not None and momentum.shape != parameter.shape:
                raise TrainingError(f"{path}: momentum of {name} has another shape; delete it to train anew")
            if momentum is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        if self.scaler.is_enabled() and header.get("scaler"):
            self._restore_scale(header["scaler"], path)
        self.step, self.seconds = header["step"], header["seconds"]

    def _restore_scale(self, content: Any, path: Path) -> None:
        try:
            self.scaler.load_state_dict(content)
        except (AttributeError, KeyError, RuntimeError, TypeError):
            raise TrainingError(f"{path}: its gradient scale is damaged; delete it to train anew") from None


def _fault(tensors: dict[str, Tensor], header: dict[str, Any], config: TrainConfig, run: str) -> str:
    """What keeps a state from being gone on from by this training, in words; nothing where it may be."""
    if missing := {"config", "step", "seconds"} - header.keys():
        return f"has no {', '.join(sorted(missing))}"
    if header["config"] != repr(config):
        return "was written by another recipe"
    if run and header.get("run") not in (run, "", None):  # states of earlier versions do not say
        return f"was written by another run ({brief(header['run'])}), with other data or another network"
    step, seconds = header["step"], header["seconds"]
    if not (is_whole(step) and 0 < step <= config.num_steps):
        return f"says that step {brief(step)} of {config.num_steps} is done"
    if not (is_number(seconds) and seconds >= 0):
        return f"says that it took {brief(seconds)} seconds"
    if config.momentum and not any(name.startswith("momentum.") for name in tensors):
        return "has no momentum"
    if odd := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        return f"holds values that are not finite at {odd[0]}"
    return ""


def start(
    model_config: ModelConfig,
    config: TrainConfig,
    runtime: Runtime,
    processes: Processes = ALONE,
    backbone_weights: Path | None = None,
) -> TrainingState:
    """A state before the first step, the same on every process: weights from the seed, the backbone's from a file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = RetinaNet(model_config)
    if backbone_weights is not None:
        load_backbone(model.backbone, read_backbone(backbone_weights), backbone_weights)
    model = runtime.place(model).train()
    if processes.count > 1 and config.group_size is None:
        sync_batch_norm(model)  # the batch is one, wherever its images lie
    return TrainingState(model, build_optimizer(model, config), scaler=runtime.grad_scaler())


def share_network(state: TrainingState, processes: Processes, *, compiled: bool = False) -> None:
    """Let gradients be averaged over the processes (DDP); to be called once the weights are in place.

    With `compiled`, the network's parts are compiled in place when they first run; weights keep their names.
    """
    if compiled:
        for part in (state.model.backbone, state.model.pyramid, state.model.cls_head, state.model.box_head):
            part.compile()
    state.network = state.model
    if processes.count > 1:
        device = torch.device(processes.device)
        state.network = DistributedDataParallel(state.model, device_ids=[device] if device.type == "cuda" else None)
