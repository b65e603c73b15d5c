"""A device as a W3C WoT Thing Description 1.1 (https://www.w3.org/TR/wot-thing-description11/), with SOSA/SSN and S3N.

The JSON-LD document is the only description; its triples are what pyoxigraph reads out of it. A device looks like

    <urn:edge:device:d1> a td:Thing, ssn:System, s3n:SmartSensor, ef:Device ;
        ssn:hasSubSystem <…#controller>, <…#sensor-microphone> ;   # SSN and S3N, as in seloc-ml
        ef:ramBytes 262144 ; ef:inBuilding "7" ; …                 # shortcuts, one triple each, for queries

It has no blank nodes: every part is named after its device, so that two descriptions can be compared as sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edge.fleet.server.semantic.contexts import CONTEXT
from edge.fleet.server.semantic.facts import DeviceFacts
from edge.fleet.server.semantic.names import EF, PREFIXES, device_iri, model_iri, segment

# Kinds of sensor that seloc-ml's extension of SOSA has classes for; any other is a plain sosa:Sensor.
SENSOR_CLASSES = {
    "accelerometer": "sosa_extend:Accelerometer",
    "camera": "sosa_extend:Camera",
    "gyroscope": "sosa_extend:Gyroscope",
    "magnetometer": "sosa_extend:Magnetometer",
    "microphone": "sosa_extend:Microphone",
    "thermometer": "sosa_extend:Thermometer",
}

_TITLE = PREFIXES["dct"] + "title"
DEFAULT_BROKER = "mqtts://localhost:8883"


def thing_description(device: DeviceFacts, broker: str = DEFAULT_BROKER) -> dict[str, Any]:
    """The Thing Description of a device.

    Args:
        broker: the URL of the fleet's broker, which the forms lead to.
    """
    iri = device_iri(device.id)
    # A device's TLS certificate is negotiated by the transport: "auto" in TD 1.1 (5.3.3.3).
    made: dict[str, Any] = {
        "@context": CONTEXT,
        "id": iri,
        "@type": ["Thing", "ssn:System", "ef:Device", *(["s3n:SmartSensor"] if device.sensors else [])],
        "title": device.id,
        "securityDefinitions": {"ef:mtls": {"@id": "ef:mtls", "scheme": "auto"}},
        "security": "ef:mtls",
        "properties": {
            "status": _property(iri, "status", f"{broker}/f/v1/{segment(device.id)}/up/status"),
            "telemetry": _property(iri, "telemetry", f"{broker}/f/v1/{segment(device.id)}/up/tel"),
        },
        "actions": {
            "job": {
                "@id": f"{iri}#job",
                "forms": [
                    {
                        "@id": f"{iri}#job-form",
                        "href": f"{broker}/f/v1/{segment(device.id)}/down/job",
                        "contentType": "application/json",
                        "op": "invokeaction",
                    }
                ],
            }
        },
    }
    made["ssn:hasSubSystem"] = [_controller(iri, device), *(_sensor(iri, name) for name in sorted(device.sensors))]
    running = [model_iri(model.name, model.version) for model in device.models if model.active]
    if running:
        made["ssn:implements"] = sorted(set(running))
    made.update(_shortcuts(device))
    return made


def facts_of_parts(own: Iterable[tuple[str, Any]]) -> DeviceFacts:
    """The facts on which the parts of a description depend (forms, controller, memory, sensors), and no others.

    Args:
        own: the device's own properties, as triples of its description have them: IRIs, and terms with a `value`.
    """
    found: dict[str, list[str]] = {}
    for name, term in own:
        found.setdefault(name, []).append(term.value)

    def one(name: str) -> str | None:
        return found[name][0] if name in found else None

    ram, flash = one(EF + "ramBytes"), one(EF + "flashBytes")
    return DeviceFacts(
        id=found[_TITLE][0],
        kind=one(EF + "kind"),
        ram=None if ram is None else int(ram),
        flash=None if flash is None else int(flash),
        sensors=frozenset(found.get(EF + "hasSensorType", ())),
    )


def _property(iri: str, name: str, href: str) -> dict[str, Any]:
    return {
        "@id": f"{iri}#{name}",
        "type": "object",
        "readOnly": True,
        "observable": True,
        "forms": [
            {
                "@id": f"{iri}#{name}-form",
                "href": href,
                "contentType": "application/json",
                "op": "observeproperty",
            }
        ],
    }


def _controller(iri: str, device: DeviceFacts) -> dict[str, Any]:
    """The processor and its memory, as S3N and seloc-ml's extension write them."""
    memory = [
        {"@id": f"{iri}#{part}", "@type": kind, "schema:value": count // 1024, "schema:unitCode": "om:kilobyte"}
        for part, kind, count in (("ram", "s3n_extend:RAM", device.ram), ("flash", "s3n_extend:Flash", device.flash))
        if count is not None
    ]
    made: dict[str, Any] = {
        "@id": f"{iri}#controller",
        "@type": "s3n:MicroController" if device.kind == "microcontroller" else "ef:Computer",
    }
    if memory:
        made["s3n:hasSystemCapability"] = {"@id": f"{iri}#memory", "ssn-system:hasSystemProperty": memory}
    return made


def _sensor(iri: str, name: str) -> dict[str, Any]:
    return {"@id": f"{iri}#sensor-{segment(name)}", "@type": ["sosa:Sensor", *_class_of(name)]}


def _class_of(sensor: str) -> list[str]:
    return [SENSOR_CLASSES[sensor]] if sensor in SENSOR_CLASSES else []


def _shortcuts(device: DeviceFacts) -> dict[str, Any]:
    """One property of the device itself for each thing that filters ask, so that they are one pattern each."""
    made: dict[str, Any] = {}
    for key, value in (
        ("ef:kind", device.kind),
        ("ef:arch", device.arch),
        ("ef:cpu", device.cpu),
        ("ef:os", device.os),
        ("ef:board", device.board),
        ("ef:target", device.target),
        ("ef:cores", device.cores),
        ("ef:ramBytes", device.ram),
        ("ef:flashBytes", device.flash),
        ("ef:inBuilding", device.labels.get("building")),
        ("ef:behindGateway", device.gateway),
    ):
        if value is not None:
            made[key] = value
    for key, values in (
        ("ef:hasFeature", device.features),
        ("ef:hasSensorType", device.sensors),
        ("ef:supportsDtype", device.dtypes),
        ("ef:hasOperator", device.operators),
        ("ef:presentsBoard", device.boards),
        ("ef:inGroup", device.groups),
        ("ef:hasRuntime", device.runtimes),
        ("ef:hasRuntimeVersion", {f"{name}:{version}" for name, version in device.runtimes.items()}),
        ("ef:runsModel", {model.name for model in device.models if model.active}),
        ("ef:runsModelVersion", {f"{model.name}:{model.version}" for model in device.models if model.active}),
        ("ef:holdsModelVersion", {f"{model.name}:{model.version}" for model in device.models}),
    ):
        if values:
            made[key] = sorted(values)
    for key, text in sorted(device.labels.items()):
        made[f"label:{segment(key)}"] = text
    return made
