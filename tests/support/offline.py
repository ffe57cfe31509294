"""Runs a command in a network without a way out, and tells what it tried to reach.

Run as a program, in a network namespace of its own: every address of the world is routed to the loopback device there,
where nobody answers, and a socket sees each packet, those of lookups and of connections alike.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
RECEIVE_BYTES = 256 * 1024 * 1024
TCP, UDP = 6, 17
SYN, ACK = 2, 16
DNS_PORT = 53
SETUP = (
    ("ip", "link", "set", "lo", "up"),
    ("ip", "route", "add", "local", "default", "dev", "lo"),
)


def namespace() -> list[str]:
    """The command that runs another one in a network namespace of its own."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]


def missing() -> str:
    """Why this machine cannot make such a network, or nothing."""
    try:
        tried = subprocess.run([*namespace(), *SETUP[0]], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is missing (Debian: util-linux, iproute2)"
    return "" if tried.returncode == 0 else f"no network namespace may be made here: {tried.stderr.strip()}"


def attempts(folder: Path, argv: Sequence[str], timeout_s: float) -> tuple[int, str, list[str]]:
    """Runs a command cut off from the world; returns its exit code, its output, and whom it tried to reach."""
    report = folder / "attempts.json"
    done = subprocess.run(
        [*namespace(), sys.executable, "-m", "tests.support.offline", str(report), *argv],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, json.loads(report.read_text()) if report.exists() else []


class Watch:
    """A socket that sees every packet on the loopback device."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        self._socket.bind(("lo", 0))
        self._thread = threading.Thread(target=self._read, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> list[str]:
        """Returns what was seen; raises RuntimeError when packets were missed."""
        # The last packet says that all before it were read.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", 9))
        self._thread.join(20)
        _packets, drops = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        if drops or self._thread.is_alive():
            raise RuntimeError(f"{drops} packets were missed")
        return sorted(self.found)

    def _read(self) -> None:
        while True:
            packet, address = self._socket.recvfrom(65_535)
            if address[2] != PACKET_OUTGOING:
                continue
            target, protocol, payload = _parts(packet)
            if protocol not in (TCP, UDP):
                continue
            port = int.from_bytes(payload[2:4])
            if (target, protocol, port) == ("127.0.0.1", UDP, 9):
                return
            begins = protocol == UDP or payload[13] & (SYN | ACK) == SYN
            if begins and (port == DNS_PORT or not ip_address(target).is_loopback):
                name = f" {_asked(payload[8:])}" if (protocol, port) == (UDP, DNS_PORT) else ""
                self.found.add(f"{'tcp' if protocol == TCP else 'udp'} {target} {port}{name}")


def _parts(packet: bytes) -> tuple[str, int, bytes]:
    """The target, the protocol and the content of an IP packet; headers between them are not looked for."""
    if packet[0] >> 4 == 6:
        return str(ip_address(packet[24:40])), packet[6], packet[40:]
    return str(ip_address(packet[16:20])), packet[9], packet[(packet[0] & 15) * 4 :]


def _asked(query: bytes) -> str:
    """The name that a DNS query asks for."""
    labels: list[str] = []
    at = 12
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
        at += 1 + query[at]
    return ".".join(labels)


def main(report: str, *argv: str) -> int:
    """Cuts the namespace off, runs the command, and writes whom it tried to reach."""
    for command in SETUP:
        subprocess.run(command, timeout=20, check=True)
    # Some machines have no IPv6.
    subprocess.run(("ip", "-6", *SETUP[1][1:]), capture_output=True, timeout=20, check=False)
    watch = Watch()
    code = subprocess.run(argv, check=False).returncode
    Path(report).write_text(json.dumps(watch.close()), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
