"""Capacity: what do the pools and their machines still have room for?

The rows about GPUs and the cluster show the metrics of NVIDIA's dcgm-exporter, of kube-state-metrics, of the kubelet
and of KEDA.
"""

from deploy.observability.panels import (
    Dashboard,
    Query,
    Row,
    Variable,
    counter,
    gauge,
    of,
    panel,
    per_second,
    quantile,
    total,
)

POOL = 'pool=~"$pool"'
BY_POOL = "job, pool"
USED, LIMIT = (total(f"callboard:pool_slots_{kind}:sum", POOL, by=BY_POOL) for kind in ("used", "limit"))
WORKERS = total("callboard:pool_workers:max", POOL, by="pool")
OUTPUT_TOKENS = per_second("gen_ai_client_token_usage_sum", POOL, 'gen_ai_token_type="output"', by="pool")
AUDIO_SECONDS = per_second("callboard_tts_audio_seconds_total", POOL, by="pool")
LOADS = tuple(of(f"callboard_{service}_engine_load_seconds", POOL) for service in ("chat", "tts", "stt"))
GPU = "{{Hostname}} {{gpu}}"
GPUS = f"count ({of('DCGM_FI_DEV_GPU_UTIL')})"
OUR_PODS = 'container=~"(edge|chat|tts|stt|quota|rooms|nats|engine).*"'

POOLS = Row(
    "Pools",
    (
        gauge(
            "Workers",
            "Workers of each pool that have announced themselves.",
            "callboard:pool_workers:max",
            POOL,
            by="service, pool",
            runbook="pool-without-workers",
        ),
        panel(
            "Slots in use",
            "The share of each pool's slots that run a job; near 1, new jobs wait.",
            "percentunit",
            Query(f"{USED} / {LIMIT}", "{{job}} {{pool}}"),
            limits=((0.8, "orange"), (1, "red")),
            runbook="queue-wait-long",
        ),
        gauge(
            "Jobs",
            "Waiting and running jobs of each pool: what scaling is decided by.",
            "callboard:pool_jobs:sum",
            POOL,
            by=BY_POOL,
            stacked=True,
            runbook="jobs-wait-unserved",
        ),
        gauge(
            "Oldest job",
            "How long the oldest request of each pool has waited for its first output.",
            "callboard:oldest_job_seconds:max",
            POOL,
            by="service, pool",
            unit="s",
            limits=((120, "red"),),
            runbook="oldest-job-waits",
        ),
        panel(
            "Tokens by worker",
            "Tokens that each worker of a pool generates a second.",
            "suffix: tokens/s",
            Query(f"{OUTPUT_TOKENS} / ({WORKERS} > 0)", "{{pool}}"),
        ),
        panel(
            "Audio by worker",
            "Seconds of audio that each worker of a pool makes a second.",
            "suffix: s/s",
            Query(f"{AUDIO_SECONDS} / ({WORKERS} > 0)", "{{pool}}"),
        ),
        panel(
            "Cold start",
            "The time that each worker's engine took to load and warm up, at its last start.",
            "s",
            *(Query(each, "{{instance}} {{pool}}") for each in LOADS),
            width=12,
        ),
        panel(
            "First token by pool, p95",
            "From a job's delivery to the worker to the first token of its reply; it grows as slots share an engine.",
            "s",
            Query(quantile(0.95, "gen_ai_server_time_to_first_token_seconds", POOL, by="pool"), "{{pool}}"),
            width=12,
            runbook="first-token-slow",
        ),
    ),
)
GPUS_ROW = Row(
    "GPUs",
    (
        panel(
            "GPU utilisation",
            "The share of time in which each GPU was busy.",
            "percent",
            Query(of("DCGM_FI_DEV_GPU_UTIL"), GPU),
        ),
        panel(
            "GPU memory", "Memory in use on each GPU.", "bytes", Query(f"{of('DCGM_FI_DEV_FB_USED')} * 1048576", GPU)
        ),
        panel("GPU power", "The power that each GPU draws.", "watt", Query(of("DCGM_FI_DEV_POWER_USAGE"), GPU)),
        panel(
            "GPU temperature",
            "The temperature of each GPU.",
            "celsius",
            Query(of("DCGM_FI_DEV_GPU_TEMP"), GPU),
            limits=((80, "orange"), (90, "red")),
        ),
        panel(
            "GPU errors",
            "The last XID error of each GPU; 0 is none.",
            "short",
            Query(of("DCGM_FI_DEV_XID_ERRORS"), GPU),
            limits=((1, "red"),),
            runbook="gpu-failing",
        ),
        panel(
            "Work by GPU",
            "Tokens, and seconds of audio, that all pools make in a second on each of the installation's GPUs.",
            "ops",
            Query(f"{per_second('gen_ai_client_token_usage_sum')} / {GPUS}", "tokens"),
            Query(f"{per_second('callboard_tts_audio_seconds_total')} / {GPUS}", "audio seconds"),
        ),
    ),
)
CLUSTER = Row(
    "Cluster",
    (
        panel(
            "Replicas wanted and ready",
            "How many pods each deployment should have, and how many are ready.",
            "short",
            Query(total("kube_deployment_spec_replicas", by="deployment"), "{{deployment}} wanted"),
            Query(total("kube_deployment_status_replicas_ready", by="deployment"), "{{deployment}} ready"),
        ),
        gauge(
            "Unschedulable pods",
            "Pods that no node has room for, mostly because no GPU is free.",
            "kube_pod_status_unschedulable",
            by="pod",
        ),
        counter(
            "Container restarts",
            "Containers started again a second.",
            "kube_pod_container_status_restarts_total",
            OUR_PODS,
            by="container",
        ),
        gauge(
            "Killed for memory",
            "Containers whose last end was for lack of memory.",
            "kube_pod_container_status_last_terminated_reason",
            OUR_PODS,
            'reason="OOMKilled"',
            by="pod",
            limits=((1, "red"),),
            runbook="worker-died",
        ),
        panel(
            "CPU throttling",
            "The share of scheduling periods in which a container was held back by its CPU limit.",
            "percentunit",
            Query(
                f"{per_second('container_cpu_cfs_throttled_periods_total', OUR_PODS, by='container')}"
                f" / {per_second('container_cpu_cfs_periods_total', OUR_PODS, by='container')}",
                "{{container}}",
            ),
        ),
        gauge(
            "Scalers active",
            "Whether KEDA keeps each object above zero.",
            "keda_scaler_active",
            by="scaledObject",
            unit="bool_yes_no",
        ),
        gauge(
            "Scaling value", "The jobs that KEDA sees for each object.", "keda_scaler_metrics_value", by="scaledObject"
        ),
        counter(
            "Scaler errors",
            "Failed readings of the bus by KEDA.",
            "keda_scaler_detail_errors_total",
            by="scaledObject",
            runbook="scaler-failing",
        ),
    ),
)

CAPACITY = Dashboard(
    "capacity",
    "Capacity",
    "What do the pools and their machines still have room for?",
    (POOLS, GPUS_ROW, CLUSTER),
    (Variable("pool", "callboard_edge_pool_workers"),),
)
