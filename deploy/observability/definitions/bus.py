"""The bus, as the NATS project's exporter tells of it: does work wait, and for whom?"""

from deploy.observability.panels import RATE, Board, Choice, Panel, Query, Row, of, total

# Only leaders know a stream's and a consumer's numbers; what followers say is stale.
STREAM = ('stream_name=~"$stream"', 'is_stream_leader="true"')
CONSUMER = ('stream_name=~"$stream"', 'is_consumer_leader="true"')
NAME = "{{consumer_name}}"
PENDING = total("jetstream_consumer_num_pending", *CONSUMER, by="consumer_name")
DELIVERED = f"sum by (consumer_name) (rate({of('jetstream_consumer_delivered_consumer_seq', *CONSUMER)}{RATE}))"
STORED = f"max ({of('jetstream_server_total_message_bytes')} / {of('jetstream_server_max_storage')})"

BUS = Board(
    "bus",
    "Bus",
    "Does work wait, and for whom?",
    (
        Row(
            "Consumers",
            (
                Panel(
                    "Waiting",
                    "Messages that no worker has been given yet.",
                    "short",
                    (Query(PENDING, NAME),),
                    stacked=True,
                    runbook="jobs-wait-unserved",
                ),
                Panel(
                    "In work",
                    "Messages that were handed out and are not yet acknowledged: running jobs.",
                    "short",
                    (Query(total("jetstream_consumer_num_ack_pending", *CONSUMER, by="consumer_name"), NAME),),
                    stacked=True,
                ),
                Panel(
                    "Handed out",
                    "Messages handed out a second.",
                    "ops",
                    (Query(DELIVERED, NAME),),
                    stacked=True,
                ),
                Panel(
                    "Wait of a new job",
                    "Messages waiting divided by messages handed out a second: how long a new job will wait.",
                    "s",
                    (Query(f"{PENDING} / ({DELIVERED} > 0)", NAME),),
                    runbook="queue-wait-long",
                ),
                Panel(
                    "Idle asks",
                    "Requests of workers for a message that wait for one; none while a queue is not empty means that "
                    "no worker is free.",
                    "short",
                    (Query(total("jetstream_consumer_num_waiting", *CONSUMER, by="consumer_name"), NAME),),
                    runbook="jobs-wait-unserved",
                ),
                Panel(
                    "Handed out again",
                    "Messages in work that were handed out more than once.",
                    "short",
                    (Query(total("jetstream_consumer_num_redelivered", *CONSUMER, by="consumer_name"), NAME),),
                    runbook="jobs-redelivered",
                ),
                Panel(
                    "Behind the newest acknowledged",
                    "How many messages lie between a consumer's newest delivery and the point up to which "
                    "all are acknowledged; a number that only grows is a message that nobody acknowledges.",
                    "short",
                    (
                        Query(
                            f"sum by (consumer_name) ({of('jetstream_consumer_delivered_stream_seq', *CONSUMER)}"
                            f" - {of('jetstream_consumer_ack_floor_stream_seq', *CONSUMER)})",
                            NAME,
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Streams",
            (
                Panel(
                    "Messages",
                    "Messages that each stream holds.",
                    "short",
                    (Query(total("jetstream_stream_total_messages", *STREAM, by="stream_name"), "{{stream_name}}"),),
                ),
                Panel(
                    "Size",
                    "Bytes that each stream holds.",
                    "bytes",
                    (Query(total("jetstream_stream_total_bytes", *STREAM, by="stream_name"), "{{stream_name}}"),),
                ),
                Panel(
                    "Full to",
                    "The size of each stream that has a limit, as a share of it. A full one drops its oldest messages.",
                    "percentunit",
                    (
                        Query(
                            f"max by (stream_name) ({of('jetstream_stream_total_bytes', *STREAM)}"
                            f" / ({of('jetstream_stream_limit_bytes', *STREAM)} > 0))",
                            "{{stream_name}}",
                        ),
                    ),
                ),
                Panel(
                    "Published",
                    "Messages stored in each stream a second.",
                    "ops",
                    (
                        Query(
                            f"sum by (stream_name) (rate({of('jetstream_stream_last_seq', *STREAM)}{RATE}))",
                            "{{stream_name}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Dead letters",
                    "Messages in DLQ: jobs that failed too often, and the server's notices of them.",
                    "short",
                    (
                        Query(
                            total("jetstream_stream_total_messages", 'stream_name="DLQ"', 'is_stream_leader="true"'),
                            "dead letters",
                        ),
                    ),
                    "stat",
                    4,
                    limits=((1, "orange"),),
                    runbook="jobs-dead",
                ),
                Panel(
                    "Storage used",
                    "Bytes in all streams as a share of the storage that the server may use.",
                    "percentunit",
                    (Query(STORED, "used"),),
                    "stat",
                    4,
                    limits=((0.6, "orange"), (0.8, "red")),
                    runbook="bus-storage-full",
                ),
            ),
        ),
        Row(
            "Server",
            (
                Panel(
                    "Connections",
                    "Clients of each server.",
                    "short",
                    (Query(of("gnatsd_varz_connections"), "{{server_id}}"),),
                ),
                Panel(
                    "Messages in and out",
                    "Messages that the servers took and gave a second.",
                    "ops",
                    (
                        Query(f"sum (rate({of('gnatsd_varz_in_msgs')}{RATE}))", "in"),
                        Query(f"sum (rate({of('gnatsd_varz_out_msgs')}{RATE}))", "out"),
                    ),
                ),
                Panel(
                    "Bytes in and out",
                    "Bytes that the servers took and gave a second.",
                    "Bps",
                    (
                        Query(f"sum (rate({of('gnatsd_varz_in_bytes')}{RATE}))", "in"),
                        Query(f"sum (rate({of('gnatsd_varz_out_bytes')}{RATE}))", "out"),
                    ),
                ),
                Panel(
                    "Slow consumers",
                    "Clients that each server cut off, since its start, because they did not read what they were sent.",
                    "short",
                    (Query(of("gnatsd_varz_slow_consumers"), "{{server_id}}"),),
                    limits=((1, "red"),),
                    runbook="messages-dropped",
                ),
                Panel(
                    "Memory",
                    "Resident memory of each server; the streams OUT and AUDIO live in it.",
                    "bytes",
                    (Query(of("gnatsd_varz_mem"), "{{server_id}}"),),
                ),
                Panel(
                    "Processor",
                    "Processor time of each server; 100 % is one core.",
                    "percent",
                    (Query(of("gnatsd_varz_cpu"), "{{server_id}}"),),
                ),
            ),
        ),
    ),
    (Choice("stream_name", "jetstream_stream_total_messages", "stream"),),
)
