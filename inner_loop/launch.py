"""First code inside a run box: sets the limits, starts train.py, reaps whatever it leaves.

Run as `python -I -S launch.py HARNESS_PID LIMITS_JSON COMMAND...`, standard library only.
Owns: resource limits, dying with the harness, adopting orphans so that the harness can find them.
Does not own: isolation of files and network (step 5's run box replaces this file), clocks and
memory of the whole tree (`box.py` watches those from outside).
"""

import ctypes
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the harness's own kill is all there is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def limit(which: int, value: int) -> None:
    """Lower a limit, never above the hard limit that is there already."""
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def children() -> list[int]:
    """Process ids of our children, orphans we adopted included; empty where /proc cannot say."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as listing:  # noqa: PTH123
            return [int(pid) for pid in listing.read().split()]
    except OSError:
        return []


def end_leftovers() -> None:
    """Kill what train.py left behind; each death may hand us its children, so repeat."""
    while pids := children():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def become(command: list[str], limits: dict[str, int]) -> None:
    """Turn this process into train.py, under the limits."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    limit(resource.RLIMIT_CORE, 0)
    for name, value in limits.items():
        limit(getattr(resource, name), value)
    os.execv(command[0], command)


def main() -> int:
    """Start the command under the limits; returns its exit code, 128 + N for signal N."""
    harness, limits, command = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != harness:  # it died before the line above
        return 1
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child == 0:
        become(command, limits)
    while (ended := os.wait())[0] != child:
        pass  # an orphan we adopted
    end_leftovers()
    code = os.waitstatus_to_exitcode(ended[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
