"""The cluster under test: kubectl, the command `kvorum`, loads, waiting.

Guarantees that everything it makes is in one namespace, which `close` removes.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

from .terminal import Terminal

HERE = pathlib.Path(__file__).resolve().parent
DEPLOY = HERE.parent.parent
# Its own for each run: an older one may take minutes to go.
NAMESPACE = f"kvorum-e2e-{os.getpid()}"
SET = "kvorum"
# Kubernetes 1.20 keeps the object of a pod that has ended, whatever it did, until its sandbox is
# swept up, once a minute, and its status is sent, every ten seconds (kubernetes/kubernetes#97288).
# The next pod of its name comes after that.
SWEEP_SECONDS = 75
# Longest time without an acknowledged write, in milliseconds: a majority that is away takes the
# seconds that a pod needs to come back, and a client would not see more of that than its patience.
GAP_MS = 2000


def names(count):
    """The names of so many replicas."""
    return [f"{SET}-{ordinal}" for ordinal in range(count)]


class Failed(Exception):
    """Something is not as it must be."""


def expect(holds, what):
    if not holds:
        raise Failed(what)


class World:
    def __init__(self, kvorum):
        self.kvorum_program = kvorum
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvorum-e2e-"))
        self.figures = []
        version = json.loads(self.kubectl("version", "-o", "json"))["serverVersion"]
        self.minor = int(re.sub(r"\D", "", version["minor"]))
        self.server = version["gitVersion"]
        # How much longer than its replica a pod may stay.
        self.sweep = SWEEP_SECONDS if self.minor <= 20 else 0
        # A cluster of this machine tells where its API server's process and its audit log are.
        self.run = pathlib.Path(os.environ.get("KUBECONFIG", "/nonexistent")).parent

    # Programs.

    def run_program(self, command, check=True, timeout=120, text=None, env=None):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, input=text, env=env)
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(command)}: exit {done.returncode}: {done.stdout[-500:]}{done.stderr[-800:]}")
        return done

    def kubectl(self, *arguments, check=True, timeout=120, text=None):
        command = ["kubectl", "-n", NAMESPACE, *arguments]
        return self.run_program(command, check, timeout, text).stdout

    def kvorum(self, *arguments, check=True, timeout=60, env=None):
        command = [self.kvorum_program, "-n", NAMESPACE, *arguments]
        return self.run_program(command, check, timeout, env=env)

    def figure(self, what, value):
        """Something measured, for whoever reads the run."""
        self.figures.append((what, value))
        print(f"      {what}: {value}", flush=True)

    def is_here(self):
        """Whether the cluster runs on this machine, by a script that leaves its processes' ids."""
        return (self.run / "kubelet.pid").exists()

    @staticmethod
    def text(file):
        try:
            return file.read_text().strip()
        except OSError:  # it ended meanwhile
            return ""

    def processes(self, uids):
        """The replicas' processes on this machine, of pods with these uids."""
        programs = [file.parent for file in pathlib.Path("/proc").glob("[0-9]*/comm")
                    if self.text(file) == "kvorum-replica"]
        groups = [(program, self.text(program / "cgroup")) for program in programs]
        return [program for program, group in groups if any(f"pod{uid}" in group for uid in uids)]

    def signal(self, name, number):
        """Sends a signal to the replica of a pod on this machine."""
        for process in self.processes([self.uids()[name]]):
            os.kill(int(process.name), number)

    def datagrams(self):
        """How many datagrams the replicas' pods have sent: questions for names, and nothing else."""
        sent = {}
        for name, uid in self.uids().items():
            for process in self.processes([uid]):
                names, values = [line.split()[1:] for line in self.text(process / "net" / "snmp").splitlines()
                                 if line.startswith("Udp:")]
                sent[name] = int(values[names.index("OutDatagrams")])
        return sent

    # The cluster.

    def overlay(self):
        """A kustomization of the suite's own: the base in the suite's namespace."""
        base = DEPLOY / "overlays" / "k8s-1.20" if self.minor < 25 else DEPLOY
        target = self.folder / "overlay"
        target.mkdir(exist_ok=True)
        # The layers below set a namespace; the last one wins.
        (target / "kustomization.yaml").write_text(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
            f"namespace: {NAMESPACE}\nresources: [{os.path.relpath(base, target.resolve())}]\n"
        )
        return str(target)

    def open(self):
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.kubectl("create", "-f", "-", text=json.dumps({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}))

    def close(self):
        # Pods first: a namespace that goes before them waits for half of their grace period.
        try:
            self.kubectl("delete", "-k", self.overlay(), "--wait=true", check=False)
        finally:
            self.kubectl("delete", "namespace", NAMESPACE, "--wait=false", check=False)
            shutil.rmtree(self.folder, ignore_errors=True)

    def pods(self, component="replica"):
        selector = f"app.kubernetes.io/name=kvorum,app.kubernetes.io/component={component}"
        items = json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
        return {item["metadata"]["name"]: item for item in items}

    def uids(self):
        """What tells each replica's pod from the next one of its name."""
        return {name: pod["metadata"]["uid"] for name, pod in self.pods().items()}

    def events(self):
        """What Kubernetes and the replicas told, the oldest first."""
        return json.loads(self.kubectl("get", "events", "--sort-by=.metadata.creationTimestamp", "-o", "json"))["items"]

    def staying(self):
        """The names of the pods that nobody has told to end."""
        pods = {**self.pods(), **self.pods("console")}
        return sorted(name for name, pod in pods.items() if "deletionTimestamp" not in pod["metadata"])

    def ready(self):
        """The names of the pods that are ready."""
        def is_ready(pod):
            conditions = pod["status"].get("conditions", [])
            is_going = "deletionTimestamp" in pod["metadata"]
            return not is_going and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return sorted(name for name, pod in self.pods().items() if is_ready(pod))

    def wait(self, what, holds, seconds):
        """Waits until something holds; how long that took."""
        began = time.monotonic()
        last = None
        while True:
            try:
                if holds():
                    return time.monotonic() - began
            except (Failed, subprocess.TimeoutExpired, KeyError, ValueError) as error:
                last = error
            if time.monotonic() - began > seconds:
                raise Failed(f"not within {seconds} s: {what} ({last or self.describe()})")
            # A console that nobody reads stands still.
            Terminal.read_opened(0.25)

    def describe(self):
        def phase(pod):
            told = pod["metadata"].get("deletionTimestamp")
            return pod["status"].get("phase") + (f", told to end by {told}" if told else "")
        pods = {name: phase(pod) for name, pod in self.pods().items()}
        status = self.kvorum("status", check=False, timeout=30)
        return f"pods {pods}\n{status.stdout}{status.stderr}"

    def wait_ready(self, count, seconds=60, sweeps=1):
        """Waits for ready pods, of which so many, one after the other, take the place of ended ones."""
        return self.wait(f"{count} ready pods", lambda: self.ready() == names(count), seconds + sweeps * self.sweep)

    def wait_another(self, name, before, seconds=60):
        """Waits until a pod is another one than before; how long that took."""
        another = lambda: self.uids()[name] != before[name]
        return self.wait(f"another {name}", another, seconds + self.sweep)

    def wait_pods(self, count, seconds=30):
        """Waits until there are these pods and no others; how long that took."""
        return self.wait(f"{count} pods", lambda: sorted(self.pods()) == names(count), seconds + self.sweep)

    def wait_console(self):
        running = lambda: [p for p in self.pods("console").values() if p["status"].get("phase") == "Running"]
        self.wait("the console's pod runs", running, 60)

    def status(self):
        return json.loads(self.kvorum("status", "-o", "json", check=False).stdout)

    def members(self):
        """The members by the newest configuration that somebody tells: names and ids."""
        told = [one for one in self.status() if "configuration" in one]
        newest = max(told, key=lambda one: one["configuration"]["id"])
        return {member["name"]: member["replica"] for member in newest["configuration"]["members"]}

    def leader(self):
        found = []

        def is_there():
            found[:] = [one["name"] for one in self.status() if one.get("leader") and one["leader"] == one.get("name")]
            return found
        self.wait("a leader", is_there, 20)
        return found[0]

    def incarnations(self):
        """How often the process of each member has begun."""
        told = {}

        def all_answer():
            told.update({one["name"]: one.get("incarnation") for one in self.status()})
            return told and None not in told.values()
        self.wait("an answer of each replica", all_answer, 20)
        return told

    def scale(self, count):
        self.kubectl("scale", "statefulset", SET, f"--replicas={count}")

    def stop(self):
        """Scales to none, and waits until no pod is left."""
        self.scale(0)
        self.wait_pods(0)

    def volume(self, verb, number, *folder, check=True, env=None):
        """Copies a replica's volume to this machine, or back."""
        command = [str(DEPLOY / "volume"), "-n", NAMESPACE, verb, str(number), *folder]
        return self.run_program(command, check, timeout=240, env=env)

    def wait_members(self, count, seconds=60):
        return self.wait(f"{count} members", lambda: sorted(self.members()) == names(count), seconds)

    # A load in the cluster, which outlives an API server that does not answer.

    def start_pod(self, name, *arguments):
        """Starts the command `kvorum` in a pod."""
        pod = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"kvorum-client": "true"}},
            "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001,
                                    "seccompProfile": {"type": "RuntimeDefault"}},
                "volumes": [{"name": "tls", "secret": {"secretName": f"{SET}-client-admin",
                                                       "defaultMode": 0o440}}],
                "containers": [{
                    "name": "kvorum", "image": "kvorum-e2e:0.1.0", "imagePullPolicy": "IfNotPresent",
                    "args": arguments,
                    "env": [{"name": "KVORUM_TLS_DIR", "value": "/tls"}],
                    "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
                    "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                        "capabilities": {"drop": ["ALL"]}},
                }]}}
        self.kubectl("create", "-f", "-", text=json.dumps(pod))

    def phase(self, name):
        return self.kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}")

    def run_pod(self, name):
        """Waits until a pod that does next to nothing has ended."""
        self.start_pod(name, "--version")
        self.wait(f"the pod {name} ran", lambda: self.phase(name) == "Succeeded", 120)
        self.kubectl("delete", "pod", name, "--wait=false")

    def start_load(self, name, clients=4, pause="5ms"):
        endpoints = ",".join(f"{name}.kvorum-peers:7301" for name in names(7))
        self.start_pod(name, "--endpoints", endpoints, "--timeout", "30s", "bench", "--time", "20m",
                       "--clients", str(clients), "--pause", pause, "-o", "json")
        self.wait("the load runs", lambda: self.phase(name) == "Running", 30)
        time.sleep(1)

    def end_load(self, name, errors_allowed=0):
        """Ends a load and checks what it saw: nothing lost, doubled or stale, and no error."""
        # The shell may be killed with it before it has ended.
        self.kubectl("exec", name, "--", "sh", "-c", "kill -TERM 1", check=False)
        self.wait("the load ends", lambda: self.phase(name) in ("Succeeded", "Failed"), 60)
        log = self.kubectl("logs", name)
        self.kubectl("delete", "pod", name, "--wait=false")
        return self.judge_load(log, errors_allowed)

    def judge_load(self, log, errors_allowed=0):
        """Checks what a load printed at its end: nothing lost, doubled or stale, and no error."""
        figures = json.loads(log[log.index("{"):])
        kept = {key: figures[key] for key in ("lost", "doubled", "stale")}
        expect(sum(kept.values()) == 0, f"the cluster broke its promises: {log}")
        expect(figures["writes"] > 0, f"no write: {log}")
        errors = figures["refused"] + figures["unknown"]
        expect(errors <= errors_allowed, f"{errors} client errors: {log}")
        expect(figures["longest_gap_ms"] <= GAP_MS, f"writes stood still: {log}")
        self.figure("load", f"{figures['writes']} writes, longest gap {figures['longest_gap_ms']:.0f} ms, errors {errors}, lost 0, doubled 0")
        return figures
