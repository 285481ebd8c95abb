"""The metadata stores under workers that lease and complete tasks of a long queue; no task is computed."""
import functools

from figure import Figure
from keys import QUEUE_ENGINES

SECONDS = 20
THREADS = 4


def queue(context, engine):
    """Both figures of one engine. PostgreSQL is a server of the bench's own on the same machine."""
    command = [context.program("tests/bench/store_bench"), "--engine", engine, "--threads", THREADS, "--seconds", SECONDS]
    seen = context.run_json(command)
    claim, complete = seen["claim_ms"], seen["complete_ms"]
    note = (f"{seen['engine']}: {seen['tasks_done']} tasks; claim p50 {claim['p50']:.2f} ms, max {claim['max']:.1f}; complete "
            f"p50 {complete['p50']:.2f} ms, p99 {complete['p99']:.2f}; store's CPU {seen['store_cpu_ms_per_task']:.2f} ms a "
            "task")
    short = QUEUE_ENGINES[engine]
    return {f"queue.claim_p99_ms.{short}": Figure(claim["p99"], context.show(command), note=note),
            f"queue.transactions_per_second.{short}": Figure(
                seen["transactions_per_second"], context.show(command), note=f"{THREADS} threads on {context.threads} cores")}


def measurements():
    """(keys it gives, function of a Context)."""
    return [([f"queue.claim_p99_ms.{short}", f"queue.transactions_per_second.{short}"],
             functools.partial(queue, engine=engine)) for engine, short in QUEUE_ENGINES.items()]
