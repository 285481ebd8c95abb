#!/usr/bin/env python3
"""The console in a real browser, against a scripted server. Usage: console_test.py [BUILD_FOLDER]

Skips (exit code 77) where there is no Chromium or chromedriver. Screenshots of all views go to
BUILD_FOLDER/tests/e2e/console/.
"""

import hashlib
import pathlib
import random
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import webdriver  # noqa: E402
from console_checks import CONTRAST, PLOTS_DRAWN, SMALL_BUTTONS, UNNAMED  # noqa: E402
from console_data import HOSTILE, LARGE, SMALL, progress, tensors  # noqa: E402
from console_stub import StubServer  # noqa: E402
from webdriver import DOWN, ENTER, ESCAPE, RIGHT, SHIFT, SPACE, TAB  # noqa: E402

SCREENSHOTS = None
VIEWS = {
    "jobs": "Jobs",
    "jobs/new": "New job",
    "jobs/done": "done",
    "jobs/ladder": "ladder",
    "jobs/rejected": HOSTILE,
    "artifacts": "Artifacts",
    f"artifacts?show={LARGE}": "Artifacts",
    f"artifacts?show={SMALL},{LARGE}": "Artifacts",
    "models": "Models",
    "chat": "Chat",
    "compare": "Compare",
    "system": "System",
    "keys": "Keys",
}


def picture_of(view, look):
    place, _, query = view.partition("?")
    kind = "-side" if "," in query else "-report" if query else ""
    return SCREENSHOTS / f"{place.replace('/', '-')}{kind}-{look}.png"


class ConsoleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = webdriver.Browser(*webdriver.find())

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()

    def setUp(self):
        self.stub = StubServer()
        self.state = self.stub.state
        self.browser.media()
        self.browser.viewport(1280, 900)

    def tearDown(self):
        self.state.hold.set()
        log = self.browser.log()
        self.browser.open("about:blank")
        self.stub.close()
        # Refused requests are told there too; what counts is what the page itself got wrong.
        wrong = [message for level, message in log if level == "SEVERE" and "Failed to load resource" not in message]
        self.assertEqual(wrong, [])

    def show(self, view, heading=None):
        self.browser.open("about:blank")
        self.browser.open(f"{self.stub.url}/#/{view}")
        self.browser.wait_text(heading or VIEWS[view], "h1")
        return self.browser

    def settled(self, view):
        """Shows a view and waits until its plots are drawn and its answers are in."""
        browser = self.show(view)
        marks = {
            "jobs": "DISK_FULL",
            "jobs/new": "SmolLM2",
            "jobs/done": "Same first choice",
            "jobs/ladder": "Save as CSV",
            "jobs/rejected": "GATE_QUALITY",
            "artifacts": "SmolLM2 at 5.5",
            "models": "production",
            "chat": "Sampling",
            "compare": "Both models answer",
            "system": "avx512",
            "keys": "JobService",
        }
        browser.wait_text(marks.get(view, "KL 99.9 %"))
        browser.until(lambda: browser.run(PLOTS_DRAWN), "plots are not drawn")
        return browser

    # --- What holds for all views ---
    def test_every_view_reads_well_by_ear_and_eye(self):
        for view in VIEWS:
            for scheme in ("light", "dark"):
                with self.subTest(view=view, scheme=scheme):
                    self.browser.media(prefers_color_scheme=scheme)
                    browser = self.settled(view)
                    self.assertEqual(browser.run(UNNAMED), [])
                    self.assertEqual(browser.run(CONTRAST), [])
                    self.assertEqual(
                        browser.run("return document.querySelectorAll('#nav a[aria-current=page]').length"), 1
                    )
                    browser.screenshot(picture_of(view, scheme))

    def test_every_view_fits_a_phone(self):
        self.browser.viewport(360, 740, phone=True)
        for view in VIEWS:
            with self.subTest(view=view):
                browser = self.settled(view)
                self.assertEqual(browser.run("return document.documentElement.scrollWidth"), 360)
                self.assertEqual(browser.run(SMALL_BUTTONS), [])
                browser.screenshot(picture_of(view, "phone"))

    def test_text_is_never_markup(self):
        for view in ("jobs", "jobs/rejected", "jobs/ladder", "keys"):
            with self.subTest(view=view):
                browser = self.settled(view)
                self.assertIn(HOSTILE, browser.run("return document.body.textContent"))
                self.assertEqual(browser.run("return document.querySelectorAll('main img, main script').length"), 0)
                self.assertIsNone(browser.run("return window.pwned ?? null"))

    def test_the_policy_stops_what_would_slip_through(self):
        browser = self.settled("system")
        refused = browser.run("""
            try {
              document.getElementById('main').innerHTML = '<b>x</b>';
              return 'taken';
            } catch (error) {
              return error.name;
            }""")
        self.assertEqual(refused, "TypeError")
        self.assertIsNone(browser.run("""
            const script = document.createElement('script'); script.append('window.inline = 1');
            try { document.body.append(script); } catch (error) { } return window.inline ?? null;"""))
        browser.log()

    def test_colours_follow_the_system_and_the_reader(self):
        browser = self.settled("system")
        background = "return getComputedStyle(document.body).backgroundColor"
        browser.media(prefers_color_scheme="light")
        light = browser.run(background)
        browser.media(prefers_color_scheme="dark")
        dark = browser.run(background)
        self.assertNotEqual(light, dark)
        browser.run(
            "const s = document.getElementById('theme'); s.value = 'light'; s.dispatchEvent(new Event('change'))"
        )
        self.assertEqual(browser.run(background), light)
        self.settled("jobs")
        self.assertEqual(browser.run(background), light, "kept")
        browser.run(
            "const s = document.getElementById('theme'); s.value = 'system'; s.dispatchEvent(new Event('change'))"
        )
        self.assertEqual(browser.run(background), dark)

    def test_nothing_moves_for_those_who_want_that(self):
        browser = self.settled("jobs")
        duration = "return getComputedStyle(document.querySelector('.fill')).transitionDuration"
        browser.media(prefers_reduced_motion="no-preference")
        self.assertEqual(browser.run(duration), "0.3s")
        browser.media(prefers_reduced_motion="reduce")
        self.assertEqual(browser.run(duration), "0s")

    def test_the_keyboard_goes_everywhere(self):
        browser = self.settled("jobs")
        active = "return document.activeElement.textContent.trim() || document.activeElement.id"
        browser.run("document.activeElement.blur(); window.getSelection().removeAllRanges()")
        browser.keys(TAB)
        self.assertEqual(browser.run(active), "Skip to content")
        browser.until(
            lambda: browser.run("return document.activeElement.getBoundingClientRect().top") >= 0,
            "it stays out of sight",
        )
        browser.keys(ENTER)
        self.assertEqual(browser.run("return document.activeElement.id"), "main")
        browser.keys(TAB)
        self.assertEqual(browser.run(active), "New job")
        self.assertNotEqual(browser.run("return getComputedStyle(document.activeElement).outlineStyle"), "none")
        browser.keys(ENTER)
        browser.wait_text("New job", "h1")
        self.assertEqual(browser.run(active), "New job", "the heading has the focus")
        # Every control of the form comes round, in the order of the page.
        browser.wait_text("Calibration")
        seen = []
        for _ in range(60):
            browser.keys(TAB)
            seen.append(
                browser.run("const n = document.activeElement; return [...document.querySelectorAll('*')].indexOf(n)")
            )
            if browser.run("return document.activeElement.textContent === 'Estimate'"):
                break
        self.assertEqual(seen, sorted(seen))
        self.assertTrue(browser.run("return document.activeElement.textContent === 'Estimate'"))

    def test_a_dialog_keeps_the_focus_and_gives_it_back(self):
        browser = self.settled("models")
        opener = browser.button("Load SmolLM2-135M")
        browser.run("arguments[0].focus()", {webdriver.ELEMENT: opener.reference})
        browser.keys(ENTER)
        browser.one("dialog[open]")
        self.assertEqual(browser.run("return document.activeElement.labels[0].textContent"), "Name")
        for _ in range(12):
            browser.keys(TAB)
            inside = browser.run(
                "const n = document.activeElement; return n === document.body || n.closest('dialog') !== null"
            )
            self.assertTrue(inside)
        browser.keys((SHIFT, TAB))
        browser.keys(ESCAPE)
        browser.until(lambda: not browser.all("dialog"), "the dialog stays")
        self.assertEqual(browser.run("return document.activeElement.getAttribute('aria-label')"), "Load SmolLM2-135M")

    # --- Jobs ---
    def test_the_list_follows_jobs_by_their_streams(self):
        browser = self.settled("jobs")
        bar = "return document.querySelector('.job [role=progressbar]').getAttribute('aria-valuenow')"
        browser.until(lambda: self.state.streams == 2, "the running and the queued job are followed")
        self.assertEqual(browser.run(bar), "20")
        lists = len(self.state.called("GET", "/v1/jobs"))
        self.state.put_job("running", progress=progress(13, "quantize", 0.6, 41.0))
        browser.until(lambda: browser.run(bar) == "65", "the bar stays")
        browser.wait_text("quantize 60 % · 13 of 20 tasks · 41 s left")
        self.assertEqual(len(self.state.called("GET", "/v1/jobs")), lists, "nothing is polled")
        self.state.put_job("running", state="JOB_STATE_SUCCEEDED", progress=progress(20, "evaluate", 1.0, 0.0))
        browser.wait_text("running: succeeded", "#live")
        browser.until(
            lambda: len(self.state.called("GET", "/v1/jobs")) == lists + 1, "the list is read again at the end"
        )
        # Leaving ends the streams.
        browser.run("location.hash = '#/system'")
        browser.until(lambda: self.state.streams == 0, "streams stay open")

    def test_a_refresh_leaves_the_focus_where_it_is(self):
        browser = self.settled("jobs")
        browser.run("[...document.querySelectorAll('button')].find((b) => b.textContent === 'Retry').focus()")
        self.state.put_job("running", state="JOB_STATE_SUCCEEDED", progress=progress(20, "evaluate", 1.0, 0.0))
        browser.wait_text("running: succeeded", "#live")
        self.assertEqual(browser.run("return document.activeElement.textContent"), "Retry")

    def test_a_job_shows_tensors_and_candidates_as_they_come(self):
        browser = self.show("jobs/running", "running")
        browser.wait_text("None yet.")
        some = tensors()
        self.state.put_job("running", tensors=some[:5], progress=progress(6, "quantize", 0.3, 70.0))
        browser.until(lambda: len(browser.all("rect.bar")) == 5, "five bars")
        self.state.put_job("running", tensors=some[5:30], progress=progress(10, "quantize", 0.7, 30.0))
        browser.until(lambda: len(browser.all("rect.bar")) == 30, "thirty bars: those before stay")
        browser.wait_text("30 quantized")
        self.assertEqual(
            browser.run("return document.querySelector('.stages [aria-current=step]').textContent"), "quantize 70 %"
        )
        browser.run("document.querySelector('section[aria-label=Tensors] details').open = true")
        browser.wait_text("model.layers.0.self_attn.q_proj")
        browser.field("Show").type("Weighted")
        browser.wait_text("Weighted error (by the inputs), tensor by tensor")
        candidates = self.state.find_job("ladder")["candidates"]
        self.state.put_job("running", tensors=[], candidates=candidates[:2])
        browser.until(lambda: len(browser.all("section[aria-label=Candidates] circle")) == 2, "two points")
        self.state.put_job("running", candidates=candidates)
        browser.until(lambda: len(browser.all("section[aria-label=Candidates] circle")) == 4, "four points")
        # The next round makes them at another rate, which is shown from then on.
        self.state.put_job("running", tensors=[{**t, "bpw": 3.52} for t in some[:4]])
        browser.until(lambda: len(browser.all("rect.bar")) == 4, "four bars of 3.5 bits")
        browser.wait_text("34 quantized")
        browser.field("Rate").type("5.5")
        browser.until(lambda: len(browser.all("rect.bar")) == 30, "those of 5.5 bits")

    def test_a_stream_that_was_cut_is_taken_up_again(self):
        browser = self.show("jobs/running", "running")
        self.state.put_job("running", tensors=tensors()[:3])
        browser.until(lambda: len(browser.all("rect.bar")) == 3, "three bars")
        found = self.state.find_job("running")
        found["tensors"] = tensors()[:4]
        with self.state.lock:
            for messages in self.state.watched["running"]:
                messages.put(None)  # the handler dies of it, and the connection with it
        browser.until(lambda: len(browser.all("rect.bar")) == 4, "a new stream brings all of them")

    def test_an_error_says_why_and_what_to_do(self):
        browser = self.settled("jobs/rejected")
        browser.wait_text("A gate refused the artifact")
        browser.wait_text("Give more bits")
        self.state.fail["GET /v1/jobs"] = (503, "UNAVAILABLE", "SHUTTING_DOWN", "the server is shutting down")
        self.show("jobs")
        browser.wait_text("SHUTTING_DOWN")
        browser.wait_text("the server is shutting down")
        del self.state.fail["GET /v1/jobs"]
        browser.button("Try again").click()
        browser.wait_text("DISK_FULL")
        self.assertEqual(browser.all("[role=alert]"), [])

    def test_jobs_are_cancelled_and_retried(self):
        browser = self.settled("jobs")
        browser.button("Cancel running").click()
        browser.button("Keep as it is").click()
        self.assertEqual(self.state.called("POST", "/v1/jobs/running:cancel"), [])
        browser.button("Cancel running").click()
        browser.button("Cancel the job").click()
        browser.until(lambda: self.state.called("POST", "/v1/jobs/running:cancel"), "not cancelled")
        browser.button("Retry failed").click()
        browser.until(lambda: self.state.called("POST", "/v1/jobs/failed:retry"), "not retried")

    def test_a_job_is_started(self):
        browser = self.settled("jobs/new")
        browser.field("Several rates, measured side by side").click()
        for rate in ("3.5", "5.5"):
            browser.field(rate).click()
        browser.field("2.5").click()
        browser.field("Name").type("my ladder")
        browser.button("Estimate").click()
        browser.wait_text("70.6 MiB")
        browser.screenshot(SCREENSHOTS / "new-job-estimate.png")
        browser.button("Start").click()
        browser.wait_text("made", "h1")
        first, second = [r[2] for r in self.state.called("POST", "/v1/jobs:quantize")]
        self.assertEqual((first["validateOnly"], second["validateOnly"]), (True, False))
        self.assertEqual(second["spec"]["ladder"], [2.5, 4.5])
        self.assertEqual(second["spec"]["codec"], "CODEC_JOINT")
        self.assertEqual(second["spec"]["calibration"], {"text": "texts/built-in", "windows": 0, "windowTokens": 0})
        self.assertNotIn("bpw", second["spec"])
        self.assertEqual(second["displayName"], "my ladder")

    def test_a_job_that_is_refused_says_why(self):
        browser = self.settled("jobs/new")
        browser.field("The smallest of a quality").click()
        browser.button("Start").click()
        browser.wait_text("Give a quality")
        browser.field("Mean KL at most").type("0.05")
        browser.field("Name").type("refuse me")
        browser.button("Start").click()
        browser.wait_text("WINDOWS_RANGE")
        self.assertIn(HOSTILE, browser.text("[role=alert]"))
        self.assertEqual(
            self.state.called("POST", "/v1/jobs:quantize")[0][2]["spec"]["target"],
            {"kl": 0.05, "perplexityIncrease": 0, "mixedRates": True},
        )

    # --- Artifacts and models ---
    def test_reports_stand_side_by_side(self):
        browser = self.settled("artifacts")
        for box in browser.all(".card input[type=checkbox]"):
            box.click()
        browser.wait_text("Reports side by side")
        browser.wait_text("SmolLM2 at 5.5", "table")
        best = browser.run("return [...document.querySelectorAll('.best')].map((n) => n.textContent)")
        self.assertIn("0.012 (best)", best)
        self.assertEqual(browser.run("return location.hash"), f"#/artifacts?show={SMALL},{LARGE}")
        links = browser.run("return [...document.querySelectorAll('.files a')].map((n) => n.getAttribute('href'))")
        self.assertIn(f"/v1/artifacts/{LARGE}/files/model.safetensors", links)
        browser.all(".card input[type=checkbox]")[0].click()
        browser.until(lambda: browser.text("section[aria-label=Reports] h2") == "Report", "one is left")

    def test_an_upload_that_is_cut_goes_on(self):
        data = random.Random(7).randbytes(9_000_000)  # two parts
        with tempfile.TemporaryDirectory() as folder:
            paths = [pathlib.Path(folder) / name for name in ("config.json", "model.safetensors", "pytorch_model.bin")]
            paths[0].write_bytes(b"{}")
            paths[1].write_bytes(data)
            paths[2].write_bytes(b"pickle")
            browser = self.settled("models")
            browser.field("Files").type("\n".join(map(str, paths)))
            browser.wait_text("left out: pytorch_model.bin")
            browser.button("Upload").click()
            browser.wait_text("uploaded", "ul[aria-label=Checkpoints]", 60)
        created = self.state.called("POST", "/v1/uploads")[0][2]
        self.assertEqual([f["name"] for f in created["files"]], ["config.json", "model.safetensors"])
        sha256 = hashlib.sha256(data).hexdigest()
        self.assertEqual(created["files"][1], {"name": "model.safetensors", "sha256": sha256, "sizeBytes": "9000000"})
        self.assertEqual(self.state.uploads[sha256]["data"], data)
        parts = [r[1] for r in self.state.requests if r[0] == "PUT" and sha256 in r[1]]
        # A browser may send a request again by itself on a connection that was closed.
        offsets = [p.partition("offset=")[2] for p in parts]
        self.assertEqual((offsets[0], offsets[-2:]), ("0", ["100000", "8488608"]))
        self.assertFalse(self.state.cut)

    def test_weights_of_an_alias(self):
        browser = self.settled("models")
        browser.button("Weights of production").click()
        self.assertEqual(browser.field("base").value, "95")
        browser.field("small").clear()
        browser.field("small").type("95")
        browser.wait_text("50.0 %", "dialog")
        browser.screenshot(SCREENSHOTS / "dialog-alias.png")
        browser.button("Save").click()
        browser.until(lambda: self.state.called("PUT", "/v1/aliases/production"), "not saved")
        self.assertEqual(
            self.state.called("PUT", "/v1/aliases/production")[0][2],
            {"targets": [{"model": "base", "weight": 95}, {"model": "small", "weight": 95}], "etag": "a1"},
        )

    # --- Text ---
    def test_a_chat_streams_and_stops(self):
        browser = self.settled("chat")
        self.state.hold.clear()
        browser.field("Your message").type("Say something" + ENTER)
        browser.wait_text("Hello", ".turn.assistant")
        self.assertNotIn("there", browser.text(".turn.assistant"))
        self.state.hold.set()
        browser.wait_text("seed 17")
        self.assertEqual(
            browser.run("return document.querySelector('.turn.assistant .words').textContent"),
            f"Hello there. {HOSTILE} done",
        )
        self.assertIsNone(browser.run("return window.pwned ?? null"))
        asked = self.state.called("POST", "/v1/inference:chat")[0][2]
        self.assertEqual(asked["messages"], [{"role": "user", "content": "Say something"}])
        self.assertEqual(asked["params"], {"maxTokens": 512, "temperature": 0.7})
        browser.screenshot(SCREENSHOTS / "chat-answer.png")
        self.state.hold.clear()
        browser.field("Your message").type("And more" + ENTER)
        browser.until(
            lambda: browser.run("return document.querySelectorAll('.turn.assistant').length") == 2, "no second answer"
        )
        browser.button("Stop").click()
        browser.until(lambda: "/v1/inference:chat" in self.state.gone, "the server still works for nobody")
        browser.wait_text("stopped")
        self.assertEqual(browser.run("return document.activeElement.tagName"), "TEXTAREA")
        again = self.state.called("POST", "/v1/inference:chat")[1][2]["messages"]
        self.assertEqual([m["role"] for m in again], ["user", "assistant", "user"])

    def test_a_model_without_a_template_goes_on_from_plain_text(self):
        browser = self.show("chat?model=plain", "Chat")
        browser.field("Your message").type("Once upon" + ENTER)
        browser.wait_text("seed 17")
        self.assertEqual(self.state.called("POST", "/v1/inference:generate")[0][2]["prompt"], "Once upon")
        browser.button("Clear").click()

    def test_answers_are_compared_token_by_token(self):
        browser = self.settled("compare")
        self.assertEqual(browser.field("Base").value, "base", "the checkpoint that the artifact was made from")
        browser.field("Prompt").type("Why is the sky blue?")
        browser.button("Ask both").click()
        browser.wait_text("Mean KL 0.0421")
        browser.until(lambda: len(browser.all("[role=listbox]")) == 2, "two answers")
        browser.until(lambda: len(browser.all(".answer .plot-host svg")) == 2, "two plots")
        browser.screenshot(SCREENSHOTS / "compare-answers.png")
        compared = [r[2] for r in self.state.called("POST", "/v1/inference:compare")]
        self.assertEqual({(c["base"], c["other"]) for c in compared}, {("base", "small")})
        self.assertEqual(compared[0]["messages"], [{"role": "user", "content": "Why is the sky blue?"}])
        browser.run("document.querySelector('[role=option]').focus()")
        browser.wait_text("“Hello”: KL 0.0004 nats", ".detail")
        browser.keys(RIGHT, DOWN)
        self.assertEqual(browser.run("return document.activeElement.getAttribute('aria-selected')"), "true")
        self.assertIn("KL 0.03 nats", browser.text(".detail"))
        self.assertEqual(
            browser.run("return document.querySelectorAll('[role=option][tabindex=\"0\"]').length"),
            2,
            "one stop in each",
        )
        self.assertIsNone(browser.run("return window.pwned ?? null"))
        browser.viewport(360, 740, phone=True)
        self.assertEqual(browser.run("return document.documentElement.scrollWidth"), 360)
        browser.screenshot(SCREENSHOTS / "compare-answers-phone.png")
        browser.media(prefers_color_scheme="dark")
        browser.viewport(1280, 900)
        self.assertEqual(browser.run(CONTRAST), [])
        browser.screenshot(SCREENSHOTS / "compare-answers-dark.png")

    # --- Keys ---
    def test_a_key_is_asked_for_kept_in_the_tab_and_sent(self):
        self.state.key = "qsk-right"
        browser = self.show("system")
        browser.wait_text("this server wants an API key", "dialog")
        # One who wants to look around without a key is asked once a page.
        browser.keys(ESCAPE)
        browser.wait_text("KEY_MISSING", "main")
        asked = len(self.state.called("GET", "/v1/system"))
        browser.until(lambda: len(self.state.called("GET", "/v1/system")) > asked, "the page does not try again")
        self.assertEqual(browser.all("dialog"), [])
        browser.button("API key").click()
        browser.field("Key").type("qsk-wrong" + ENTER)
        browser.wait_text("KEY_MISSING", "dialog")
        browser.field("Key").clear()
        browser.field("Key").type("qsk-right" + ENTER)
        browser.wait_text("avx512")
        self.assertEqual(browser.run("return sessionStorage.getItem('qamserve.key')"), "qsk-right")
        self.assertFalse(browser.run("return Object.values({...localStorage}).some((v) => v.includes('qsk'))"))
        self.assertEqual(self.state.called("GET", "/v1/system")[-1][3]["Authorization"], "Bearer qsk-right")
        self.settled("jobs")
        # Downloads with a key are no plain links.
        self.show(f"artifacts?show={LARGE}")
        browser.wait_text("model.safetensors (")
        self.assertEqual(browser.all(".files a"), [])
        browser.button("API key").click()
        browser.field("Key").clear()
        browser.run("sessionStorage.removeItem('qamserve.key')")

    def test_a_key_is_made_and_shown_once(self):
        browser = self.settled("keys")
        browser.button("New key").click()
        browser.wait_text("This is the first key", "dialog")
        browser.field("Name").type("pipeline")
        browser.field("Infer: generate, chat, score").click()
        browser.screenshot(SCREENSHOTS / "dialog-key.png")
        browser.button("Make").click()
        browser.wait_text("Copy it now", "dialog")
        self.assertEqual(browser.run("return document.querySelector('dialog textarea').value"), "qsk-abcd-secret")
        made = self.state.called("POST", "/v1/keys")[0][2]
        self.assertEqual(made["scopes"], ["SCOPE_INFER", "SCOPE_ADMIN"])
        browser.button("Use it in this tab").click()
        browser.wait_text("pipeline", "ul[aria-label='API keys']")
        self.assertEqual(browser.run("return sessionStorage.getItem('qamserve.key')"), "qsk-abcd-secret")
        self.assertNotIn("qsk-abcd-secret", browser.run("return document.body.textContent"))
        browser.run("sessionStorage.clear()")

    # --- Parts of the modules ---
    def test_digests_are_right_for_every_length(self):
        browser = self.settled("system")
        lengths = [0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 1000, 1_000_000]
        got = browser.run_async(
            """
            const {Sha256} = await import('/console/sha256.js');
            return args[0].map((length) => {
              const bytes = new Uint8Array(length).map((_, i) => (i * 31 + length) & 255);
              const digest = new Sha256();
              for (let at = 0, step = 1; at < length; at += step, step = step * 3 % 127 + 1) {
                digest.update(bytes.subarray(at, at + step));
              }
              return digest.hex();
            });""",
            lengths,
        )
        wanted = [hashlib.sha256(bytes((i * 31 + n) & 255 for i in range(n))).hexdigest() for n in lengths]
        self.assertEqual(got, wanted)

    def test_events_are_split_wherever_they_are_cut(self):
        browser = self.settled("system")
        text = (
            ': ping\r\n\r\ndata: {"a":1}\n\nevent: error\rdata: x\rdata:  y\r\rdata\n\n'
            "event: end\ndata: {}\n\ndata: left"
        )
        got = browser.run_async(
            """
            const {EventSplitter} = await import('/console/api.js');
            const [text] = args;
            const whole = JSON.stringify(new EventSplitter().feed(text));
            for (let cut = 1; cut < text.length; ++cut) {
              for (let second = cut; second < text.length; ++second) {
                const splitter = new EventSplitter();
                const pieces = [text.slice(0, cut), text.slice(cut, second), text.slice(second)].filter(Boolean);
                const events = pieces.flatMap((piece) => splitter.feed(piece));
                if (JSON.stringify(events) !== whole) return `cut at ${cut} and ${second}: ${JSON.stringify(events)}`;
              }
            }
            return JSON.parse(whole);""",
            text,
        )
        self.assertEqual(
            got,
            [
                {"event": "message", "data": '{"a":1}'},
                {"event": "error", "data": "x\n y"},
                {"event": "message", "data": ""},
                {"event": "end", "data": "{}"},
            ],
        )

    def test_axes_have_round_labels_around_their_values(self):
        browser = self.settled("system")
        answers = browser.run_async(
            """
            const {linearTicks, logTicks} = await import('/console/plot.js');
            return [args[0].map(([a, b]) => linearTicks(a, b)), args[1].map(([a, b]) => logTicks(a, b))];""",
            LINEAR := [[0, 1], [0, 0.00131], [3, 3], [0, 0], [-2, 7.3], [2.52, 5.52]],
            LOG := [[0.013, 0.9], [1e-5, 20], [0.2, 0.3], [1, 1], [0.01, 100]],
        )
        for ranges, all_ticks in zip((LINEAR, LOG), answers):
            for (low, high), ticks in zip(ranges, all_ticks):
                with self.subTest(low=low, high=high, ticks=ticks):
                    self.assertLessEqual(ticks[0], low)
                    self.assertGreaterEqual(ticks[-1], high)
                    self.assertTrue(2 <= len(ticks) <= 9)
                    self.assertEqual(ticks, sorted(set(ticks)))


def main():
    global SCREENSHOTS
    if webdriver.find() is None:
        print("skipped: no chromium and chromedriver on this machine (Debian: chromium chromium-driver)")
        return 77
    folder = (
        sys.argv.pop(1)
        if len(sys.argv) > 1 and not sys.argv[1].startswith("-") and pathlib.Path(sys.argv[1]).is_dir()
        else tempfile.mkdtemp()
    )
    SCREENSHOTS = pathlib.Path(folder) / "tests" / "e2e" / "console"
    return 0 if unittest.main(exit=False, verbosity=2).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
