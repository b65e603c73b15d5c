"""Which extra of the distribution brings which package: for `edge doctor`, and for the error about a missing one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """A package that is optional somewhere.

    Attributes:
        module: What `import` calls it.
        distribution: What pip calls it.
        extra: The extra of edge-deploy that brings it; "" for the base install, None where no extra does.
        purpose: What it is for, in a few words.
        alternative_to: The distribution whose place it takes; "" if it stands for itself.
    """

    module: str
    distribution: str
    extra: str | None
    purpose: str
    alternative_to: str = ""

    @property
    def install(self) -> str:
        """The command that installs it."""
        if self.extra is None:
            return f"pip install {self.distribution}"
        return f"pip install 'edge-deploy[{self.extra}]'" if self.extra else "pip install edge-deploy"


PACKAGES: tuple[Package, ...] = (
    Package("numpy", "numpy", "", "arrays"),
    Package("click", "click", "", "command line"),
    Package("rich", "rich", "", "tables and progress"),
    Package("paho", "paho-mqtt", "", "a device's link to its fleet"),
    Package("cryptography", "cryptography", "", "keys and certificates"),
    Package("PIL", "pillow", "images", "image files"),
    Package("ai_edge_litert", "ai-edge-litert", "litert", "engine for .tflite"),
    Package(
        "tflite_runtime",
        "tflite-runtime",
        None,
        "instead of ai-edge-litert: Python up to 3.11, numpy 1, no INT2",
        alternative_to="ai-edge-litert",
    ),
    Package("onnxruntime", "onnxruntime", "onnx", "engine for .onnx"),
    Package("executorch", "executorch", "executorch", "engine for .pte with any operator; export"),
    Package("torch", "torch", "export", "training"),
    Package("torchao", "torchao", "export", "export"),
    Package("onnx", "onnx", "export", "export to .onnx"),
    Package("onnxscript", "onnxscript", "export", "export to .onnx"),
    Package("safetensors", "safetensors", "export", "reading checkpoints"),
    Package("sklearn", "scikit-learn", "export", "the digits data set"),
    Package("matplotlib", "matplotlib", "export", "plots of the report"),
    Package("litert_torch", "litert-torch", "tflite-export", "export to .tflite"),
    Package("ziglang", "ziglang", "firmware", "compiler of firmware"),
    Package("unicorn", "unicorn", "firmware", "emulated boards"),
    Package("elftools", "pyelftools", "firmware", "what firmware takes of its board"),
    Package("serial", "pyserial", "firmware", "serial lines to boards"),
    Package("cobs", "cobs", "firmware", "frames on serial lines"),
    Package("monocypher", "pymonocypher", "firmware", "signatures of firmware models"),
    Package("sqlalchemy", "SQLAlchemy", "fleet", "the registry of devices"),
    Package("tuf", "tuf", "fleet", "signed model updates"),
    Package("rdflib", "rdflib", "fleet", "descriptions of devices and models"),
    Package("pyoxigraph", "pyoxigraph", "fleet", "queries over them"),
    Package("pyshacl", "pyshacl", "fleet", "their validation"),
    Package("nats", "nats-py", "fleet", "the server's answers to a NATS cluster"),
    Package("amqtt", "amqtt", "fleet", "a broker for a first try without mosquitto"),
    Package("prometheus_client", "prometheus-client", "fleet", "metrics"),
    Package("psycopg", "psycopg", "fleet", "PostgreSQL instead of SQLite"),
)


def missing_dependency(error: ModuleNotFoundError) -> str | None:
    """One line about the package whose absence `error` reports, or None if it is none of ours."""
    top = (error.name or "").partition(".")[0]
    for package in PACKAGES:
        if package.module == top:
            return f"this needs {package.distribution} ({package.purpose}), which is not installed: {package.install}"
    return None
