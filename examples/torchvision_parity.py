"""Does FreeAnchor's loss in torchvision's RetinaNet learn `shapes` as our own detector does?

    .venv/bin/python examples/torchvision_parity.py                 # 15 minutes on one CPU core
    .venv/bin/python examples/torchvision_parity.py --loss focal    # the same detector by torchvision's own losses

Data, order, flips, backbone, steps, optimiser, precision and the heads' first weights (He) are those of the run
`freeanchor-small-s0`. Torchvision's are the pyramid, the heads (four convolutions instead of two), the anchor grid, the
coding of boxes and the post-processing; with `--loss focal` the losses, too. AP is measured in float32.
"""

import argparse
import math
from dataclasses import replace

import torch
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision_free_anchor import INPUTS, as_torchvision, average_precision, small_retinanet, start_from_scratch
from tqdm import tqdm, trange

from experiments.registry.build import build_profile
from experiments.registry.config import Training
from experiments.runs.store import Store
from experiments.runs.training import data_stage
from freeanchor.data.augmentation import TrainingStream
from freeanchor.data.coco import read_split
from freeanchor.integrations.torchvision import use_free_anchor
from freeanchor.runtime import Runtime
from freeanchor.training.recipe import TrainConfig, build_optimizer


def train(model: RetinaNet, stream: TrainingStream, recipe: TrainConfig, runtime: Runtime) -> None:
    """The schedule of `freeanchor.train` around a model that computes its loss itself."""
    optimizer = build_optimizer(model, recipe)
    for step in trange(recipe.num_steps, unit="step"):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step) * group["lr_factor"]
        positions = range(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        with runtime.autocast():
            terms = model(*as_torchvision([stream[position] for position in positions]))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm or math.inf)
        optimizer.step()
        if step % 100 == 0:
            tqdm.write(f"step {step:4d}  " + "  ".join(f"{name} {term.item():.3f}" for name, term in terms.items()))


def main() -> None:
    """Train by the recipe of `shapes`, test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", choices=("free-anchor", "focal"), default="free-anchor")
    parser.add_argument("--steps", type=int, help="steps, instead of the recipe's; the schedule shrinks with them")
    parser.add_argument("--lr", type=float, help="learning rate, instead of the recipe's")
    arguments = parser.parse_args()
    training = build_profile("shapes").evaluations["freeanchor-small-s0"].training
    assert isinstance(training, Training)
    changes = {"num_steps": arguments.steps, "lr": arguments.lr}
    recipe = replace(training.recipe, **{name: value for name, value in changes.items() if value is not None})
    store, runtime = Store(), Runtime()
    data_stage(training, store)
    split, val = read_split(store.data(training), "train"), read_split(store.data(training), "val")
    inputs = replace(INPUTS, short_side=training.inputs.short_side, max_long_side=training.inputs.max_long_side)
    torch.manual_seed(recipe.seed)
    model = small_retinanet(len(split.category_ids) + 1, inputs).to(memory_format=torch.channels_last)
    if arguments.loss == "free-anchor":
        use_free_anchor(model)
    start_from_scratch(model.head)
    train(model.train(), TrainingStream(split, inputs, recipe.augment, recipe.seed), recipe, runtime)
    print(f"{arguments.loss}: AP {100 * average_precision(model, val, inputs):.1f} on {len(val.images)} images")


if __name__ == "__main__":
    main()
