"""How large each model's files are at 1.58 bits, beside float: `python benchmarks/sizes.py --out FOLDER`.

Sizes do not depend on training, so the weights are random. Writes sizes.json and sizes.png into FOLDER and prints a
table. Needs the extras [export] and [tflite-export].
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from edge.export.lower.freeze import freeze
from edge.export.lower.onnx import to_onnx
from edge.export.lower.pte import to_pte
from edge.export.lower.tflite import to_tflite
from edge.export.models import ModelSpec, registry
from edge.export.quantize import QuantConfig, ternarize

MODELS = ("cct_2_3x2", "cct_7_3x1", "ds_cnn", "mlp")


def lower_all(name: str, folder: Path) -> dict[str, int]:
    """Bytes of every form of one model; the files are written into `folder`."""
    info = registry()[name]
    spec = ModelSpec(name, {"num_classes": info.num_classes, "input_shape": list(info.input_shape)})
    torch.manual_seed(0)
    model = spec.build()
    example = (torch.randn(1, *info.input_shape),)
    with torch.no_grad():
        plain = freeze(model, example)
        frozen = freeze(ternarize(spec.build(), config=QuantConfig(keep=info.keep)), example)
        sizes = {
            "float .pte": to_pte(plain, example, folder / "float.pte", compact_constants=False)["bytes"],
            "1.58-bit .pte": to_pte(frozen, example, folder / "ternary.pte")["bytes"],
            "INT2 .tflite": to_tflite(frozen, example, folder / "int2.tflite", bits=2)["bytes"],
            "2-bit .onnx": to_onnx(frozen, example, folder / "ternary.onnx")["bytes"],
        }
    return {"parameters": sum(p.numel() for p in model.parameters()), **sizes}


def plot(table: dict[str, dict[str, int]], path: Path) -> None:
    """One group of bars a model, in kilobytes, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    forms = [key for key in next(iter(table.values())) if key != "parameters"]
    figure, axes = plt.subplots(figsize=(8, 4))
    width = 0.8 / len(forms)
    for index, form in enumerate(forms):
        places = [i + index * width for i in range(len(table))]
        bars = axes.bar(places, [row[form] / 1e3 for row in table.values()], width, label=form)
        axes.bar_label(bars, [f"{row[form] / 1e3:.0f}" for row in table.values()], fontsize=7)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(table))], list(table))
    axes.set_yscale("log")
    axes.set_ylabel("kilobytes")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=sorted(registry()))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = {}
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            table[name] = lower_all(name, Path(folder))
        print(name, ", ".join(f"{key} {value:,}" for key, value in table[name].items()), flush=True)
    (arguments.out / "sizes.json").write_text(json.dumps(table, indent=1) + "\n")
    plot(table, arguments.out / "sizes.png")


if __name__ == "__main__":
    main()
