#!/usr/bin/env python3
"""The console in a real browser, against a real server and a model with random weights. Usage: FILE BUILD_FOLDER

One visitor's road: upload a checkpoint, quantize it at two rates, watch, read the reports, load, chat, compare, make
keys.
Skips (exit code 77) where there is no Chromium. Screenshots go to BUILD/tests/e2e/console-server/.
"""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import webdriver  # noqa: E402
from console_checks import PLOTS_DRAWN  # noqa: E402
from clients_support import Server, build_folder, make_tiny_model  # noqa: E402
from webdriver import ENTER, RIGHT  # noqa: E402

BUILD = None


class ConsoleServerTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.model = make_tiny_model(BUILD, pathlib.Path(self.folder.name) / "tiny")
        self.server = Server(BUILD)
        self.server.__enter__()
        self.addCleanup(self.server.__exit__)
        self.browser = webdriver.Browser(*webdriver.find())
        self.addCleanup(self.browser.close)
        self.browser.viewport(1280, 900)

    def show(self, view, heading):
        self.browser.run("location.hash = '#/' + arguments[0]", view)
        self.browser.wait_text(heading, "h1")

    def picture(self, name):
        self.browser.until(lambda: self.browser.run(PLOTS_DRAWN), "plots are not drawn")
        self.browser.screenshot(BUILD / "tests" / "e2e" / "console-server" / f"{name}.png")

    def check_log(self):
        wrong = [
            message for level, message in self.browser.log() if level == "SEVERE" and "status of 40" not in message
        ]
        self.assertEqual(wrong, [])

    def test_from_an_upload_to_compared_answers(self):
        self.browser.open(self.server.url + "/")
        self.browser.wait_text("No jobs yet.")
        self.upload()
        self.quantize()
        self.read_reports()
        self.load()
        self.chat()
        self.compare()
        self.look_at_the_system()
        self.make_keys()
        self.check_log()

    def upload(self):
        self.show("models", "Models")
        self.browser.wait_text("No checkpoints yet.")
        files = "\n".join(str(path) for path in sorted(self.model.iterdir()))
        self.browser.field("Files").type(files)
        self.browser.run(
            "[...document.querySelectorAll('label')].find((l) => l.textContent === 'Name').control.value = 'tiny'"
        )
        self.browser.button("Upload").click()
        self.browser.wait_text("tiny", "ul[aria-label=Checkpoints]", 60)
        self.browser.wait_text("llama", "ul[aria-label=Checkpoints]")
        self.picture("models")
        self.assertEqual(
            [c["displayName"] for c in self.server.rest("GET", "/v1/checkpoints")["checkpoints"]], ["tiny"]
        )

    def quantize(self):
        self.browser.button("Quantize tiny").click()
        self.browser.wait_text("New job", "h1")
        self.browser.field("Several rates, measured side by side").click()
        self.browser.field("4.5").click()
        self.browser.field("Name").type("two rates")
        for input_ in self.browser.all("fieldset input[placeholder^='8']"):
            input_.type("2")
        for input_ in self.browser.all("fieldset input[placeholder='1024']"):
            input_.type("64")
        self.browser.button("Estimate").click()
        self.browser.wait_text("Memory", ".notice")
        # What the server refuses is told with its reason.
        self.browser.all("fieldset input[placeholder='1024']")[0].type("000000")
        self.browser.button("Start").click()
        self.browser.wait_text("WINDOW_TOKENS_RANGE", "[role=alert]")
        self.browser.all("fieldset input[placeholder='1024']")[0].clear()
        self.browser.all("fieldset input[placeholder='1024']")[0].type("64")
        self.browser.button("Start").click()
        self.browser.wait_text("two rates", "h1")
        self.browser.until(lambda: self.browser.text(".badge") == "succeeded", "the job does not end", 120)
        job = self.server.rest("GET", "/v1/jobs")["jobs"][0]["name"]
        names = [tensor["name"] for tensor in self.server.rest("GET", f"/v1/{job}")["tensors"]]
        self.assertEqual(len(names), 2 * len(set(names)))
        self.browser.wait_text(f"{len(names)} quantized")
        self.browser.until(
            lambda: len(self.browser.all("rect.bar")) == len(set(names)), "a bar for each tensor of one rate"
        )
        self.assertEqual(len(self.browser.all("section[aria-label=Candidates] .plot-host circle")), 2)
        self.picture("job")
        self.browser.button("Save as CSV").click()
        self.browser.wait_text(".csv", "#toasts")

    def read_reports(self):
        self.show("artifacts", "Artifacts")
        self.browser.until(lambda: len(self.browser.all(".card input[type=checkbox]")) == 2, "two artifacts")
        for box in self.browser.all(".card input[type=checkbox]"):
            box.click()
        self.browser.wait_text("Reports side by side")
        self.browser.wait_text("Quantized perplexity")
        self.picture("reports")
        artifacts = self.server.rest("GET", "/v1/artifacts")["artifacts"]
        self.assertEqual(len(artifacts), 2)
        hrefs = self.browser.run("return [...document.querySelectorAll('.files a')].map((a) => a.href)")
        self.assertEqual(len(hrefs), sum(len(a["files"]) for a in artifacts))
        sizes = self.browser.run_async(
            """
            return Promise.all(args[0].map(async (href) => (await (await fetch(href)).arrayBuffer()).byteLength));""",
            hrefs,
        )
        self.assertEqual(sorted(sizes), sorted(int(f["sizeBytes"]) for a in artifacts for f in a["files"]))

    def load(self):
        self.browser.all(".card .actions button")[0].click()
        self.browser.field("Name").type("Not A Name" + ENTER)
        self.assertTrue(self.browser.all("dialog[open]"), "the form knows which names there are")
        self.browser.field("Name").clear()
        self.browser.field("Name").type("small" + ENTER)
        self.browser.wait_text("small", "ul[aria-label='Served models']", 60)
        self.browser.button("Load tiny").click()
        self.browser.field("Name").type("small" + ENTER)
        self.browser.wait_text("MODEL_NAME_TAKEN", "dialog")
        self.browser.field("Name").clear()
        self.browser.field("Name").type("base" + ENTER)
        self.browser.wait_text("base", "ul[aria-label='Served models']", 60)
        self.browser.button("New alias").click()
        self.browser.field("Name").type("both")
        for name, weight in (("base", "3"), ("small", "1")):
            self.browser.field(name).clear()
            self.browser.field(name).type(weight)
        self.browser.button("Save").click()
        self.browser.wait_text("base 75 % · small 25 %", "ul[aria-label=Aliases]")
        self.picture("served")

    def chat(self):
        self.show("chat", "Chat")
        self.browser.wait_text("both (alias)")
        self.browser.button("Sampling").click()
        for setting, value in (("Most tokens", "24"), ("Temperature", "0")):
            self.browser.field(setting).clear()
            self.browser.field(setting).type(value)
        self.browser.field("Your message").type("Hello there" + ENTER)
        self.browser.wait_text("of prompt", ".turn.assistant")
        self.browser.field("Model").type("both")
        self.browser.button("Answer again").click()
        self.browser.until(lambda: not self.browser.all("[aria-busy=true]"), "the answer does not end")
        self.browser.wait_text("of prompt", ".turn.assistant")
        self.picture("chat")

    def compare(self):
        self.show("compare", "Compare")
        self.browser.until(lambda: self.browser.field("Other").value == "small", "the artifact is the other")
        self.browser.until(lambda: self.browser.field("Base").value == "base", "its checkpoint is the base")
        self.browser.button("Sampling").click()
        self.browser.field("Most tokens").clear()
        self.browser.field("Most tokens").type("32")
        self.browser.field("Prompt").type("The sea")
        self.browser.button("Ask both").click()
        self.browser.until(lambda: len(self.browser.all("[role=listbox]")) == 2, "two answers with their tokens", 60)
        self.assertGreater(len(self.browser.all("[role=option]")), 8)
        self.browser.run("document.querySelector('[role=option]').focus()")
        self.browser.keys(RIGHT)
        self.browser.wait_text("under the base", ".detail")
        self.picture("compare")

    def look_at_the_system(self):
        self.show("system", "System")
        self.browser.wait_text("2 ready")
        self.browser.wait_text("Ready yes")
        self.browser.wait_text("none: everyone")
        self.picture("system")

    def make_keys(self):
        self.show("keys", "Keys")
        self.browser.wait_text("This server has no keys")
        self.browser.button("New key").click()
        self.browser.field("Name").type("admin" + ENTER)
        self.browser.wait_text("Copy it now", "dialog")
        self.browser.button("Use it in this tab").click()
        self.browser.wait_text("this tab", "ul[aria-label='API keys']")
        self.browser.wait_text("AccessService.CreateKey")
        self.picture("keys")
        secret = self.browser.run("return sessionStorage.getItem('qamserve.key')")
        self.browser.run("sessionStorage.clear()")
        self.show("jobs", "Jobs")
        self.browser.wait_text("API key", "dialog")
        self.browser.field("Key").type(secret + ENTER)
        self.browser.wait_text("two rates", "ul[aria-label=Jobs]")


def main():
    global BUILD
    if webdriver.find() is None:
        print("skipped: no chromium and chromedriver on this machine (Debian: chromium chromium-driver)")
        return 77
    BUILD = build_folder()
    return 0 if unittest.main(exit=False, verbosity=2).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
