"""The fleet: devices that enroll, report and are updated, and the server that they trust."""
