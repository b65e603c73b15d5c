"""Models on microcontrollers: building the firmware, talking to boards, emulating them, and owning their links."""
