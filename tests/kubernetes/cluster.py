"""One node and its control plane, in namespaces of their own: etcd, API server, controllers, scheduler, containerd and kubelet.

`enclosed` runs the suite as the first process of new network, mount and process namespaces. When that process ends, the kernel ends
every process and every mount of the cluster. Only a folder and empty cgroups remain, which the caller removes, or the next run if the caller
was killed.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

ADDRESS = "10.244.0.1"
NODE = "node-1"
API = f"https://{ADDRESS}:6443"
# One process of each kind on the node; two kubelets would disturb each other.
CONTAINERD = "/run/containerd/containerd.sock"
PATIENCE = 120

# The kubelet would write these kernel settings for the whole machine. It finds the values in place and writes nothing.
TUNABLES = {
    "vm/overcommit_memory": 1, "vm/panic_on_oom": 0, "kernel/panic": 10, "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000, "kernel/keys/root_maxbytes": 25000000,
}


def wait(what, condition, patience=PATIENCE):
    """Waits until the condition holds, and returns its value."""
    until = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"timed out waiting for {what}")
        time.sleep(0.2)
    return found


def cgroups():
    """The folders of the cgroup hierarchies: one with version 2, one for each controller with version 1."""
    root = pathlib.Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    # Links lead to hierarchies that several controllers share.
    return [folder for folder in root.iterdir() if folder.is_dir() and not folder.is_symlink() and (folder / "cgroup.procs").exists()]


def enclosed(folder):
    """Runs this program again inside the namespaces and ends with its exit code; returns only inside, with the cgroup's name."""
    if name := os.environ.get("TOLLGATE_CLUSTER"):
        return name
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"kubernetes: another run uses {folder}")
    for top in cgroups():
        for old in top.glob("tollgate-node-*"):
            # Left by a run that was killed.
            if not os.path.exists(f"/proc/{old.name.rpartition('-')[2]}"):
                remove_cgroups(old.name)
    name = f"tollgate-node-{os.getpid()}"
    separate = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    child = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *separate, "--", sys.executable, *sys.argv],
        env={**os.environ, "TOLLGATE_CLUSTER": name},
        # ^C reaches only this process, which then ends the other one with all its children.
        process_group=0,
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: child.kill())
    try:
        code = child.wait()
    finally:
        remove_cgroups(name)
        shutil.rmtree(folder / "node", ignore_errors=True)
    sys.exit(code if code >= 0 else 128 - code)


def remove_cgroups(name):
    """Removes cgroups, whose processes end a moment after their first process."""
    def removed():
        left = False
        for top in cgroups():
            for folder, _, _ in os.walk(top / name, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    left = True
        return not left

    wait(f"the end of everything in the cgroup {name}", removed)


def healthy():
    """Whether the kubelet's own health check answers."""
    with contextlib.suppress(OSError):
        with urllib.request.urlopen("http://127.0.0.1:10248/healthz", timeout=2) as answer:
            return answer.read() == b"ok"
    return False


def run(*command, **options):
    """Runs a command that must succeed; returns its output."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Cluster:
    """The processes of the node, and their configuration."""

    def __init__(self, program, folder, cgroup):
        self.program, self.folder, self.cgroup = program, folder / "node", cgroup
        self.processes = {}
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def start(self):
        self.make_certificates()
        self.write_configuration()
        self.start_control_plane()
        self.start_containerd()
        self.start_kubelet()

    # === the environment of the processes ===

    def isolate(self):
        """Makes an own network, an own /run and own copies of the machine's files that a node writes."""
        for path in ("/run", "/var/lib/cni", "/var/log"):
            if os.path.isdir(path):
                run("mount", "-t", "tmpfs", "none", path)
        for name, value in TUNABLES.items():
            file = self.folder / name.replace("/", "-")
            file.write_text(f"{value}\n")
            run("mount", "--bind", file, f"/proc/sys/{name}")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "cni0", "type", "bridge")
        # One end of a veth pair gives the bridge a carrier before the first pod.
        run("ip", "link", "add", "port", "type", "veth", "peer", "name", "port-peer")
        run("ip", "link", "set", "port", "master", "cni0")
        for link in ("port", "port-peer", "cni0"):
            run("ip", "link", "set", link, "up")
        run("ip", "address", "add", f"{ADDRESS}/24", "dev", "cni0")
        # This route leads nowhere: no packet leaves the namespace. The kubelet needs one to find its
        # address.
        run("ip", "route", "add", "default", "dev", "cni0")
        pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for top in cgroups():
            (top / self.cgroup).mkdir()
            # A cpuset accepts no process before it has both.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (top / file).exists() and (top / self.cgroup / file).exists():
                    (top / self.cgroup / file).write_text((top / file).read_text())

    def make_certificates(self):
        def openssl(*arguments):
            run("openssl", *arguments, cwd=self.folder)

        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        openssl("req", "-x509", *new, "-subj", "/CN=cluster", "-keyout", "ca.key", "-out", "ca.pem")
        openssl("req", *new, "-subj", "/CN=node", "-keyout", "tls.key", "-out", "tls.csr")
        (self.folder / "names").write_text(f"subjectAltName=IP:{ADDRESS},IP:127.0.0.1,DNS:{NODE}\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", "tls.csr", *signed, "-out", "tls.pem")
        openssl("genrsa", "-out", "accounts.key", "2048")

    def write_configuration(self):
        tokens = {"admin": "system:masters", f"system:node:{NODE}": "system:nodes"}
        lines = []
        for user, group in tokens.items():
            token = os.urandom(16).hex()
            lines.append(f'{token},{user},{user},"{group}"\n')
            (self.folder / f"{user.rsplit(':')[-1]}.kubeconfig").write_text(json.dumps({
                "apiVersion": "v1", "kind": "Config", "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": API, "certificate-authority": str(self.folder / "ca.pem")}}],
                "users": [{"name": user, "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            }))
            if user == "admin":
                self.token = token
        (self.folder / "tokens.csv").write_text("".join(lines))
        self.kubeconfig = self.folder / "admin.kubeconfig"
        (self.folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\n")
        (self.folder / "cni").mkdir()
        (self.folder / "cni/10-bridge.conflist").write_text(json.dumps({
            "cniVersion": "1.0.0", "name": "pods",
            "plugins": [{
                "type": "bridge", "bridge": "cni0", "ipMasq": False,
                "ipam": {
                    "type": "host-local", "routes": [{"dst": "0.0.0.0/0", "gw": ADDRESS}],
                    "ranges": [[{"subnet": "10.244.0.0/24", "rangeStart": "10.244.0.10", "gateway": ADDRESS}]],
                },
            }],
        }))
        (self.folder / "containerd.toml").write_text(f"""version = 2
root = "{self.folder}/containerd"
state = "/run/containerd/state"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.example/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{self.folder}/cni"
""")
        (self.folder / "kubelet.json").write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": ADDRESS, "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{self.cgroup}", "failCgroupV1": False, "failSwapOn": False,
            "clusterDNS": [ADDRESS], "clusterDomain": "cluster.local", "resolvConf": str(self.folder / "resolv.conf"),
            # A full disk of the machine must not evict pods.
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            "podLogsDir": str(self.folder / "pod-logs"), "volumePluginDir": str(self.folder / "plugins"),
            # Lowering it needs a capability that CI containers may lack.
            "oomScoreAdj": 0,
        }))

    # === the processes ===

    def spawn(self, name, *command):
        log = open(self.folder / f"{name}.log", "ab")
        with log:
            self.processes[name] = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def tail(self, name, lines=20):
        return "\n".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    def answers(self, name, condition):
        """Waits for a process to serve; if it ends instead, the error has its last lines."""
        def serves():
            if self.processes[name].poll() is not None:
                raise AssertionError(f"{name} ended with {self.processes[name].returncode}:\n{self.tail(name)}")
            return condition()

        try:
            wait(name, serves)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail(name)}") from None

    def start_control_plane(self):
        folder = self.folder
        self.spawn("etcd", self.program, "etcd", folder / "etcd", "http://127.0.0.1:2379", "http://127.0.0.1:2380")
        key = folder / "accounts.key"
        self.spawn(
            "kube-apiserver", self.program, "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
            f"--bind-address={ADDRESS}", f"--advertise-address={ADDRESS}", "--secure-port=6443",
            f"--tls-cert-file={folder}/tls.pem", f"--tls-private-key-file={folder}/tls.key", f"--cert-dir={folder}",
            f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--service-cluster-ip-range=10.96.0.0/16",
            f"--service-account-issuer={API}", f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            f"--api-audiences={API},sts.amazonaws.com",
            # Otherwise `kubectl logs` resolves the node's name, and there is no name server.
            "--kubelet-preferred-address-types=InternalIP",
        )
        self.answers("kube-apiserver", lambda: self.kubectl("get", "--raw", "/readyz", check=False).stdout == "ok")
        known = (f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1")
        self.spawn(
            "kube-controller-manager", self.program, "kube-controller-manager", *known,
            f"--service-account-private-key-file={key}", f"--root-ca-file={folder}/ca.pem", f"--cert-dir={folder}",
        )
        self.spawn("kube-scheduler", self.program, "kube-scheduler", *known, f"--cert-dir={folder}")

    def start_containerd(self):
        log = self.folder / "containerd.log"

        def served():
            """How often it has recovered its state and started to serve, by the last log line before that."""
            return log.read_text(errors="replace").count("Start streaming server") if log.exists() else 0

        before = served()
        self.spawn("containerd", "containerd", "--config", self.folder / "containerd.toml")
        # A kubelet ends if the runtime behind the socket is not initialized; after a reboot that takes a while.
        self.answers("containerd", lambda: served() > before)

    def start_kubelet(self):
        self.spawn(
            "kubelet", self.program, "kubelet", f"--config={self.folder}/kubelet.json", f"--kubeconfig={self.folder}/{NODE}.kubeconfig",
            f"--root-dir={self.folder}/kubelet", f"--cert-dir={self.folder}/kubelet-pki", f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        )
        ready = ("get", "node", NODE, "-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')
        # The API server shows the report of the node's last kubelet, so this kubelet must serve,
        # too.
        self.answers("kubelet", lambda: healthy() and self.kubectl(*ready, check=False).stdout == "True")

    def stop(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def restart_kubelet(self):
        self.stop("kubelet")
        self.start_kubelet()

    def reboot(self):
        """Reboots the node: it loses every container with its cgroups, and all of /run. Disks stay: emptyDirs, images."""
        self.stop("kubelet")
        self.stop("containerd")
        for process in pathlib.Path("/proc").iterdir():
            if process.name.isdigit() and self.in_a_container(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)
        # If a kubelet finds cgroups of ended containers, it waits 3 s for each before it starts a pod.
        remove_cgroups(f"{self.cgroup}/kubepods")
        for mount in reversed(pathlib.Path("/proc/mounts").read_text().splitlines()):
            path = mount.split()[1]
            if path.startswith(("/run/", "/var/lib/cni/")):
                run("umount", "--lazy", path)
        for folder in ("/run", "/var/lib/cni"):
            shutil.rmtree(folder, ignore_errors=True)
        self.start_containerd()
        self.start_kubelet()

    def in_a_container(self, process):
        """Whether it is a container's process, or the shim that keeps it."""
        with contextlib.suppress(OSError):
            ours = f":/{self.cgroup}/" in (process / "cgroup").read_text()
            return ours or (process / "cmdline").read_bytes().startswith(b"/usr/bin/containerd-shim")
        return False

    # === tools ===

    def kubectl(self, *arguments, check=True, text=None):
        command = [self.program, "kubectl", f"--kubeconfig={self.kubeconfig}", *map(str, arguments)]
        # Otherwise its cache of the API's groups would be in the home folder.
        done = subprocess.run(command, capture_output=True, text=True, input=text, env={**os.environ, "KUBECACHEDIR": f"{self.folder}/cache"})
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr}")
        return done

    def ctr(self, *arguments, check=True):
        done = subprocess.run(["ctr", "--address", CONTAINERD, "--namespace", "k8s.io", *map(str, arguments)], capture_output=True, text=True)
        if check and done.returncode != 0:
            raise AssertionError(f"ctr {' '.join(map(str, arguments))}: {done.stderr}")
        return done
