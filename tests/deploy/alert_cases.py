"""For each alert series that must set it off and series that must not. Values are those of promtool: start, step and count,
one a minute, or one every 15 seconds for alerts in EVERY_SCRAPE.

FIRING[alert] = (series, minute, labels of the alert, severity left out); QUIET[alert] = (series, minute up to which it is quiet).
"""
API, WORKER = '{instance="api:9090", job="qamserve"}', '{instance="worker:9090", job="qamserve"}'
INSTANCE = {"instance": "api:9090"}


def labelled(name, **labels):
    inner = ", ".join(f'{key}="{value}"' for key, value in {"instance": "api:9090", "job": "qamserve", **labels}.items())
    return f"{name}{{{inner}}}"


def histogram(name, quick, slow, **labels):
    """A histogram of which `quick` more a minute take at most a millisecond and `slow` more at most half a minute."""
    return {labelled(f"{name}_bucket", le="0.001", **labels): f"0+{quick}x60",
            labelled(f"{name}_bucket", le="30", **labels): f"0+{quick + slow}x60",
            labelled(f"{name}_bucket", le="+Inf", **labels): f"0+{quick + slow}x60"}


def store(code, step):
    return {labelled("qamserve_store_transactions_total", kind="write", code=code): f"0+{step}x60"}


def store_errors(values):
    return {**store("OK", 100), **one("qamserve_store_transactions_total", values, kind="write", code="UNAVAILABLE")}


def blob_errors(values, code="UNAVAILABLE"):
    return one("qamserve_blob_requests_total", values, operation="get", code=code)


def one_by_one(scrapes, count):
    """An error at a time, as many scrapes apart."""
    return " ".join(str(n // scrapes) for n in range(count))


def tasks(ready, leased):
    return {labelled("qamserve_tasks", pool="cpu", state="ready"): f"{ready}x60",
            labelled("qamserve_tasks", pool="cpu", state="leased"): f"{leased}x60"}


def replicas(wanted, ready, failed="0x60"):
    return {labelled("qamserve_replicas_wanted", model="m"): f"{wanted}x60",
            labelled("qamserve_replicas", model="m", state="ready"): f"{ready}x60",
            labelled("qamserve_replicas", model="m", state="failed"): failed}


def requests(good, bad):
    return {labelled("qamserve_requests_total", model="m", outcome="stop"): f"0+{good}x60",
            labelled("qamserve_requests_total", model="m", outcome="refused"): f"0+{good}x60",
            labelled("qamserve_requests_total", model="m", outcome="error"): f"0+{bad}x60"}


def one(name, values, **labels):
    return {labelled(name, **labels): values}


def target(component, values, **labels):
    return one("up", values, component=component, **labels)


MODEL = {"model": "m"}
# Alerts whose ranges hold too few values at one a minute.
EVERY_SCRAPE = {"QamserveStoreErrors", "QamserveBlobErrors"}
# 40 seconds of errors, 3 minutes after the start.
BLIP = "0x11 1 4 9x48"
FIRING = {
    "QamserveInstanceDown": ({f"up{API}": "1 1 0x10"}, 6, {"instance": "api:9090", "job": "qamserve"}),
    # The last of a role, in a cluster.
    "QamserveTargetGone": ({**target("worker", "1 1 1 stale", namespace="qamserve"), **target("api", "1x20", namespace="qamserve")},
                           12, {"component": "worker", "job": "qamserve", "namespace": "qamserve"}),
    "QamserveQueueUnknown": (one("qamserve_instances", "1 1 stale", role="api"), 10, {}),
    "QamserveRestarts": ({f"qamserve_start_time_seconds{API}": "1+1x10"}, 8, {"instance": "api:9090", "job": "qamserve"}),
    "QamserveInstancesGone": ({f"qamserve_instances_gone_total{API}": "0 0 1x20"}, 5, {}),
    "QamserveVersionsDiffer": ({**one("qamserve_build_info", "1x130", version="1"), **one("qamserve_build_info", "1x130", version="2")},
                               125, {}),
    "QamserveRpcErrors": ({**one("qamserve_rpc_total", "0+90x20", code="OK"), **one("qamserve_rpc_total", "0+10x20", code="INTERNAL")},
                          15, {}),
    "QamserveUnauthenticatedCalls": (one("qamserve_rpc_total", "0+70x30", code="UNAUTHENTICATED"), 20, {}),
    "QamserveFewFilesLeft": ({f"qamserve_open_fds{API}": "90x20", f"qamserve_max_fds{API}": "100x20"}, 12,
                             {"instance": "api:9090", "job": "qamserve"}),
    "QamserveTracesDropped": (one("qamserve_trace_spans_total", "0+1x40", result="dropped"), 30, {}),
    "QamserveQueueStalled": (tasks(3, 0), 12, {"pool": "cpu"}),
    "QamserveJobsWithoutWorkers": (one("qamserve_stranded_jobs", "1x20", reason="pool"), 12, {"reason": "pool"}),
    "QamserveJobsOfAnotherCodec": (one("qamserve_stranded_jobs", "1x20", reason="codec"), 12, {"reason": "codec"}),
    "QamserveQueueOld": (one("qamserve_job_queue_age_seconds", "14000+60x60", pool="cpu"), 20, {"pool": "cpu"}),
    "QamserveJobsFail": (one("qamserve_jobs_finished_total", "0 0 1x20", kind="quantize", state="failed"), 5, {"kind": "quantize"}),
    "QamserveLeasesExpire": ({f"qamserve_lease_expiries_total{WORKER}": "0+1x20"}, 15, {}),
    "QamserveTasksRetried": (one("qamserve_task_retries_total", "0+2x20", stage="quantize"), 15, {"stage": "quantize"}),
    "QamserveTaskNotDeterministic": ({f"qamserve_nondeterministic_tasks_total{WORKER}": "0 0 1x20"}, 5, {}),
    "QamserveGatesRefuse": (one("qamserve_gate_results_total", "0+1x20", gate="quality", result="refused"), 10, {"gate": "quality"}),
    "QamserveNoReadyReplica": (replicas(2, 0), 4, MODEL),
    "QamserveReplicasMissing": (replicas(2, 1), 20, MODEL),
    "QamserveReplicaFailed": (replicas(2, 1, "1 0 0 0 1 0 0 0 1x20"), 7, {"model": "m", "state": "failed"}),
    "QamserveModelFailed": (one("qamserve_served_models", "1x20", state="failed"), 8,
                            {"instance": "api:9090", "job": "qamserve", "state": "failed"}),
    "QamserveRequestErrors": (requests(90, 20), 15, MODEL),
    "QamserveSlowFirstToken": (histogram("qamserve_time_to_first_token_seconds", 0, 10, model="m"), 20, MODEL),
    "QamserveSlowTokens": (histogram("qamserve_inter_token_seconds", 0, 10, model="m"), 20, MODEL),
    "QamserveRequestsWait": (histogram("qamserve_request_queue_seconds", 0, 10, model="m"), 20, MODEL),
    "QamserveKvCacheFull": (one("qamserve_kv_cache_usage_ratio", "0.99x20", model="m"), 12,
                            {"instance": "api:9090", "job": "qamserve", "model": "m"}),
    "QamservePreemptions": (one("qamserve_preemptions_total", "0+20x40", model="m"), 25, MODEL),
    "QamserveStoreErrors": (store_errors("0+1x60"), 4, {"code": "UNAVAILABLE"}),
    "QamserveStoreSlow": (histogram("qamserve_store_transaction_seconds", 0, 10, kind="write"), 20, {"kind": "write"}),
    "QamserveStoreConflicts": ({**store("OK", 100), **one("qamserve_store_retries_total", "0+40x60", kind="write")}, 20, {}),
    "QamserveStoreReconnects": ({f"qamserve_store_reconnects_total{API}": "0+1x20",
                                 f"qamserve_store_reconnects_total{WORKER}": "0 1x20"}, 15, INSTANCE),
    "QamserveBlobErrors": (blob_errors("0+1x60", "FAILED_PRECONDITION"), 4, {"code": "FAILED_PRECONDITION"}),
    "QamserveBlobsSlow": ({**one("qamserve_blob_requests_total", "0+10x40", operation="get", code="OK"),
                           **one("qamserve_blob_request_retries_total", "0+3x40", operation="get")}, 20, {}),
    "QamserveCorruptBlobs": ({f"qamserve_corrupt_blobs_total{API}": "0 0 1x20"}, 5, INSTANCE),
    "QamserveMissingBlobs": ({f"qamserve_missing_blobs_total{API}": "0 0 1x20"}, 5, INSTANCE),
    "QamserveBlobCacheTooSmall": ({**one("qamserve_blob_cache_lookups_total", "0+1x90", result="hit"),
                                   **one("qamserve_blob_cache_lookups_total", "0+9x90", result="miss"),
                                   f"qamserve_blob_cache_evictions_total{API}": "0+1x90"}, 60, {}),
    "QamserveDiskNearlyFull": ({f"qamserve_data_disk_free_bytes{API}": "5x20", f"qamserve_data_disk_bytes{API}": "100x20"}, 12,
                               {"instance": "api:9090", "job": "qamserve"}),
}
# Second causes of alerts that have two.
ALSO_FIRING = {
    # One of two containers that DNS finds.
    "QamserveTargetGone": ({**target("worker", "1x20"), **target("worker", "1 1 1 stale", instance="10.0.0.2:9090")}, 12,
                           {"component": "worker", "job": "qamserve"}),
    # One caller alone, which gives up only after half a minute, and after a minute and a half.
    "QamserveStoreErrors": (store_errors(one_by_one(3, 60)), 10, {"code": "UNAVAILABLE"}),
    "QamserveBlobErrors": (blob_errors(one_by_one(6, 60)), 10, {"code": "UNAVAILABLE"}),
}
QUIET = {
    "QamserveInstanceDown": ({f"up{API}": "1 0 1x10"}, 6),
    # An autoscaler takes pods away; a container comes back under another address.
    "QamserveTargetGone": ({**target("worker", "1x20", namespace="qamserve"),
                            **target("worker", "1 1 1 stale", namespace="qamserve", instance="10.0.0.2:9090"),
                            **target("inference", "1 1 1 stale", instance="10.0.0.3:9090"),
                            **target("inference", "_x4 1x20", instance="10.0.0.4:9090")}, 12),
    # No worker and no job: there are no series of the queue.
    "QamserveQueueUnknown": ({**one("qamserve_instances", "1x20", role="api"), **one("qamserve_instances", "0x20", role="worker"),
                              **one("qamserve_instances", "1x20", role="inference")}, 10),
    "QamserveRestarts": ({f"qamserve_start_time_seconds{API}": "1 1 2x10"}, 8),
    "QamserveInstancesGone": ({f"qamserve_instances_gone_total{API}": "3x20"}, 5),
    "QamserveVersionsDiffer": ({**one("qamserve_build_info", "1x130", version="1"), **one("qamserve_build_info", "1x30", version="2")}, 125),
    "QamserveRpcErrors": ({**one("qamserve_rpc_total", "0+99x20", code="OK"), **one("qamserve_rpc_total", "0+20x20", code="NOT_FOUND")}, 15),
    "QamserveUnauthenticatedCalls": (one("qamserve_rpc_total", "0+9x30", code="UNAUTHENTICATED"), 20),
    "QamserveFewFilesLeft": ({f"qamserve_open_fds{API}": "60x20", f"qamserve_max_fds{API}": "100x20"}, 12),
    "QamserveTracesDropped": ({**one("qamserve_trace_spans_total", "0+9x40", result="exported"),
                               **one("qamserve_trace_spans_total", "0x40", result="dropped")}, 30),
    "QamserveQueueStalled": (tasks(3, 1), 12),
    "QamserveJobsWithoutWorkers": (one("qamserve_stranded_jobs", "0x20", reason="pool"), 12),
    "QamserveJobsOfAnotherCodec": (one("qamserve_stranded_jobs", "0x20", reason="codec"), 12),
    "QamserveQueueOld": (one("qamserve_job_queue_age_seconds", "0+60x60", pool="cpu"), 60),
    "QamserveJobsFail": ({**one("qamserve_jobs_finished_total", "0x20", kind="quantize", state="failed"),
                          **one("qamserve_jobs_finished_total", "0+1x20", kind="quantize", state="rejected")}, 5),
    "QamserveLeasesExpire": ({f"qamserve_lease_expiries_total{WORKER}": "0 2x20"}, 15),
    "QamserveTasksRetried": (one("qamserve_task_retries_total", "0 5x20", stage="quantize"), 15),
    "QamserveTaskNotDeterministic": ({f"qamserve_nondeterministic_tasks_total{WORKER}": "0x20"}, 5),
    "QamserveGatesRefuse": ({**one("qamserve_gate_results_total", "0+1x20", gate="quality", result="passed"),
                             **one("qamserve_gate_results_total", "0 1 2x20", gate="quality", result="refused")}, 10),
    "QamserveNoReadyReplica": (replicas(2, 1), 4),
    "QamserveReplicasMissing": (replicas(2, 2), 20),
    "QamserveReplicaFailed": (replicas(2, 2, "1x60"), 15),
    "QamserveModelFailed": (one("qamserve_served_models", "1x20", state="ready"), 8),
    "QamserveRequestErrors": (requests(100, 1), 15),
    "QamserveSlowFirstToken": (histogram("qamserve_time_to_first_token_seconds", 10, 0, model="m"), 20),
    "QamserveSlowTokens": (histogram("qamserve_inter_token_seconds", 10, 0, model="m"), 20),
    "QamserveRequestsWait": (histogram("qamserve_request_queue_seconds", 10, 0, model="m"), 20),
    "QamserveKvCacheFull": (one("qamserve_kv_cache_usage_ratio", "0.99x5 0.5x20", model="m"), 12),
    "QamservePreemptions": (one("qamserve_preemptions_total", "0+1x40", model="m"), 25),
    "QamserveStoreErrors": ({**store_errors(BLIP), **store("ABORTED", 9), **store("NOT_FOUND", 9)}, 14),
    "QamserveStoreSlow": ({**histogram("qamserve_store_transaction_seconds", 10, 0, kind="write"),
                           **histogram("qamserve_store_transaction_seconds", 0, 10, kind="exclusive")}, 20),
    "QamserveStoreConflicts": ({**store("OK", 100), **one("qamserve_store_retries_total", "0+9x60", kind="write")}, 20),
    # A restart of PostgreSQL, and a failover, in a fleet of a dozen.
    "QamserveStoreReconnects": ({labelled("qamserve_store_reconnects_total", instance=f"10.0.0.{n}:9090"): "0 1x4 2x20"
                                 for n in range(12)}, 20),
    "QamserveBlobErrors": ({**blob_errors(BLIP), **blob_errors("0+9x60", "OK"),
                            **one("qamserve_blob_requests_total", "0+9x60", operation="head", code="NOT_FOUND")}, 14),
    "QamserveBlobsSlow": ({**one("qamserve_blob_requests_total", "0+100x40", operation="get", code="OK"),
                           **one("qamserve_blob_request_retries_total", "0+3x40", operation="get")}, 20),
    "QamserveCorruptBlobs": ({f"qamserve_corrupt_blobs_total{API}": "0x20"}, 5),
    "QamserveMissingBlobs": ({f"qamserve_missing_blobs_total{API}": "2x20"}, 5),
    "QamserveBlobCacheTooSmall": ({**one("qamserve_blob_cache_lookups_total", "0+1x90", result="hit"),
                                   **one("qamserve_blob_cache_lookups_total", "0+9x90", result="miss"),
                                   f"qamserve_blob_cache_evictions_total{API}": "0x90"}, 60),
    "QamserveDiskNearlyFull": ({f"qamserve_data_disk_free_bytes{API}": "50x20", f"qamserve_data_disk_bytes{API}": "100x20"}, 12),
}
