"""Room for thousands of sockets in a process."""

from __future__ import annotations

import resource

from edge.fleet.errors import FleetError

# Beside its connection a device needs files only while it does a job.
_SPARE = 300


def raise_open_files(devices: int) -> None:
    """Lets this process have a socket for each of so many devices.

    Raises:
        FleetError: the system does not allow that many.
    """
    wanted = devices + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise FleetError(
            f"{devices} devices in a process need {wanted} open files, and this system allows {hard}: take more "
            "--processes, or raise the limit (ulimit -n, LimitNOFILE)"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
