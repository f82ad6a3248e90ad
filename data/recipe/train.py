"""Train one model: `python train.py NAME`. Interrupted, it goes on from its last save.

All chance in a step is drawn from a generator seeded by (model, step), so a save needs
the weights, the optimiser and the step only, and a resumed run is bit-identical.
"""

import csv
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from corpus import Corpus
from lineup import RECIPES
from paths import BUILD
from tasks import task_of
from torch import nn
from zoo import Recipe

SAVE_EVERY, LOG_EVERY = 200, 50


def rate_at(step: int, recipe: Recipe) -> float:
    """Return the learning rate: a linear rise, a level, and a linear fall to zero.

    Before the fall nothing depends on how many steps there will be, so a run can still
    be given more: change its steps and start it again.
    """
    fall = max(1, round(recipe.fall * recipe.steps))
    return recipe.rate * min(1.0, (step + 1) / recipe.warmup, (recipe.steps - step) / fall)


def train(recipe: Recipe, folder: Path) -> None:
    """Train to the recipe's last step, saving and logging in `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    modules, step_of = task_of(recipe, Corpus("train"))
    weights = [p for p in modules.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    first, spent = _resume(folder, modules, optimiser)
    begun = time.process_time() - spent
    sums: dict[str, float] = {}
    modules.train()
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        measured = _update(step_of, step, weights, optimiser, rate_at(step, recipe))
        sums = {k: sums.get(k, 0.0) + v for k, v in measured.items()}
        done = step + 1
        if done % LOG_EVERY == 0 or done == recipe.steps:
            count = (done - 1) % LOG_EVERY + 1
            _log(
                folder / "log.csv",
                {"step": done, "cpu_s": round(time.process_time() - begun, 1)}
                | {k: round(v / count, 4) for k, v in sums.items()},
            )
            sums = {}
        if done in recipe.kept:
            torch.save(modules.state_dict(), folder / f"step-{done}.pt")
        if done % SAVE_EVERY == 0 or done == recipe.steps:
            _save(folder, modules, optimiser, done, time.process_time() - begun)
    (folder / "done").write_text(repr(dataclasses.asdict(recipe)) + "\n")


def _update(
    step_of: Callable[[int], dict[str, torch.Tensor]],
    step: int,
    weights: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    rate: float,
) -> dict[str, float]:
    measured = step_of(step)
    optimiser.zero_grad()
    measured["loss"].backward()
    nn.utils.clip_grad_norm_(weights, 1.0)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return {k: float(v.detach()) for k, v in measured.items()}


def _save(folder: Path, modules: nn.Module, optimiser: torch.optim.Optimizer, step: int, spent: float) -> None:
    state = {"modules": modules.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "cpu_s": spent}
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")  # never a half-written save


def _resume(folder: Path, modules: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    if not (folder / "state.pt").exists():
        (folder / "log.csv").unlink(missing_ok=True)
        return 0, 0.0
    state = torch.load(folder / "state.pt", weights_only=True)
    modules.load_state_dict(state["modules"])
    optimiser.load_state_dict(state["optimiser"])
    _trim(folder / "log.csv", state["step"])
    return state["step"], state["cpu_s"]


def _trim(path: Path, step: int) -> None:
    """Drop log lines past the save: their steps run again."""
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text("".join(f"{line}\n" for i, line in enumerate(lines) if i == 0 or int(line.split(",")[0]) <= step))


def _log(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with open(path, "a", newline="") as file:
        table = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            table.writeheader()
        table.writerow(row)


def main(name: str) -> None:
    """Train the named model unless it is done."""
    folder = BUILD / "runs" / name
    if not (folder / "done").exists():
        train(RECIPES[name], folder)


if __name__ == "__main__":
    main(sys.argv[1])
