"""Teaches a model what files show: `python teach.py MODEL.edge LABEL FILE...`.

LABEL may be a class of the model or a new one. What is learned is kept beside the model, and every program that loads
it from there uses it. A new class needs some dozen files, and a few of the old ones now and then, lest they are
forgotten.
"""

import sys

from edge.runtime import EdgeError, load


def main(bundle: str, label: str, *files: str) -> None:
    with load(bundle) as model:
        budget = model.learning_budget()
        print(f"{budget.parameters:,} weights learn in {budget.total_bytes:,} bytes")
        learned = model.learn(list(files), [label] * len(files), new_labels=True)
        print(f"{learned.correct} of {learned.samples} were right before they were learned")
        for file in files:
            found = model.predict(file)
            print(f"{file}\t{found.label}\t{100 * found.score:.0f} %")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:]) if len(sys.argv) > 3 else sys.exit(__doc__)
    except (EdgeError, OSError, KeyboardInterrupt) as error:
        sys.exit(f"teach: {error}" if str(error) else 0)
