"""What the four dashboards show. make_dashboards.py makes Grafana's JSON of it.

An expression may name $model, $pool and $instance (what is chosen at the top of the dashboard, as a regular expression)
and $__rate_interval. Every process tells its own share, hence sum; gauges of the metadata store are told by each process
with the role api alike, hence max.
"""
from make_dashboards import Dashboard, Panel, Row

OURS = 'instance=~"$instance"'


def rate(metric, by="", match=OURS):
    inner = f"rate({metric}{{{match}}}[$__rate_interval])"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def quantile(q, metric, by="model", match=OURS):
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{{{match}}}[$__rate_interval])))"


def ratio(part, whole):
    return f"{part} / {whole}"


MODEL = 'model=~"$model"'
OUR_MODEL = f"{MODEL}, {OURS}"
POOL = 'pool=~"$pool"'

JOBS = Dashboard("qamserve-jobs", "qamserve / Jobs", ["pool"], [
    Row("Now", [
        Panel("Waiting jobs", "Jobs that wait for a worker.", "stat", "short", [(f"sum(qamserve:job_queue_depth:max{{{POOL}}})", "")],
              thresholds=[(50, "yellow"), (500, "red")]),
        Panel("Oldest waits", "Since the oldest waiting job was created.", "stat", "s",
              [(f"max(qamserve:job_queue_age_seconds:max{{{POOL}}})", "")], thresholds=[(3600, "yellow"), (14400, "red")]),
        Panel("Running jobs", "Jobs of which a task is under way or was, gates included.", "stat", "short",
              [(f'sum(qamserve:jobs:max{{{POOL}, state=~"running|gating"}})', "")]),
        Panel("Tasks under way", "Tasks that a worker has the lease of.", "stat", "short",
              [(f'sum(qamserve:tasks:max{{{POOL}, state="leased"}})', "")]),
        Panel("Ready tasks", "Tasks that could be taken now or once those before them are done.", "stat", "short",
              [(f'sum(qamserve:tasks:max{{{POOL}, state="ready"}})', "")]),
        Panel("Stranded jobs", "Jobs that no registered worker takes: none has their pool, or none of those their codec version.",
              "stat", "short", [("sum(qamserve:stranded_jobs:max)", "")], thresholds=[(1, "red")]),
    ]),
    Row("Queue", [
        Panel("Waiting jobs by pool", "Jobs that wait for a worker.", "timeseries", "short",
              [(f"qamserve:job_queue_depth:max{{{POOL}}}", "{{pool}}")]),
        Panel("Age of the queue", "Since the oldest waiting job of each pool was created.", "timeseries", "s",
              [(f"qamserve:job_queue_age_seconds:max{{{POOL}}}", "{{pool}}")], thresholds=[(14400, "red")]),
        Panel("Tasks by state", "Of jobs that have not ended.", "timeseries", "short",
              [(f"sum by (state) (qamserve:tasks:max{{{POOL}}})", "{{state}}")], stacked=True),
        Panel("Stranded jobs by reason", "pool: no worker of their pool is registered; codec: none of those has their codec version.",
              "timeseries", "short", [("qamserve:stranded_jobs:max", "{{reason}}")]),
    ]),
    Row("Work", [
        Panel("Weights quantized", "A second, by all workers.", "timeseries", "short", [("qamserve:quantized_weights:rate5m", "weights/s")]),
        Panel("Jobs that ended", "An hour, by how they ended.", "timeseries", "short",
              [(f"sum by (state) (increase(qamserve_jobs_finished_total[1h]))", "{{state}}")], stacked=True),
        Panel("Time of a task, median", "By stage, of tasks that were done.", "timeseries", "s",
              [("histogram_quantile(0.5, sum by (stage, le) (rate(qamserve_task_seconds_bucket[30m])))", "{{stage}}")]),
        Panel("Time of a task, 95th percentile", "By stage, of tasks that were done.", "timeseries", "s",
              [("histogram_quantile(0.95, sum by (stage, le) (rate(qamserve_task_seconds_bucket[30m])))", "{{stage}}")]),
        Panel("Tasks done", "A minute, by stage.", "timeseries", "short",
              [("60 * sum by (stage) (rate(qamserve_task_seconds_count[$__rate_interval]))", "{{stage}}")], stacked=True),
        Panel("Time in stages", "Seconds of work in a second: how many workers' worth each stage takes.", "timeseries", "short",
              [("sum by (stage) (rate(qamserve_task_seconds_sum[$__rate_interval]))", "{{stage}}")], stacked=True),
    ]),
    Row("Trouble", [
        Panel("Leases that lapsed", "An hour: workers that were lost or too slow.", "timeseries", "short",
              [("sum(increase(qamserve_lease_expiries_total[1h]))", "lapsed")], thresholds=[(20, "red")]),
        Panel("Tasks tried again", "An hour, by stage.", "timeseries", "short",
              [("sum by (stage) (increase(qamserve_task_retries_total[1h]))", "{{stage}}")], stacked=True),
        Panel("Tasks done twice", "An hour. With the same bytes: harmless. With different bytes: never.", "timeseries", "short",
              [("sum(increase(qamserve_duplicate_tasks_total[1h]))", "same bytes"),
               ("sum(increase(qamserve_nondeterministic_tasks_total[1h]))", "different bytes")]),
        Panel("Jobs that failed or were rejected", "An hour, by kind.", "timeseries", "short",
              [('sum by (kind, state) (increase(qamserve_jobs_finished_total{state=~"failed|rejected"}[1h]))', "{{kind}} {{state}}")]),
    ]),
    Row("Models in and out", [
        Panel("Uploads and downloads", "Bytes a second.", "timeseries", "Bps",
              [("sum(rate(qamserve_upload_bytes_total[$__rate_interval]))", "uploaded"),
               ("sum(rate(qamserve_download_bytes_total[$__rate_interval]))", "downloaded")]),
        Panel("Uploads that ended", "An hour, by what they were and how they ended.", "timeseries", "short",
              [("sum by (kind, result) (increase(qamserve_uploads_total[1h]))", "{{kind}} {{result}}")]),
        Panel("Artifacts made", "Bytes, within the last day.", "stat", "bytes", [("sum(increase(qamserve_artifact_bytes_total[1d]))", "")]),
    ]),
])

SERVING = Dashboard("qamserve-serving", "qamserve / Serving", ["model", "instance"], [
    Row("Now", [
        Panel("Requests", "That ended, a second.", "stat", "reqps", [(f"sum(qamserve:requests:rate5m{{{MODEL}}})", "")]),
        Panel("Failed", "Part of the requests that ended with an error or ran into their deadline.", "stat", "percentunit",
              [(f"max(qamserve:request_errors:ratio_rate5m{{{MODEL}}})", "")], thresholds=[(0.01, "yellow"), (0.05, "red")]),
        Panel("Tokens", "Generated, a second.", "stat", "short", [(f"sum(rate(qamserve_generation_tokens_total{{{OUR_MODEL}}}[5m]))", "")]),
        Panel("First token, 99th percentile", "From the request to its first token.", "stat", "s",
              [(f"max(qamserve:time_to_first_token_seconds:p99_5m{{{MODEL}}})", "")], thresholds=[(2, "yellow"), (10, "red")]),
        Panel("Running", "Sequences in batches.", "stat", "short", [(f"sum(qamserve_requests_running{{{OUR_MODEL}}})", "")]),
        Panel("Waiting", "Requests that wait for a batch.", "stat", "short", [(f"sum(qamserve_requests_waiting{{{OUR_MODEL}}})", "")],
              thresholds=[(10, "yellow"), (100, "red")]),
    ]),
    Row("Requests", [
        Panel("Requests by model", "That ended, a second.", "timeseries", "reqps", [(f"qamserve:requests:rate5m{{{MODEL}}}", "{{model}}")]),
        Panel("How they ended", "A second.", "timeseries", "reqps",
              [(rate("qamserve_requests_total", "outcome", OUR_MODEL), "{{outcome}}")], stacked=True),
        Panel("Running and waiting", "Sequences in batches, and requests that wait for one.", "timeseries", "short",
              [(f"sum by (model) (qamserve_requests_running{{{OUR_MODEL}}})", "{{model}} running"),
               (f"sum by (model) (qamserve_requests_waiting{{{OUR_MODEL}}})", "{{model}} waiting")]),
    ]),
    Row("Latency", [
        Panel("Time to first token", "Median and 99th percentile.", "timeseries", "s",
              [(f"qamserve:time_to_first_token_seconds:p50_5m{{{MODEL}}}", "{{model}} median"),
               (f"qamserve:time_to_first_token_seconds:p99_5m{{{MODEL}}}", "{{model}} 99th")], thresholds=[(10, "red")]),
        Panel("Between tokens", "Median and 99th percentile.", "timeseries", "s",
              [(f"qamserve:inter_token_seconds:p50_5m{{{MODEL}}}", "{{model}} median"),
               (f"qamserve:inter_token_seconds:p99_5m{{{MODEL}}}", "{{model}} 99th")], thresholds=[(1, "red")]),
        Panel("Whole requests", "Median and 95th percentile, to the last token.", "timeseries", "s",
              [(quantile(0.5, "qamserve_request_seconds", match=OUR_MODEL), "{{model}} median"),
               (quantile(0.95, "qamserve_request_seconds", match=OUR_MODEL), "{{model}} 95th")]),
        Panel("Wait for the batch", "95th percentile.", "timeseries", "s",
              [(f"qamserve:request_queue_seconds:p95_5m{{{MODEL}}}", "{{model}}")], thresholds=[(5, "red")]),
    ]),
    Row("Tokens and kernels", [
        Panel("Tokens generated", "A second.", "timeseries", "short", [(rate("qamserve_generation_tokens_total", "model", OUR_MODEL), "{{model}}")]),
        Panel("Prompt tokens", "Of ended requests, a second, and those that the prefix cache had.", "timeseries", "short",
              [(rate("qamserve_prompt_tokens_total", "model", OUR_MODEL), "{{model}}"),
               (rate("qamserve_prefix_cache_hit_tokens_total", "model", OUR_MODEL), "{{model}} from the prefix cache")]),
        Panel("Prefix cache", "Part of the prompt tokens that it had.", "timeseries", "percentunit",
              [(f"qamserve:prefix_cache_hit:ratio_rate5m{{{MODEL}}}", "{{model}}")], most=1),
        Panel("Weights read while decoding", "Bytes a second that the kernels read of memory in steps without a prompt; the memory's own "
              "speed is the limit.", "timeseries", "Bps", [(f"qamserve:decode_weight_bytes:per_second_5m{{{MODEL}}}", "{{model}}")]),
        Panel("Guessed tokens", "That were checked, a second, and those that were right (--draft-tokens).", "timeseries", "short",
              [(rate("qamserve_draft_tokens_total", "model", OUR_MODEL), "{{model}} checked"),
               (rate("qamserve_accepted_draft_tokens_total", "model", OUR_MODEL), "{{model}} right")]),
        Panel("Decoding steps", "A second: an answer's tokens a second at best.", "timeseries", "short",
              [(rate("qamserve_decode_steps_total", "model", OUR_MODEL), "{{model}}")]),
    ]),
    Row("Memory", [
        Panel("KV cache", "Part that requests have taken.", "timeseries", "percentunit",
              [(f"max by (model, instance) (qamserve_kv_cache_usage_ratio{{{OUR_MODEL}}})", "{{model}} {{instance}}")],
              thresholds=[(0.95, "red")], most=1),
        Panel("Blocks of the KV cache", "Of requests, and kept for prompts that begin alike.", "timeseries", "short",
              [(f"sum by (model) (qamserve_kv_cache_blocks_used{{{OUR_MODEL}}})", "{{model}} used"),
               (f"sum by (model) (qamserve_kv_cache_blocks_cached{{{OUR_MODEL}}})", "{{model}} cached"),
               (f"sum by (model) (qamserve_kv_cache_blocks{{{OUR_MODEL}}})", "{{model}} all")]),
        Panel("Preemptions", "A minute: sequences whose memory was taken for others.", "timeseries", "short",
              [(f"60 * {rate('qamserve_preemptions_total', 'model', OUR_MODEL)}", "{{model}}")]),
        Panel("Memory of models", "Admitted, and the most that there may be.", "timeseries", "bytes",
              [(f"sum by (model) (qamserve_model_memory_bytes{{{OUR_MODEL}}})", "{{model}}"),
               (f"sum(qamserve_model_memory_limit_bytes{{{OURS}}})", "limit")]),
        Panel("Memory of GPUs", "Taken, and all of it.", "timeseries", "bytes",
              [(f"qamserve_gpu_memory_used_bytes{{{OURS}}}", "{{instance}} {{device}} taken"),
               (f"qamserve_gpu_memory_bytes{{{OURS}}}", "{{instance}} {{device}}")]),
        Panel("Models by state", "In all processes.", "timeseries", "short", [(f"sum by (state) (qamserve_served_models{{{OURS}}})", "{{state}}")]),
    ]),
])

FLEET = Dashboard("qamserve-fleet", "qamserve / Fleet", ["instance"], [
    Row("Now", [
        Panel("Alerts", "That are firing.", "stat", "short",
              [('count(ALERTS{alertname=~"Qamserve.*", alertstate="firing"}) or vector(0)', "")], thresholds=[(1, "red")]),
        Panel("Processes", "Registered, by role.", "stat", "short", [("qamserve:instances:max", "{{role}}")]),
        Panel("Do not answer", "Processes that Prometheus cannot reach.", "stat", "short",
              [('sum(up{job=~"qamserve.*"} == bool 0)', "")], thresholds=[(1, "red")]),
        Panel("Last sign of life", "Of the instance that has been silent longest.", "stat", "s",
              [("max(qamserve_instance_heartbeat_age_seconds)", "")], thresholds=[(6, "yellow"), (8, "red")]),
        Panel("Failed calls", "Part of the calls that failed by the server's own fault.", "stat", "percentunit",
              [("qamserve:rpc_errors:ratio_rate5m", "")], thresholds=[(0.01, "yellow"), (0.05, "red")]),
        Panel("Versions", "Builds that run.", "stat", "short", [("count by (version) (qamserve_build_info)", "{{version}}")]),
    ]),
    Row("Processes and replicas", [
        Panel("Processes by role", "Registered, and those that take nothing new.", "timeseries", "short",
              [("qamserve:instances:max", "{{role}}"), ("max by (role) (qamserve_instances_draining)", "{{role}} draining")]),
        Panel("Replicas", "Wanted and ready, by model.", "timeseries", "short",
              [("qamserve:replicas_wanted:max", "{{model}} wanted"), ('qamserve:replicas:max{state="ready"}', "{{model}} ready")]),
        Panel("Replicas that are not ready", "By model and state.", "timeseries", "short",
              [('qamserve:replicas:max{state!="ready"}', "{{model}} {{state}}")]),
        Panel("Starts", "Of each process, within half an hour.", "timeseries", "short",
              [(f"changes(qamserve_start_time_seconds{{{OURS}}}[30m])", "{{instance}}")]),
    ]),
    Row("Calls", [
        Panel("Calls", "A second, by method.", "timeseries", "reqps", [(rate("qamserve_rpc_total", "method"), "{{method}}")]),
        Panel("Calls that did not end well", "A second, by code.", "timeseries", "reqps",
              [(rate("qamserve_rpc_total", "code", f'code!="OK", {OURS}'), "{{code}}")]),
        Panel("Time of calls, 99th percentile", "By method.", "timeseries", "s", [("max by (method) (qamserve:rpc_seconds:p99_5m)", "{{method}}")]),
        Panel("HTTP requests", "A second, by what served them and the class of the status.", "timeseries", "reqps",
              [(rate("qamserve_http_requests_total", "part, code"), "{{part}} {{code}}")]),
        Panel("HTTP connections", "Open.", "timeseries", "short", [(f"qamserve_http_connections{{{OURS}}}", "{{instance}}")]),
        Panel("Spans of traces", "A second, sent and lost.", "timeseries", "short", [(rate("qamserve_trace_spans_total", "result"), "{{result}}")]),
    ]),
    Row("Metadata store", [
        Panel("Transactions", "A second, by kind.", "timeseries", "ops", [(rate("qamserve_store_transactions_total", "kind"), "{{kind}}")]),
        Panel("Time of a transaction", "Median and 99th percentile, repeats included.", "timeseries", "s",
              [(quantile(0.5, "qamserve_store_transaction_seconds", "kind"), "{{kind}} median"),
               ("qamserve:store_transaction_seconds:p99_5m", "{{kind}} 99th")], thresholds=[(1, "red")]),
        Panel("Errors", "Within 5 minutes, by code.", "timeseries", "short", [("qamserve:store_errors:increase5m", "{{code}}")],
              thresholds=[(1, "red")]),
        Panel("Repeats and new connections", "A minute.", "timeseries", "short",
              [(f"60 * {rate('qamserve_store_retries_total')}", "repeats"),
               (f"60 * {rate('qamserve_store_reconnects_total')}", "new connections")]),
    ]),
    Row("Object store and caches", [
        Panel("Requests", "A second, by operation.", "timeseries", "ops", [(rate("qamserve_blob_requests_total", "operation"), "{{operation}}")]),
        Panel("Time of a request, 99th percentile", "By operation, repeats included.", "timeseries", "s",
              [("qamserve:blob_request_seconds:p99_5m", "{{operation}}")]),
        Panel("Bytes", "A second, sent and received.", "timeseries", "Bps", [(rate("qamserve_blob_bytes_total", "direction"), "{{direction}}")]),
        Panel("Errors", "Within 5 minutes, by code.", "timeseries", "short", [("qamserve:blob_errors:increase5m", "{{code}}")],
              thresholds=[(1, "red")]),
        Panel("Repeats", "A minute, by operation.", "timeseries", "short",
              [(f"60 * {rate('qamserve_blob_request_retries_total', 'operation')}", "{{operation}}")]),
        Panel("Found in the cache", "Part of the blobs that were asked of it.", "timeseries", "percentunit",
              [(ratio(rate("qamserve_blob_cache_lookups_total", match=f'result="hit", {OURS}'), rate("qamserve_blob_cache_lookups_total")), "found")],
              most=1),
        Panel("Size of caches", "Bytes of blobs, and the most that there may be.", "timeseries", "bytes",
              [(f"qamserve_blob_cache_bytes{{{OURS}}}", "{{instance}}"), (f"qamserve_blob_cache_limit_bytes{{{OURS}}}", "{{instance}} limit")]),
        Panel("Thrown out of caches", "Bytes a second, to make room.", "timeseries", "Bps", [(rate("qamserve_blob_cache_evicted_bytes_total"), "bytes")]),
    ]),
    Row("Machines", [
        Panel("Processors", "Seconds of processor time in a second.", "timeseries", "short",
              [(f"rate(qamserve_cpu_seconds_total{{{OURS}}}[$__rate_interval])", "{{instance}}")]),
        Panel("Resident memory", "Mapped weights included.", "timeseries", "bytes", [(f"qamserve_resident_memory_bytes{{{OURS}}}", "{{instance}}")]),
        Panel("Disk of the data folder", "Part that is taken.", "timeseries", "percentunit",
              [(f"1 - qamserve_data_disk_free_bytes{{{OURS}}} / qamserve_data_disk_bytes{{{OURS}}}", "{{instance}}")],
              thresholds=[(0.8, "yellow"), (0.9, "red")], most=1),
        Panel("Open files", "Part of those that a process may have.", "timeseries", "percentunit",
              [(f"qamserve_open_fds{{{OURS}}} / qamserve_max_fds{{{OURS}}}", "{{instance}}")], thresholds=[(0.8, "red")], most=1),
    ]),
])

QUALITY = Dashboard("qamserve-quality", "qamserve / Quality", [], [
    Row("Now", [
        Panel("KL of the last artifact", "Mean divergence a token from the unquantized model, in nats.", "stat", "none",
              [("max(qamserve_last_artifact_kl_nats)", "")], thresholds=[(0.1, "yellow"), (0.5, "red")], decimals=4),
        Panel("Bits a weight of the last artifact", "Norms and scales included.", "stat", "none",
              [("max(qamserve_last_artifact_bpw)", "")], decimals=3),
        Panel("Artifacts", "Finished within the last day.", "stat", "short", [("sum(increase(qamserve_artifact_kl_nats_count[1d]))", "")]),
        Panel("Refused", "By a gate, within the last day.", "stat", "short",
              [('sum(increase(qamserve_gate_results_total{result="refused"}[1d]))', "")], thresholds=[(1, "yellow"), (5, "red")]),
        Panel("Different bytes", "Tasks that two workers finished differently, ever.", "stat", "short",
              [("sum(qamserve_nondeterministic_tasks_total)", "")], thresholds=[(1, "red")]),
        Panel("Altered blobs", "That were found, ever.", "stat", "short", [("sum(qamserve_corrupt_blobs_total)", "")], thresholds=[(1, "red")]),
    ]),
    Row("Artifacts", [
        Panel("KL of artifacts", "Median and 90th percentile of those finished within 6 hours, and the last one, in nats.", "timeseries", "none",
              [("histogram_quantile(0.5, sum by (le) (increase(qamserve_artifact_kl_nats_bucket[6h])))", "median"),
               ("histogram_quantile(0.9, sum by (le) (increase(qamserve_artifact_kl_nats_bucket[6h])))", "90th"),
               ("max(qamserve_last_artifact_kl_nats)", "last")]),
        Panel("Bits a weight", "Median of the artifacts finished within 6 hours, and the last one.", "timeseries", "none",
              [("histogram_quantile(0.5, sum by (le) (increase(qamserve_artifact_bpw_bucket[6h])))", "median"),
               ("max(qamserve_last_artifact_bpw)", "last")]),
        Panel("How much KL artifacts have", "Number of those finished within a day, by the upper end of their bucket in nats.", "bargauge", "short",
              [("sum by (le) (increase(qamserve_artifact_kl_nats_bucket[1d]))", "up to {{le}}")]),
    ]),
    Row("Gates", [
        Panel("Answers of the gates", "Within an hour.", "timeseries", "short",
              [("sum by (gate, result) (increase(qamserve_gate_results_total[1h]))", "{{gate}} {{result}}")], stacked=True),
        Panel("Part refused", "Of the last day's answers, by gate.", "timeseries", "percentunit",
              [('sum by (gate) (increase(qamserve_gate_results_total{result="refused"}[1d])) '
                "/ sum by (gate) (increase(qamserve_gate_results_total[1d]))", "{{gate}}")], most=1),
        Panel("Jobs by how they ended", "Within a day.", "timeseries", "short",
              [("sum by (kind, state) (increase(qamserve_jobs_finished_total[1d]))", "{{kind}} {{state}}")]),
        Panel("Tasks done twice", "Within a day. With the same bytes: harmless. With different bytes: never.", "timeseries", "short",
              [("sum(increase(qamserve_duplicate_tasks_total[1d]))", "same bytes"),
               ("sum(increase(qamserve_nondeterministic_tasks_total[1d]))", "different bytes")]),
    ]),
])

ALL = [JOBS, SERVING, FLEET, QUALITY]
