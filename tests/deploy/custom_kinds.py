"""The kinds of deploy/kubernetes that Kubernetes itself does not know, field by field. An API server drops a field that it does
not know, or refuses it, depending on who asks; here it is refused.

After https://keda.sh/docs/latest/reference/scaledobject-spec/ and .../scalers/prometheus/, and
https://prometheus-operator.dev/docs/api-reference/api/. Whole for the parts that are in use; of parts that are not (tlsConfig,
advanced) there is nothing, and who begins to use one adds it.

A shape is a type, a pattern that a text must match, a tuple of the texts that there are, a list of one shape, Fields, or Map.
"""
import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Fields:
    """An object with these fields and no others; those in `required` must be there."""
    shapes: dict
    required: tuple = ()


@dataclasses.dataclass(frozen=True)
class Map:
    """An object with any names, of values of one shape."""
    shape: object


DURATION = re.compile(r"(\d+(ms|[smhdwy]))+")
METADATA = Fields({"name": str, "namespace": str, "labels": Map(str), "annotations": Map(str)}, ("name",))
SELECTOR = Fields({"matchLabels": Map(str), "matchExpressions": [Fields(
    {"key": str, "operator": ("In", "NotIn", "Exists", "DoesNotExist"), "values": [str]}, ("key", "operator"))]})

# All metadata of triggers are texts.
PROMETHEUS_TRIGGER = Fields(
    {"serverAddress": str, "query": str, "queryParameters": str, "threshold": re.compile(r"\d+(\.\d+)?"),
     "activationThreshold": re.compile(r"\d+(\.\d+)?"), "namespace": str, "customHeaders": str,
     "ignoreNullValues": ("true", "false"), "unsafeSsl": ("true", "false"), "authModes": str, "timeout": str},
    ("serverAddress", "query", "threshold"))
SCALED_OBJECT = Fields(
    {"scaleTargetRef": Fields({"apiVersion": str, "kind": str, "name": str, "envSourceContainerName": str}, ("name",)),
     "pollingInterval": int, "cooldownPeriod": int, "initialCooldownPeriod": int, "idleReplicaCount": int,
     "minReplicaCount": int, "maxReplicaCount": int,
     "fallback": Fields({"failureThreshold": int, "replicas": int,
                         "behavior": ("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower")},
                        ("failureThreshold", "replicas")),
     "triggers": [Fields({"type": ("prometheus",), "name": str, "metricType": ("AverageValue", "Value"),
                          "useCachedMetrics": bool, "metadata": PROMETHEUS_TRIGGER}, ("type", "metadata"))]},
    ("scaleTargetRef", "triggers"))

RELABELING = Fields(
    {"sourceLabels": [str], "separator": str, "targetLabel": str, "regex": str, "modulus": int, "replacement": str,
     "action": ("replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep", "lowercase", "uppercase", "keepequal",
                "dropequal")})
ENDPOINT = Fields(
    {"port": str, "path": str, "scheme": ("http", "https"), "params": Map([str]), "interval": DURATION, "scrapeTimeout": DURATION,
     "honorLabels": bool, "honorTimestamps": bool, "trackTimestampsStaleness": bool, "followRedirects": bool,
     "filterRunning": bool, "enableHttp2": bool, "metricRelabelings": [RELABELING], "relabelings": [RELABELING]})
SERVICE_MONITOR = Fields(
    {"jobLabel": str, "targetLabels": [str], "podTargetLabels": [str], "endpoints": [ENDPOINT], "selector": SELECTOR,
     "namespaceSelector": Fields({"any": bool, "matchNames": [str]}), "sampleLimit": int, "targetLimit": int, "labelLimit": int,
     "labelNameLengthLimit": int, "labelValueLengthLimit": int, "keepDroppedTargets": int, "scrapeClass": str},
    ("endpoints", "selector"))

RULE = Fields({"record": str, "alert": str, "expr": str, "for": DURATION, "keep_firing_for": DURATION, "labels": Map(str),
               "annotations": Map(str)}, ("expr",))
PROMETHEUS_RULE = Fields(
    {"groups": [Fields({"name": str, "interval": DURATION, "query_offset": DURATION, "limit": int, "labels": Map(str),
                        "rules": [RULE]}, ("name",))]})


def document(version, kind, spec):
    return Fields({"apiVersion": (version,), "kind": (kind,), "metadata": METADATA, "spec": spec},
                  ("apiVersion", "kind", "metadata", "spec"))


KINDS = {kind: document(version, kind, spec) for kind, version, spec in (
    ("ScaledObject", "keda.sh/v1alpha1", SCALED_OBJECT), ("ServiceMonitor", "monitoring.coreos.com/v1", SERVICE_MONITOR),
    ("PrometheusRule", "monitoring.coreos.com/v1", PROMETHEUS_RULE))}


def problems(manifest):
    """What in a manifest of one of KINDS the kind does not have, each with its place; [] of one that fits."""
    return list(misfits(manifest, KINDS[manifest["kind"]], manifest["kind"]))


def misfits(value, shape, where):
    if isinstance(shape, (Fields, Map)):
        if not isinstance(value, dict):
            yield f"{where}: no object"
            return
        if isinstance(shape, Fields):
            yield from (f"{where}.{name}: is missing" for name in shape.required if name not in value)
        for name, part in value.items():
            if isinstance(shape, Map):
                yield from misfits(part, shape.shape, f"{where}.{name}")
            elif name in shape.shapes:
                yield from misfits(part, shape.shapes[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}: there is no such field"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where}: no list"
            return
        for at, part in enumerate(value):
            yield from misfits(part, shape[0], f"{where}[{at}]")
    elif isinstance(shape, tuple):
        if value not in shape:
            yield f"{where}: {value!r} is none of {', '.join(shape)}"
    elif isinstance(shape, re.Pattern):
        if not isinstance(value, str) or not shape.fullmatch(value):
            yield f"{where}: {value!r} is not as it must be"
    elif type(value) is not shape:  # a bool is an int, too
        yield f"{where}: {value!r} is no {shape.__name__}"
