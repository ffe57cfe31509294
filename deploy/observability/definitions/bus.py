"""The bus, from the metrics of the NATS project's exporter: does work wait, and for whom?"""

from typing import Unpack

from deploy.observability.panels import (
    Dashboard,
    Look,
    Panel,
    Query,
    Row,
    Variable,
    counter,
    gauge,
    of,
    panel,
    per_second,
    total,
)

# Only the leader of a stream or consumer has current numbers; those of followers are stale.
STREAM = ('stream_name=~"$stream"', 'is_stream_leader="true"')
CONSUMER = ('stream_name=~"$stream"', 'is_consumer_leader="true"')
NAME = "{{consumer_name}}"
PENDING = total("jetstream_consumer_num_pending", *CONSUMER, by="consumer_name")
DELIVERED = per_second("jetstream_consumer_delivered_consumer_seq", *CONSUMER, by="consumer_name")
STORED = f"max ({of('jetstream_server_total_message_bytes')} / {of('jetstream_server_max_storage')})"


def of_consumer(title: str, description: str, metric: str, **look: Unpack[Look]) -> Panel:
    """A gauge of each consumer."""
    return gauge(title, description, f"jetstream_consumer_{metric}", *CONSUMER, by="consumer_name", **look)


def of_server(title: str, description: str, metric: str, unit: str = "short", **look: Unpack[Look]) -> Panel:
    """A gauge of each server."""
    return panel(title, description, unit, Query(of(f"gnatsd_varz_{metric}"), "{{server_id}}"), **look)


CONSUMERS = Row(
    "Consumers",
    (
        panel(
            "Waiting",
            "Messages that no worker has received yet.",
            "short",
            Query(PENDING, NAME),
            stacked=True,
            runbook="jobs-wait-unserved",
        ),
        of_consumer(
            "In progress",
            "Messages that were delivered and are not yet acknowledged: running jobs.",
            "num_ack_pending",
            stacked=True,
        ),
        panel("Delivered", "Messages delivered a second.", "ops", Query(DELIVERED, NAME), stacked=True),
        panel(
            "Estimated wait",
            "Waiting messages divided by messages delivered a second: how long a new job will wait.",
            "s",
            Query(f"{PENDING} / ({DELIVERED} > 0)", NAME),
            runbook="queue-wait-long",
        ),
        of_consumer(
            "Waiting pulls",
            "Pull requests of workers that wait for a message; none while a queue is not empty means that "
            "no worker is free.",
            "num_waiting",
            runbook="jobs-wait-unserved",
        ),
        of_consumer(
            "Redelivered",
            "Messages in progress that were delivered more than once.",
            "num_redelivered",
            runbook="jobs-redelivered",
        ),
        panel(
            "Ack floor lag",
            "Messages between a consumer's newest delivery and its ack floor, up to which all are acknowledged; "
            "a number that only grows is a message that is never acknowledged.",
            "short",
            Query(
                f"sum by (consumer_name) ({of('jetstream_consumer_delivered_stream_seq', *CONSUMER)}"
                f" - {of('jetstream_consumer_ack_floor_stream_seq', *CONSUMER)})",
                NAME,
            ),
        ),
    ),
)
STREAMS = Row(
    "Streams",
    (
        gauge(
            "Messages", "Messages that each stream holds.", "jetstream_stream_total_messages", *STREAM, by="stream_name"
        ),
        gauge(
            "Size",
            "Bytes that each stream holds.",
            "jetstream_stream_total_bytes",
            *STREAM,
            by="stream_name",
            unit="bytes",
        ),
        panel(
            "Fill level",
            "The size of each stream that has a limit, as a share of it. A full one drops its oldest messages.",
            "percentunit",
            Query(
                f"max by (stream_name) ({of('jetstream_stream_total_bytes', *STREAM)}"
                f" / ({of('jetstream_stream_limit_bytes', *STREAM)} > 0))",
                "{{stream_name}}",
            ),
        ),
        counter(
            "Published",
            "Messages stored in each stream a second.",
            "jetstream_stream_last_seq",
            *STREAM,
            by="stream_name",
            stacked=True,
        ),
        gauge(
            "Dead letters",
            "Messages in DLQ: jobs that failed too often, and the server's advisories about them.",
            "jetstream_stream_total_messages",
            'stream_name="DLQ"',
            'is_stream_leader="true"',
            kind="stat",
            width=4,
            limits=((1, "orange"),),
            runbook="jobs-dead",
        ),
        panel(
            "Storage used",
            "Bytes in all streams as a share of the storage that the server may use.",
            "percentunit",
            STORED,
            kind="stat",
            width=4,
            limits=((0.6, "orange"), (0.8, "red")),
            runbook="bus-storage-full",
        ),
    ),
)
SERVER = Row(
    "Server",
    (
        of_server("Connections", "Clients of each server.", "connections"),
        *(
            panel(
                f"{what} in and out",
                f"{what} that the servers received and sent a second.",
                unit,
                *(Query(per_second(f"gnatsd_varz_{way}_{metric}"), way) for way in ("in", "out")),
            )
            for what, unit, metric in (("Messages", "ops", "msgs"), ("Bytes", "Bps", "bytes"))
        ),
        of_server(
            "Slow consumers",
            "Clients that each server has disconnected since its start because they read too slowly.",
            "slow_consumers",
            limits=((1, "red"),),
            runbook="messages-dropped",
        ),
        of_server("Memory", "Resident memory of each server; the streams OUT and AUDIO live in it.", "mem", "bytes"),
        of_server("CPU", "CPU time of each server; 100 % is one core.", "cpu", "percent"),
    ),
)

BUS = Dashboard(
    "bus",
    "Bus",
    "Does work wait, and for whom?",
    (CONSUMERS, STREAMS, SERVER),
    (Variable("stream_name", "jetstream_stream_total_messages", "stream"),),
)
