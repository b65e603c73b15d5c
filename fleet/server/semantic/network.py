"""A model in the TinyML schema (https://w3id.org/tinyml-schema/neural-network-schema#), from its manifest.

As in seloc-ml: a network has inputs that sensors provide, layers with a type and a quantization, a metric, and two
conditions, the RAM and flash that it needs in kilobytes (om:kilobyte, 1,024 bytes here, rounded up). The variants with
their exact needs in bytes are terms of ours.
"""

from __future__ import annotations

from typing import Any

from edge.fleet.server.semantic.contexts import CONTEXT
from edge.fleet.server.semantic.facts import ModelFacts, Variant
from edge.fleet.server.semantic.names import model_iri, segment
from edge.fleet.server.semantic.thing import SENSOR_CLASSES
from edge.runtime.manifest import LayerRecord

# The schema's layer types and ours, by the kinds that manifests name; what it has no word for is an ef: individual.
_LAYER_TYPES = {
    "linear": "nnet:FullyConnected",
    "conv1x1": "nnet:Conv2D",
    "conv2d": "nnet:Conv2D",
    "depthwise": "nnet:DepthwiseConv2D",
    "constant": "ef:Constant",
}
_QUANTIZATIONS = {
    1.58: "ef:Ternary",
    2.0: "ef:Int2",
    4.0: "ef:Int4",
    8.0: "nnet:Int8",
    16.0: "nnet:Float16",
    32.0: "nnet:Float32",
}


def network_description(model: ModelFacts) -> dict[str, Any]:
    """A published model as JSON-LD."""
    manifest = model.manifest
    iri = model_iri(model.name, model.version)
    made: dict[str, Any] = {
        "@context": CONTEXT,
        "id": iri,
        "@type": ["nnet:NeuralNetwork", "ef:Model"],
        "schema:name": model.name,
        "schema:version": model.version,
        "schema:identifier": model.key,
        "schema:description": manifest.task,
        "schema:dateCreated": manifest.created,
        "schema:runtimePlatform": sorted({engine for variant in model.variants for engine in variant.engines}),
        "ssn:hasInput": [
            {
                "@id": f"{iri}#input-{index}",
                "@type": "nnet:NetworkInput",
                "nnet:hasInputInfo": f"{spec.name}: {spec.dtype} {'×'.join(map(str, spec.shape))}",
            }
            for index, spec in enumerate(manifest.inputs)
        ],
        "ssn:hasOutput": [
            {
                "@id": f"{iri}#output-{index}",
                "@type": "nnet:NetworkOutput",
                "nnet:hasOutputInfo": f"{spec.name}: {spec.dtype} {'×'.join(map(str, spec.shape))}",
            }
            for index, spec in enumerate(manifest.outputs)
        ],
        "ef:hasVariant": [_variant(iri, variant) for variant in model.variants],
    }
    if manifest.license:
        made["schema:license"] = manifest.license
    if manifest.task.endswith("classification"):
        made["nnet:hasCategory"] = "nnet:Classification"
    macs = [entry.macs for entry in manifest.files.values() if entry.macs is not None]
    if macs:
        made["nnet:hasMultiplyAccumulateOps"] = max(macs)
    if manifest.metrics is not None:
        name = "nnet:Top_1_accuracy" if manifest.metrics.metric == "accuracy" else "nnet:Metric"
        made["nnet:hasMetric"] = {
            "@id": f"{iri}#metric",
            "@type": name,
            "nnet:hasMetricValue": _double(manifest.metrics.torch),
        }
    made["s3n:hasProcedureFeature"] = _conditions(iri, model)
    made.update(_layers(iri, manifest.quantization.layers if manifest.quantization else ()))
    if model.sensors:
        made["ef:needsSensorType"] = sorted(model.sensors)
        # The schema's relation runs from the sensor to the input, so it is written from there.
        made["@included"] = [
            {
                "@id": f"{iri}#sensor-{name}",
                "@type": ["sosa:Sensor", SENSOR_CLASSES[name]],
                "ssn_extend:provideInput": f"{iri}#input-0",
            }
            for name in sorted(model.sensors)
        ]
    return made


def _double(value: float) -> dict[str, Any]:
    """A number that stays an xsd:double when it happens to be whole."""
    return {"@value": repr(float(value)), "@type": "xsd:double"}


def _variant(iri: str, variant: Variant) -> dict[str, Any]:
    made: dict[str, Any] = {
        "@id": f"{iri}#variant-{segment(variant.file)}",
        "@type": "ef:Variant",
        "ef:file": variant.file,
        "ef:needsFlashBytes": variant.flash,
        "ef:needsDtype": variant.dtype,
        "ef:needsAnyRuntime": sorted(variant.engines),
    }
    for key, value in (
        ("ef:needsRamBytes", variant.least_ram),
        ("ef:needsKind", variant.kind),
        ("ef:needsArch", variant.arch),
        ("ef:needsTarget", variant.target),
        ("ef:needsBoard", variant.board),
        ("ef:needsAbi", variant.abi),
    ):
        if value is not None:
            made[key] = value
    if variant.sha256:
        made["ef:sha256"] = variant.sha256
    if variant.operators:
        made["ef:needsOperator"] = sorted(variant.operators)
    if variant.runtimes:
        made["ef:needsRuntimeVersion"] = sorted(f"{name}:{version}" for name, version in variant.runtimes.items())
    return made


def _conditions(iri: str, model: ModelFacts) -> list[dict[str, Any]]:
    """What the least demanding variant needs, in the schema's own words."""
    needs = [("flash", "s3n_extend:Flash", min((variant.flash for variant in model.variants), default=None))]
    known = [variant.least_ram for variant in model.variants if variant.least_ram is not None]
    needs.append(("ram", "s3n_extend:RAM", min(known, default=None)))
    return [
        {
            "@id": f"{iri}#needs-{name}",
            "@type": "s3n:ProcedureFeature",
            "ssn-system:inCondition": {
                "@id": f"{iri}#{name}-condition",
                "@type": kind,
                "schema:minValue": -(-count // 1024),
                "schema:unitCode": "om:kilobyte",
            },
        }
        for name, kind, count in needs
        if count is not None
    ]


def _layers(iri: str, layers: tuple[LayerRecord, ...]) -> dict[str, Any]:
    """The layers with weights: the first is the schema's input layer, the last its output layer."""
    found: dict[str, list[dict[str, Any]]] = {}
    for index, layer in enumerate(layers):
        place = "nnet:inputLayer" if index == 0 else "nnet:middleLayer"
        if index and index == len(layers) - 1:
            place = "nnet:outputLayer"
        found.setdefault(place, []).append(
            {
                "@id": f"{iri}#layer-{index}",
                "@type": "nnet:Layer",
                "schema:name": layer.name,
                "nnet:hasIndex": index,
                "nnet:hasType": _LAYER_TYPES.get(layer.kind, f"ef:{segment(layer.kind)}"),
                "nnet:hasQuantization": _QUANTIZATIONS.get(layer.bits, "ef:OtherQuantization"),
                "ef:weightShape": "×".join(map(str, layer.shape)),
                "ef:weightBytes": layer.bytes,
            }
        )
    return dict(found)
