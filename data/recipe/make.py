"""Make everything under data/ from nothing: `python make.py [--jobs 2] [STAGE ...]`.

A stage that is done is skipped, and training goes on from its last save, so an
interrupted run is simply started again. Each stage is a process of one thread.
"""

import argparse
import os
import subprocess
import sys
import time

from lineup import RECIPES, SHIPPED
from paths import BUILD, RECIPE

# glibc returns big blocks to the system after each step; keeping them halves the step time.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}


def stages() -> dict[str, tuple[list[str], list[str]]]:
    """Return stage -> (command, the stages it waits for), most urgent first."""
    sets = ("analysis", "train", "probe", "development")
    plan = {f"speech-{name}": (["speech.py", name], []) for name in sets}
    plan["check"] = (["check.py"], [])
    sources = list(dict.fromkeys(r.units for r in RECIPES.values() if r.units))
    for r in RECIPES.values():
        if r.units:
            before = [r.units] if r.units in RECIPES else []
            plan[f"units-{r.units}"] = (["units.py", r.units], [*(f"speech-{name}" for name in sets), *before])
        needs = ["speech-train", "check"] + [f"units-{r.units}"] * bool(r.units) + [r.start] * bool(r.start)
        plan[r.name] = (["train.py", r.name], needs)
    measured = [*SHIPPED, "twin-small", "twin-large", "log-mel"]
    for name in measured:
        needs = ["speech-analysis", "speech-probe"]
        if name in SHIPPED:
            plan[f"export-{name}"] = (["export.py", name], [name])
            needs += [f"export-{name}"] + [f"units-{s}" for s in sources]
        plan[f"proof-{name}"] = (["proof.py", name], needs)
    plan["proof"] = (["proof.py", "all"], [f"proof-{name}" for name in measured])
    plan["card"] = (["card.py"], ["proof"])
    return plan


def run(plan: dict[str, tuple[list[str], list[str]]], wanted: set[str], jobs: int) -> None:
    """Run the wanted stages, `jobs` at a time, each after those it needs."""
    logs = BUILD / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = [s for s in plan if s in wanted], {}
    while waiting or running:
        for stage in [s for s in waiting if not _blocked(plan[s][1], waiting, running)][: jobs - len(running)]:
            waiting.remove(stage)
            print("start", stage, flush=True)
            with open(logs / f"{stage}.log", "a") as log:
                running[stage] = subprocess.Popen(
                    [sys.executable, *plan[stage][0]], cwd=RECIPE, stdout=log, stderr=log, env=os.environ | ENVIRONMENT
                )
        time.sleep(0.5)
        for stage in [s for s, process in running.items() if process.poll() is not None]:
            if running.pop(stage).returncode:
                for process in running.values():
                    process.terminate()
                sys.exit(f"{stage} failed: see {logs / stage}.log")
            print("done", stage, flush=True)


def _blocked(needs: list[str], waiting: list[str], running: dict) -> bool:
    return any(need in waiting or need in running for need in needs)


def main() -> None:
    """Read the command line and run."""
    plan = stages()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", nargs="*", help=f"only these: {', '.join(plan)}")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (2)")
    options = parser.parse_args()
    if unknown := set(options.stage) - set(plan):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(plan)}")
    run(plan, set(options.stage or plan), options.jobs)


if __name__ == "__main__":
    main()
