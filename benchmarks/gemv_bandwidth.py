"""How far GEMV can be ahead of int8 where weights stream: `python benchmarks/gemv_bandwidth.py --out FOLDER`.

A ternary weight is 2 bits and an int8 one 8, so where both stream at the machine's rate the core is 4 times as fast;
but each weight is also a product and a sum, and takes as many instructions as with int8. So the core's least time is
the longer of two: that of reading its bytes, and that of its products at the machine's rate of int8 products (as
`edge bench --profile` measures it, without unpacking). A peer can be behind by its own time over that, and no more. The
chains are those of layers.py; what one core reads is of as many bytes, over and over, with nothing else to do. All
figures are minima of one run. Writes JSON alone.
"""

from __future__ import annotations

from typing import Any

from layers import GROUPS, Shape, fastest, measure
from results import options, parse, write

from edge.runtime._core import measure_peak
from edge.sdk.console import format_ratio, print_table

BITS = {"core": 2, "XNNPACK int8": 8, "LiteRT int8": 8}


def bandwidth(shape: Shape, rounds: int, threads: int) -> dict[str, Any]:
    """By engine its seconds, its rates beside the machine's, and the most that the core can be ahead."""
    times, failed = measure(shape, ["executorch", "litert"], [], rounds, threads)
    weights = shape.inputs * shape.outputs * shape.layers
    engines: dict[str, dict[str, float]] = {}
    for name, bits in BITS.items():
        timing = fastest(times, GROUPS.get(name, ("core 1.58 bits",)))
        if timing is None:
            continue
        size = weights * bits // 8
        peak = measure_peak(100.0, size)
        engines[name] = {
            "seconds": timing.minimum,
            "weight_bytes": size,
            "bytes_per_second": size / timing.minimum,
            "machine_bytes_per_second": peak["read"],
            "macs_per_second": weights / timing.minimum,
            "machine_macs_per_second": max(peak["int8"].values()),
            "ahead": timing.ratio,
        }
    core = engines["core"]
    reading = core["weight_bytes"] / core["machine_bytes_per_second"]
    multiplying = weights / core["machine_macs_per_second"]
    for engine in engines.values():
        engine["most_ahead"] = engine["seconds"] / max(reading, multiplying)
    bound = "reading" if reading > multiplying else "multiplying"
    return {"shape": str(shape), "layers": shape.layers, "bound_by": bound, "engines": engines, "failed": failed}


def main() -> None:
    parser = options(__doc__, rounds=60)
    parser.add_argument("--shapes", nargs="+", default=["2048x2048", "4096x4096"], metavar="SHAPE", help="of GEMV")
    arguments = parse(parser)
    found = [bandwidth(Shape.parse(text, None), arguments.rounds, arguments.threads) for text in arguments.shapes]
    print_table(
        (
            "inputs×outputs",
            "engine",
            "weights, MB",
            "GB/s",
            "machine's",
            "GMAC/s",
            "machine's",
            "time / core",
            "at most",
        ),
        [
            (
                one["shape"],
                name,
                f"{engine['weight_bytes'] / 1e6:.1f}",
                f"{engine['bytes_per_second'] / 1e9:.1f}",
                f"{engine['machine_bytes_per_second'] / 1e9:.1f}",
                f"{engine['macs_per_second'] / 1e9:.1f}",
                f"{engine['machine_macs_per_second'] / 1e9:.1f}",
                format_ratio(engine["ahead"]),
                format_ratio(engine["most_ahead"]),
            )
            for one in found
            for name, engine in one["engines"].items()
        ],
        title=f"Weights that stream, {arguments.threads} thread(s), {arguments.rounds} rounds",
    )
    write(arguments.out, "gemv_bandwidth", {"threads": arguments.threads, "rounds": arguments.rounds, "shapes": found})


if __name__ == "__main__":
    main()
