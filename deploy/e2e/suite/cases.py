"""What the cluster must show, case by case. Each leaves three ready replicas behind.

Scenario numbers are those of deploy/README.md.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time

from .world import DEPLOY, NAMESPACE, SET, Failed, expect, names

REPLICAS = names(3)
# How long a command may take while a minority hangs: each is asked for a second, and the machine may
# be busy. One that waits for who hangs takes its whole patience, five seconds.
HANG_SECONDS = 4
# Most members of a cluster.
MEMBERS_MAX = 7


def applies(world):
    """`apply -k`, and three replicas are ready within a minute."""
    world.kubectl("apply", "-k", world.overlay())
    world.figure("apply to ready, s", f"{world.wait_ready(3, sweeps=0):.1f}")
    expect(set(world.members()) == set(REPLICAS), f"members {world.members()}")
    world.kvorum("put", "kept", "through everything")
    world.wait_console()


def expect_recovery(world, name, applied=r"\d+"):
    """A pod's log tells what its replica came back with, and how far the decided log is since."""
    wanted = [rf"recovered .*applied={applied}\b", r"decided=[1-9]"]
    log = lambda: world.kubectl("logs", name)
    tells = lambda: all(re.search(one, text) for text in [log()] for one in wanted)
    try:
        world.wait(f"the log of {name} tells its recovery", tells, 30)
    except Failed as error:
        raise Failed(f"{error}\n{log()[-2000:]}") from None


def demo_of_the_seed(world):
    """Put, get at each replica, delete, as the seed's readme has it; a pod's log tells its recovery."""
    world.kvorum("put", "a", "1")
    for port in ("8001", "8002", "8003"):
        got = world.kvorum("get", "a", port, "-o", "raw").stdout
        expect(got.strip() == "1", f"get a {port}: {got!r}")
    world.kvorum("put", "a", "2", "8002")
    expect(world.kvorum("get", "a", "-o", "raw").stdout.strip() == "2", "the second value")
    world.kvorum("delete", "a", "8003")
    expect(world.kvorum("get", "a", check=False).returncode == 3, "get of a deleted key is not found")
    expect_recovery(world, f"{SET}-1")


def leader_is_deleted_by_force(world):
    """The leader's pod is deleted by force: writes go on within a second (scenario 9)."""
    world.start_load("load-force")
    leader = world.leader()
    before = world.incarnations()
    world.kubectl("delete", "pod", leader, "--force", "--grace-period=0")
    world.wait("another pod", lambda: leader not in world.ready(), 30)
    world.figure("ready again, s", f"{world.wait_ready(3):.1f}")
    figures = world.end_load("load-force")
    expect(figures["longest_gap_ms"] <= 1000, f"writes stood still for {figures['longest_gap_ms']} ms")
    after = world.incarnations()
    expect(after[leader] > before[leader], f"{leader} came back as the same replica: {before} {after}")


def leader_is_killed_by_command(world):
    """`kvorum kill leader` deletes its pod; it comes back, catches up and is ready."""
    world.start_load("load-kill")
    leader = world.leader()
    world.kvorum("kill", "leader", "--yes")
    world.wait("the pod goes", lambda: leader not in world.ready(), 30)
    world.figure("ready again, s", f"{world.wait_ready(3):.1f}")
    figures = world.end_load("load-kill")
    expect(figures["longest_gap_ms"] <= 1000, f"writes stood still for {figures['longest_gap_ms']} ms")
    expect_recovery(world, leader, applied=r"[1-9]\d*")


def scales_in_every_direction(world):
    """`kubectl scale` 3, 4, 5, 3, 1, 3 under load (scenarios 1, 2, 3, 7)."""
    world.start_load("load-scale")
    for count in (4, 5, 3, 1, 3):
        began = time.monotonic()
        world.scale(count)
        world.wait_pods(count)
        pods = time.monotonic() - began
        members = world.wait_members(count, 30)
        world.wait_ready(count)
        world.figure(f"to {count}", f"pods {pods:.1f} s, then members {members:.1f} s")
    world.end_load("load-scale")


def scales_by_command(world):
    """`kvorum scale` changes the number and tells each step."""
    told = world.kvorum("scale", "4", "--yes", timeout=120)
    expect("configuration" in told.stderr, f"no steps: {told.stderr}")
    world.wait_ready(4)
    world.kvorum("scale", "3", "--yes", timeout=120)
    # A kubelet may take a minute to tell a pod to end that was deleted in its first second.
    world.wait_pods(3, 60)
    world.wait_ready(3)


def rolls_out(world):
    """`kubectl rollout restart` under load: no client sees an error, and a majority stays."""
    world.start_load("load-roll")
    world.kubectl("rollout", "restart", f"statefulset/{SET}")
    patience = 180 + 3 * world.sweep
    leaders = [world.leader()]
    with subprocess.Popen(["kubectl", "-n", NAMESPACE, "rollout", "status", f"statefulset/{SET}",
                           f"--timeout={patience}s"], stdout=subprocess.DEVNULL) as rollout:
        while rollout.poll() is None:
            leader = world.leader()
            if leader != leaders[-1]:
                leaders.append(leader)
    expect(rollout.returncode == 0, "the rollout did not end")
    world.wait_ready(3)
    world.end_load("load-roll")
    world.figure("leaders", ", ".join(leaders))
    # Who is started again first has to leave leadership to one whose turn comes later.
    most = 2 if leaders[0] == f"{SET}-2" else 1
    expect(len(leaders) - 1 <= most, f"the leader changed more than {most} times: {leaders}")


def asks_no_names(world):
    """After scaling 3, 4, 3, 9, 3 an idle cluster asks the name service nothing."""
    for count in (4, 3, 9, 3):
        world.scale(count)
        world.wait_pods(count, 60 + world.sweep)
        # With more wanted than a cluster can have, the members stay.
        if count <= MEMBERS_MAX:
            world.wait_ready(count)
    world.wait_members(3)
    # Who left is dialed for up to a minute.
    time.sleep(75)
    before = world.datagrams()
    expect(len(before) == 3, f"not the pods of three replicas: {before}")
    time.sleep(20)
    after = world.datagrams()
    world.figure("datagrams of each pod in 20 s", [after[name] - before[name] for name in sorted(before)])
    expect(before == after, f"idle replicas ask for names: {before}, then {after}")


def pods_that_hang(world):
    """Of five pods one hangs, then two: each command takes a path that works."""
    if not world.is_here():
        return
    world.scale(5)
    world.wait_members(5)
    world.wait_ready(5)
    leader = world.leader()
    hangs = [name for name in names(5) if name != leader][:2]
    lives = next(name for name in names(5) if name not in hangs and name != leader)
    backup = str(world.folder / "hangs.kvorum")
    commands = [("put", "hangs", "1"), ("get", "hangs"), ("scan",), ("status",), ("backup", backup),
                ("get", "hangs", lives, "--local-read")]
    try:
        for count, name in enumerate(hangs, start=1):
            world.signal(name, signal.SIGSTOP)
            for words in commands:
                began = time.monotonic()
                world.kvorum(*words)
                took = time.monotonic() - began
                world.figure(f"{words[0]} while {count} hang, s", f"{took:.2f}")
                expect(took <= HANG_SECONDS, f"{words} took {took:.2f} s while {name} hangs")
            os.remove(backup)
    finally:
        for name in hangs:
            world.signal(name, signal.SIGCONT)
    world.scale(3)
    world.wait_members(3)
    world.wait_pods(3)
    world.wait_ready(3)


def rollout_is_broken(world):
    """A rollout to an image that is not there stops at its first pod, and no other one leaves (scenario 13)."""
    world.start_load("load-broken")
    broken, next_one = f"{SET}-2", f"{SET}-1"
    before = world.uids()
    is_another = lambda name: world.uids()[name] != before[name]
    world.kubectl("set", "image", f"statefulset/{SET}", f"{SET}=kvorum-replica:not-there")
    stuck = lambda: is_another(broken) and world.pods()[broken]["status"].get("phase") == "Pending"
    world.wait("a pod that does not start", stuck, 60 + world.sweep)
    # What is left is a majority, and each of it is needed.
    told = lambda: [event["message"] for event in world.events() if event.get("reason") == "StopWaits"]
    says = lambda: [one for one in told() if one.startswith(f"{next_one} was told")]
    earlier = len(says())
    world.kubectl("delete", "pod", next_one, "--wait=false")
    world.wait("an Event tells why it waits", lambda: len(says()) > earlier, 40)
    expect(f"out of reach: {broken}" in says()[-1], f"the Event says: {says()}")
    expect(not is_another(next_one), f"{next_one} left although it is needed")
    answers = lambda: any(one["name"] == next_one and one.get("leader") for one in world.status())
    world.wait(f"{next_one} serves on", answers, 5)
    # Kubernetes keeps a pod that does not start (kubernetes/kubernetes#67250).
    world.kubectl("rollout", "undo", f"statefulset/{SET}")
    # By force, since nothing runs in it.
    world.kubectl("delete", "pod", broken, "--force", "--grace-period=0")
    others = lambda: len(world.ready()) == 3 and is_another(broken) and is_another(next_one)
    world.figure("ready again after it was undone, s", f"{world.wait('three ready pods', others, 60 + world.sweep):.1f}")
    expect(not is_another(f"{SET}-0"), "the rollout went on beyond a pod that does not start")
    world.end_load("load-broken")


def two_pods_are_deleted(world):
    """Two of three pods are told to end at once: the second waits for the first (scenario 14)."""
    world.start_load("load-two")
    world.kubectl("delete", "pod", f"{SET}-1", f"{SET}-2", "--wait=false")
    time.sleep(3)
    world.wait_ready(3, 120, sweeps=2)
    world.end_load("load-two")


def volume_is_lost(world):
    """A volume and its pod are deleted: replaced under another id, unattended (scenario 10)."""
    victim, before = f"{SET}-1", world.members()
    world.start_load("load-volume")
    world.kubectl("delete", "pvc", f"data-{victim}", "--wait=false")
    world.kubectl("delete", "pod", victim, "--wait=false")
    changed = lambda: world.members().get(victim, before[victim]) != before[victim]
    nudges = 0

    # Older Kubernetes may leave the next pod without a claim (kubernetes/kubernetes#74374).
    def nudge():
        nonlocal nudges
        pod = world.pods().get(victim)
        is_waiting = pod and pod["status"].get("phase") == "Pending" and "deletionTimestamp" not in pod["metadata"]
        if world.minor <= 20 and is_waiting and not world.kubectl("get", "pvc", f"data-{victim}", "-o", "name", check=False):
            world.kubectl("delete", "pod", victim, "--wait=false", check=False)
            nudges += 1
        return changed()

    world.figure("replaced after, s", f"{world.wait('another id', nudge, 60 + 3 * world.sweep):.1f}")
    if nudges:
        world.figure("its pod deleted once more, times", nudges)
    world.wait_ready(3)
    world.end_load("load-volume")
    after = world.members()
    expect(all(after[name] == before[name] for name in REPLICAS if name != victim), f"{before} {after}")


def all_pods_are_deleted(world):
    """All pods are deleted at once: they come back with everything (scenario 21's full stop)."""
    world.kvorum("put", "before", "the stop")
    before = world.uids()
    world.kubectl("delete", "pods", "-l", "app.kubernetes.io/component=replica", "--grace-period=1", "--wait=false")
    others = lambda: all(uid != before.get(name) for name, uid in world.uids().items())
    world.wait("other pods", others, 60 + world.sweep)
    world.figure("ready again, s", f"{world.wait_ready(3, 90):.1f}")
    expect(world.kvorum("get", "before", "-o", "raw").stdout.strip() == "the stop", "a key is gone")
    expect(world.kvorum("get", "kept", "-o", "raw").stdout.strip() == "through everything", "a key is gone")


def stops_and_starts_again(world):
    """Scaled to none and back: nothing leaves, everything is there (scenario 21)."""
    before = world.members()
    world.stop()
    world.scale(3)
    world.wait_ready(3, 90)
    expect(world.members() == before, f"the members changed: {before} {world.members()}")


def set_is_made_anew(world):
    """The StatefulSet is deleted without its pods and made again: nothing changes (scenario 19)."""
    members, pods = world.members(), world.uids()
    # As it is, so that its template is the one of the pods.
    kept = json.loads(world.kubectl("get", "statefulset", SET, "-o", "json"))
    kept["metadata"] = {key: kept["metadata"][key] for key in ("name", "labels", "annotations")}
    del kept["status"]
    world.kubectl("delete", "statefulset", SET, "--cascade=orphan")
    time.sleep(2)
    expect(world.uids() == pods, f"pods went with their StatefulSet: {pods} {world.uids()}")
    world.kubectl("create", "-f", "-", text=json.dumps(kept))
    # The new one has another uid, which the replicas have to find out.
    time.sleep(5)
    world.wait_ready(3)
    expect(world.uids() == pods, f"pods were made anew: {pods} {world.uids()}")
    expect(world.members() == members, f"the members changed: {members} {world.members()}")
    world.scale(4)
    world.wait_members(4)
    world.wait_ready(4)
    world.scale(3)
    world.wait_members(3)
    world.wait_pods(3)
    expect(world.uids() == pods, f"pods were made anew later: {pods} {world.uids()}")


def overlays_differ_where_they_must(world):
    """Each overlay renders, and changes what it is for and nothing else."""
    def objects(folder):
        rendered = world.kubectl("kustomize", str(folder)).split("\n---\n")
        named = r"(?ms)^kind: (\w+)$.*^metadata:$.*?^  name: ([\w-]+)$"
        return {"/".join(re.search(named, one).groups()): one.strip() for one in rendered}

    base = objects(DEPLOY)
    expect(len(base) >= 20, f"the base has {sorted(base)}")
    # What is changed or added, with a text that shows it; and what is taken away.
    overlays = {
        "kind": ({"StatefulSet/kvorum": "topologySpreadConstraints:"}, set()),
        "minikube": ({"StatefulSet/kvorum": "name: volume-owner"}, set()),
        "view-only": ({}, {"Role/kvorum-console-act", "RoleBinding/kvorum-console-act"}),
        "k8s-1.20": ({"StatefulSet/kvorum": "", "PodDisruptionBudget/kvorum": "policy/v1beta1"}, set()),
        "cert-manager": (
            {"StatefulSet/kvorum": "secretName: kvorum-replica", "Role/kvorum": "",
             "Issuer/kvorum-self-signed": "selfSigned", "Issuer/kvorum": "secretName: kvorum-authority",
             "Certificate/kvorum-authority": "isCA: true",
             "Certificate/kvorum-replica": "- kvorum://kvorum.default/replica/*\n",
             "Certificate/kvorum-client-admin": "- kvorum://kvorum.default/client/admin\n",
             "Certificate/kvorum-client-view": "- kvorum://kvorum.default/client/view\n"},
            {"Secret/kvorum-ca", "Secret/kvorum-client-admin", "Secret/kvorum-client-view"}),
    }
    there = {folder.name for folder in (DEPLOY / "overlays").iterdir()}
    expect(there == set(overlays), f"there are {there}")
    for name, (changes, removed) in overlays.items():
        found = objects(DEPLOY / "overlays" / name)
        expect(set(base) - set(found) == removed, f"{name} has {sorted(found)}")
        differs = {one for one, text in found.items() if base.get(one) != text}
        expect(differs == set(changes), f"{name} changes {differs}")
        for one, text in changes.items():
            expect(text in found[one], f"{name}: no {text} in {found[one]}")
        if name == "cert-manager":
            expect("secrets" not in found["Role/kvorum"], "the replicas need no right on Secrets there")
    elsewhere = "\n".join(objects(world.overlay()).values())
    expect("namespace: default" not in elsewhere, "something stays in the namespace default")


def begins_with(world, folder):
    """Makes a cluster that was made on this machine the one of the volumes, as the README says."""
    world.volume("put", 0, folder)
    world.kubectl("patch", "configmap", f"{SET}-cluster", "--type=merge", "-p", '{"data":null}')
    world.scale(1)
    world.figure("the first ready, s", f"{world.wait_ready(1, 90):.1f}")
    expect(world.kvorum("get", "kept", "-o", "raw").stdout.strip() == "through everything", "a key is gone")
    world.kubectl("delete", "pvc", "-l", "app.kubernetes.io/name=kvorum", "--field-selector", f"metadata.name!=data-{SET}-0")
    world.scale(3)
    world.figure("three ready, s", f"{world.wait_ready(3, 90):.1f}")
    world.wait_members(3)


def expect_refused(world, why, *arguments, env=None):
    """`deploy/volume` says why it does not do that."""
    done = world.volume(*arguments, check=False, env=env)
    expect(done.returncode != 0 and why in " ".join(done.stderr.split()), f"volume {arguments}: {done}")


def without_a_file(world, name):
    """An environment in which `tar` leaves a file out and says nothing."""
    folder = world.folder / "forgetful"
    folder.mkdir(exist_ok=True)
    program = folder / "tar"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("tar")} --exclude={name} "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def recording(world, made):
    """An environment in which `kubectl create` keeps what it makes in a file, too."""
    folder = world.folder / "recording"
    folder.mkdir(exist_ok=True)
    program, kubectl = folder / "kubectl", shutil.which("kubectl")
    program.write_text(f"""#!/bin/bash
case " $* " in *" create "*) tee {made} | {kubectl} "$@" ;; *) exec {kubectl} "$@" ;; esac
""")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def expect_restricted(pods):
    """Pods that the Pod Security Standard `restricted` admits, also where Kubernetes does not check it."""
    volumes = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected",
               "secret"}
    for pod in pods:
        name, spec = pod["metadata"]["name"], pod["spec"]
        of_pod = spec.get("securityContext", {})
        wrong = [one for one in ("hostNetwork", "hostPID", "hostIPC") if spec.get(one)]
        wrong += [one["name"] for one in spec.get("volumes", []) if not set(one) - {"name"} <= volumes]
        containers = spec["containers"] + [one for one in spec.get("initContainers", []) if one]
        for container in containers:
            own = {**of_pod, **container.get("securityContext", {})}
            holds = {
                "no more privileges": own.get("allowPrivilegeEscalation") is False and not own.get("privileged"),
                "no capabilities": own.get("capabilities") == {"drop": ["ALL"]},
                "not root": own.get("runAsNonRoot") is True and own.get("runAsUser") != 0,
                "seccomp": own.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
                "no host ports": not any(port.get("hostPort") for port in container.get("ports", [])),
            }
            wrong += [f"{container['name']}: {what}" for what, good in holds.items() if not good]
        expect(not wrong, f"{name} is not restricted: {wrong}")


def pods_are_restricted(world):
    """Every pod satisfies the Pod Security Standard `restricted`, which newer Kubernetes enforces here."""
    pods = list({**world.pods(), **world.pods("console")}.values())
    expect(len(pods) == 4, f"there are {[pod['metadata']['name'] for pod in pods]}")
    expect_restricted(pods)
    # No shell, and nothing else that somebody could start in them.
    for name in (f"{SET}-0", "deploy/kvorum-console"):
        done = world.run_program(["kubectl", "-n", NAMESPACE, "exec", name, "--", "sh", "-c", "true"], check=False)
        expect(done.returncode != 0, f"{name} has a shell")
    told = world.kubectl("exec", "deploy/kvorum-console", "--", "kvorum", "status")
    expect(f"{SET}-0" in told, f"the program in the console's pod says {told}")


def backup_is_restored(world):
    """A backup is restored into the cluster, which goes on far above the backup's index."""
    backup, new = str(world.folder / "state.kvorum"), str(world.folder / "new")
    world.kvorum("put", "in", "the backup")
    world.kvorum("backup", backup)
    world.kvorum("put", "after", "the backup")
    world.kvorum("restore", backup, "--data", new, "--replicas", "1")
    expect_refused(world, "3 replicas are wanted", "put", 0, new)
    world.stop()
    expect_refused(world, "Nothing was replaced", "put", 0, new, env=without_a_file(world, "CURRENT"))
    # There, and back again: the old cluster goes on, and nothing was deleted yet.
    made = world.folder / "made"
    world.volume("put", 0, new, env=recording(world, made))
    expect_restricted([json.loads(made.read_text())])
    repeated = world.volume("put", 0, new).stdout
    expect("already" in repeated, f"a repeated put sets aside what it put: {repeated}")
    world.volume("undo", 0)
    world.scale(3)
    world.wait_ready(3, 90)
    expect(world.kvorum("get", "after", "-o", "raw").stdout.strip() == "the backup", "a key is gone")
    world.stop()
    begins_with(world, new)
    tidied = world.volume("tidy", 0).stdout.split(":")[-1].split()
    expect(tidied == ["kvorum.old.1", "kvorum.undone.1"], f"what the first volume held beside: {tidied}")
    expect(world.kvorum("get", "in", "-o", "raw").stdout.strip() == "the backup", "a key is gone")
    expect(world.kvorum("get", "kept", "-o", "raw").stdout.strip() == "through everything", "a key is gone")
    expect(world.kvorum("get", "after", check=False).returncode == 3, "what came after the backup is there")


def majority_is_lost(world):
    """Two of three volumes are lost for good: `recover` goes on with the third (scenario 11)."""
    world.kvorum("put", "last", "acknowledged")
    # By a majority, which the one that stays need not have been in.
    reads = lambda: world.kvorum("get", "last", f"{SET}-1", "--local-read", "-o", "raw").stdout.strip()
    world.wait(f"{SET}-1 has the last write", lambda: reads() == "acknowledged", 30)
    world.stop()
    world.kubectl("delete", "pvc", f"data-{SET}-0", f"data-{SET}-2")
    left = str(world.folder / "left")
    world.volume("get", 1, left)
    os.rename(f"{left}/{SET}-1", f"{left}/{SET}-0")
    expect_refused(world, "is no cluster that can begin", "put", 0, left)
    os.rename(f"{left}/{SET}-0", f"{left}/{SET}-1")
    refused = world.kvorum("recover", "--data", left, check=False)
    expect(refused.returncode == 7 and "1 of 3 replicas are left" in refused.stdout, f"recover goes on unasked: {refused}")
    digits = refused.stderr.split("--confirm")[1].split()[0]
    world.kvorum("recover", "--data", left, "--confirm", digits)
    begins_with(world, left)
    expect(world.kvorum("get", "kept", "-o", "raw").stdout.strip() == "through everything", "a key is gone")
    expect(world.kvorum("get", "last", "-o", "raw").stdout.strip() == "acknowledged", "the last write is gone")


def marker(world):
    """What is in the cluster's marker; nothing if it is empty or gone."""
    text = world.kubectl("get", "configmap", f"{SET}-cluster", "--ignore-not-found",
                         "-o", r"jsonpath={.data.marker\.json}")
    return json.loads(text) if text else {}


def kept_by_users(world):
    """The cluster that the marker names, and the contents of the Secrets."""
    named = [f"secret/{SET}-{one}" for one in ("ca", "client-admin", "client-view")]
    held = {one: json.loads(world.kubectl("get", one, "-o", "json")).get("data") for one in named}
    return {**held, "marker": marker(world).get("cluster")}


def applied_again_keeps(world):
    """The manifests ship the marker and the Secrets empty; applied again, they leave what is in them."""
    before = kept_by_users(world)
    expect(all(before.values()), f"empty: {[one for one, held in before.items() if not held]}")
    for options in ([], ["--server-side", "--force-conflicts"], []):
        world.kubectl("apply", "-k", world.overlay(), "-l", "app.kubernetes.io/component=data", *options)
        expect(kept_by_users(world) == before, f"applied again {options}, something changed")


def marker_is_lost(world):
    """The marker is deleted: the cluster goes on, says what helps, and fills it when it is there again."""
    before = marker(world)
    expect("cluster" in before, f"the marker holds {before}")
    world.start_load("load-marker")
    told = lambda: [event["message"] for event in world.events() if event.get("reason") == "Marker"]
    asked = lambda: any("apply the manifests again" in one for one in told())
    world.kubectl("delete", "configmap", f"{SET}-cluster")
    world.figure("an Event tells after, s", f"{world.wait('an Event tells what helps', asked, 60):.1f}")
    said = world.kvorum("doctor", check=False).stdout
    expect("its marker is gone" in said, f"the doctor says {said}")
    # A replica that is started again comes back to its volume without it.
    victim = next(name for name in REPLICAS if name != world.leader())
    uids = world.uids()
    world.kubectl("delete", "pod", victim, "--wait=false")
    world.wait_another(victim, uids)
    world.wait_ready(3)
    expect(marker(world) == {}, f"somebody made the marker {marker(world)}")
    world.kubectl("apply", "-k", world.overlay(), "-l", "app.kubernetes.io/component=data")
    filled = lambda: marker(world).get("cluster") == before["cluster"]
    world.figure("filled after, s", f"{world.wait('the marker is filled', filled, 60):.1f}")
    # Where the replicas may make it, they do.
    role = json.loads(world.kubectl("get", "role", SET, "-o", "json"))["rules"]
    set_rules = lambda rules: world.kubectl("patch", "role", SET, "--type=json", "-p", json.dumps(
        [{"op": "replace", "path": "/rules", "value": rules}]))
    set_rules([*role, {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}])
    try:
        world.kubectl("delete", "configmap", f"{SET}-cluster")
        world.figure("made after, s", f"{world.wait('the marker is made', filled, 60):.1f}")
    finally:
        set_rules(role)
    world.end_load("load-marker")
    world.wait("nothing is wrong", lambda: world.kvorum("doctor"), 20)


def role_is_deleted(world):
    """Without its Role a replica serves on and the members stay; with it they follow (scenario 17)."""
    world.start_load("load-role")
    role = world.kubectl("get", "role", SET, "-o", "json")
    world.kubectl("delete", "role", SET)
    world.scale(4)
    time.sleep(12)
    expect(len(world.members()) == 3, f"the members changed without the Role: {world.members()}")
    # A pod that is told to end cannot ask why. Its replica comes back to its volume, which needs nobody.
    victim = next(name for name in REPLICAS if name != world.leader())
    uid = world.uids()[victim]
    world.kubectl("delete", "pod", victim, "--wait=false")
    is_another = lambda: victim in world.ready() and world.uids()[victim] != uid
    world.figure("ended and ready again without the Role, s", f"{world.wait('another pod', is_another, 60 + world.sweep):.1f}")
    expect(len(world.members()) == 3, f"the members changed without the Role: {world.members()}")
    kept = json.loads(role)
    kept["metadata"] = {key: kept["metadata"][key] for key in ("name", "labels")}
    world.kubectl("create", "-f", "-", text=json.dumps(kept))
    world.figure("4 members after the Role is back, s", f"{world.wait_members(4, 60):.1f}")
    world.wait_ready(4)
    world.scale(3)
    world.wait_members(3)
    world.wait_pods(3)
    world.end_load("load-role")
    reasons = {event.get("reason") for event in world.events()}
    expect("Configured" in reasons, f"no Event tells the members: {reasons}")


def ends_at_once(world):
    """`delete -k`: no pod goes on for longer than ten seconds (scenario 15).

    They are told by the garbage collector, not by `delete`, so the ten seconds count from then.
    """
    uids = world.uids().values()
    if world.is_here():
        expect(len(world.processes(uids)) == 3, f"not the processes of {uids}: {world.processes(uids)}")
    kept = kept_by_users(world)
    world.kubectl("delete", "-k", world.overlay(), "--wait=false", "-l", "app.kubernetes.io/component!=data")
    world.figure("told after, s", f"{world.wait('all pods told to end', lambda: not world.staying(), 60):.1f}")
    if world.is_here():
        # On this machine the processes can be seen.
        world.figure("ended after, s", f"{world.wait('no process', lambda: not world.processes(uids), 10):.1f}")
    gone = world.wait("no pods", lambda: not world.pods() and not world.pods("console"), 10 + world.sweep)
    world.figure("objects gone after, s", f"{gone:.1f}")
    claims = json.loads(world.kubectl("get", "pvc", "-o", "json"))["items"]
    expect(len(claims) >= 3, "the volumes went too")
    expect(kept_by_users(world) == kept, "the marker or a certificate went too")


def comes_back_from_its_volumes(world):
    """Installed again, it has everything: the volumes and the marker stayed."""
    world.kubectl("apply", "-k", world.overlay())
    world.wait_ready(3, 90)
    expect(world.kvorum("get", "kept", "-o", "raw").stdout.strip() == "through everything", "a key is gone")


def comes_back_without_its_marker(world):
    """Deleted with the marker and the certificates, it begins no second cluster, and makes both anew."""
    cluster = marker(world)["cluster"]
    world.kubectl("delete", "-k", world.overlay(), "--wait=false")
    world.wait("no pods", lambda: not world.pods() and not world.pods("console"), 30 + world.sweep)
    comes_back_from_its_volumes(world)
    filled = lambda: marker(world).get("cluster") == cluster
    world.wait("the marker is filled", filled, 60)


CASES = [applies, demo_of_the_seed, pods_are_restricted, applied_again_keeps, leader_is_deleted_by_force,
         leader_is_killed_by_command, scales_in_every_direction, scales_by_command, pods_that_hang, asks_no_names,
         rolls_out, rollout_is_broken, two_pods_are_deleted, volume_is_lost, all_pods_are_deleted,
         stops_and_starts_again, set_is_made_anew, backup_is_restored, majority_is_lost,
         overlays_differ_where_they_must]
# After these the audit log has denials that are meant.
DENIED = [marker_is_lost, role_is_deleted]
LAST = [ends_at_once, comes_back_from_its_volumes, comes_back_without_its_marker]
