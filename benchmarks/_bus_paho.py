"""Bare paho-mqtt, threaded as its documentation shows it, with TCP_NODELAY."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks._bus_job import Job, Meter, Pings, say, wait_for_go

__all__ = ["run"]

_PATIENCE_S = 20.0


def run(job: Job) -> None:
    """Play one side."""
    {"source": _source, "sink": _sink, "ping": _ping, "echo": _echo}[job.role](job)


def _connect(job: Job, *, listen: str | None = None, on_message: Any = None) -> Client:
    client = Client(CallbackAPIVersion.VERSION2, client_id=f"bench-{job.role}")
    client.max_inflight_messages_set(job.window)
    subscribed, connected = threading.Event(), threading.Event()
    client.on_socket_open = _no_delay
    client.on_connect = lambda *_: connected.set()
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = on_message
    client.connect("127.0.0.1", job.port)
    client.loop_start()
    connected.wait()
    if listen is not None:
        client.subscribe(listen, job.qos)
        subscribed.wait()
    return client


def _no_delay(_client: Client, _userdata: object, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _source(job: Job) -> None:
    client = _connect(job)
    say("ready")
    wait_for_go()
    start, cpu = time.monotonic(), time.process_time()
    for n in range(job.count):
        info = client.publish(job.topic, job.raw(n), job.qos)
    info.wait_for_publish()
    say("done", start=start, end=time.monotonic(), cpu_s=time.process_time() - cpu)
    wait_for_go()


def _sink(job: Job) -> None:
    meter, full = Meter(job.count), threading.Event()

    def on_message(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        int(message.payload[:8])
        if meter.add():
            full.set()

    _connect(job, listen=job.topic, on_message=on_message)
    say("ready")
    seen = -1
    while not full.is_set() and meter.received != seen:
        seen = meter.received or -1
        if not full.wait(_PATIENCE_S):
            meter.stop()
    say("done", received=meter.received, end=meter.last, cpu_s=meter.cpu_last - meter.cpu_first)
    wait_for_go()


def _ping(job: Job) -> None:
    pings = Pings()

    def on_message(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        pings.answer(int(message.payload[:8]))

    client = _connect(job, listen=f"{job.topic}/back", on_message=on_message)
    say("ready")
    wait_for_go()
    start, cpu = time.monotonic(), time.process_time()
    for n in range(int(job.rate * job.seconds)):
        time.sleep(max(0.0, start + n / job.rate - time.monotonic()))
        pings.send(n)
        client.publish(job.topic, job.raw(n), job.qos)
    for _ in range(100):
        if not pings.sent:
            break
        time.sleep(0.02)
    say(
        "done",
        took_ms=pings.took_ms,
        lost=len(pings.sent),
        cpu_s=time.process_time() - cpu,
    )
    wait_for_go()


def _echo(job: Job) -> None:
    def on_message(client: Client, _userdata: object, message: MQTTMessage) -> None:
        client.publish(f"{job.topic}/back", message.payload, job.qos)

    _connect(job, listen=job.topic, on_message=on_message)
    say("ready")
    wait_for_go()
    say("done")
