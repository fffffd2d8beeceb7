"""Certificates: replaced by a command, and made by somebody else, as cert-manager would."""

import base64
import json
import os
import re
import signal
import subprocess

from .cases import SET, marker
from .console import DESK, as_the_console
from .world import DEPLOY, NAMESPACE, expect

# The kubelet looks at what it mounts once a minute, and the replica at its folder every ten seconds.
RELOAD_SECONDS = 150
# A client reads its Secret again every thirty seconds.
PAUSE_SECONDS = 40
LEAVES = {
    f"{SET}-replica": ("replica/*", "serverAuth,clientAuth"),
    f"{SET}-client-admin": ("client/admin", "clientAuth"),
    f"{SET}-client-view": ("client/view", "clientAuth"),
}


class Authority:
    """What cert-manager does, by the program openssl: an authority, and certificates in Secrets."""

    def __init__(self, world):
        self.world = world
        self.folder = world.folder / "authority"
        self.folder.mkdir()
        self.key("ca")
        self.openssl("req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=kvorum", "-days", "30",
                     "-addext", "keyUsage=critical,keyCertSign", "-out", "ca.crt")

    def openssl(self, *arguments):
        command = ["openssl", *arguments]
        self.world.run_program(["env", "-C", str(self.folder), *command])

    def key(self, name):
        """An elliptic-curve key in PKCS#8."""
        self.openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
                     "-out", f"{name}.key")

    def issue(self, name):
        """Fills a Secret with a new certificate of a new key, and replaces what is in it."""
        uri, usages = LEAVES[name]
        self.key(name)
        self.openssl("req", "-new", "-key", f"{name}.key", "-subj", "/", "-out", "request")
        (self.folder / "extensions").write_text(
            f"subjectAltName=critical,URI:kvorum://{SET}.{NAMESPACE}/{uri}\n"
            f"keyUsage=critical,digitalSignature\nextendedKeyUsage={usages}\n"
            "basicConstraints=critical,CA:FALSE\n")
        self.openssl("x509", "-req", "-in", "request", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                     "-days", "20", "-extfile", "extensions", "-out", f"{name}.crt")
        files = {"ca.crt": "ca.crt", "tls.crt": f"{name}.crt", "tls.key": f"{name}.key"}
        read = lambda file: base64.b64encode((self.folder / file).read_bytes()).decode()
        # A Secret's type cannot be changed, and those that the replicas fill are of another one.
        self.world.kubectl("delete", "secret", name, "--ignore-not-found")
        self.world.kubectl("create", "-f", "-", text=json.dumps({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
            "data": {part: read(file) for part, file in files.items()}}))


def overlay(world):
    """What the overlay cert-manager applies, without the objects that only cert-manager knows."""
    target = world.folder / "given"
    target.mkdir()
    relative = lambda path: os.path.relpath(path, target.resolve())
    (target / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"namespace: {NAMESPACE}\nresources: [{relative(world.overlay())}]\n"
        f"components: [{relative(DEPLOY / 'components' / 'given-certificates')}]\n")
    return str(target)


def certificates_are_given(world):
    """Certificates of another authority, mounted: no right on Secrets; a new one is taken as it is."""
    authority, cluster = Authority(world), marker(world)["cluster"]
    world.stop()
    for name in LEAVES:
        authority.issue(name)
    given = overlay(world)
    try:
        world.kubectl("apply", "-k", given)
        world.figure("ready with given certificates, s", f"{world.wait_ready(3, 90):.1f}")
        expect(marker(world)["cluster"] == cluster, "it is another cluster")
        rules = json.loads(world.kubectl("get", "role", SET, "-o", "json"))["rules"]
        expect(not any("secrets" in rule["resources"] for rule in rules), f"a right on Secrets: {rules}")
        expect(world.kvorum("get", "kept", "-o", "raw").stdout.strip() == "through everything", "a key is gone")
        world.kvorum("put", "given", "certificates")
        # Another key and another certificate, while clients write.
        world.start_load("load-given")
        before, taken = world.uids(), re.compile(r"has a new certificate")
        authority.issue(f"{SET}-replica")
        logs = lambda: [world.kubectl("logs", name) for name in sorted(before)]
        reloaded = lambda: all(len(taken.findall(log)) == 2 for log in logs())
        world.figure("taken after, s", f"{world.wait('each has the new one', reloaded, RELOAD_SECONDS):.1f}")
        world.end_load("load-given")
        expect(world.uids() == before, "a pod was made anew")
        restarts = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in world.pods().values()]
        expect(restarts == [0, 0, 0], f"a replica was started again: {restarts}")
        world.kvorum("put", "given", "again")
    finally:
        # Back to certificates of its own, with a stop: neither authority trusts what the other signed.
        world.stop()
        for name in LEAVES:
            world.kubectl("delete", "secret", name, "--ignore-not-found")
        world.kubectl("apply", "-k", world.overlay())
    world.wait_ready(3, 90)
    expect(world.kvorum("get", "given", "-o", "raw").stdout.strip() == "again", "a key is gone")


def shown(world):
    """What `certs show` says of each certificate, by its place."""
    return {row["place"]: row for row in json.loads(world.kvorum("certs", "show", "-o", "json").stdout)}


def replace(world, *words):
    """Replaces certificates while a client on the desk writes, and none of its writes fails."""
    load = subprocess.Popen([str(world.kvorum_program), "-n", NAMESPACE, "bench", "--time", "20m", "--clients", "4",
                             "--pause", "5ms", "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        world.kvorum("certs", "rotate", *words, timeout=10 * PAUSE_SECONDS)
    finally:
        load.send_signal(signal.SIGTERM)
        out, err = load.communicate(timeout=60)
    expect("{" in out, f"the load ended without figures: {out}{err}")
    world.judge_load(out)


def certificates_are_replaced(world):
    """`certs rotate` replaces the leaves and the authority under load; one who may not is told so."""
    env = as_the_console(world)
    world.wait("the right to forward", lambda: world.kvorum("status", env=env, check=False).returncode == 0, 20)
    done = world.kvorum("certs", "rotate", env=env, check=False)
    expect(done.returncode == 6 and f"{SET}-ca" in done.stderr, f"one without the right: {done}")
    world.kubectl("delete", "rolebinding", DESK)
    uids, first = world.uids(), shown(world)
    replace(world)
    second = shown(world)
    prints = lambda rows: {place: row["fingerprint"] for place, row in rows.items()}
    changed = lambda a, b: {place for place in a if prints(a)[place] != prints(b)[place]}
    authority = {place for place in first if f"{SET}-ca" in place}
    expect(len(authority) == 1 and changed(first, second) == set(first) - authority, f"{first}\n{second}")
    replace(world, "--authority", "--yes", f"--pause={PAUSE_SECONDS}s")
    third = shown(world)
    expect(changed(second, third) == set(first), f"{second}\n{third}")
    expect({row["authority"] for row in third.values()} == {third[next(iter(authority))]["fingerprint"]}, f"{third}")
    expect(world.uids() == uids, "a pod was made anew")
    world.kvorum("put", "by", "the-new-authority")


CASES = [certificates_are_replaced, certificates_are_given]
