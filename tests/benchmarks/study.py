"""A study that is killed, that has many cells, and that runs on two simulated Ray nodes.

    python tests/benchmarks/study.py kills [--kills 50]      random SIGKILLs; ends equal to a study that nobody killed
    python tests/benchmarks/study.py size [--data 40]        data sets x 5 methods x 3 seeds: memory, time, the page
    python tests/benchmarks/study.py nodes [--cells 6]       the time of two nodes of one core over that of one

Photos are tiny and weights random. `size` takes cells that do no training, so what it measures is the study's own; ten
real cells tell what that is beside, a worker's start among it. Each prints a JSON document; exit status 1 where
something is not as it should be.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "study")]

from made_up_study import TARGET, make_plan, make_timing, write_data  # noqa: E402
from small_bundle import write_shapes  # noqa: E402

from rrr_edge.bundle.files import sha256  # noqa: E402
from rrr_edge.bundle.folder import WEIGHTS  # noqa: E402
from rrr_edge.bundle.recipe import RRR, FineTune, Training  # noqa: E402
from rrr_edge.bundle.spec import SMALLEST_DEPTHS  # noqa: E402
from rrr_edge.study import Run, run_study  # noqa: E402
from rrr_edge.study.cell import run_cell  # noqa: E402
from rrr_edge.study.folder import StudyFolder  # noqa: E402
from rrr_edge.study.page import write_study_report  # noqa: E402
from rrr_edge.study.plan import Method, Plan, find_data  # noqa: E402
from rrr_edge.study.runners import Processes  # noqa: E402
from rrr_edge.timing.machine import cpu_info, usable_cores  # noqa: E402

CODE = (
    "import sys; from pathlib import Path; from rrr_edge.study import *; from rrr_edge.study.runners import *\n"
    "run_study(Plan.from_json_file(Path(sys.argv[1])), sys.argv[2], Run(Processes(1)))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "size", "nodes"), nargs="?", default="size")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--data", type=int, default=40)
    parser.add_argument("--cells", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {"kills": kills, "size": size, "nodes": nodes}[options.what](Path(folder), options)
    print(json.dumps({**found, "cpu": cpu_info()[0], "cores": usable_cores()}, indent=2))
    sys.exit(0 if found["as it should be"] else 1)


def small_plan(folder: Path, *, seeds: int = 2, epochs: int = 2) -> Plan:
    """Two real methods on drawn shapes of 32 pixels."""
    training = Training(epochs=epochs, batch_size=12, augment=False, shared_batches=True)
    common: dict[str, Any] = {"weights": "random", "image_size": 32, "training": training}
    recipes = {"rrr": RRR(branches=2, **common), "whole": FineTune(depths=SMALLEST_DEPTHS, **common)}
    methods = tuple(Method(name=name, recipes=(recipe,)) for name, recipe in recipes.items())
    data = find_data([write_shapes(folder / "shapes", train=8, test=4)])
    return Plan(data=data, methods=methods, seeds=tuple(range(seeds)), device="cpu")


def kills(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Kill the study, and with it its worker, at moments drawn from the time that a whole one takes."""
    plan, rng = small_plan(folder), random.Random(0)
    (folder / "plan.json").write_text(plan.to_json())
    since = time.monotonic()
    run_study(plan, folder / "whole", Run(Processes(1)))
    whole_s, expected = time.monotonic() - since, _results(plan, folder / "whole")
    killed = finished = 0
    different: list[str] = []
    while killed < options.kills:
        out = folder / f"killed-{finished}"
        while killed < options.kills:
            command = [sys.executable, "-c", CODE, str(folder / "plan.json"), str(out)]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                process.wait(rng.uniform(0, whole_s))
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        run_study(plan, out, Run(Processes(1)))
        finished += 1
        different += [name for name, found in _results(plan, out).items() if found != expected[name]]
    return {
        "kills": killed,
        "studies that went on to their end": finished,
        "cells a study": len(plan.cells),
        "whole study, s": round(whole_s, 1),
        "cells that differ from an unkilled study's": different,
        "as it should be": not different,
    }


def _results(plan: Plan, out: Path) -> dict[str, Any]:
    """What must not depend on kills: weights bit for bit, and how they answer."""
    study = StudyFolder(out)
    found = {}
    for cell in plan.cells:
        record = study.record(cell)
        assert record
        found[cell.words] = sha256(study.bundle(cell) / WEIGHTS), record.accuracy, record.cost
    return found


def size(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Cells without training by the tests' worker; then ten real cells in a study, and by themselves."""
    os.environ |= {"STUDY_WORKER_LOG": str(folder / "log.txt"), "STUDY_WORKER_S": "0"}
    os.environ["PYTHONPATH"] = os.pathsep.join((str(TESTS.parent), str(TESTS), str(TESTS / "study")))
    methods = "rrr,finetune,linear-probe,nettailor,resnet18"
    data = write_data(folder / "data", *(f"data{i:02}" for i in range(options.data)))
    plan = make_plan(data, methods, seeds=(0, 1, 2), target=TARGET)
    study, ms = StudyFolder(folder / "study"), {name: 1.0 + i for i, name in enumerate(methods.split(","))}
    since = time.monotonic()
    untimed = plan.model_copy(update={"target": None})
    done = run_study(untimed, study.path, Run(Processes(1, module="study_worker")))
    per_cell_s = (time.monotonic() - since) / len(plan.cells)
    for each in plan.data:
        for seed in plan.seeds:
            study.write_timing(make_timing(plan, each.name, seed, ms))
    since = time.monotonic()
    page, _ = write_study_report(study)
    page_s, page_mb = time.monotonic() - since, page.stat().st_size / 1e6
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    real = small_plan(folder, seeds=5, epochs=1)
    since = time.monotonic()
    run_study(real, folder / "real", Run(Processes(1)))
    in_study_s = time.monotonic() - since
    run_cell(real.cells[0], StudyFolder(folder / "warm"))  # its imports are no part of those by themselves
    since = time.monotonic()
    for cell in real.cells:
        run_cell(cell, StudyFolder(folder / "direct"))
    direct_s = time.monotonic() - since
    overhead_s = (in_study_s - direct_s) / len(real.cells)
    return {
        "cells": done.finished,
        "study's own time a cell, s": round(per_cell_s, 3),
        "peak memory of the study, MB": round(memory_mb),
        "page, MB": round(page_mb, 2),
        "page, s": round(page_s, 1),
        "real cells": len(real.cells),
        "in a study, with its worker's start, s": round(in_study_s, 1),
        "by themselves, s": round(direct_s, 1),
        "overhead a real cell, s": round(overhead_s, 2),
        "as it should be": max(per_cell_s, overhead_s) <= 2 and page_mb < 5 and done.finished == len(plan.cells),
    }


def nodes(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The same cells on a cluster of one node of one core, and of two."""
    from rrr_edge.study.cluster import Ray, import_ray

    os.environ["PYTHONPATH"] = str(TESTS.parent)
    ray = import_ray(local=True)
    from ray.cluster_utils import Cluster

    plan = replace_seeds(small_plan(folder, epochs=40), options.cells)
    seconds = []
    for count in (1, 2):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            for _ in range(count - 1):
                cluster.add_node(num_cpus=1)
            since = time.monotonic()
            done = run_study(plan, folder / f"nodes-{count}", Run(Ray(cluster.address)))
            seconds.append(time.monotonic() - since)
        finally:
            ray.shutdown()
            cluster.shutdown()
        assert done.finished == len(plan.cells), done.failures
    return {
        "cells": len(plan.cells),
        "one node, s": round(seconds[0], 1),
        "two nodes, s": round(seconds[1], 1),
        "share": round(seconds[1] / seconds[0], 2),
        "as it should be": seconds[1] <= 0.6 * seconds[0],
    }


def replace_seeds(plan: Plan, cells: int) -> Plan:
    return plan.model_copy(update={"methods": plan.methods[:1], "seeds": tuple(range(cells))})


if __name__ == "__main__":
    main()
