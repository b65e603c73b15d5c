"""What a second thread gains: `python benchmarks/threads.py --out FOLDER [--model cct_7_3x1] [--counts 1 2]`.

The same untrained model on the core with each number of threads, in turn in one process; outputs must be the same.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
from results import options, parse, write

from edge.export.models import registry
from edge.export.peers.forms import TERNARY, Architecture
from edge.export.peers.make import make_peers
from edge.runtime import load
from edge.runtime.bench.timing import random_inputs, run_of, time_in_turn
from edge.sdk.console import format_seconds, print_table, progress


def main() -> None:
    parser = options(__doc__, rounds=50)
    parser.add_argument("--model", default="cct_7_3x1", choices=sorted(registry()), metavar="MODEL")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1, 2], help="numbers of threads; the first is the measure"
    )
    arguments = parse(parser)
    info, form = registry()[arguments.model], TERNARY["core"]
    kwargs = {"num_classes": info.num_classes, "input_shape": list(info.input_shape)}
    with progress() as display:
        peers = make_peers(Architecture(arguments.model, kwargs, (1, *info.input_shape)), [form], display)
    if form not in peers.files:
        raise SystemExit(peers.failed[form.title])
    counts = list(dict.fromkeys(arguments.counts))
    with ExitStack() as stack:
        models = {
            str(count): stack.enter_context(load(peers.files[form], backend="core", threads=count)) for count in counts
        }
        inputs = random_inputs(models[str(counts[0])].inputs, np.random.default_rng(0))
        answers = [np.asarray(model(*inputs)) for model in models.values()]
        if not all(np.array_equal(answers[0], answer) for answer in answers):
            raise SystemExit(f"{arguments.model}: outputs differ with the number of threads")
        times = time_in_turn({name: run_of(model) for name, model in models.items()}, arguments.rounds)
    print_table(
        ("threads", "min", "median", f"speed-up over {counts[0]}", "10th to 90th %"),
        [
            (
                name,
                format_seconds(timing.minimum),
                format_seconds(timing.median),
                f"{1 / timing.ratio:.2f}",
                f"{1 / timing.high:.2f} to {1 / timing.low:.2f}",
            )
            for name, timing in times.items()
        ],
        title=f"{arguments.model} on the core, batch 1, {arguments.rounds} rounds",
    )
    results = [
        {"threads": int(name), **timing.to_dict(), "speed_up": 1 / timing.ratio} for name, timing in times.items()
    ]
    write(arguments.out, "threads", {"model": arguments.model, "rounds": arguments.rounds, "results": results})


if __name__ == "__main__":
    main()
