#!/usr/bin/env python3
"""Clients that drive a running server: openai, a gRPC client made from reflection, health checks, curl, and the project's own
Python package. Usage: clients_test.py [BUILD_FOLDER] [unittest's arguments]; see tests/python/environment.py.

The client of the Open Inference Protocol has a test of its own, triton_test.py.
"""
import os
import pathlib
import shutil
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from clients_curl import CurlTests  # noqa: E402
from clients_grpc import GrpcTests, HealthOfAStoppingServer  # noqa: E402
from clients_openai import OpenAiTests  # noqa: E402
from clients_python import PythonTests, RestartTests, small  # noqa: E402
from clients_support import Server, build_folder, fast_folder, make_tiny_model, wait_for  # noqa: E402

import qamserve  # noqa: E402

BUILD = build_folder()


class WithModel(unittest.TestCase):
    """One server for all tests of a class, with a tiny checkpoint, an artifact of it, and the checkpoint served as "tiny"."""
    build, model = BUILD, "tiny"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.scratch = pathlib.Path(fast_folder())
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        cls.environment = dict(os.environ)
        cls.folder = make_tiny_model(BUILD, cls.scratch / "tiny")
        cls.server = cls.enterClassContext(Server(BUILD))
        cls.client = cls.enterClassContext(qamserve.Client(cls.server.grpc))
        cls.checkpoint = cls.client.upload(cls.folder)
        cls.client.quantize(cls.checkpoint, 5.5, "joint", **small("joint")).wait()
        cls.client.load(cls.checkpoint, cls.model)

    @classmethod
    def enterClassContext(cls, manager):  # unittest has it from Python 3.11 on
        entered = manager.__enter__()
        cls.addClassCleanup(manager.__exit__, None, None, None)
        return entered

    def wait_until_idle(self):
        """No sequence of the model runs or waits any more."""
        def idle():
            state = self.client.get_model(self.model)
            return state.running + state.waiting == 0

        wait_for(idle, 30, "the end of the cancelled request")


class OwnServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.scratch = pathlib.Path(fast_folder())
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        cls.folder = make_tiny_model(BUILD, cls.scratch / "tiny")

    def start_server(self):
        return Server(BUILD)


class OpenAiTest(OpenAiTests, WithModel):
    pass


class GrpcTest(GrpcTests, WithModel):
    pass


class CurlTest(CurlTests, WithModel):
    def setUp(self):
        if shutil.which("curl") is None:
            self.skipTest("curl is not installed")


class PythonTest(PythonTests, WithModel):
    pass


class StoppingServerTest(HealthOfAStoppingServer, RestartTests, OwnServer):
    pass


if __name__ == "__main__":
    unittest.main()
