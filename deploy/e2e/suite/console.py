"""The console: attached to in its pod, and on a desk."""

import json
import os
import time

from .cases import MEMBERS_MAX, SET
from .terminal import Terminal
from .world import NAMESPACE, expect


def attach(world, width, height):
    command = ["kubectl", "-n", NAMESPACE, "attach", "-it", "deploy/kvorum-console"]
    return Terminal(command, width, height)


def attaches(world):
    """`kubectl attach`: draws at once, again at another size, and leaves the terminal as it was."""
    with attach(world, 100, 30) as first:
        world.figure("first frame after attach, s", f"{first.until('3/3 ready', 10):.1f}")
        first.until("100x30", 5)
        expect(not first.forbidden(), f"sent {first.forbidden()}")
        first.keys("q")
        first.until("detach", 5)
        first.keys("\x03")
        first.read(0.5)
        expect(first.process.poll() is None, "a key ended the shared console")
        first.close(9)
    # kubectl, killed, leaves the line raw; the console has left nothing.
    left = [one for one in first.left_behind() if one != "the line's modes"]
    expect(not left, f"a console whose viewer was killed left {left}")
    with attach(world, 130, 40) as second:
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
        expect(0 < rate <= 60, f"{rate:.1f} bytes a second while nothing happens")
        expect(not second.forbidden(), f"sent {second.forbidden()}")
        second.close(15)
        expect(not second.left_behind(), f"the terminal is not as it was: {second.left_behind()}")
    restarts = [p["status"]["containerStatuses"][0]["restartCount"] for p in world.pods("console").values()]
    expect(restarts == [0], f"the console's pod was started again: {restarts}")


def is_seen_from_the_desk(world):
    """`kvorum` on the kubeconfig's context: live within two seconds, while each pod is deleted in turn."""
    with Terminal([world.kvorum_program, "-n", NAMESPACE], 130, 40) as screen:
        took = screen.until("3/3 ready", 10)
        world.figure("live panes, s", f"{took:.2f}")
        expect(took <= 2, f"live after {took:.1f} s")
        for ordinal in range(3):
            name = f"{SET}-{ordinal}"
            world.kubectl("delete", "pod", name, "--wait=false")
            # The next pod may be there before a count without it was drawn.
            screen.until(f"n{ordinal + 1} is gone", 60)
            world.wait_ready(3)
            screen.until("3/3 ready", 20)
        # The leader is killed by the key, with its dialog, while others write.
        world.start_load("load-key")
        leader = int(world.leader().rsplit("-", 1)[1])
        before = world.uids()
        screen.keys("g" + "j" * leader)
        screen.keys("x")
        screen.until(f"Kill n{leader + 1}", 5)
        screen.read(0.8)
        screen.keys("y")
        screen.until("by deleting the pod", 10)
        world.wait_another(f"{SET}-{leader}", before)
        world.wait_ready(3)
        figures = world.end_load("load-key")
        expect(figures["longest_gap_ms"] <= 1000, f"writes stood still for {figures['longest_gap_ms']} ms")
        screen.until("3/3 ready", 20)
        screen.keys(":scale 4 --yes\r")
        world.wait_members(4)
        world.wait_ready(4)
        screen.keys(":scale 3 --yes\r")
        world.wait_members(3)
        world.wait_pods(3)
        screen.keys("q")
        screen.close()
        expect(not screen.left_behind(), f"the terminal is not as it was: {screen.left_behind()}")


def demo_by_keys(world):
    """The seed's demo in the console: put, get at each replica, kill, scale, recover, delete."""
    with Terminal([world.kvorum_program, "-n", NAMESPACE], 130, 40) as screen:
        screen.until("3/3 ready", 10)
        screen.keys("p")
        screen.keys("by-keys one\r")
        screen.until("put by-keys at revision", 5)
        for place in (1, 2, 3):
            screen.keys(f":get by-keys {8000 + place}\r")
            screen.until(f"get by-keys at n{place} = one", 5)
        # A follower is killed, and what was put meanwhile is there when it is back.
        follower = next(one for one in range(3) if f"{SET}-{one}" != world.leader())
        before = world.uids()
        screen.keys("1g" + "j" * follower)
        screen.keys("x")
        screen.until(f"Kill n{follower + 1}", 5)
        expect("1 s of grace" in screen.text(), "the dialog says what a kill is where pods run")
        screen.read(0.8)
        screen.keys("y")
        screen.until("by deleting the pod", 10)
        screen.keys("p")
        screen.keys("by-keys two\r")
        world.wait_another(f"{SET}-{follower}", before)
        world.wait_ready(3)
        screen.until("3/3 ready", 20)
        screen.keys(f":get by-keys {8001 + follower}\r")
        screen.until(f"get by-keys at n{follower + 1} = two", 5)
        for key, replicas in (("+", 4), ("-", 3)):
            screen.keys(key)
            screen.until(f"Scale to {replicas}", 5)
            screen.read(0.8)
            screen.keys("y")
            world.wait_members(replicas)
            world.wait_pods(replicas)
            world.wait_ready(replicas)
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


def as_the_console(world):
    """A kubeconfig of the console's ServiceAccount, which may forward ports too, as people on desks do."""
    world.kubectl("create", "rolebinding", DESK, f"--role={DESK}", f"--serviceaccount={NAMESPACE}:kvorum-console")
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


# Each verb of the Roles for people and their consoles: where it is, what is said without it, and where.
VIEW, ACT, DESK = "kvorum-console-view", "kvorum-console-act", "kvorum-desk"
RIGHTS = [
    (VIEW, "list", "pods", "start", 'cannot list resource "pods"'),
    (VIEW, "watch", "pods", "events", "the pods cannot be watched"),
    (VIEW, "get", "pods/log", "l", "you may not get pods/log"),
    (VIEW, "get", "statefulsets", "start", 'cannot get resource "statefulsets"'),
    (VIEW, "list", "statefulsets", "events", "the StatefulSet cannot be watched"),
    (VIEW, "watch", "statefulsets", "events", "the StatefulSet cannot be watched"),
    (VIEW, "list", "events", "events", "Events cannot be watched"),
    (VIEW, "watch", "events", "events", "Events cannot be watched"),
    (DESK, "get", "pods/portforward", "nodes", "no port-forward: ask for get and create"),
    (VIEW, "get", "configmaps", "nothing", ""),
    (DESK, "create", "pods/portforward", "nodes", "no port-forward: ask for get and create"),
    # Who may read the other one needs it for nothing.
    (VIEW, "get", "secrets", "nothing", ""),
    (ACT, "delete", "pods", "x", "you may not delete pods"),
    (ACT, "patch", "statefulsets/scale", "+", "you may not patch statefulsets/scale"),
    (ACT, "get", "secrets", ":put", "view has no right to write"),
]
# Of what there is one, and the Role names it.
NAMED = {"statefulsets": SET, "statefulsets/scale": SET, "configmaps": f"{SET}-cluster"}
CERTIFICATES = {VIEW: f"{SET}-client-view", ACT: f"{SET}-client-admin"}
# Those that Kubernetes asks for from a minor version on.
SINCE = {("create", "pods/portforward"): 35}
# What the keys for which a right may be missing show where it is there.
SHOWN = {"x": "Kill n1", "+": "Scale to 4", "l": "The log file of"}


def said(role, verb, resource):
    """How `kvorum doctor` names a right that is missing."""
    name = CERTIFICATES[role] if resource == "secrets" else NAMED.get(resource)
    return f"{verb} {resource} {name}" if name else f"{verb} {resource}"


def without(rules, verb, resource):
    """Rules that allow what these do, except for one verb on one resource."""
    kept = []
    for rule in rules:
        if rule["resources"] == [resource]:
            rule = {**rule, "verbs": [other for other in rule["verbs"] if other != verb]}
        if rule["verbs"]:
            kept.append(rule)
    return kept


def shows_what_is_missing(world, env, where, text):
    """A console that names what it may not do, in its place, and does everything else."""
    # Wide enough for an Event in one line.
    with Terminal([world.kvorum_program, "-n", NAMESPACE], 320, 50, env=env) as screen:
        if where in ("start", "nodes"):
            screen.until(lambda: screen.says(text), 10)
            return
        screen.until("3/3 ready", 10)
        if where == "events":
            screen.until(lambda: screen.says(text), 10)
            # Once for all watches: longer than the pause of one that is refused.
            screen.read(13 if "pods" in text else 4)
            expect(not screen.says("can be watched again"), f"without {text} it is told in turns")
        if where == ":put":
            screen.keys(":put by the-console\r")
            screen.until(lambda: screen.says(text), 10)
        screen.keys("1gg")
        for key, shown in SHOWN.items():
            screen.keys(key)
            expected = text if key == where else shown
            screen.until(lambda expected=expected: screen.says(expected), 5)
            others = screen.text().replace(text, "") if text else screen.text()
            expect("you may not" not in others, f"without {where} something else is dimmed: {others}")
            screen.keys("\x1b")
            screen.read(0.3)


def each_right_is_its_action(world):
    """The namespaced Roles are enough for the console; each verb that is removed dims its action."""
    env = as_the_console(world)

    def missing():
        told = world.kvorum("doctor", "-o", "json", check=False, env=env).stdout
        found = [one for one in json.loads(told) if one["what"] in ("right", "rights", "access") and one["verdict"] != "ok"]
        return " ".join(one["text"] for one in found)

    expect(missing() == "", f"not enough rights: {missing()}")
    world.kvorum("put", "by", "the-console", env=env)
    whole = {role: json.loads(world.kubectl("get", "role", role, "-o", "json"))["rules"] for role in (VIEW, ACT, DESK)}
    allowed = {(role, verb, resource) for role, rules in whole.items()
               for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}
    expect(allowed == {right[:3] for right in RIGHTS}, f"the Roles differ from what is tried here: {allowed}")
    for role, verb, resource, where, text in RIGHTS:
        if world.minor < SINCE.get((verb, resource), 0):
            where, text = "nothing", ""
        patch = lambda rules, role=role: world.kubectl("patch", "role", role, "--type=json", "-p", json.dumps(
            [{"op": "replace", "path": "/rules", "value": rules}]))
        patch(without(whole[role], verb, resource))
        try:
            world.wait(f"without {verb} {resource}", lambda: missing() != "", 20)
            told = missing()
            if where == "start":
                expect(text in told, f"without {verb} {resource}: {told}")
            else:
                named = [f"you may not {said(*right[:3])} in" in told for right in RIGHTS]
                expected = [right[:3] == (role, verb, resource) for right in RIGHTS]
                expect(named == expected, f"without {verb} {resource}: {told}")
            shows_what_is_missing(world, env, where, text)
        finally:
            patch(whole[role])
        world.wait(f"{verb} {resource} again", lambda: missing() == "", 20)
    without_certificates(world, env, whole)


def without_certificates(world, env, whole):
    """Without the right to read a Secret, there is no connection, and the message says what to ask for."""
    set_rules = lambda role, rules: world.kubectl("patch", "role", role, "--type=json", "-p", json.dumps(
        [{"op": "replace", "path": "/rules", "value": rules}]))
    for role in whole:
        set_rules(role, without(whole[role], "get", "secrets"))
    try:
        refused = lambda: world.kvorum("get", "by", env=env, check=False)
        world.wait("a refusal", lambda: refused().returncode != 0, 20)
        done, names = refused(), " or ".join(CERTIFICATES[role] for role in (ACT, VIEW))
        expect(f"you may not get secrets {names}" in done.stderr, f"without both: {done}")
        expect("--tls-dir" in done.stderr and ACT in done.stderr, f"no cure: {done}")
        expect(done.returncode == 6, f"the exit status is {done.returncode}: {done}")
        told = world.kvorum("doctor", check=False, env=env).stdout
        expect(all(f"get secrets {name}" in told for name in CERTIFICATES.values()), told)
        shows_what_is_missing(world, env, "nodes", f"you may not get secrets {CERTIFICATES[ACT]}")
    finally:
        for role in whole:
            set_rules(role, whole[role])
    world.wait("both again", lambda: refused().returncode == 0, 20)
    world.kubectl("delete", "rolebinding", DESK)


def rights_end_at_its_own(world):
    """The console in the cluster may touch its StatefulSet and the pods that this can have, and no others."""
    def may(*words):
        user = f"system:serviceaccount:{NAMESPACE}:kvorum-console"
        return world.kubectl("auth", "can-i", *words, "--as", user, check=False).strip() == "yes"

    def wait(what, *words):
        world.wait(what, lambda: may(*words), 20)

    last, beyond = f"{SET}-{MEMBERS_MAX - 1}", f"{SET}-{MEMBERS_MAX}"
    log, scale, forward = "--subresource=log", "--subresource=scale", "--subresource=portforward"
    wait("the last pod may be deleted", "delete", f"pods/{last}")
    allowed = [("delete", f"pods/{SET}-0"), ("get", f"pods/{last}", log), ("get", f"statefulsets.apps/{SET}"),
               ("patch", f"statefulsets.apps/{SET}", scale), ("get", f"secrets/{SET}-client-admin")]
    denied = [("delete", f"pods/{beyond}"), ("delete", "pods/other"), ("get", "pods/other", log),
              ("get", "statefulsets.apps/other"), ("patch", "statefulsets.apps/other", scale),
              ("patch", f"statefulsets.apps/{SET}"), ("create", f"pods/{SET}-0", forward),
              ("get", f"pods/{SET}-0", forward), ("get", f"secrets/{SET}-ca"), ("list", "secrets"),
              ("create", "configmaps"), ("update", f"configmaps/{SET}-cluster")]
    expect([words for words in allowed if not may(*words)] == [], "something is not allowed that has to be")
    expect([words for words in denied if may(*words)] == [], "something is allowed that need not be")


def doctor_finds_nothing(world):
    """`kvorum doctor` on a sound cluster finds nothing wrong, also as `kubectl kvorum`."""
    world.wait("a doctor that finds nothing", lambda: world.kvorum("doctor"), 20)
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
    # What was rotated away too.
    lines = [line for file in sorted(log.parent.glob("audit*.log")) for line in file.read_text().splitlines()]
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # the API server was killed in the midst of it
            continue
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


FIRST = [attaches, is_seen_from_the_desk, demo_by_keys, each_right_is_its_action, rights_end_at_its_own,
         doctor_finds_nothing]
AUDITED = [replicas_role_fits]
