#!/usr/bin/env python3
"""Checks deploy/kubernetes: each overlay renders offline, fits the schemas of Kubernetes, and hangs together.

usage: kubernetes_test.py [BUILD]     run by tests/python/environment.py, with what requirements.txt names
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import kubernetes_validate
import yaml

import custom_kinds
import deploy_support as support

BUILD = support.build_folder()
# The newest that kubernetes-validate knows, and an older one that is still in use.
SCHEMA_VERSIONS = ("1.31", "1.37")
PROBES = {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
WORKLOADS = ("Deployment", "StatefulSet")
# GiB that a pod needs beside its cache of blobs: of a worker the artifact that it writes (7 billion weights at 12 bits are 10),
# of api files of imports on their way, which hubs cut at some 5; inference has nothing of its own.
SCRATCH_GIB = {"api": 8, "worker": 12, "inference": 2}


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def named(document):
    return f'{document["kind"]} {document["metadata"]["name"]}'


def pod_of(workload):
    return workload["spec"]["template"]["spec"]


def labels_of(workload):
    return workload["spec"]["template"]["metadata"]["labels"]


def matches(selector, labels):
    """Whether a map of labels, or a selector with matchLabels, picks these labels."""
    if not {"matchLabels", "matchExpressions"} & selector.keys():
        return all(labels.get(key) == value for key, value in selector.items())
    return (all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
            and all(entry["operator"] == "In" and labels.get(entry["key"]) in entry["values"]
                    for entry in selector.get("matchExpressions", [])))


def port_names(workload):
    return {port["name"]: port["containerPort"] for port in pod_of(workload)["containers"][0]["ports"]}


def gib(quantity):
    assert quantity.endswith("Gi"), quantity
    return int(quantity[:-2])


def cache_gib(documents, workload):
    """What QAMSERVE_BLOB_CACHE_MIB says to a pod: its own variable, else that of the ConfigMap."""
    own = [variable["value"] for variable in pod_of(workload)["containers"][0]["env"]
           if variable["name"] == "QAMSERVE_BLOB_CACHE_MIB"]
    (config,) = [document["data"] for document in of_kind(documents, "ConfigMap")
                 if "QAMSERVE_BLOB_CACHE_MIB" in document["data"]]
    return int((own or [config["QAMSERVE_BLOB_CACHE_MIB"]])[0]) / 1024


def data_gib(workload):
    claims = [claim["spec"]["resources"]["requests"]["storage"]
              for claim in workload["spec"].get("volumeClaimTemplates", []) if claim["metadata"]["name"] == "data"]
    limits = [volume["emptyDir"]["sizeLimit"] for volume in pod_of(workload).get("volumes", []) if volume["name"] == "data"]
    (size,) = claims + limits
    return gib(size)


def in_namespace(folder, namespace):
    """A copy of the manifests below `folder` whose overlays are of another namespace."""
    copy = pathlib.Path(folder) / "deploy"
    shutil.copytree(support.KUBERNETES.parent, copy)
    for path in (copy / "kubernetes/overlays").rglob("kustomization.yaml"):
        path.write_text(path.read_text().replace("\nnamespace: qamserve\n", f"\nnamespace: {namespace}\n"))
    return copy / "kubernetes/overlays"


def seconds_of_sleep(container):
    command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert command[0] == "sleep", command
    return int(command[1])


def documented_secrets():
    """Name -> keys, from the table of docs/deploying.md."""
    rows = re.findall(r"^\| `(qamserve-[a-z0-9]+)` \| ([^|]*) \|", support.read("docs/deploying.md"), re.MULTILINE)
    return {name: set(re.findall(r"`([a-z.-]+)`", keys)) for name, keys in rows}


def rendered():
    """(name, documents) of each overlay."""
    return [(name, support.render(support.KUBERNETES / "overlays" / name)) for name in support.OVERLAYS]


def rendered_workloads():
    """(where, documents, workload): all of all overlays."""
    return [(f"{name}: {named(workload)}", documents, workload) for name, documents in rendered()
            for workload in of_kind(documents, *WORKLOADS)]


class Overlays(unittest.TestCase):
    """Each test looks at all overlays."""

    @classmethod
    def setUpClass(cls):
        support.skip_without_kubectl()

    def test_documents_fit_their_schemas(self):
        for name, documents in rendered():
            with self.subTest(name):
                for document in documents:
                    if document["kind"] in custom_kinds.KINDS:
                        continue  # see custom_kinds_test.py
                    for version in SCHEMA_VERSIONS:
                        kubernetes_validate.validate(document, version, strict=True)

    def test_the_schemas_find_a_mistake(self):
        deployment = of_kind(support.render(support.KUBERNETES / "overlays/fleet"), "Deployment")[0]
        wrong = yaml.safe_load(yaml.safe_dump(deployment))
        wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, SCHEMA_VERSIONS[-1], strict=True)

    def test_names_are_unique_and_in_one_namespace(self):
        for name, documents in rendered():
            with self.subTest(name):
                names = [named(document) for document in documents]
                self.assertEqual(len(names), len(set(names)), names)
                namespaces = {document["metadata"].get("namespace") for document in documents
                              if document["kind"] != "Namespace"}
                self.assertEqual(namespaces, {"qamserve"})
                self.assertEqual(of_kind(documents, "Namespace")[0]["metadata"]["name"], "qamserve")

    def test_what_each_overlay_is_made_of(self):
        roles = {name: sorted(labels_of(workload)["app.kubernetes.io/component"]
                              for workload in of_kind(documents, *WORKLOADS)) for name, documents in rendered()}
        self.assertEqual(roles, {"embedded": ["api"], "fleet": ["api", "inference", "worker"],
                                 "gpu": ["api", "inference", "worker", "worker"]})

    def test_probes_ask_what_the_server_answers(self):
        served = set(re.findall(r'head\.path == "(/\w+)"', support.read("server/http/status_endpoints.cc")))
        self.assertLessEqual(set(PROBES.values()), served)
        for where, _, workload in rendered_workloads():
            with self.subTest(where):
                container = pod_of(workload)["containers"][0]
                for probe, path in PROBES.items():
                    self.assertEqual(container[probe]["httpGet"], {"path": path, "port": "metrics"}, probe)
                # Loading models takes a while; afterwards a dead server is not waited for that long.
                startup = container["startupProbe"]
                self.assertGreaterEqual(startup["periodSeconds"] * startup["failureThreshold"], 600)

    def test_ports_are_those_of_the_image(self):
        image = support.read("deploy/docker/Dockerfile")
        for name, port in support.PORTS.items():
            variable = {"grpc": "QAMSERVE_LISTEN"}.get(name, f"QAMSERVE_{name.upper()}_LISTEN")
            self.assertIn(f"{variable}=0.0.0.0:{port}", image)
        for where, _, workload in rendered_workloads():
            with self.subTest(where):
                ports = port_names(workload)
                self.assertLessEqual(ports.items(), support.PORTS.items())
                self.assertIn("metrics", ports)

    def test_pods_keep_the_restricted_rules(self):
        for name, documents in rendered():
            with self.subTest(name):
                enforced = of_kind(documents, "Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
                self.assertEqual(enforced, "restricted")
        for where, _, workload in rendered_workloads():
            with self.subTest(where):
                pod = pod_of(workload)
                security = pod["securityContext"]
                self.assertIs(security["runAsNonRoot"], True)
                self.assertEqual((security["runAsUser"], security["runAsGroup"], security["fsGroup"]), (10001, 10001, 10001))
                self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertIs(pod["automountServiceAccountToken"], False)
                self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & pod.keys())
                for container in pod["containers"] + pod.get("initContainers", []):
                    own = container["securityContext"]
                    self.assertEqual(own, {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                           "capabilities": {"drop": ["ALL"]}})
                    self.assertFalse(any("hostPort" in port for port in container["ports"]))
                for volume in pod.get("volumes", []):
                    self.assertTrue({"emptyDir", "secret", "configMap", "ephemeral"} & volume.keys(), volume)

    def test_only_data_and_tmp_are_written_to(self):
        for where, _, workload in rendered_workloads():
            with self.subTest(where):
                pod = pod_of(workload)
                volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
                volumes.update({claim["metadata"]["name"]: claim
                                for claim in workload["spec"].get("volumeClaimTemplates", [])})
                mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
                self.assertEqual(set(mounts), {"/data", "/tmp"})
                self.assertEqual(set(volumes), {mount["name"] for mount in mounts.values()})
                for volume in volumes.values():
                    if "emptyDir" in volume:
                        self.assertIn("sizeLimit", volume["emptyDir"])

    def test_resources_are_asked_for_and_bounded(self):
        for where, _, workload in rendered_workloads():
            with self.subTest(where):
                resources = pod_of(workload)["containers"][0]["resources"]
                for what in ("cpu", "memory"):
                    self.assertIn(what, resources["requests"])
                    self.assertIn(what, resources["limits"])
                self.assertEqual(resources["requests"].get("nvidia.com/gpu"), resources["limits"].get("nvidia.com/gpu"))

    def test_a_full_cache_and_a_job_fit_the_data_volume(self):
        for where, documents, workload in rendered_workloads():
            if where.startswith("embedded"):
                continue  # blobs lie in its volume, without a cache
            with self.subTest(where):
                role = labels_of(workload)["app.kubernetes.io/component"]
                self.assertLessEqual(cache_gib(documents, workload) + SCRATCH_GIB[role], data_gib(workload))
                limits = pod_of(workload)["containers"][0]["resources"]["limits"]
                if "ephemeral-storage" in limits:  # logs and /tmp count, too
                    self.assertLess(data_gib(workload), gib(limits["ephemeral-storage"]))

    def test_a_pod_gets_the_time_that_it_takes_to_drain(self):
        for where, documents, workload in rendered_workloads():
            with self.subTest(where):
                pod = pod_of(workload)
                container = pod["containers"][0]
                drains = [argument.split("=")[1] for argument in container["args"] if argument.startswith("--drain-seconds=")]
                drains += [config["data"]["QAMSERVE_DRAIN_SECONDS"] for config in of_kind(documents, "ConfigMap")
                           if "QAMSERVE_DRAIN_SECONDS" in config["data"]]
                self.assertEqual(len(drains), 1)
                self.assertGreaterEqual(pod["terminationGracePeriodSeconds"],
                                        seconds_of_sleep(container) + int(drains[0]) + 10)

    def test_selectors_pick_their_own_pods(self):
        for name, documents in rendered():
            with self.subTest(name):
                workloads = of_kind(documents, *WORKLOADS)
                for workload in workloads:
                    picked = [other for other in workloads if matches(workload["spec"]["selector"], labels_of(other))]
                    self.assertEqual(picked, [workload], named(workload))
                for budget in of_kind(documents, "PodDisruptionBudget"):
                    picked = [workload for workload in workloads if matches(budget["spec"]["selector"], labels_of(workload))]
                    self.assertEqual(len(picked), 1, named(budget))
                budgeted = {named(workload) for workload in workloads for budget in of_kind(documents, "PodDisruptionBudget")
                            if matches(budget["spec"]["selector"], labels_of(workload))}
                self.assertEqual(budgeted, set(map(named, workloads)))
                for workload in workloads:
                    for constraint in pod_of(workload).get("topologySpreadConstraints", []):
                        self.assertTrue(matches(constraint["labelSelector"], labels_of(workload)), named(workload))

    def test_services_lead_to_named_ports(self):
        for name, documents in rendered():
            with self.subTest(name):
                services = {service["metadata"]["name"]: service for service in of_kind(documents, "Service")}
                for service in services.values():
                    picked = [workload for workload in of_kind(documents, *WORKLOADS)
                              if matches(service["spec"]["selector"], labels_of(workload))]
                    self.assertTrue(picked, named(service))
                    for port in service["spec"]["ports"]:
                        for workload in picked:
                            self.assertIn(port["targetPort"], port_names(workload), f"{named(service)} {named(workload)}")
                        self.assertEqual(port["port"], support.PORTS[port["targetPort"]])
                for workload in of_kind(documents, "StatefulSet"):
                    self.assertEqual(services[workload["spec"]["serviceName"]]["spec"]["clusterIP"], "None")

    def test_a_rolling_update_leaves_the_api_whole(self):
        for where, documents, workload in rendered_workloads():
            with self.subTest(where):
                if workload["metadata"]["name"] == "qamserve-api":
                    self.assertEqual(workload["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0)

    def test_images_are_of_this_version(self):
        for where, _, workload in rendered_workloads():
            with self.subTest(where):
                image = pod_of(workload)["containers"][0]["image"]
                on_gpu = "nvidia.com/gpu" in pod_of(workload)["containers"][0]["resources"]["limits"]
                self.assertEqual(image.split(":")[1], support.version() + ("-cuda" if on_gpu else ""))

    def test_gpu_pods_go_where_gpus_are(self):
        documents = support.render(support.KUBERNETES / "overlays/gpu")
        on_gpu = [workload for workload in of_kind(documents, *WORKLOADS)
                  if "nvidia.com/gpu" in pod_of(workload)["containers"][0]["resources"]["limits"]]
        self.assertEqual({named(workload) for workload in on_gpu},
                         {"StatefulSet qamserve-inference", "Deployment qamserve-worker-cuda"})
        for workload in on_gpu:
            pod = pod_of(workload)
            self.assertEqual(pod["nodeSelector"], {"nvidia.com/gpu.present": "true"})
            self.assertEqual(pod["tolerations"], [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])
            container = pod["containers"][0]
            environment = {variable["name"]: variable.get("value") for variable in container["env"]}
            self.assertTrue("--quantize-device=cuda:0" in container["args"] or environment.get("QAMSERVE_DEVICE") == "cuda:0")

    def test_options_are_those_of_qamserve(self):
        secrets = {"uri": "postgresql://qamserve@postgres.example.com/qamserve", "blob-store": "s3://bucket/prefix",
                   "endpoint": "https://s3.example.com", "region": "us-east-1"}
        for where, documents, workload in rendered_workloads():
            with self.subTest(where):
                container = pod_of(workload)["containers"][0]
                environment = {}
                for source in container.get("envFrom", []):
                    config = [document for document in of_kind(documents, "ConfigMap")
                              if document["metadata"]["name"] == source["configMapRef"]["name"]]
                    self.assertEqual(len(config), 1)
                    environment.update(config[0]["data"])
                values = {}  # of variables that arguments may name
                for variable in container["env"]:
                    origin = variable.get("valueFrom", {})
                    secret = origin.get("secretKeyRef", {})
                    value = variable.get("value") or secrets.get(secret.get("key"), "0123456789abcdef0123456789abcdef")
                    if "resourceFieldRef" in origin:
                        value = "4"
                    values[variable["name"]] = "name" if "fieldRef" in origin else value
                    if "fieldRef" not in origin:
                        environment[variable["name"]] = value
                arguments = [re.sub(r"\$\((\w+)\)", lambda match: values[match.group(1)], argument)
                             for argument in container["args"]]
                self.assertEqual(support.why_options_are_refused(BUILD, arguments, environment), "")

    def test_secrets_are_documented_and_not_here(self):
        documented, used = documented_secrets(), {}
        for name, documents in rendered():
            with self.subTest(name):
                self.assertEqual(of_kind(documents, "Secret"), [])
                for workload in of_kind(documents, *WORKLOADS):
                    for variable in pod_of(workload)["containers"][0]["env"]:
                        secret = variable.get("valueFrom", {}).get("secretKeyRef")
                        if secret:
                            used.setdefault(secret["name"], set()).add(secret["key"])
                            self.assertFalse(secret.get("optional"))
                        if re.search("KEY|SECRET|PASSWORD|TOKEN", variable["name"]):
                            self.assertIsNotNone(secret, variable["name"])
        documented.pop("qamserve-tls")  # of a component: see TlsComponent
        self.assertEqual(used, documented)


class NetworkPolicies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        support.skip_without_kubectl()

    def policies(self, overlay):
        return of_kind(support.render(support.KUBERNETES / "overlays" / overlay), "NetworkPolicy")

    def workload(self, overlay, component):
        return [workload for workload in of_kind(support.render(support.KUBERNETES / "overlays" / overlay), *WORKLOADS)
                if labels_of(workload)["app.kubernetes.io/component"] == component][0]

    def allows(self, overlay, direction, component, port, peer=None):
        """Whether some policy lets a pod of `component` have traffic on `port` with pods that have the labels `peer`."""
        side = "from" if direction == "ingress" else "to"
        labels = labels_of(self.workload(overlay, component))
        for policy in self.policies(overlay):
            if not matches(policy["spec"]["podSelector"], labels):
                continue
            for rule in policy["spec"].get(direction, []):
                ports = {entry["port"] for entry in rule["ports"]}
                for other in rule[side]:
                    picked = ("podSelector" in other and "namespaceSelector" not in other
                              and matches(other["podSelector"], peer or {}))
                    if port in ports and (picked if peer else "ipBlock" in other):
                        return True
        return False

    def test_everything_is_denied_first(self):
        for overlay in support.OVERLAYS:
            denial = [policy for policy in self.policies(overlay) if policy["metadata"]["name"] == "qamserve-default-deny"]
            self.assertEqual(len(denial), 1)
            self.assertEqual(denial[0]["spec"]["policyTypes"], ["Ingress", "Egress"])
            self.assertFalse({"ingress", "egress"} & denial[0]["spec"].keys())
            for workload in of_kind(support.render(support.KUBERNETES / "overlays" / overlay), *WORKLOADS):
                self.assertTrue(matches(denial[0]["spec"]["podSelector"], labels_of(workload)))

    def test_every_policy_picks_pods_and_named_ports_that_they_have(self):
        for overlay in support.OVERLAYS:
            workloads = of_kind(support.render(support.KUBERNETES / "overlays" / overlay), *WORKLOADS)
            for policy in self.policies(overlay):
                picked = [workload for workload in workloads if matches(policy["spec"]["podSelector"], labels_of(workload))]
                self.assertTrue(picked, named(policy))
                for rule in policy["spec"].get("ingress", []):
                    for port in rule["ports"]:
                        for workload in picked:
                            self.assertIn(port["port"], port_names(workload), f"{overlay} {named(policy)}")

    def test_what_the_roles_need_is_allowed(self):
        for overlay in ("fleet", "gpu"):
            api, inference = (labels_of(self.workload(overlay, role)) for role in ("api", "inference"))
            self.assertTrue(self.allows(overlay, "egress", "api", 50051, inference))
            self.assertTrue(self.allows(overlay, "ingress", "inference", "grpc", api))
            for role in ("api", "worker", "inference"):
                self.assertTrue(self.allows(overlay, "egress", role, 5432), role)
                self.assertTrue(self.allows(overlay, "egress", role, 443), role)
        for overlay in support.OVERLAYS:
            traces = [policy["spec"] for policy in self.policies(overlay) if policy["metadata"]["name"] == "qamserve-traces"]
            self.assertEqual(traces[0]["egress"][0]["ports"], [{"port": 4318, "protocol": "TCP"}])
            for port in ("grpc", "http"):
                self.assertTrue(self.allows(overlay, "ingress", "api", port, {"qamserve-client": "true"}))

    def test_pods_of_others_are_not_asked_for_our_labels(self):
        """kustomize adds labels to every matchLabels that it finds in a policy, whomever it is about."""
        dns, client = {"k8s-app": "kube-dns"}, {"qamserve-client": "true"}
        for overlay in support.OVERLAYS:
            policies = {policy["metadata"]["name"]: policy["spec"] for policy in self.policies(overlay)}
            self.assertTrue(matches(policies["qamserve-dns"]["egress"][0]["to"][0]["podSelector"], dns))
            self.assertTrue(any(matches(peer["podSelector"], client)
                                for peer in policies["qamserve-clients"]["ingress"][0]["from"] if "podSelector" in peer))

    def test_what_they_do_not_need_is_not(self):
        stranger = {"app": "stranger"}
        for role in ("api", "worker", "inference"):
            worker = labels_of(self.workload("fleet", "worker"))
            self.assertFalse(self.allows("fleet", "ingress", role, "grpc", stranger), role)
            self.assertFalse(self.allows("fleet", "ingress", role, "grpc", worker), role)
        self.assertFalse(self.allows("embedded", "egress", "api", 5432))


class Autoscaling(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        support.skip_without_kubectl()

    def test_targets_are_there_and_leave_their_number_to_it(self):
        for overlay in ("fleet", "gpu"):
            documents = support.render(support.KUBERNETES / "overlays" / overlay)
            workloads = {named(workload): workload for workload in of_kind(documents, *WORKLOADS)}
            scaled = set()
            for scaler in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject"):
                target = scaler["spec"]["scaleTargetRef"]
                name = f'{target["kind"]} {target["name"]}'
                self.assertIn(name, workloads)
                self.assertNotIn("replicas", workloads[name]["spec"])
                self.assertNotIn(name, scaled, "two autoscalers fight over it")
                scaled.add(name)
            self.assertEqual(scaled, set(workloads))

    def test_metrics_are_documented(self):
        adapter = yaml.safe_load(support.read("deploy/kubernetes/components/autoscaling/prometheus-adapter-values.yaml"))
        provided = {rule["name"]["matches"] for rule in adapter["rules"]["custom"]}
        for rule in adapter["rules"]["custom"]:
            self.assertEqual(support.metrics_problems(rule["seriesQuery"]), [])
        for overlay in ("fleet", "gpu"):
            documents = support.render(support.KUBERNETES / "overlays" / overlay)
            wanted = {metric["pods"]["metric"]["name"] for scaler in of_kind(documents, "HorizontalPodAutoscaler")
                      for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"}
            self.assertTrue(wanted)
            self.assertLessEqual(wanted, provided)
            self.assertLessEqual(wanted, support.documented_metrics().keys())
            for scaler in of_kind(documents, "ScaledObject"):
                for trigger in scaler["spec"]["triggers"]:
                    self.assertEqual(trigger["type"], "prometheus")
                    self.assertLessEqual({"serverAddress", "query", "threshold"}, trigger["metadata"].keys())
                    self.assertTrue(all(isinstance(value, str) for value in trigger["metadata"].values()))
                    self.assertEqual(support.metrics_problems(trigger["metadata"]["query"]), [])

    def test_a_query_is_of_the_pool_that_it_scales(self):
        for overlay, pools in (("fleet", {"cpu"}), ("gpu", {"cpu", "cuda"})):
            documents = support.render(support.KUBERNETES / "overlays" / overlay)
            workloads = {workload["metadata"]["name"]: workload for workload in of_kind(documents, "Deployment")}
            found = set()
            for scaler in of_kind(documents, "ScaledObject"):
                target = workloads[scaler["spec"]["scaleTargetRef"]["name"]]
                pool = re.search(r'pool="(\w+)"', scaler["spec"]["triggers"][0]["metadata"]["query"]).group(1)
                self.assertIn(f"--pools={pool}", pod_of(target)["containers"][0]["args"])
                self.assertEqual(labels_of(target)["qamserve/pool"], pool)
                found.add(pool)
            self.assertEqual(found, pools)

    def test_a_query_is_of_the_namespace_that_it_scales(self):
        with tempfile.TemporaryDirectory() as folder:
            elsewhere = in_namespace(folder, "other")
            for overlay, scalers in (("fleet", 1), ("gpu", 2)):
                for root, namespace in ((support.KUBERNETES / "overlays", "qamserve"), (elsewhere, "other")):
                    found = of_kind(support.render(root / overlay), "ScaledObject")
                    self.assertEqual(len(found), scalers)
                    for scaler in found:
                        self.assertEqual(scaler["metadata"]["namespace"], namespace)
                        for trigger in scaler["spec"]["triggers"]:
                            self.assertIn(f'{{namespace="{namespace}", pool=', trigger["metadata"]["query"])
        adapter = yaml.safe_load(support.read("deploy/kubernetes/components/autoscaling/prometheus-adapter-values.yaml"))
        for rule in adapter["rules"]["custom"]:
            self.assertIn("namespace", rule["resources"]["overrides"])
            self.assertIn("<<.LabelMatchers>>", rule["metricsQuery"])

    def test_unknown_metrics_and_labels_are_found(self):
        self.assertEqual(len(support.metrics_problems('max(qamserve_no_such_metric)')), 1)
        self.assertEqual(len(support.metrics_problems('max(qamserve_tasks{colour="red"})')), 1)


class Monitoring(unittest.TestCase):
    def test_prometheus_finds_the_metrics_of_every_pod(self):
        support.skip_without_kubectl()
        for _, documents in rendered():
            (monitor,) = of_kind(documents, "ServiceMonitor")
            picked = [service for service in of_kind(documents, "Service")
                      if matches(monitor["spec"]["selector"], service["metadata"].get("labels", {}))]
            self.assertEqual([service["metadata"]["name"] for service in picked], ["qamserve-metrics"])
            ports = {port["name"] for port in picked[0]["spec"]["ports"]}
            self.assertLessEqual({endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}, ports)
            for workload in of_kind(documents, *WORKLOADS):
                self.assertTrue(matches(picked[0]["spec"]["selector"], labels_of(workload)))

    def test_alerts_lead_where_the_overlay_says(self):
        support.skip_without_kubectl()
        address = "https://git.example.com/qamserve/docs/operations.md"
        with tempfile.TemporaryDirectory() as folder:
            elsewhere = in_namespace(folder, "qamserve")
            for name in support.OVERLAYS:
                path = elsewhere / name / "kustomization.yaml"
                path.write_text(path.read_text().replace("url=docs/operations.md", f"url={address}"))
            for name in support.OVERLAYS:
                (rules,) = of_kind(support.render(elsewhere / name), "PrometheusRule")
                alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
                self.assertTrue(alerts)
                for alert in alerts:
                    self.assertEqual(alert["annotations"]["runbook_url"], f"{address}#{alert['alert'].lower()}")

    def test_runbooks_are_a_parameter_of_the_rules(self):
        with tempfile.TemporaryDirectory() as folder:
            script = in_namespace(folder, "qamserve").parent / "make_prometheus_rule.py"
            subprocess.run([sys.executable, "-B", script, "--runbooks", "https://example.com/runbook"], check=True)
            text = (script.parent / "components/monitoring/prometheus-rule.yaml").read_text(encoding="utf-8")
        self.assertIn('runbook_url: "https://example.com/runbook#qamserveinstancedown"', text)
        self.assertNotIn("docs/operations.md#", text)

    def test_rules_are_those_of_prometheus(self):
        done = subprocess.run([sys.executable, "-B", support.KUBERNETES / "make_prometheus_rule.py", "--check"],
                              stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        groups = [group for path in sorted((support.REPOSITORY / "deploy/prometheus/rules").glob("*.yml"))
                  for group in yaml.safe_load(path.read_text(encoding="utf-8").replace(
                      "{{ $externalLabels.runbooks }}", "docs/operations.md"))["groups"]]
        written = yaml.safe_load(support.read("deploy/kubernetes/components/monitoring/prometheus-rule.yaml"))
        self.assertEqual(written["spec"], {"groups": groups})

    def test_dashboards_come_along(self):
        support.skip_without_kubectl()
        configs = [config for config in of_kind(support.render(support.KUBERNETES / "overlays/fleet"), "ConfigMap")
                   if config["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
        there = {path.name for path in (support.REPOSITORY / "deploy/grafana/dashboards").glob("*.json")}
        self.assertTrue(there)
        self.assertEqual({name for config in configs for name in config["data"]}, there)
        for config in configs:
            self.assertLess(sum(map(len, config["data"].values())), 1 << 20)


class TlsComponent(unittest.TestCase):
    def test_it_gives_every_pod_its_certificate(self):
        support.skip_without_kubectl()
        with tempfile.TemporaryDirectory(dir=support.KUBERNETES / "overlays") as folder:
            (pathlib.Path(folder) / "kustomization.yaml").write_text(
                "resources: [../fleet]\ncomponents: [../../components/tls]\n", encoding="utf-8")
            documents = support.render(pathlib.Path(folder))
        keys = documented_secrets()["qamserve-tls"]
        for workload in of_kind(documents, *WORKLOADS):
            kubernetes_validate.validate(workload, SCHEMA_VERSIONS[-1], strict=True)
            pod = pod_of(workload)
            container = pod["containers"][0]
            volume = [volume for volume in pod["volumes"] if volume["name"] == "tls"]
            self.assertEqual(volume[0]["secret"]["secretName"], "qamserve-tls")
            mount = [mount for mount in container["volumeMounts"] if mount["name"] == "tls"][0]
            self.assertIs(mount["readOnly"], True)
            files = {variable["name"]: variable["value"] for variable in container["env"]
                     if str(variable.get("value", "")).startswith(mount["mountPath"])}
            self.assertEqual({value.rpartition("/")[2] for value in files.values()}, keys)
            self.assertLessEqual(files.keys(), support.server_flags(BUILD)[1])
            # What they were before is still there.
            self.assertIn("startupProbe", container)
            self.assertIn("data", {mount["name"] for mount in container["volumeMounts"]})


class EveryKustomization(unittest.TestCase):
    def test_each_is_part_of_an_overlay_or_documented(self):
        reached, waiting = set(), [support.KUBERNETES / "overlays" / name for name in support.OVERLAYS]
        while waiting:
            folder = waiting.pop().resolve()
            if folder in reached:
                continue
            reached.add(folder)
            content = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
            for entry in content.get("resources", []) + content.get("components", []):
                if (folder / entry).is_dir():
                    waiting.append(folder / entry)
        there = {path.parent.resolve() for path in support.KUBERNETES.rglob("kustomization.yaml")}
        self.assertEqual(there - reached, {(support.KUBERNETES / "components/tls").resolve()})

    def test_files_are_used(self):
        """A file that no kustomization names would be forgotten without a word."""
        for folder in {path.parent for path in support.KUBERNETES.rglob("kustomization.yaml")}:
            text = (folder / "kustomization.yaml").read_text(encoding="utf-8")
            for path in folder.glob("*.yaml"):
                if path.name != "kustomization.yaml":
                    self.assertIn(path.name, text, path)


if __name__ == "__main__":
    support.prerequisites.main()
