"""The console: attached to in its pod, and on a desk."""

import json
import os
import time

from .cases import SET
from .terminal import Terminal
from .world import NAMESPACE, expect


def attach(world, width, height):
    command = ["kubectl", "-n", NAMESPACE, "attach", "-it", "deploy/kvorum-console"]
    return Terminal(command, width, height)


def attaches(world):
    """`kubectl attach`: draws at once, again at another size, and leaves the terminal as it was."""
    first = attach(world, 100, 30)
    world.figure("first frame after attach, s", f"{first.until('3/3 ready', 10):.1f}")
    first.until("100x30", 5)
    expect(not first.forbidden(), f"sent {first.forbidden()}")
    first.keys("q")
    first.until("detach", 5)
    first.keys("\x03")
    first.read(0.5)
    expect(first.process.poll() is None, "a key ended the shared console")
    first.close(9)
    second = attach(world, 130, 40)
    world.figure("first frame after re-attach, s", f"{second.until('130x40', 10):.1f}")
    second.until("3/3 ready", 5)
    second.resize(90, 28)
    second.clear()
    second.until("90x28", 5)
    second.keys(":put seen by-attach\r")
    second.until("put seen.*at revision", 5)
    second.read(1.0)
    second.keys("x")
    second.until("Kill n", 5)
    second.keys("\x1b")
    # Idle: only its heart beats.
    second.read(2.0)
    began, written = time.monotonic(), 0
    while time.monotonic() - began < 45:
        written += second.read(5)
    rate = written / (time.monotonic() - began)
    world.figure("idle output, bytes a second", f"{rate:.1f}")
    expect(rate <= 60, f"{rate:.1f} bytes a second while nothing happens")
    expect(not second.forbidden(), f"sent {second.forbidden()}")
    second.close(15)
    expect(second.is_restored(), "the terminal is not as it was")
    restarts = [p["status"]["containerStatuses"][0]["restartCount"] for p in world.pods("console").values()]
    expect(restarts == [0], f"the console's pod was started again: {restarts}")


def is_seen_from_the_desk(world):
    """`kvorum` on the kubeconfig's context: live within two seconds, while each pod is deleted in turn."""
    screen = Terminal([world.kvorum_program, "-n", NAMESPACE], 130, 40)
    took = screen.until("3/3 ready", 10)
    world.figure("live panes, s", f"{took:.2f}")
    expect(took <= 2, f"live after {took:.1f} s")
    for ordinal in range(3):
        name = f"{SET}-{ordinal}"
        world.kubectl("delete", "pod", name, "--wait=false")
        world.wait(f"{name} goes", lambda: name not in world.ready(), 60)
        world.wait_ready(3, 90)
        screen.until("3/3 ready", 20)
    # The leader is killed by the key, with its dialog.
    leader = int(world.leader().rsplit("-", 1)[1])
    screen.keys("g" + "j" * leader)
    screen.keys("x")
    screen.until(f"Kill n{leader + 1}", 5)
    screen.read(0.8)
    screen.keys("y")
    screen.until("killed|deleting the pod", 10)
    world.wait("the pod goes", lambda: f"{SET}-{leader}" not in world.ready(), 30)
    world.wait_ready(3, 60)
    screen.until("3/3 ready", 20)
    screen.keys(":scale 4 --yes\r")
    world.wait_members(4, 60)
    world.wait_ready(4, 60)
    screen.keys(":scale 3 --yes\r")
    world.wait_members(3, 60)
    world.wait("3 pods", lambda: len(world.pods()) == 3, 120)
    screen.keys("q")
    screen.close()
    expect(screen.is_restored(), "the terminal is not as it was")


def demo_by_keys(world):
    """The seed's demo in the console: put, get at each replica, kill, scale, recover, delete."""
    screen = Terminal([world.kvorum_program, "-n", NAMESPACE], 130, 40)
    screen.until("3/3 ready", 10)
    screen.keys("p")
    screen.keys("by-keys one\r")
    screen.until("put by-keys at revision", 5)
    for port in ("8001", "8002", "8003"):
        screen.keys(f":get by-keys {port}\r")
    screen.until("(?s)(by-keys.*one.*){3}", 5)
    # A follower is killed, and what was put meanwhile is there when it is back.
    follower = next(one for one in range(3) if f"{SET}-{one}" != world.leader())
    screen.keys("1g" + "j" * follower)
    screen.keys("x")
    screen.until(f"Kill n{follower + 1}", 5)
    expect("1 s of grace" in screen.text(), "the dialog says what a kill is where pods run")
    screen.read(0.8)
    screen.keys("y")
    screen.until("killed|deleting the pod", 10)
    screen.keys("p")
    screen.keys("by-keys two\r")
    world.wait("the pod goes", lambda: f"{SET}-{follower}" not in world.ready(), 30)
    world.wait_ready(3, 60)
    screen.until("3/3 ready", 20)
    screen.keys(f":get by-keys {8001 + follower}\r")
    screen.until("two", 5)
    for key, replicas in (("+", 4), ("-", 3)):
        screen.keys(key)
        screen.until(f"Scale to {replicas}", 5)
        screen.read(0.8)
        screen.keys("y")
        world.wait_members(replicas, 60)
        world.wait(f"{replicas} pods", lambda: len(world.pods()) == replicas, 120)
        world.wait_ready(replicas, 60)
    screen.until("3/3 ready", 20)
    # The keys: filtered, looked at on every replica, deleted, taken back.
    screen.keys("3")
    screen.keys("/")
    screen.keys("by-keys\r")
    screen.read(1)
    screen.keys("\r")
    screen.until("on nodes", 5)
    screen.keys("\x1b")
    screen.read(0.5)
    screen.keys("d")
    screen.until("Delete by-keys", 5)
    screen.read(0.8)
    screen.keys("y")
    world.wait("it is deleted", lambda: world.kvorum("get", "by-keys", check=False).returncode == 3, 10)
    screen.keys("q")
    screen.close()


def as_the_console(world):
    """A kubeconfig of the console's ServiceAccount."""
    secrets = json.loads(world.kubectl("get", "secrets", "-o", "json"))["items"]
    tokens = [s for s in secrets if s["metadata"].get("annotations", {}).get("kubernetes.io/service-account.name") == "kvorum-console"]
    if tokens:
        import base64
        token = base64.b64decode(tokens[0]["data"]["token"]).decode()
    else:
        token = world.kubectl("create", "token", "kvorum-console").strip()
    config = json.loads(world.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"] = [{"name": "console", "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = "console"
    file = world.folder / "console.kubeconfig"
    file.write_text(json.dumps(config))
    return {**os.environ, "KUBECONFIG": str(file)}


def each_right_is_its_action(world):
    """The namespaced Roles are enough for the console; each verb that is removed dims its action."""
    env = as_the_console(world)

    def dimmed():
        told = world.kvorum("doctor", "-o", "json", check=False, env=env).stdout
        found = [one for one in json.loads(told) if one["what"] == "right" and one["verdict"] != "ok"]
        return " ".join(one["text"] for one in found)

    expect(dimmed() == "", f"not enough rights: {dimmed()}")
    world.kvorum("put", "by", "the-console", env=env)
    verbs = [("kvorum-console-act", "pods", "delete", "delete pods"),
             ("kvorum-console-act", "statefulsets/scale", "patch", "patch statefulsets/scale"),
             ("kvorum-console-view", "pods/log", "get", "get pods/log")]
    for role, resource, verb, name in verbs:
        whole = json.loads(world.kubectl("get", "role", role, "-o", "json"))
        less = json.loads(json.dumps(whole))
        less["rules"] = [rule for rule in less["rules"] if rule["resources"] != [resource]]
        patch = lambda rules: world.kubectl("patch", "role", role, "--type=json", "-p", json.dumps(
            [{"op": "replace", "path": "/rules", "value": rules}]))
        patch(less["rules"])
        try:
            world.wait(f"without {name}", lambda: dimmed() != "", 20)
            told = dimmed()
            others = [other for *_, other in verbs if other != name and other in told]
            expect(name in told and not others, f"without {verb} {resource}: {told}")
            screen = Terminal([world.kvorum_program, "-n", NAMESPACE], 120, 36, env=env)
            screen.until("3/3 ready", 10)
            keys = {"pods": "x", "statefulsets/scale": "+", "pods/log": "l"}[resource]
            screen.keys(keys)
            screen.until(name.replace("/", "."), 5)
            screen.close()
        finally:
            patch(whole["rules"])
        world.wait(f"{name} again", lambda: dimmed() == "", 20)


def doctor_finds_nothing(world):
    """`kvorum doctor` on a sound cluster finds nothing wrong, also as `kubectl kvorum`."""
    world.kvorum("doctor")
    folder = world.folder / "bin"
    folder.mkdir(exist_ok=True)
    link = folder / "kubectl-kvorum"
    if not link.exists():
        link.symlink_to(world.kvorum_program)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    told = world.run_program(["kubectl", "kvorum", "-n", NAMESPACE, "status"], env=env)
    expect(f"{SET}-0" in told.stdout, told.stdout)


def role_fits(world):
    """By the audit log, the replicas used every verb of their Role, and were denied none."""
    log = world.run.parent / "log" / "audit.log"
    used, denied = set(), []
    user = f"system:serviceaccount:{NAMESPACE}:{SET}"
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["user"].get("username") != user or "objectRef" not in event:
            continue
        expect(event.get("responseStatus", {}).get("code") != 422, f"not valid: {line}")
        resource = event["objectRef"]["resource"]
        # While the Role was away on purpose, everything was denied.
        if event.get("responseStatus", {}).get("code") == 403:
            denied.append((event["requestReceivedTimestamp"], event["verb"], resource))
        else:
            used.add((event["verb"], resource))
    role = json.loads(world.kubectl("get", "role", SET, "-o", "json"))
    allowed = {(verb, resource) for rule in role["rules"] for verb in rule["verbs"] for resource in rule["resources"]}
    expect(used == allowed, f"unused {allowed - used}, beyond {used - allowed}")
    return denied


def replicas_role_fits(world):
    """No verb of the replicas' Role is unused, and none that they use is denied."""
    denied = role_fits(world)
    expect(not denied, f"denied: {denied[:5]}")


FIRST = [attaches, is_seen_from_the_desk, demo_by_keys, each_right_is_its_action, doctor_finds_nothing]
AUDITED = [replicas_role_fits]
