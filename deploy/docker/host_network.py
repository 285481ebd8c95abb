#!/usr/bin/env python3
"""Writes docker-compose.yml again for machines whose containers can only have the network of the machine.

usage: host_network.py OUT     needs PyYAML

Everything listens on loopback, on ports that do not meet; replicas of a service become services of their own. Services
are the same otherwise, with their flags, limits and health checks. Images are those that try_without_docker.sh makes where no
registry is at hand; there is none for Grafana, which is left out. A prometheus.yml for these ports comes to lie beside OUT.
"""
import pathlib
import sys

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Of each service: the ports that its containers have by default, and those of the machine instead.
PORTS = {"postgres": {5432: 15432}, "s3": {8333: 18333, 9333: 19333, 8888: 18888}, "prometheus": {9090: 19090},
         "api": {50051: 15051, 8080: 18080, 9090: 19091}, "worker": {50051: 15052, 9090: 19092},
         "worker-b": {50051: 15053, 9090: 19093}, "inference": {50051: 15054, 9090: 19094}}
STAND_INS = {"postgres": "localhost/postgres-stand-in", "s3": "localhost/seaweedfs-stand-in",
             "bucket": "localhost/seaweedfs-stand-in", "prometheus": "localhost/prometheus-stand-in"}
VARIABLES = {50051: "QAMSERVE_LISTEN", 8080: "QAMSERVE_HTTP_LISTEN", 9090: "QAMSERVE_METRICS_LISTEN"}


def moved(value, own):
    """Host names become 127.0.0.1, ports those of PORTS; `own` is the service that a 127.0.0.1 means."""
    if isinstance(value, dict):
        return {key: moved(item, own) for key, item in value.items()}
    if isinstance(value, list):
        return [moved(item, own) for item in value]
    if not isinstance(value, str):
        return value
    for service, ports in PORTS.items():
        for port, instead in ports.items():
            for before in ("@", "//"):
                value = value.replace(f"{before}{service}:{port}", f"{before}127.0.0.1:{instead}")
            if value == f"{service}:{port}":
                value = f"127.0.0.1:{instead}"
    for port, instead in PORTS.get(own, {}).items():
        value = value.replace(f"127.0.0.1:{port}", f"127.0.0.1:{instead}")
    return value


def converted(name, service):
    service = moved(service, name)
    for key in ("networks", "ports", "build"):
        service.pop(key, None)
    service["network_mode"] = "host"
    service["volumes"] = [str(REPOSITORY / volume) if volume.startswith("./") else volume
                          for volume in service.get("volumes", [])]
    service["image"] = STAND_INS.get(name, service["image"])
    service.get("deploy", {}).pop("replicas", None)
    for port, instead in PORTS.get(name, {}).items():
        if name in ("api", "worker", "worker-b", "inference"):
            service["environment"][VARIABLES[port]] = f"127.0.0.1:{instead}"
    if name == "postgres":
        service["command"] = ["-c", "listen_addresses=127.0.0.1", "-c", "port=15432"]
        service["healthcheck"]["test"].append("--port=15432")
    if name == "s3":
        service["command"] = ["server", "-dir=/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.port=19333",
                              "-volume.port=19340", "-filer.port=18888", "-s3", "-s3.port=18333", "-s3.port.iceberg=0",
                              "-volume.max=200", "-master.volumeSizeLimitMB=1024"]
    if name == "prometheus":
        service["command"] = ["--config.file=/targets/prometheus.yml", "--storage.tsdb.path=/prometheus",
                              "--web.listen-address=127.0.0.1:19090"]
    return service


def prometheus_config():
    """deploy/prometheus/prometheus.yml with the containers above in place of what DNS would find."""
    config = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    config["rule_files"] = ["/etc/prometheus/rules/*.yml"]
    targets = [{"targets": [f"127.0.0.1:{ports[9090]}"], "labels": {"component": name.split("-")[0]}}
               for name, ports in PORTS.items() if 50051 in ports]
    config["scrape_configs"] = [{"job_name": "qamserve", "static_configs": targets, "scrape_interval": "2s",
                                 "scrape_timeout": "2s"}]
    return config


def main():
    out = pathlib.Path(sys.argv[1]).resolve()
    file = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
    services = {name: service for name, service in file["services"].items() if name != "grafana"}
    services["worker-b"] = services["worker"]
    # Copies: what YAML's anchors share would be changed several times.
    services = {name: converted(name, yaml.safe_load(yaml.safe_dump(service))) for name, service in services.items()}
    services["prometheus"]["volumes"].append(f"{out.parent}:/targets:ro")
    out.write_text(yaml.safe_dump({"name": file["name"], "services": services,
                                   "volumes": {key: {} for key in file["volumes"] if key != "grafana"}}, sort_keys=False),
                   encoding="utf-8")
    (out.parent / "prometheus.yml").write_text(yaml.safe_dump(prometheus_config()), encoding="utf-8")


if __name__ == "__main__":
    main()
