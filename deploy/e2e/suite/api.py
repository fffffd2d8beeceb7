"""What must go on while the API server does not answer.

Only where its process is at hand: its id is in apiserver.pid beside the kubeconfig.
"""

import os
import pathlib
import signal
import subprocess
import time

from .terminal import Terminal
from .world import NAMESPACE, expect

OUTAGE_SECONDS = 60


def process(world):
    file = world.run / "apiserver.pid"
    return int(file.read_text()) if file.exists() else None


def restarts(world):
    pods = world.pods().values()
    return {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["restartCount"] for p in pods}


def answers(world):
    world.wait("the API server answers", lambda: world.kubectl("get", "--raw", "/readyz") == "ok", 90)


def is_back(world, name):
    """Waits for those who watch, which take up to half a minute before they come back to an API
    server that was away: a pod that runs shows that the scheduler and the kubelet have."""
    answers(world)
    world.run_pod(name)


def api_is_frozen(world):
    """The API server hangs for a minute under load: nothing is noticed (scenario 16)."""
    pid, before = process(world), restarts(world)
    world.start_load("load-frozen")
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(OUTAGE_SECONDS)
    finally:
        os.kill(pid, signal.SIGCONT)
    is_back(world, "after-hang")
    world.wait_ready(3)
    expect(restarts(world) == before, "a replica was started again")
    world.end_load("load-frozen")


def api_is_stopped(world):
    """The API server is gone for a minute under load, with a console on it (scenarios 16, 17)."""
    pid = process(world)
    command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    before = restarts(world)
    world.start_load("load-stopped")
    with Terminal([world.kvorum_program, "-n", NAMESPACE], 120, 36) as screen:
        screen.until("3/3 ready", 10)
        # Told to end, it would keep its connections for as long as it is away here.
        os.kill(pid, signal.SIGKILL)
        try:
            gone = lambda: "3/3 ready" not in screen.text()
            world.figure("console notices after, s", f"{screen.until(gone, 30):.1f}")
            screen.read(OUTAGE_SECONDS)
            expect(screen.process.poll() is None, "the console ended with the API server")
            expect(gone(), "the console shows replicas that it cannot reach")
        finally:
            with open(world.run.parent / "log" / "apiserver.log", "ab") as log:
                again = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
            (world.run / "apiserver.pid").write_text(f"{again.pid}\n")
            began = pathlib.Path(f"/proc/{again.pid}/stat").read_text().rsplit(") ", 1)[1].split()[19]
            (world.run / "apiserver.began").write_text(f"{began}\n")
        answers(world)
        world.figure("console live again, s", f"{screen.until('3/3 ready', 30):.1f}")
    is_back(world, "after-outage")
    world.wait_ready(3)
    expect(restarts(world) == before, "a replica was started again")
    world.end_load("load-stopped")


CASES = [api_is_frozen, api_is_stopped]
