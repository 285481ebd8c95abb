#!/usr/bin/env python3
"""Every field of the manifests of deploy/kubernetes whose kinds Kubernetes does not know is one that the kind has
(custom_kinds.py), and a misspelt one would be found.

usage: custom_kinds_test.py [BUILD]     run by tests/python/environment.py, with what requirements.txt names
"""
import copy
import unittest

import custom_kinds
import deploy_support as support

support.build_folder()  # of no use here; taken away from unittest


def manifests():
    """(where, manifest): of all overlays."""
    return [(f'{name}: {manifest["kind"]} {manifest["metadata"]["name"]}', manifest) for name in support.OVERLAYS
            for manifest in support.render(support.KUBERNETES / "overlays" / name) if manifest["kind"] in custom_kinds.KINDS]


def fields(value, shape, path=()):
    """Paths of all fields of a manifest; what a Map holds has no names of its own."""
    if isinstance(shape, custom_kinds.Fields):
        for name, part in value.items():
            yield (*path, name)
            yield from fields(part, shape.shapes[name], (*path, name))
    elif isinstance(shape, list):
        for at, part in enumerate(value):
            yield from fields(part, shape[0], (*path, at))


def changed(manifest, path, change):
    """A copy in which `change(parent, name)` was done to the field at `path`."""
    other = copy.deepcopy(manifest)
    parent = other
    for step in path[:-1]:
        parent = parent[step]
    change(parent, path[-1])
    return other


def misspell(parent, name):
    parent[name + "s"] = parent.pop(name)


class CustomKinds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        support.skip_without_kubectl()

    def test_every_field_is_one_of_its_kind(self):
        for where, manifest in manifests():
            self.assertEqual(custom_kinds.problems(manifest), [], where)

    def test_every_kind_is_in_use(self):
        self.assertEqual({manifest["kind"] for _, manifest in manifests()}, set(custom_kinds.KINDS))

    def test_a_misspelt_field_is_found_wherever_it_is(self):
        tried = set()
        for where, manifest in manifests():
            shape = custom_kinds.KINDS[manifest["kind"]]
            for path in fields(manifest, shape):
                kind_of_place = (manifest["kind"], *(step for step in path if isinstance(step, str)))
                if path == ("kind",) or kind_of_place in tried:
                    continue
                tried.add(kind_of_place)
                self.assertTrue(custom_kinds.problems(changed(manifest, path, misspell)), f"{where}: {path}")
        for place in (("ScaledObject", "spec", "fallback", "replicas"),
                      ("ScaledObject", "spec", "triggers", "metadata", "threshold"),
                      ("ServiceMonitor", "spec", "endpoints", "relabelings", "targetLabel"),
                      ("PrometheusRule", "spec", "groups", "rules", "for")):
            self.assertIn(place, tried)

    def test_a_value_of_another_kind_is_found(self):
        by_kind = {manifest["kind"]: manifest for _, manifest in manifests()}
        for kind, path, wrong in (("ScaledObject", ("apiVersion",), "keda.sh/v1"),
                                  ("ScaledObject", ("spec", "minReplicaCount"), "1"),
                                  ("ScaledObject", ("spec", "minReplicaCount"), True),
                                  ("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), 4),
                                  ("ScaledObject", ("spec", "triggers", 0, "metadata", "ignoreNullValues"), False),
                                  ("ServiceMonitor", ("spec", "endpoints", 0, "interval"), "15 seconds"),
                                  ("ServiceMonitor", ("spec", "endpoints", 0, "relabelings", 1, "sourceLabels"), "__address__"),
                                  ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "labels"), ["critical"])):
            with self.subTest(path=path):
                manifest = changed(by_kind[kind], path, lambda parent, name, value=wrong: parent.update({name: value}))
                self.assertEqual(len(custom_kinds.problems(manifest)), 1)

    def test_a_field_that_must_be_there_is_missed(self):
        by_kind = {manifest["kind"]: manifest for _, manifest in manifests()}
        for kind, path in (("ScaledObject", ("spec", "triggers")), ("ScaledObject", ("spec", "fallback", "failureThreshold")),
                           ("ServiceMonitor", ("spec", "selector")), ("PrometheusRule", ("spec", "groups", 0, "name"))):
            manifest = changed(by_kind[kind], path, lambda parent, name: parent.pop(name))
            self.assertEqual(len(custom_kinds.problems(manifest)), 1, path)


if __name__ == "__main__":
    support.prerequisites.main()
