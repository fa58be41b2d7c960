"""A stand-in for CoreDNS: it answers for headless Services by the API server's EndpointSlices."""

import contextlib
import http.client
import socket
import struct
import threading
import time

from cluster import ADDRESS

DOMAIN = ("svc", "cluster", "local")
A = 1
NO_SUCH_NAME = 3
KNOWN_SECONDS = 0.5


class Names:
    """Answers on the address that the kubelet writes into the pods' resolv.conf, until the suite ends."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.known = {}
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind((ADDRESS, 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            query, peer = self.server.recvfrom(512)
            # A resolver that gets no answer asks again.
            with contextlib.suppress(AssertionError, OSError, http.client.HTTPException, LookupError, ValueError, struct.error):
                self.server.sendto(answer(self.endpoints, query), peer)

    def endpoints(self, service, namespace):
        """The addresses of a Service's ready pods, cached, because a sidecar that follows the emulator's clock asks twenty times a second."""
        known, until = self.known.get((service, namespace), ([], 0))
        if time.monotonic() > until:
            known = ready(self.cluster, service, namespace)
            self.known[service, namespace] = known, time.monotonic() + KNOWN_SECONDS
        return known


def answer(endpoints, query):
    """The answer to one question (RFC 1035); an existing name has no other records."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    kind = struct.unpack("!H", query[at + 1:at + 3])[0]
    question = query[12:at + 5]
    addresses = endpoints(*labels[:2]) if len(labels) == 5 and tuple(labels[2:]) == DOMAIN else []
    found = addresses if kind == A else []
    # An authoritative answer; recursion is available.
    flags = 0x8580 | (0 if addresses else NO_SUCH_NAME)
    records = [b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 0, 4) + socket.inet_aton(address) for address in found]
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + question + b"".join(records)


def ready(cluster, service, namespace):
    """The addresses of a Service's ready pods, as the API server has them."""
    slices = cluster.get(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{service}")
    return [address for one in (slices or {"items": []})["items"] for endpoint in one.get("endpoints") or []
            if endpoint["conditions"].get("ready") for address in endpoint["addresses"]]
