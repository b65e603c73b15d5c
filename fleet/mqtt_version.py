"""Which version of MQTT to speak: 5, in which a broker says what it refuses; 3.1.1 where it knows no other."""

from __future__ import annotations

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode


def other_protocol(spoken: MQTTProtocolVersion, refusal: ReasonCode | None) -> MQTTProtocolVersion:
    """The version to try next, after a broker refused a connection in the one that was spoken, or did not answer."""
    if refusal is None or refusal.getName() == "Unsupported protocol version":
        return mqtt.MQTTv311 if spoken == mqtt.MQTTv5 else mqtt.MQTTv5
    return spoken
